// A table's chains -> the destinations that its rules translate, or that a
// service proxy's rules reject.
//
// From each chain at a hook the rules are followed with what they have
// left of the destinations so far. Where a rule has limited them and the chain
// it jumps to translates whatever comes (`leads`), these are translated. A rule
// that translates whatever comes, reached without a limit, is unbounded.

import { prefixesBetween } from '../address.js'
import { Slice } from '../netlink/slice.js'
import type { Prefix } from '../state/types.js'
import { limitOf, nothing, verdictsOf } from './elements.js'
import { families, intersect, isNothing, type Limit, type Range, type Ranges } from './ranges.js'
import { type AddressSet, type Chain, type Effect, type Lookup, ofKubeProxy, type Ruleset } from './ruleset.js'

/** A rule that translates destinations without naming them. */
export interface Unlimited {
  chain: string
  handle: number
}

export interface Collected {
  /** By prefix key: who wrote the rule; null: nobody that is known by name. */
  destinations: Map<Prefix, string | null>
  unlimited: Unlimited[]
  /** Sets assumed to translate, by which packets to any destination come: they have to be read. */
  needed: ReadonlySet<AddressSet>
}

/** Jumps that the kernel follows at most. */
const mostDepth = 16
/** After so many rules, what might be translated is taken for translated. */
const mostSteps = 5_000_000

/** Gives the event loop its turn between slices; the ruleset must not change meanwhile. */
export async function collect(ruleset: Ruleset): Promise<Collected> {
  const slice = new Slice()
  const collector = new Collector(ruleset.start)
  for (const chain of ruleset.chains.values()) {
    if (!chain.base) continue
    for (const _ of collector.walk(chain, ruleset.start, null, 0)) if (slice.due(true)) await slice.rest()
  }
  return { destinations: collector.destinations, unlimited: collector.unlimited, needed: collector.needed }
}

class Collector {
  readonly destinations = new Map<Prefix, string | null>()
  readonly unlimited: Unlimited[] = []
  readonly needed = new Set<AddressSet>()
  private readonly leading = new Map<Chain, number>()
  private readonly translating = new Map<Chain, boolean>()
  private readonly limits = new Map<Lookup['set'], Map<string, Limit>>()
  /** Chains already followed without a limit. */
  private readonly followed = new Map<Chain, number>()
  private steps = 0

  constructor(private readonly start: Limit) {}

  /** Yields now and then. */
  *walk(chain: Chain, limit: Limit, who: string | null, depth: number): Generator<void> {
    const name = ofKubeProxy(chain.name) ? 'kube-proxy' : who
    for (let index = 0; index < chain.rules.size; index++) {
      if (++this.steps % 64 === 0) yield
      const effect = chain.rules.at(index)
      const left = this.narrow(limit, effect)
      if (isNothing(left)) continue
      if (effect.translates || effect.rejects) this.add(left, name, chain, index)
      if (effect.target) yield* this.enter(effect.target, left, name, depth)
      if (!effect.verdicts) continue
      if (effect.verdicts.set.assumed) {
        if (openFamilies(left) !== 0) this.needed.add(effect.verdicts.set)
        this.add(left, name, chain, index)
        continue
      }
      for (const [only, target] of verdictsOf(effect.verdicts)) {
        if (++this.steps % 64 === 0) yield
        yield* this.enter(target, intersectBoth(left, only), name, depth)
      }
    }
  }

  private *enter(chain: Chain, limit: Limit, who: string | null, depth: number): Generator<void> {
    if (isNothing(limit) || !this.translates(chain)) return
    const leads = this.steps > mostSteps || depth >= mostDepth ? 3 : this.leads(chain)
    const name = ofKubeProxy(chain.name) ? 'kube-proxy' : who
    const rest: { 4: Ranges; 6: Ranges } = { 4: limit[4], 6: limit[6] }
    for (const family of families) {
      const only = limit[family]
      if (only === 'all' || (leads & bitOf(family)) === 0) continue
      for (const range of only) this.addRange(range, name)
      rest[family] = nothing[family]
    }
    if (isNothing(rest) || depth >= mostDepth) return
    const open = openFamilies(rest)
    if (families.every((family) => rest[family] === 'all' || rest[family].length === 0)) {
      const before = this.followed.get(chain) ?? 0
      if ((before & open) === open) return
      this.followed.set(chain, before | open)
    }
    yield* this.walk(chain, rest, who, depth + 1)
  }

