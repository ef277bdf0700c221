// Datagrams to nfnetlink, good and bad.

import { attribute, batch, family, flag, message, name, nft, number } from '../../src/netfilter/nfnetlink.js'

const table = attribute(1, name('t'))
const hook = attribute(4, [
  { type: 1, value: number(2) },
  { type: 2, value: number(0) }
])

export const newTable = (of: keyof typeof family = 'ip', called = 't') =>
  message(nft.newTable, family[of], flag.create, [attribute(1, name(called))])
export const newBaseChain = message(nft.newChain, family.ip, flag.create, [
  table,
  attribute(3, name('c')),
  hook,
  attribute(7, name('filter'))
])
export const newRule = message(nft.newRule, family.ip, flag.create, [table, attribute(2, name('c'))])
export const policyDrop = message(nft.newChain, family.ip, 0, [table, attribute(3, name('c')), attribute(5, number(0))])
/** One element of a verdict map: key 1 → drop. */
export const newVerdict = message(nft.newSetElement, family.ip, flag.create, [
  table,
  attribute(2, name('m')),
  attribute(3, [{ type: 1, value: attribute(1, [{ type: 1, value: attribute(1, number(1)) }]) }])
])
export const newFlowtable = message(nft.newFlowtable, family.ip, flag.create, [table, attribute(2, name('f'))])
/** Reads one table: changes nothing. */
export const harmless = message(nft.getTable, family.ip, 0, [attribute(1, name('nothing'))])
export const deleteRule = message(nft.delRule, family.ip, 0, [table, attribute(2, name('c'))])

export const forbidden: Record<string, Buffer> = {
  newTable: newTable(),
  newBaseChain,
  newRule,
  policyDrop,
  newVerdict,
  newFlowtable
}

/** A message whose length is no multiple of four, with its padding. */
export function unaligned(): Buffer {
  const odd = message(nft.getTable, family.ip, 0, [Buffer.concat([Buffer.from([5, 0, 1, 0]), Buffer.from('x')])])
  return Buffer.concat([odd, Buffer.alloc(4 - (odd.length % 4))])
}

export function withLength(bytes: Buffer, length: number): Buffer {
  const copy = Buffer.from(bytes)
  copy.writeUInt32LE(length >>> 0, 0)
  return copy
}

export const hex = (...messages: Buffer[]) => ({ request: batch(messages).toString('hex') })

/** struct ipt_replace with nothing behind it. */
export function legacyTable(entries: number, before: number, hooks = 14): string {
  const head = Buffer.alloc(96 + 1000)
  head.write('filter')
  head.writeUInt32LE(hooks, 32)
  head.writeUInt32LE(entries, 36)
  head.writeUInt32LE(1000, 40)
  head.writeUInt32LE(before, 84)
  return head.toString('hex')
}
