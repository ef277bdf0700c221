// What appears in nf_tables in spite of the guard: by a way no hook stands on,
// by a table name the guard does not own, or from before it was there.
//
// The kernel reports each transaction as its messages, then NEWGEN with the
// process that did it. In the fall-back backend they are taken away again:
// whole tables that are new, single objects in tables that stood before.

import type { NetfilterSocket, NetlinkReader } from '../native.js'
import { native } from '../native.js'
import { familyName, messageName } from './layout.js'
import {
  attribute,
  batch,
  flag,
  message,
  name,
  netfilterProtocol,
  nft,
  parse,
  type Received,
  tablesGroup,
  textOf
} from './nfnetlink.js'

/** One object that a transaction added or changed. */
export interface Appearance {
  family: string
  table: string
  chain: string | null
  message: string
  pid: number
  command: string
  received: Received
}

/** What was there before the guard. */
export interface Standing {
  /** "family table" */
  tables: Set<string>
  /** "family table chain" → its policy as the kernel writes it; null: no base chain. */
  chains: Map<string, Buffer | null>
}

const additions: number[] = [
  nft.newTable,
  nft.newChain,
  nft.newRule,
  nft.newSet,
  nft.newSetElement,
  nft.newObject,
  nft.newFlowtable
]

export interface TransactionWatch {
  close(): void
}

/** Calls back once per transaction that added something. `lost`: transactions were missed, look for yourself. */
export function watchTransactions(
  onTransaction: (appearances: Appearance[]) => void,
  onLost: () => void
): TransactionWatch {
  let pending: Received[] = []
  const receive = (bytes: Buffer, overrun: boolean) => {
    if (overrun) {
      pending = []
      onLost()
    }
    for (const received of parse(bytes)) {
      if (received.type !== nft.newGeneration) {
        if (additions.includes(received.type)) pending.push(received)
        continue
      }
      const transaction = pending
      pending = []
      if (transaction.length === 0) continue
      const pid = received.attributes.get(2)?.readUInt32BE(0) ?? 0
      const command = textOf(received.attributes.get(3)) ?? ''
      onTransaction(transaction.map((one) => appearance(one, pid, command)))
    }
  }
  const options = { protocol: netfilterProtocol, groups: [tablesGroup], receiveBuffer: 4 << 20 }
  const reader: NetlinkReader = native().openNetlinkReader(options, receive)
  return { close: () => reader.close() }
}

function appearance(received: Received, pid: number, command: string): Appearance {
  return {
    family: familyName(received.family),
    table: textOf(received.attributes.get(1)) ?? '',
    chain:
      received.type === nft.newTable ? null : textOf(received.attributes.get(received.type === nft.newChain ? 3 : 2)),
    message: messageName(received.type),
    pid,
    command,
    received
  }
}

/**
 * Takes away what one transaction brought. Returns whether each went. A chain
 * that stood before gets its policy back.
 */
export function remove(socket: NetfilterSocket, appearances: Appearance[], standing: Standing): boolean[] {
  const tables = new Map<string, boolean>()
  const results = new Map<Appearance, boolean>()
  for (const one of appearances) {
    const key = `${one.family} ${one.table}`
    if (standing.tables.has(key)) continue
    if (!tables.has(key)) tables.set(key, send(socket, one, nft.delTable, [attribute(1, name(one.table))]))
    results.set(one, tables.get(key) ?? false)
  }
  // Rules go before the chains and sets they use.
  const order: number[] = [nft.newRule, nft.newSetElement, nft.newChain, nft.newSet, nft.newObject, nft.newFlowtable]
  for (const type of order) {
    for (const one of appearances)
      if (one.received.type === type && !results.has(one)) results.set(one, removeOne(socket, one, standing))
  }
  return appearances.map((one) => results.get(one) ?? false)
}

function removeOne(socket: NetfilterSocket, one: Appearance, standing: Standing): boolean {
  const { type, attributes } = one.received
  const table = attribute(1, name(one.table))
  const kept = (key: number) => {
    const value = attributes.get(key)
    return value ? [attribute(key, value)] : []
  }
  const second = attribute(2, name(one.chain ?? ''))
  switch (type) {
    case nft.newRule:
      return send(socket, one, nft.delRule, [table, second, ...kept(3)])
    case nft.newSetElement: {
      const elements = attributes.get(3)
      return send(socket, one, nft.delSetElement, [table, second, ...(elements ? [nested(3, elements)] : [])])
    }
    case nft.newChain: {
      const chain = attribute(3, name(one.chain ?? ''))
      const policy = standing.chains.get(`${one.family} ${one.table} ${one.chain ?? ''}`)
      if (policy === undefined) return send(socket, one, nft.delChain, [table, chain])
      return policy === null || send(socket, one, nft.newChain, [table, chain, attribute(5, policy)])
    }
    case nft.newSet:
      return send(socket, one, nft.delSet, [table, second])
    case nft.newObject:
      return send(socket, one, nft.delObject, [table, second, ...kept(3)])
    case nft.newFlowtable:
      return send(socket, one, nft.delFlowtable, [table, second])
    default:
      return false
  }
}

function nested(type: number, content: Buffer): Buffer {
  const bytes = attribute(type, content)
  bytes.writeUInt16LE(type | 0x8000, 2)
  return bytes
}

function send(socket: NetfilterSocket, one: Appearance, type: number, attributes: Buffer[]): boolean {
  try {
    const request = batch([message(type, one.received.family, flag.ack, attributes)])
    return parse(socket.request(request)).every(({ error }) => error === null || error === 0)
  } catch {
    return false
  }
}

export function findStanding(socket: NetfilterSocket): Standing {
  const ask = (type: number) => parse(socket.request(message(type, 0, flag.dump, [])))
  const key = ({ family, attributes }: Received) => `${familyName(family)} ${textOf(attributes.get(1)) ?? ''}`
  const tables = ask(nft.getTable).filter(({ type }) => type === nft.newTable)
  const chains = ask(nft.getChain).filter(({ type }) => type === nft.newChain)
  return {
    tables: new Set(tables.map(key)),
    chains: new Map(
      chains.map((chain) => [`${key(chain)} ${textOf(chain.attributes.get(3)) ?? ''}`, chain.attributes.get(5) ?? null])
    )
  }
}

/** Rules by "family table", of all nf_tables tables. */
export function countRules(socket: NetfilterSocket): Map<string, number> {
  const found = new Map<string, number>()
  for (const { type, family, attributes } of parse(socket.request(message(nft.getRule, 0, flag.dump, [])))) {
    if (type !== nft.newRule) continue
    const key = `${familyName(family)} ${textOf(attributes.get(1)) ?? ''}`
    found.set(key, (found.get(key) ?? 0) + 1)
  }
  return found
}