  private add(limit: Limit, who: string | null, chain: Chain, index: number): void {
    if (chain.rules.at(index).translates && openFamilies(limit) !== 0)
      this.unlimited.push({ chain: chain.name, handle: chain.rules.handleAt(index) })
    for (const family of families) {
      const only = limit[family]
      if (only !== 'all') for (const range of only) this.addRange(range, who)
    }
  }

  private addRange(range: Range, who: string | null): void {
    for (const prefix of prefixesBetween(range.first, range.last))
      if (!this.destinations.get(prefix)) this.destinations.set(prefix, who)
  }

  private narrow(limit: Limit, { limit: own, lookups }: Effect): Limit {
    let left = own === this.start ? limit : intersectBoth(limit, own)
    for (const lookup of lookups) left = intersectBoth(left, this.limitOf(lookup))
    return left
  }

  private limitOf(lookup: Lookup): Limit {
    const { set, field } = lookup
    const key = field ? `${field.kind} ${field.at} ${field.kind === 'destination' ? (field.mask ?? '') : ''}` : ''
    const known = this.limits.get(set) ?? new Map<string, Limit>()
    this.limits.set(set, known)
    const limit = known.get(key) ?? limitOf(lookup)
    known.set(key, limit)
    return limit
  }

  /** Families of which the chain translates or rejects everything that is sent into it, as bits. */
  private leads(chain: Chain): number {
    const known = this.leading.get(chain)
    if (known !== undefined) return known
    this.leading.set(chain, 0)
    const all = openFamilies(this.start)
    let leads = 0
    for (let index = 0; index < chain.rules.size && leads !== all; index++) leads |= this.leadsBy(chain.rules.at(index))
    this.leading.set(chain, leads)
    return leads
  }

  private leadsBy(effect: Effect): number {
    const open = openFamilies(this.narrow(this.start, effect))
    if (open === 0 || effect.translates || effect.rejects) return open
    if (effect.target) return open & this.leads(effect.target)
    if (!effect.verdicts) return 0
    if (effect.verdicts.set.assumed) return open
    let leads = 0
    for (const [limit, chain] of verdictsOf(effect.verdicts)) {
      const here = open & openFamilies(limit)
      if (here !== 0) leads |= here & this.leads(chain)
      if (leads === open) break
    }
    return leads
  }

  /** Some packet that is sent into the chain may be translated or rejected. */
  private translates(chain: Chain): boolean {
    const known = this.translating.get(chain)
    if (known !== undefined) return known
    this.translating.set(chain, false)
    let found = false
    for (let index = 0; index < chain.rules.size && !found; index++) {
      const { translates, rejects, target, verdicts } = chain.rules.at(index)
      found = translates || rejects || (target !== null && this.translates(target))
      found ||= verdicts?.set.assumed === true
      if (found || !verdicts) continue
      for (const target of verdicts.set.elements.values()) {
        if (target && this.translates(target)) {
          found = true
          break
        }
      }
    }
    this.translating.set(chain, found)
    return found
  }
}

function bitOf(family: 4 | 6): number {
  return family === 4 ? 1 : 2
}

function openFamilies(limit: Limit): number {
  return (limit[4] === 'all' ? 1 : 0) | (limit[6] === 'all' ? 2 : 0)
}

function intersectBoth(a: Limit, b: Limit): Limit {
  return a === b ? a : { 4: intersect(a[4], b[4]), 6: intersect(a[6], b[6]) }
}
