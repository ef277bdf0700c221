// Destinations that the node's own rules translate: Service addresses, external
// and LoadBalancer addresses, hand-made DNAT. Read from nf_tables, from the
// legacy tables and from IPVS, and followed.
//
// Addresses of the node itself are among them where rules name them; they are
// the stack's already. A rule for all of the node's own addresses (NodePorts)
// adds none.
//
// Invariant: `counts` holds each prefix of the results as often as results name it.

import { splitPrefix } from '../address.js'
import type { Address, Prefix } from '../state/types.js'
import { IpvsReader } from './ipvs.js'
import { LegacyReader } from './legacy.js'
import { TablesReader } from './nft-tables.js'
import type { Publish, SourceResult, TranslatedKind, UnboundedRule } from './result.js'

export type { TranslatedKind, UnboundedRule } from './result.js'

export interface TranslatedDiff {
  added: Prefix[]
  removed: Prefix[]
}

/** Destinations that one program wrote in one way. */
export interface TranslatedRow {
  /** "kube-proxy", "table ip nat", "virtual services". */
  who: string
  kind: TranslatedKind
  /** Single addresses. */
  addresses: number
  /** Shorter prefixes. */
  prefixes: number
}

export interface TranslatedOptions {
  /** Never empty. The first one comes before `ready` resolves. */
  onChange: (diff: TranslatedDiff) => void
  onProblem: (text: string) => void
  /** Unbounded rules that were not there before. */
  onUnbounded?: (rules: UnboundedRule[]) => void
}

export interface Translated {
  /** Everything that was there at the start has been read. Never rejects. */
  readonly ready: Promise<void>
  has(prefix: Prefix): boolean
  destinations(): Iterable<Prefix>
  /** How many. */
  readonly size: number
  /** isOwn: of a single address, that it is the node's; it is not counted (IPVS needs its addresses to be the node's: these are). */
  summary(isOwn?: (address: Address) => boolean): TranslatedRow[]
  unbounded(): UnboundedRule[]
  close(): Promise<void>
}

export function startTranslated({ onChange, onProblem, onUnbounded }: TranslatedOptions): Translated {
  const results = new Map<string, SourceResult>()
  const counts = new Map<Prefix, number>()

  const publish: Publish = (changes) => {
    const added = new Set<Prefix>()
    const removed = new Set<Prefix>()
    const unbounded: UnboundedRule[] = []
    for (const [key, result] of changes) {
      const known = new Set(results.get(key)?.unbounded.map(identity))
      unbounded.push(...(result?.unbounded ?? []).filter((rule) => !known.has(identity(rule))))
      const before = results.get(key)?.destinations
      const after = result?.destinations
      if (result) results.set(key, result)
      else results.delete(key)
      for (const prefix of after?.keys() ?? []) {
        if (before?.has(prefix)) continue
        const count = counts.get(prefix) ?? 0
        counts.set(prefix, count + 1)
        if (count === 0 && !removed.delete(prefix)) added.add(prefix)
      }
      for (const prefix of before?.keys() ?? []) {
        if (after?.has(prefix)) continue
        const count = counts.get(prefix) ?? 1
        counts.set(prefix, count - 1)
        if (count > 1) continue
        counts.delete(prefix)
        if (!added.delete(prefix)) removed.add(prefix)
      }
    }
    if (added.size + removed.size > 0) onChange({ added: [...added], removed: [...removed] })
    if (unbounded.length > 0) onUnbounded?.(unbounded)
  }

  const sources = [
    new TablesReader(publish, onProblem),
    new LegacyReader(publish, onProblem),
    new IpvsReader(publish, onProblem)
  ]
  return {
    ready: Promise.all(sources.map((source) => source.start())).then(() => {}),
    has: (prefix) => counts.has(prefix),
    destinations: () => counts.keys(),
    get size() {
      return counts.size
    },
    summary: (isOwn = () => false) => summarize(results.values(), isOwn),
    unbounded: () => [...results.values()].flatMap((result) => result.unbounded),
    close: async () => {
      await Promise.all(sources.map((source) => source.close()))
    }
  }
}

function identity({ kind, family, table, chain, text }: UnboundedRule): string {
  return [kind, family, table, chain, text].join()
}

/** A prefix that several tables of one program name counts once. */
function summarize(results: Iterable<SourceResult>, isOwn: (address: Address) => boolean): TranslatedRow[] {
  const rows = new Map<string, { who: string; kind: TranslatedKind; found: Set<Prefix> }>()
  for (const { kind, name, destinations } of results) {
    for (const [prefix, author] of destinations) {
      const { address, length } = splitPrefix(prefix)
      if (kind !== 'ipvs' && length === address.length * 4 && isOwn(address)) continue
      const who = author ?? name
      const row = rows.get(`${who} ${kind}`) ?? { who, kind, found: new Set() }
      row.found.add(prefix)
      rows.set(`${who} ${kind}`, row)
    }
  }
  return [...rows.values()]
    .map(({ who, kind, found }): TranslatedRow => {
      let addresses = 0
      for (const prefix of found) if (prefix.endsWith(prefix.length < 20 ? '/32' : '/128')) addresses++
      return { who, kind, addresses, prefixes: found.size - addresses }
    })
    .sort((a, b) => (a.who < b.who ? -1 : a.who > b.who ? 1 : a.kind < b.kind ? -1 : 1))
}
