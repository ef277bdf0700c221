// Entries of the kernel's connection tracking, as nfnetlink shows them.
//
// A tuple is one direction. For ICMP the echo identifier is the source port,
// and the destination port is 0.

import { noAddress } from '../address.js'
import { afterAttribute, attributeEnd, attributeType, Malformed, readAddress, readU8 } from '../netlink/bytes.js'
import type { Address, Family } from '../state/types.js'

export const protocols = { icmp: 1, tcp: 6, udp: 17, icmp6: 58 } as const

/** Bits of Entry.status, IPS_*. */
export const status = { seenReply: 0x2, assured: 0x4, confirmed: 0x8, dying: 0x200, offloaded: 0x4000 } as const

/** Entry.tcp.state, TCP_CONNTRACK_*. */
export const tcpState = { synSent: 1, synReceived: 2, established: 3, timeWait: 7, close: 8, synSent2: 9 } as const

/** TCP flags of a direction, IP_CT_TCP_FLAG_*. */
export const tcpFlag = { liberal: 0x8 } as const

export interface Tuple {
  source: Address
  destination: Address
  protocol: number
  sourcePort: number
  destinationPort: number
  /** ICMP type and code; 0 otherwise. */
  type: number
  code: number
  /** Of this direction alone. */
  zone: number
}

export interface Entry {
  family: Family
  original: Tuple
  reply: Tuple
  status: number
  /** Seconds it still lives without a packet. */
  timeout: number
  /** Names the entry as long as it lives; the tuple may have another one later. */
  id: number
  /** Of both directions. */
  zone: number
  tcp: { state: number; flags: [original: number, reply: number] } | null
}

/** Attribute numbers of linux/nfnetlink_conntrack.h, by what they stand in. */
export const attributes = {
  entry: {
    original: 1,
    reply: 2,
    status: 3,
    protocolInfo: 4,
    sourceNat: 6,
    timeout: 7,
    id: 12,
    zone: 18
  },
  tuple: { addresses: 1, protocol: 2, zone: 3 },
  address: { source4: 1, destination4: 2, source6: 3, destination6: 4 },
  protocol: { number: 1, sourcePort: 2, destinationPort: 3, id4: 4, type4: 5, code4: 6, id6: 7, type6: 8, code6: 9 },
  protocolInfo: { tcp: 1 },
  tcp: { state: 1, flagsOriginal: 4, flagsReply: 5 },
  nat: { minimum4: 1, maximum4: 2, ports: 3, minimum6: 4, maximum6: 5 },
  ports: { minimum: 1, maximum: 2 }
} as const

/** AF_INET, AF_INET6 */
export const addressFamilies = { 4: 2, 6: 10 } as const
const netfilterHeader = 4

/** The body of IPCTNL_MSG_CT_NEW. null: neither IPv4 nor IPv6. Throws Malformed. */
export function decodeEntry(bytes: Buffer, body: number, end: number): Entry | null {
  const family = readU8(bytes, body, end)
  if (family !== addressFamilies[4] && family !== addressFamilies[6]) return null
  const entry: Entry = {
    family: family === addressFamilies[4] ? 4 : 6,
    original: emptyTuple,
    reply: emptyTuple,
    status: 0,
    timeout: 0,
    id: 0,
    zone: 0,
    tcp: null
  }
  const { original, reply, status, protocolInfo, timeout, id, zone } = attributes.entry
  for (let at = body + netfilterHeader; at < end; at = afterAttribute(bytes, at)) {
    const stop = attributeEnd(bytes, at, end)
    const type = attributeType(bytes, at)
    if (type === original) entry.original = decodeTuple(bytes, at + 4, stop)
    else if (type === reply) entry.reply = decodeTuple(bytes, at + 4, stop)
    else if (type === status) entry.status = readBig32(bytes, at + 4, stop)
    else if (type === timeout) entry.timeout = readBig32(bytes, at + 4, stop)
    else if (type === id) entry.id = readBig32(bytes, at + 4, stop)
    else if (type === zone) entry.zone = readBig16(bytes, at + 4, stop)
    else if (type === protocolInfo) entry.tcp = decodeTcp(bytes, at + 4, stop)
  }
  if (entry.original === emptyTuple || entry.reply === emptyTuple) throw new Malformed('an entry without tuples')
  return entry
}

