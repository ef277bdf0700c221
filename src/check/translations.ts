// Which destinations the node's own rules translate. hostroute leaves these to
// the stack without configuration, so rules that work on them are honoured.
//
// A destination counts if every way to a translating rule in hook prerouting is
// limited to it: by address, set or map, or to the node's own addresses, which
// are the stack's in any case. A rule that translates packets to anywhere has no
// such limit; classify.ts refuses it. Of kube-proxy also the addresses that it
// refuses or drops count: Services without endpoints, and source ranges.

import type { Prefix } from '../state/types.js'
import { inside, prefixSet } from './prefixes.js'
import type { Effect, Rule, RuleChain, RuleTable } from './ruleset.js'
import { isKubeProxys } from './service-proxy.js'

export interface Translation {
  table: RuleTable
  /** Of the rule that translates. */
  chain: RuleChain
  rule: Rule
  /** 'own': the node's addresses. */
  destinations: readonly Prefix[] | 'own'
}

/** What limits the packets that arrive at a chain; null: nothing. */
type Limit = readonly Prefix[] | 'own' | null

export function findTranslations(table: RuleTable, ownAddresses: Iterable<Prefix>): Translation[] {
  if (!['ip', 'ip6', 'inet'].includes(table.family)) return []
  const search = new Search(table, ownAddresses)
  for (const chain of table.chains.values()) {
    if (chain.hook === 'prerouting' || chain.hook === 'forward') search.walk(chain, chain.nat, null)
  }
  return search.found
}

class Search {
  readonly found: Translation[] = []
  private readonly own: ReturnType<typeof prefixSet>
  private readonly seen = new Map<RuleChain, Set<Limit>>()
  private readonly working = new Map<string, boolean>()

  constructor(
    private readonly table: RuleTable,
    ownAddresses: Iterable<Prefix>
  ) {
    this.own = prefixSet(ownAddresses)
  }

  walk(chain: RuleChain, nat: boolean, limit: Limit): void {
    const seen = this.seen.get(chain) ?? new Set()
    if (seen.has(limit)) return
    this.seen.set(chain, seen.add(limit))
    for (const rule of chain.rules) {
      if (!rule.effects.some((effect) => this.works(effect, chain, nat))) continue
      const narrowed = this.narrow(limit, rule)
      for (const effect of rule.effects) {
        if (this.counts(effect, chain, nat) && narrowed !== null)
          this.found.push({ table: this.table, chain, rule, destinations: narrowed })
        const next = effect.kind === 'jump' || effect.kind === 'goto' ? this.table.chains.get(effect.chain) : undefined
        if (next && this.works(effect, chain, nat)) this.walk(next, nat, narrowed)
      }
    }
  }

  private counts(effect: Effect, chain: RuleChain, nat: boolean): boolean {
    if (effect.kind === 'translate') return nat
    return effect.kind === 'drop' && isKubeProxys(this.table, chain)
  }

  /** The effect counts, or leads to one that does. */
  private works(effect: Effect, chain: RuleChain, nat: boolean): boolean {
    if (this.counts(effect, chain, nat)) return true
    if (effect.kind !== 'jump' && effect.kind !== 'goto') return false
    const key = `${nat} ${effect.chain}`
    const known = this.working.get(key)
    if (known !== undefined) return known
    this.working.set(key, false) // a loop leads nowhere
    const next = this.table.chains.get(effect.chain)
    const found = next?.rules.some((rule) => rule.effects.some((each) => this.works(each, next, nat))) ?? false
    this.working.set(key, found)
    return found
  }

  private narrow(limit: Limit, rule: Rule): Limit {
    let result = limit
    for (const condition of rule.conditions) {
      if (condition.kind === 'local-destination' && !condition.invert) result ??= 'own'
      if (condition.kind !== 'destination' || condition.invert || condition.ipset) continue
      const { prefixes } = condition
      if (prefixes.some((prefix) => prefix.endsWith('/0'))) continue
      const own = prefixes.every((prefix) => this.own.covers(prefix))
      const narrower =
        result === null || (result !== 'own' && prefixes.every((each) => result !== 'own' && coversAny(result, each)))
      if (narrower) result = own ? 'own' : prefixes
    }
    return result
  }
}

const sets = new WeakMap<readonly Prefix[], ReturnType<typeof prefixSet>>()

function coversAny(list: Limit, prefix: Prefix): boolean {
  if (list === null || list === 'own') return false
  const [only] = list
  if (list.length === 1 && only !== undefined) return inside(prefix, only)
  const set = sets.get(list) ?? prefixSet(list)
  sets.set(list, set)
  return set.covers(prefix)
}
