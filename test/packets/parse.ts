// Frames taken apart for tests. Takes any bytes: what does not parse is left
// undefined and said in `problems`; it never throws.

import { addressText, macText, onesSum, pseudoHeader } from './bytes.js'

export interface ParsedIp {
  family: 4 | 6
  source: string
  destination: string
  /** TTL or hop limit */
  ttl: number
  /** Of the transport, after all IPv6 extension headers. */
  protocol: number
  /** IPv6: always true */
  headerChecksumOk: boolean
  /** Bytes of the whole IP packet as its header says. */
  length: number
  headerLength: number
  /** TOS or traffic class */
  tos: number
  id: number
  df: boolean
  mf: boolean
  /** Bytes */
  fragmentOffset: number
  /** A fragment: offset or more fragments, or an IPv6 fragment header. */
  fragment: boolean
  /** IPv4 options, raw; empty for none. */
  options: Buffer
  /** IPv6 extension headers by protocol number, in order. */
  extensions: number[]
}

export interface ParsedTransport {
  protocol: 'tcp' | 'udp' | 'icmp' | 'icmp6' | 'other'
  sourcePort?: number
  destinationPort?: number
  /** TCP: letters of FSRPAUEC in this order. */
  flags?: string
  sequence?: number
  acknowledgement?: number
  window?: number
  /** TCP options, raw */
  options?: Buffer
  type?: number
  code?: number
  /** ICMP echo */
  id?: number
  /** ICMP: the four bytes after the checksum (next hop MTU, pointer, ...) */
  rest?: number
  checksum?: number
  /** null: not decidable (a fragment, cut short, or UDP over IPv4 sent without a checksum). */
  checksumOk: boolean | null
}

export interface ParsedNetwork {
  ip: ParsedIp
  /** undefined: not the first fragment, or cut before the ports. */
  l4?: ParsedTransport
  /** After the transport header; without l4 after the IP headers. */
  payload: Buffer
  /** ICMP errors: the packet inside. */
  embedded?: ParsedNetwork
}

export interface ParsedArp {
  operation: number
  senderMac: string
  sender: string
  targetMac: string
  target: string
}

export interface ParsedPacket extends Partial<ParsedNetwork> {
  destinationMac: string
  sourceMac: string
  vlans: { type: number; id: number; priority: number }[]
  etherType: number
  arp?: ParsedArp
  payload: Buffer
  problems: string[]
}

/** An Ethernet frame, without FCS. Bytes past the IP packet (padding) are ignored. */
export function parsePacket(frame: Buffer): ParsedPacket {
  const problems: string[] = []
  const packet: ParsedPacket = {
    destinationMac: macText(frame.subarray(0, 6)),
    sourceMac: macText(frame.subarray(6, 12)),
    vlans: [],
    etherType: 0,
    payload: Buffer.alloc(0),
    problems
  }
  let at = 12
  for (;;) {
    if (frame.length < at + 2) {
      problems.push('frame shorter than its Ethernet header')
      return packet
    }
    packet.etherType = frame.readUInt16BE(at)
    if ((packet.etherType !== 0x8100 && packet.etherType !== 0x88a8) || frame.length < at + 4) break
    const tag = frame.readUInt16BE(at + 2)
    packet.vlans.push({ type: packet.etherType, id: tag & 0xfff, priority: tag >> 13 })
    at += 4
  }
  packet.payload = frame.subarray(at + 2)
  if (packet.etherType === 0x0806) packet.arp = parseArp(packet.payload)
  if (packet.etherType === 0x0800 || packet.etherType === 0x86dd) {
    Object.assign(packet, parseNetwork(packet.payload, problems))
  }
  return packet
}

function parseArp(bytes: Buffer): ParsedArp | undefined {
  if (bytes.length < 28) return undefined
  return {
    operation: bytes.readUInt16BE(6),
    senderMac: macText(bytes.subarray(8, 14)),
    sender: addressText(bytes.subarray(14, 18)),
    targetMac: macText(bytes.subarray(18, 24)),
    target: addressText(bytes.subarray(24, 28))
  }
}

/** An IP packet without a link header; undefined when it is not one. */
export function parseNetwork(bytes: Buffer, problems: string[] = []): ParsedNetwork | undefined {
  const version = bytes.length > 0 ? bytes[0]! >> 4 : 0
  const ip = version === 4 ? parseIpv4(bytes) : version === 6 ? parseIpv6(bytes) : undefined
  if (!ip) {
    problems.push('no complete IP header')
    return undefined
  }
  if (ip.length > bytes.length) problems.push(`IP says ${ip.length} bytes, there are ${bytes.length}`)
  const body = bytes.subarray(ip.headerLength, ip.length)
  const network: ParsedNetwork = { ip, payload: body }
  if (ip.fragmentOffset !== 0) return network
  const whole = !ip.mf && bytes.length >= ip.length
  const addresses = ip.family === 4 ? bytes.subarray(12, 20) : bytes.subarray(8, 40)
  return parseTransport(network, body, addresses, whole)
}

function parseIpv4(bytes: Buffer): ParsedIp | undefined {
  const headerLength = (bytes[0]! & 15) * 4
  if (headerLength < 20 || bytes.length < headerLength) return undefined
  const flags = bytes.readUInt16BE(6)
  const fragmentOffset = (flags & 0x1fff) * 8
  const mf = (flags & 0x2000) !== 0
  return {
    family: 4,
    source: addressText(bytes.subarray(12, 16)),
    destination: addressText(bytes.subarray(16, 20)),
    ttl: bytes.readUInt8(8),
    protocol: bytes.readUInt8(9),
    headerChecksumOk: onesSum(bytes.subarray(0, headerLength)) === 0xffff,
    length: bytes.readUInt16BE(2),
    headerLength,
    tos: bytes.readUInt8(1),
    id: bytes.readUInt16BE(4),
    df: (flags & 0x4000) !== 0,
    mf,
    fragmentOffset,
    fragment: mf || fragmentOffset > 0,
    options: bytes.subarray(20, headerLength),
    extensions: []
  }
}