const emptyTuple: Tuple = {
  source: noAddress,
  destination: noAddress,
  protocol: 0,
  sourcePort: 0,
  destinationPort: 0,
  type: 0,
  code: 0,
  zone: 0
}

function decodeTuple(bytes: Buffer, from: number, end: number): Tuple {
  const tuple = { ...emptyTuple }
  for (let at = from; at < end; at = afterAttribute(bytes, at)) {
    const stop = attributeEnd(bytes, at, end)
    const type = attributeType(bytes, at)
    if (type === attributes.tuple.addresses) decodeAddresses(tuple, bytes, at + 4, stop)
    else if (type === attributes.tuple.protocol) decodeProtocol(tuple, bytes, at + 4, stop)
    else if (type === attributes.tuple.zone) tuple.zone = readBig16(bytes, at + 4, stop)
  }
  return tuple
}

function decodeAddresses(tuple: Tuple, bytes: Buffer, from: number, end: number): void {
  const { source4, source6 } = attributes.address
  for (let at = from; at < end; at = afterAttribute(bytes, at)) {
    const stop = attributeEnd(bytes, at, end)
    const type = attributeType(bytes, at)
    if (type === source4 || type === source6) tuple.source = readAddress(bytes, at + 4, stop)
    else tuple.destination = readAddress(bytes, at + 4, stop)
  }
}

function decodeProtocol(tuple: Tuple, bytes: Buffer, from: number, end: number): void {
  const names = attributes.protocol
  for (let at = from; at < end; at = afterAttribute(bytes, at)) {
    const stop = attributeEnd(bytes, at, end)
    const type = attributeType(bytes, at)
    if (type === names.number) tuple.protocol = readU8(bytes, at + 4, stop)
    else if (type === names.sourcePort || type === names.id4 || type === names.id6)
      tuple.sourcePort = readBig16(bytes, at + 4, stop)
    else if (type === names.destinationPort) tuple.destinationPort = readBig16(bytes, at + 4, stop)
    else if (type === names.type4 || type === names.type6) tuple.type = readU8(bytes, at + 4, stop)
    else if (type === names.code4 || type === names.code6) tuple.code = readU8(bytes, at + 4, stop)
  }
}

function decodeTcp(bytes: Buffer, from: number, end: number): Entry['tcp'] {
  if (from >= end) return null
  const inside = attributeEnd(bytes, from, end)
  if (attributeType(bytes, from) !== attributes.protocolInfo.tcp) return null
  const tcp: NonNullable<Entry['tcp']> = { state: 0, flags: [0, 0] }
  for (let at = from + 4; at < inside; at = afterAttribute(bytes, at)) {
    const stop = attributeEnd(bytes, at, inside)
    const type = attributeType(bytes, at)
    if (type === attributes.tcp.state) tcp.state = readU8(bytes, at + 4, stop)
    else if (type === attributes.tcp.flagsOriginal) tcp.flags[0] = readU8(bytes, at + 4, stop)
    else if (type === attributes.tcp.flagsReply) tcp.flags[1] = readU8(bytes, at + 4, stop)
  }
  return tcp
}

/** The reply is not what the other side would send by itself: addresses or ports are exchanged on the way. IPVS does so without a NAT status bit. */
export function isTranslated({ original, reply }: Entry): boolean {
  return (
    original.source !== reply.destination ||
    original.destination !== reply.source ||
    (isEcho(original.protocol)
      ? original.sourcePort !== reply.sourcePort
      : original.sourcePort !== reply.destinationPort || original.destinationPort !== reply.sourcePort)
  )
}

/** Of an echo. */
export function isRequest({ protocol, type }: Tuple): boolean {
  return type === (protocol === protocols.icmp ? 8 : 128)
}

export function isEcho(protocol: number): boolean {
  return protocol === protocols.icmp || protocol === protocols.icmp6
}

/** Big endian, as nfnetlink's numbers are. */
function readBig16(bytes: Buffer, at: number, end: number): number {
  if (end - at < 2) throw new Malformed('short')
  return bytes.readUInt16BE(at)
}

function readBig32(bytes: Buffer, at: number, end: number): number {
  if (end - at < 4) throw new Malformed('short')
  return bytes.readUInt32BE(at)
}
