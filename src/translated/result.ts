// What a table, or IPVS, translates: what the sources hand to translated.ts.

import type { Prefix } from '../state/types.js'

/** How the rules were written. */
export type TranslatedKind = 'nftables' | 'iptables-nft' | 'iptables-legacy' | 'ipvs'

/** A rule that translates without naming the destination: the fast path would bypass it. */
export interface UnboundedRule {
  kind: TranslatedKind
  family: string
  table: string
  chain: string
  /** Of the rule; legacy tables: its number in the chain. */
  handle: number
  text: string
}

export interface SourceResult {
  kind: TranslatedKind
  /** For people, of what no known program wrote: "table ip nat". */
  name: string
  /** Who wrote the rule; null: not known. */
  destinations: ReadonlyMap<Prefix, string | null>
  unbounded: readonly UnboundedRule[]
}

/** By table, or other key; null: it is gone. What comes together changes at once. */
export type Publish = (results: readonly (readonly [key: string, SourceResult | null])[]) => void

/** More unbounded rules of one table are counted, not described. */
export const mostDescribed = 50