function parseIpv6(bytes: Buffer): ParsedIp | undefined {
  if (bytes.length < 40) return undefined
  const ip: ParsedIp = {
    family: 6,
    source: addressText(bytes.subarray(8, 24)),
    destination: addressText(bytes.subarray(24, 40)),
    ttl: bytes.readUInt8(7),
    protocol: bytes.readUInt8(6),
    headerChecksumOk: true,
    length: 40 + bytes.readUInt16BE(4),
    headerLength: 40,
    tos: (bytes.readUInt16BE(0) >> 4) & 0xff,
    id: 0,
    df: true,
    mf: false,
    fragmentOffset: 0,
    fragment: false,
    options: Buffer.alloc(0),
    extensions: []
  }
  walkExtensions(bytes, ip)
  return ip
}

/** Moves ip.protocol and ip.headerLength past the extension headers that are whole. */
function walkExtensions(bytes: Buffer, ip: ParsedIp): void {
  while ([0, 43, 44, 60].includes(ip.protocol) && ip.fragmentOffset === 0) {
    const at = ip.headerLength
    if (bytes.length < at + 8) return
    const length = ip.protocol === 44 ? 8 : (bytes.readUInt8(at + 1) + 1) * 8
    if (bytes.length < at + length) return
    if (ip.protocol === 44) {
      const flags = bytes.readUInt16BE(at + 2)
      ip.fragmentOffset = flags & 0xfff8
      ip.mf = (flags & 1) !== 0
      ip.id = bytes.readUInt32BE(at + 4)
      ip.fragment = true
    }
    ip.extensions.push(ip.protocol)
    ip.protocol = bytes.readUInt8(at)
    ip.headerLength += length
  }
}

function parseTransport(network: ParsedNetwork, body: Buffer, addresses: Buffer, whole: boolean): ParsedNetwork {
  const { ip } = network
  const half = addresses.length / 2
  const pseudo = pseudoHeader(addresses.subarray(0, half), addresses.subarray(half), ip.protocol, body.length)
  const correct = (...parts: Buffer[]) => (whole ? onesSum(...parts) === 0xffff : null)
  if (ip.protocol === 6 && body.length >= 4) return tcpView(network, body, correct(pseudo, body))
  if (ip.protocol === 17 && body.length >= 4) return udpView(network, body, correct(pseudo, body))
  if (ip.protocol === 1 && ip.family === 4 && body.length >= 8) return icmpView(network, body, correct(body))
  if (ip.protocol === 58 && ip.family === 6 && body.length >= 8) return icmpView(network, body, correct(pseudo, body))
  network.l4 = { protocol: 'other', checksumOk: null }
  return network
}

function tcpView(network: ParsedNetwork, body: Buffer, checksumOk: boolean | null): ParsedNetwork {
  const l4: ParsedTransport = {
    protocol: 'tcp',
    sourcePort: body.readUInt16BE(0),
    destinationPort: body.readUInt16BE(2),
    checksumOk
  }
  if (body.length >= 8) l4.sequence = body.readUInt32BE(4)
  let headerLength = body.length
  if (body.length >= 20) {
    headerLength = Math.min((body[12]! >> 4) * 4, body.length)
    l4.acknowledgement = body.readUInt32BE(8)
    l4.flags = [...'FSRPAUEC'].filter((_, bit) => body[13]! & (1 << bit)).join('')
    l4.window = body.readUInt16BE(14)
    l4.checksum = body.readUInt16BE(16)
    l4.options = body.subarray(20, headerLength)
  } else {
    l4.checksumOk = null
  }
  return { ...network, l4, payload: body.subarray(headerLength) }
}

function udpView(network: ParsedNetwork, body: Buffer, checksumOk: boolean | null): ParsedNetwork {
  const l4: ParsedTransport = {
    protocol: 'udp',
    sourcePort: body.readUInt16BE(0),
    destinationPort: body.readUInt16BE(2),
    checksumOk
  }
  if (body.length >= 8) {
    l4.checksum = body.readUInt16BE(6)
    if (l4.checksum === 0) l4.checksumOk = network.ip.family === 4 ? null : false
  }
  return { ...network, l4, payload: body.subarray(8) }
}

function icmpView(network: ParsedNetwork, body: Buffer, checksumOk: boolean | null): ParsedNetwork {
  const four = network.ip.family === 4
  const type = body.readUInt8(0)
  const l4: ParsedTransport = {
    protocol: four ? 'icmp' : 'icmp6',
    type,
    code: body.readUInt8(1),
    checksum: body.readUInt16BE(2),
    rest: body.readUInt32BE(4),
    checksumOk
  }
  const isEcho = four ? type === 0 || type === 8 : type === 128 || type === 129
  if (isEcho) {
    l4.id = body.readUInt16BE(4)
    l4.sequence = body.readUInt16BE(6)
  }
  const isError = four ? [3, 4, 5, 11, 12].includes(type) : type >= 1 && type <= 4
  const payload = body.subarray(8)
  return { ...network, l4, payload, embedded: isError ? parseNetwork(payload) : undefined }
}
