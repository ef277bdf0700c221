// Whether the kernel would apply the translation of an entry in this network
// namespace. It does so in hooks that the first nat chain of a family brings,
// and only for packets that conntrack sees: it looks at packets while some
// rule of the family asks for it (ct, masquerade, dnat and the like; a nat
// chain without rules does not, seen on 6.18).

import { existsSync, readFileSync } from 'node:fs'
import { type NetfilterSocket, native } from '../native.js'
import { flag, message, family as nfFamily, nft, parse, textOf } from '../netfilter/nfnetlink.js'
import type { Family } from '../state/types.js'
import { isLoaded, readEntries } from './table.js'

export type NatState = 'applied' | 'no nat chain' | 'not tracked'

const chainAttribute = { use: 6, type: 7 }
/** struct ipt_getinfo: the name, two words a hook, the number of entries, their size. */
const legacy = { getInfo: 64, size: 84, entries: 76, ofEmptyTable: 5 }
const legacyTables = {
  4: { names: '/proc/net/ip_tables_names', level: 0 },
  6: { names: '/proc/net/ip6_tables_names', level: 41 }
}

/** For the entries that are there now: to be called before others are made. Throws NativeError and ConntrackError. */
export async function natStates(): Promise<Record<Family, NatState>> {
  const states: Record<Family, NatState> = { 4: 'no nat chain', 6: 'no nat chain' }
  const socket = native().openNetfilter(false)
  try {
    readChains(socket, states)
    for (const family of [4, 6] as const) readLegacy(socket, family, states)
  } finally {
    socket.close()
  }
  // rules of other chains may make conntrack look
  if (states[4] === 'not tracked' || states[6] === 'not tracked')
    await readEntries(({ family }) => {
      if (states[family] === 'not tracked') states[family] = 'applied'
    })
  return states
}

/**
 * Something in this network namespace may translate addresses: a nat chain,
 * with rules or without, or IPVS. false: no flow can be translated. Cheap where
 * conntrack is not loaded. Throws NativeError.
 */
export function mayTranslate(): boolean {
  if (!isLoaded()) return false
  if (hasVirtualServices()) return true
  for (const { names } of Object.values(legacyTables)) if (linesOf(names).includes('nat')) return true
  const socket = native().openNetfilter(false)
  try {
    return parse(socket.request(message(nft.getChain, nfFamily.unspecified, flag.dump, []))).some(
      ({ type, attributes }) => type === nft.newChain && textOf(attributes.get(chainAttribute.type)) === 'nat'
    )
  } finally {
    socket.close()
  }
}

/** Below three lines of titles. */
function hasVirtualServices(): boolean {
  return linesOf('/proc/net/ip_vs').some((line) => /^(TCP|UDP|SCTP|FWM) /.test(line))
}

function linesOf(path: string): string[] {
  // asked twice a second, and an exception costs more than the rest
  if (!existsSync(path)) return []
  try {
    return readFileSync(path, 'utf8').split('\n')
  } catch {
    return []
  }
}

function readChains(socket: NetfilterSocket, states: Record<Family, NatState>): void {
  const families: Record<number, Family[]> = { [nfFamily.ip]: [4], [nfFamily.ip6]: [6], [nfFamily.inet]: [4, 6] }
  for (const { type, family, attributes } of parse(
    socket.request(message(nft.getChain, nfFamily.unspecified, flag.dump, []))
  )) {
    if (type !== nft.newChain || textOf(attributes.get(chainAttribute.type)) !== 'nat') continue
    const hasRules = (attributes.get(chainAttribute.use)?.readUInt32BE() ?? 0) > 0
    for (const each of families[family] ?? []) note(states, each, hasRules)
  }
}

/** iptables-legacy: the table is one of the namespace's once it was asked for. */
function readLegacy(socket: NetfilterSocket, family: Family, states: Record<Family, NatState>): void {
  const { names, level } = legacyTables[family]
  try {
    if (!linesOf(names).includes('nat')) return
    const question = Buffer.alloc(legacy.size)
    question.write('nat')
    const info = socket.getOption(level, legacy.getInfo, question)
    note(states, family, info.readUInt32LE(legacy.entries) > legacy.ofEmptyTable)
  } catch {
    // no such module, or the table went meanwhile
  }
}

function note(states: Record<Family, NatState>, family: Family, hasRules: boolean): void {
  if (hasRules) states[family] = 'applied'
  else if (states[family] === 'no nat chain') states[family] = 'not tracked'
}
