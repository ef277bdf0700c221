// Rules reduced to what matters here: which destinations they are limited to,
// and whether they translate, reject or lead to another chain. Made from nf_tables
// (nft-rules.ts) and from legacy tables (legacy.ts), read by collect.ts.
//
// A limit may be wider than the rule's, never narrower: what is not understood
// does not limit. The order of rules does not count, for the same reason.

import type { Family } from '../state/types.js'
import type { Limit } from './ranges.js'

export interface Chain {
  readonly name: string
  /** A chain at a hook where its rules count. */
  base: boolean
  readonly rules: RuleList
  /** The effect of jumping here from anywhere: one object for all such rules. */
  jump: Effect | null
}

/** A set or map of nf_tables. */
export interface AddressSet {
  readonly name: string
  /** false: its elements have to be read before they are asked for. */
  loaded: boolean
  interval: boolean
  concatenated: boolean
  verdicts: boolean
  /** Not read, for there are very many: each verdict map that asks for something else than the destination is taken to translate. */
  assumed: boolean
  /** Some rule looks up the destination in it. */
  byDestination: boolean
  /** Packets add to it, of which no event tells. */
  dynamic: boolean
  /** By key in hexadecimal; an end of an interval has "/end" behind it, a concatenation of ranges "-" and its last; '*' is what matches all. Value: where a verdict leads. */
  readonly elements: Map<string, Chain | null>
}

/** Where a looked-up key has what limits destinations. */
export type KeyField =
  /** `mask`: bits of the address that are in the key; null: all. */
  | { kind: 'destination'; family: Family; at: number; mask: Uint8Array | null }
  /** The type of the destination (fib daddr type). */
  | { kind: 'type'; at: number }

export interface Lookup {
  readonly set: AddressSet
  /** null: the key says nothing about the destination. */
  readonly field: KeyField | null
}

export interface Effect {
  readonly limit: Limit
  readonly lookups: readonly Lookup[]
  readonly translates: boolean
  /** It drops or rejects, on behalf of a service proxy: a Service without endpoints. Counts only with a limit. */
  readonly rejects: boolean
  readonly target: Chain | null
  /** A verdict map decides where the packet goes. */
  readonly verdicts: Lookup | null
}

const mostUnindexed = 32

/** The rules of a chain that have an effect, by handle, in no order. */
export class RuleList {
  private handles: number[] = []
  private effects: Effect[] = []
  private places: Map<number, number> | null = null

  get size(): number {
    return this.effects.length
  }

  at(index: number): Effect {
    return this.effects[index] as Effect
  }

  handleAt(index: number): number {
    return this.handles[index] as number
  }

  put(handle: number, effect: Effect): void {
    const known = this.find(handle)
    if (known >= 0) {
      this.effects[known] = effect
      return
    }
    this.places?.set(handle, this.handles.length)
    this.handles.push(handle)
    this.effects.push(effect)
    if (!this.places && this.handles.length > mostUnindexed)
      this.places = new Map(this.handles.map((each, index) => [each, index]))
  }

  /** true: it was there. */
  remove(handle: number): boolean {
    const index = this.find(handle)
    if (index < 0) return false
    const lastHandle = this.handles.pop() as number
    const lastEffect = this.effects.pop() as Effect
    this.places?.delete(handle)
    if (index < this.handles.length) {
      this.handles[index] = lastHandle
      this.effects[index] = lastEffect
      this.places?.set(lastHandle, index)
    }
    return true
  }

  clear(): void {
    this.handles = []
    this.effects = []
    this.places = null
  }

  private find(handle: number): number {
    return this.places ? (this.places.get(handle) ?? -1) : this.handles.indexOf(handle)
  }
}

/** A chain of kube-proxy in mode iptables. */
export function ofKubeProxy(chain: string): boolean {
  return chain.startsWith('KUBE-')
}

export function createChain(name: string): Chain {
  return { name, base: false, rules: new RuleList(), jump: null }
}

/** One table: names to chains and sets, made when first named. */
export class Ruleset {
  readonly chains = new Map<string, Chain>()
  readonly sets = new Map<string, AddressSet>()
  private readonly translating: Effect
  private readonly rejecting: Effect
  /** Where a verdict map drops. */
  private readonly drop = createChain('')

  /** start: what packets of the table's family may have as destination. proxy: the table is a service proxy's, all of it. */
  constructor(
    readonly start: Limit,
    readonly proxy = false
  ) {
    const common = { limit: start, lookups: [], target: null, verdicts: null }
    this.translating = { ...common, translates: true, rejects: false }
    this.rejecting = { ...common, translates: false, rejects: true }
    this.drop.rules.put(0, this.rejecting)
  }

  /** Rejecting counts in this chain. */
  countsRejects(chain: string): boolean {
    return this.proxy || ofKubeProxy(chain)
  }

  /** Where an element of a verdict map leads when it drops. */
  get dropped(): Chain | null {
    return this.proxy ? this.drop : null
  }

  chain(name: string): Chain {
    let chain = this.chains.get(name)
    if (!chain) {
      chain = createChain(name)
      this.chains.set(name, chain)
    }
    return chain
  }

  set(name: string): AddressSet {
    let set = this.sets.get(name)
    if (!set) {
      set = {
        name,
        loaded: false,
        interval: false,
        concatenated: false,
        verdicts: false,
        assumed: false,
        byDestination: false,
        dynamic: false,
        elements: new Map()
      }
      this.sets.set(name, set)
    }
    return set
  }

  /** Shared where nothing limits: there are 100,000 such rules. null: no effect. */
  effect(
    limit: Limit,
    lookups: readonly Lookup[],
    end: Partial<Pick<Effect, 'translates' | 'rejects' | 'target' | 'verdicts'>>
  ): Effect | null {
    const { translates = false, rejects = false, target = null, verdicts = null } = end
    if (!translates && !rejects && !target && !verdicts) return null
    if (limit === this.start && lookups.length === 0 && !verdicts) {
      if (translates) return this.translating
      if (rejects) return this.rejecting
      if (target) {
        target.jump ??= { limit, lookups, translates, rejects, target, verdicts }
        return target.jump
      }
    }
    return { limit, lookups, translates, rejects, target, verdicts }
  }
}
