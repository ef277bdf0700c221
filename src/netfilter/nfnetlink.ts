// nfnetlink messages for nf_tables, written and read: as much as the guard and
// the reader of translated destinations need.

export const netfilterProtocol = 12
/** NFNLGRP_NFTABLES */
export const tablesGroup = 7

export const nft = {
  newTable: 0,
  getTable: 1,
  delTable: 2,
  newChain: 3,
  getChain: 4,
  delChain: 5,
  newRule: 6,
  getRule: 7,
  delRule: 8,
  newSet: 9,
  getSet: 10,
  delSet: 11,
  newSetElement: 12,
  getSetElement: 13,
  delSetElement: 14,
  newGeneration: 15,
  getGeneration: 16,
  newObject: 18,
  delObject: 20,
  newFlowtable: 22,
  delFlowtable: 24
} as const

export const flag = { request: 1, ack: 4, replace: 0x100, exclusive: 0x200, create: 0x400, dump: 0x300 } as const

const subsystem = 10
const headerSize = 16
const batchBegin = 16
const batchEnd = 17
const errorType = 2
export const family = { unspecified: 0, inet: 1, ip: 2, arp: 3, netdev: 5, bridge: 7, ip6: 10 } as const

export interface Attribute {
  type: number
  value: Buffer
}

export function attribute(type: number, value: Buffer | Attribute[]): Buffer {
  const nested = Array.isArray(value)
  const content = nested ? Buffer.concat(value.map((inner) => attribute(inner.type, inner.value))) : value
  const bytes = Buffer.alloc((4 + content.length + 3) & ~3)
  bytes.writeUInt16LE(4 + content.length, 0)
  bytes.writeUInt16LE(nested ? type | 0x8000 : type, 2)
  content.copy(bytes, 4)
  return bytes
}

export function name(text: string): Buffer {
  return Buffer.from(`${text}\0`)
}

export function number(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeInt32BE(value | 0)
  return bytes
}

/** One message: `type` is an NFT_MSG_*. */
export function message(type: number, of: number, flags: number, attributes: Buffer[], sequence = 1): Buffer {
  return raw((subsystem << 8) | type, of, 0, flags | flag.request, attributes, sequence)
}

/** One transaction. generation: refused with ERESTART unless it is the ruleset's. */
export function batch(messages: Buffer[], generation?: number): Buffer {
  const edge = (type: number, attributes: Buffer[]) => raw(type, 0, subsystem, flag.request, attributes, 0)
  const condition = generation === undefined ? [] : [attribute(1, number(generation))]
  return Buffer.concat([edge(batchBegin, condition), ...messages, edge(batchEnd, [])])
}

/** A table, a base chain and an empty rule, in one transaction. */
export function probeTransaction(): Buffer {
  const table = attribute(1, name('hostroute_probe'))
  const hook = attribute(4, [
    { type: 1, value: number(2) },
    { type: 2, value: number(0) }
  ])
  const chain = attribute(3, name('forward'))
  return batch([
    message(nft.newTable, family.ip, flag.create, [table]),
    message(nft.newChain, family.ip, flag.create, [table, chain, hook, attribute(7, name('filter'))]),
    message(nft.newRule, family.ip, flag.create, [table, attribute(2, name('forward'))])
  ])
}

function raw(
  type: number,
  of: number,
  resource: number,
  flags: number,
  attributes: Buffer[],
  sequence: number
): Buffer {
  const head = Buffer.alloc(headerSize + 4)
  head.writeUInt32LE(head.length + attributes.reduce((sum, { length }) => sum + length, 0), 0)
  head.writeUInt16LE(type, 4)
  head.writeUInt16LE(flags, 6)
  head.writeUInt32LE(sequence, 8)
  head.writeUInt8(of, 16)
  head.writeUInt16BE(resource, 18)
  return Buffer.concat([head, ...attributes])
}

export interface Received {
  /** NFT_MSG_*, or -1 for what is not of nf_tables. */
  type: number
  family: number
  sequence: number
  /** Port of who caused it. */
  port: number
  attributes: Map<number, Buffer>
  /** NLMSG_ERROR: positive errno; 0 is an acknowledgement. */
  error: number | null
}

/** Messages that contradict their own length end the list. */
export function parse(bytes: Buffer): Received[] {
  const found: Received[] = []
  for (let offset = 0; offset + headerSize <= bytes.length; ) {
    const length = bytes.readUInt32LE(offset)
    if (length < headerSize || offset + length > bytes.length) break
    const type = bytes.readUInt16LE(offset + 4)
    const failed = type === errorType && length >= headerSize + 4
    found.push({
      type: type >> 8 === subsystem ? type & 0xff : -1,
      family: length > headerSize ? bytes.readUInt8(offset + headerSize) : 0,
      sequence: bytes.readUInt32LE(offset + 8),
      port: bytes.readUInt32LE(offset + 12),
      attributes:
        type >> 8 === subsystem ? attributesOf(bytes.subarray(offset + headerSize + 4, offset + length)) : new Map(),
      error: failed ? -bytes.readInt32LE(offset + headerSize) : null
    })
    offset += (length + 3) & ~3
  }
  return found
}

export function attributesOf(bytes: Buffer): Map<number, Buffer> {
  const found = new Map<number, Buffer>()
  for (let offset = 0; offset + 4 <= bytes.length; ) {
    const length = bytes.readUInt16LE(offset)
    if (length < 4 || offset + length > bytes.length) break
    found.set(bytes.readUInt16LE(offset + 2) & 0x3fff, bytes.subarray(offset + 4, offset + length))
    offset += (length + 3) & ~3
  }
  return found
}

export function textOf(value: Buffer | undefined): string | null {
  if (!value) return null
  const end = value.indexOf(0)
  return value.toString('utf8', 0, end < 0 ? value.length : end)
}
