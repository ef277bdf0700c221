// guard.remove: taking away again what one transaction brought, only where
// nothing but that can be lost.
//
// A transaction is taken back as a whole or not at all, and only when
//   it removed, flushed and replaced nothing;
//   all it added is in tables that it made itself, each with base chains on
//   forwarding hooks of ip, ip6 or inet and on no other hook;
//   nobody has touched these tables since.
// The last holds at the very moment: the kernel is told the generation of the
// ruleset that was seen last, and refuses if it is another one by now.

import type { NetfilterSocket } from '../native.js'
import {
  attribute,
  attributesOf,
  batch,
  family,
  flag,
  message,
  name,
  nft,
  parse,
  type Received,
  textOf
} from '../netfilter/nfnetlink.js'
import { type Change, listTables, type Transaction } from './watch.js'

const forwardingHooks = [0, 2, 4] // prerouting, forward, postrouting
const families: number[] = [family.ip, family.ip6, family.inet]

interface Table {
  /** null: it stood before, or nobody knows. */
  madeBy: Transaction | null
  touched: boolean
}

export class Removal {
  readonly #socket: NetfilterSocket
  readonly #tables = new Map<string, Table>()
  #generation = 0

  constructor(socket: NetfilterSocket) {
    this.#socket = socket
    this.forget()
  }

  /** Has to be told of every transaction, in order. */
  note(transaction: Transaction): void {
    this.#generation = transaction.generation
    for (const change of transaction.removed) {
      const table = this.#tables.get(keyOf(change))
      if (change.received.type === nft.delTable) this.#tables.delete(keyOf(change))
      else if (table) table.touched = true
    }
    for (const change of transaction.added) {
      const table = this.#tables.get(keyOf(change))
      if (!table) {
        const made = change.received.type === nft.newTable
        this.#tables.set(keyOf(change), { madeBy: made ? transaction : null, touched: false })
      } else if (table.madeBy !== transaction) {
        table.touched = true
      }
    }
  }

  /** Transactions were missed: what stands now stays. */
  forget(): void {
    this.#tables.clear()
    for (const key of listTables(this.#socket)) this.#tables.set(key, { madeBy: null, touched: false })
  }

  /** False: nothing was changed. */
  remove(transaction: Transaction): boolean {
    const tables = transaction.added.filter(({ received }) => received.type === nft.newTable)
    if (transaction.removed.length > 0 || tables.length === 0) return false
    const isOwn = ({ madeBy, touched }: Table) => madeBy === transaction && !touched
    for (const change of transaction.added) {
      const table = this.#tables.get(keyOf(change))
      if (!table || !isOwn(table)) return false
    }
    if (!tables.every((table) => onlyForwards(table, transaction.added))) return false
    const deletions = tables.map(({ received, table }) =>
      message(nft.delTable, received.family, flag.ack, [attribute(1, name(table))])
    )
    try {
      const answers = parse(this.#socket.request(batch(deletions, this.#generation)))
      return answers.every(({ error }) => error === null || error === 0)
    } catch {
      return false
    }
  }
}

function keyOf({ family: of, table }: Change): string {
  return `${of} ${table}`
}

function onlyForwards(table: Change, added: Change[]): boolean {
  if (!families.includes(table.received.family)) return false
  const hooks = added
    .filter((change) => keyOf(change) === keyOf(table) && change.received.type === nft.newChain)
    .map(({ received }) => hookOf(received))
    .filter((hook) => hook !== null)
  return hooks.length > 0 && hooks.every((hook) => forwardingHooks.includes(hook))
}

/** null: no base chain. */
function hookOf({ attributes }: Received): number | null {
  const hook = attributes.get(4)
  if (!hook || textOf(attributes.get(3)) === null) return null
  return attributesOf(hook).get(1)?.readUInt32BE(0) ?? null
}
