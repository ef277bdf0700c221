// What changes in nf_tables, as the kernel tells it afterwards: each
// transaction as its messages, then NEWGEN with the process that did it. This
// is how the guard sees what no hook could refuse.

import type { NetfilterSocket, NetlinkReader } from '../native.js'
import { native } from '../native.js'
import {
  flag,
  message,
  netfilterProtocol,
  nft,
  parse,
  type Received,
  tablesGroup,
  textOf
} from '../netfilter/nfnetlink.js'
import { familyName, messageName } from './layout.js'

/** One object that a transaction added, changed or removed. */
export interface Change {
  family: string
  table: string
  chain: string | null
  message: string
  received: Received
}

export interface Transaction {
  /** Thread that did it, and what it calls itself. */
  pid: number
  command: string
  /** Of the ruleset, when it was done. */
  generation: number
  added: Change[]
  removed: Change[]
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
const deletions: number[] = [
  nft.delTable,
  nft.delChain,
  nft.delRule,
  nft.delSet,
  nft.delSetElement,
  nft.delObject,
  nft.delFlowtable
]

export interface TransactionWatch {
  close(): void
}

/** Calls back once per transaction that changed something. onLost: transactions were missed, look for yourself. */
export function watchTransactions(
  onTransaction: (transaction: Transaction) => void,
  onLost: () => void
): TransactionWatch {
  let added: Change[] = []
  let removed: Change[] = []
  const receive = (bytes: Buffer, overrun: boolean) => {
    if (overrun) {
      added = []
      removed = []
      onLost()
    }
    for (const received of parse(bytes)) {
      if (additions.includes(received.type)) added.push(change(received))
      else if (deletions.includes(received.type)) removed.push(change(received))
      if (received.type !== nft.newGeneration) continue
      const transaction = {
        pid: received.attributes.get(2)?.readUInt32BE(0) ?? 0,
        command: textOf(received.attributes.get(3)) ?? '',
        generation: received.attributes.get(1)?.readUInt32BE(0) ?? 0,
        added,
        removed
      }
      added = []
      removed = []
      if (transaction.added.length > 0 || transaction.removed.length > 0) onTransaction(transaction)
    }
  }
  const options = { protocol: netfilterProtocol, groups: [tablesGroup], receiveBuffer: 4 << 20 }
  const reader: NetlinkReader = native().openNetlinkReader(options, receive)
  return { close: () => reader.close() }
}

const onTables: number[] = [nft.newTable, nft.delTable]
const onChains: number[] = [nft.newChain, nft.delChain]

function change(received: Received): Change {
  const { type, family, attributes } = received
  return {
    family: familyName(family),
    table: textOf(attributes.get(1)) ?? '',
    chain: onTables.includes(type) ? null : textOf(attributes.get(onChains.includes(type) ? 3 : 2)),
    message: messageName(type),
    received
  }
}

/** Of the ruleset now. */
export function currentGeneration(socket: NetfilterSocket): number {
  const answers = parse(socket.request(message(nft.getGeneration, 0, 0, [])))
  return (
    answers
      .find(({ type }) => type === nft.newGeneration)
      ?.attributes.get(1)
      ?.readUInt32BE(0) ?? 0
  )
}

/** "family table", of all there are. */
export function listTables(socket: NetfilterSocket): string[] {
  return parse(socket.request(message(nft.getTable, 0, flag.dump, [])))
    .filter(({ type }) => type === nft.newTable)
    .map(({ family, attributes }) => `${familyName(family)} ${textOf(attributes.get(1)) ?? ''}`)
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
