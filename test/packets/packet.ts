// Packets for tests, built from the outside in:
//
//   ethernet({ source, destination }, ipv4({ source, destination }, udp({ sourcePort, destinationPort }, 'data')))
//
// Lengths, types and checksums are right unless a field overrides them, so a
// broken packet says in one word what is broken about it.

import { addressBytes, checksum, macBytes, pseudoHeader } from './bytes.js'

export { type ParsedNetwork, type ParsedPacket, parseNetwork, parsePacket } from './parse.js'
export { type CapturedPacket, readPcap } from './pcap.js'

export const EtherType = { ipv4: 0x0800, arp: 0x0806, vlan: 0x8100, ipv6: 0x86dd, qinq: 0x88a8 } as const
export const Protocol = {
  hopByHop: 0,
  icmp: 1,
  ipip: 4,
  tcp: 6,
  udp: 17,
  routing: 43,
  fragment: 44,
  gre: 47,
  esp: 50,
  icmp6: 58,
  none: 59,
  destination: 60,
  sctp: 132
} as const

/** What stands in an Ethernet frame. */
export interface Network {
  etherType: number
  bytes: Buffer
}

/** What stands in an IP packet. Built late: its checksum covers the addresses. */
export interface Transport {
  protocol: (family: 4 | 6) => number
  bytes: (source: Buffer, destination: Buffer) => Buffer
}

export interface VlanTag {
  id: number
  priority?: number
  /** 0x8100 unless given */
  type?: number
}

export interface EthernetFields {
  source: string
  destination: string
  vlans?: VlanTag[]
  etherType?: number
}

export function ethernet(fields: EthernetFields, network: Network | Buffer): Buffer {
  const parts = [macBytes(fields.destination), macBytes(fields.source)]
  for (const vlan of fields.vlans ?? []) {
    parts.push(words(vlan.type ?? EtherType.vlan, ((vlan.priority ?? 0) << 13) | vlan.id))
  }
  const etherType = fields.etherType ?? (Buffer.isBuffer(network) ? 0 : network.etherType)
  return Buffer.concat([...parts, words(etherType), Buffer.isBuffer(network) ? network : network.bytes])
}

export interface ArpFields {
  /** 1 request, 2 reply */
  operation: number
  senderMac: string
  sender: string
  targetMac?: string
  target: string
}

export function arp(fields: ArpFields): Network {
  const bytes = Buffer.concat([
    words(1, EtherType.ipv4, 0x0604, fields.operation),
    macBytes(fields.senderMac),
    addressBytes(fields.sender),
    macBytes(fields.targetMac ?? '00:00:00:00:00:00'),
    addressBytes(fields.target)
  ])
  return { etherType: EtherType.arp, bytes }
}

export interface Ipv4Fields {
  source: string
  destination: string
  ttl?: number
  tos?: number
  id?: number
  /** Don't fragment; set unless given, but not in fragments. */
  df?: boolean
  /** More fragments */
  mf?: boolean
  /** Bytes, multiple of 8 */
  fragmentOffset?: number
  /** Raw options; padded to a multiple of 4 with zeros. */
  options?: Buffer
  protocol?: number
  version?: number
  /** Header length in 32-bit words */
  ihl?: number
  totalLength?: number
  checksum?: number
}

export function ipv4(fields: Ipv4Fields, content: Transport | Buffer): Network {
  const source = addressBytes(fields.source)
  const destination = addressBytes(fields.destination)
  const body = Buffer.isBuffer(content) ? content : content.bytes(source, destination)
  const options = padded(fields.options ?? Buffer.alloc(0), 4)
  const header = Buffer.concat([Buffer.alloc(12), source, destination, options])
  const offset = (fields.fragmentOffset ?? 0) >> 3
  const df = fields.df ?? (offset === 0 && !fields.mf)
  header.writeUInt8(((fields.version ?? 4) << 4) | (fields.ihl ?? header.length / 4), 0)
  header.writeUInt8(fields.tos ?? 0, 1)
  header.writeUInt16BE(fields.totalLength ?? header.length + body.length, 2)
  header.writeUInt16BE(fields.id ?? 0, 4)
  header.writeUInt16BE((df ? 0x4000 : 0) | (fields.mf ? 0x2000 : 0) | offset, 6)
  header.writeUInt8(fields.ttl ?? 64, 8)
  header.writeUInt8(fields.protocol ?? (Buffer.isBuffer(content) ? 255 : content.protocol(4)), 9)
  header.writeUInt16BE(fields.checksum ?? checksum(header), 10)
  return { etherType: EtherType.ipv4, bytes: Buffer.concat([header, body]) }
}

export interface Extension {
  /** Protocol number of this header, e.g. Protocol.destination */
  protocol: number
  /** Whole header with a zero first byte; the next header's number is put there. */
  bytes: Buffer
}

/** Hop-by-hop or destination options: PadN unless given; padded to a multiple of 8. */
export function optionsHeader(protocol: number, options = Buffer.from([1, 4, 0, 0, 0, 0])): Extension {
  const bytes = padded(Buffer.concat([Buffer.alloc(2), options]), 8)
  bytes.writeUInt8(bytes.length / 8 - 1, 1)
  return { protocol, bytes }
}

/** Routing header of `type` with no segments left. */
export function routingHeader(type = 4, segments: string[] = []): Extension {
  const bytes = Buffer.concat([
    Buffer.from([0, segments.length * 2, type, 0, 0, 0, 0, 0]),
    ...segments.map(addressBytes)
  ])
  return { protocol: Protocol.routing, bytes }
}

/** offset in bytes; offset 0 without `more` is an atomic fragment. */
export function fragmentHeader(id: number, offset: number, more: boolean): Extension {
  const bytes = Buffer.alloc(8)
  bytes.writeUInt16BE(offset | (more ? 1 : 0), 2)
  bytes.writeUInt32BE(id, 4)
  return { protocol: Protocol.fragment, bytes }
}

export interface Ipv6Fields {
  source: string
  destination: string
  hopLimit?: number
  trafficClass?: number
  flowLabel?: number
  extensions?: Extension[]
  /** Protocol after the last extension */
  protocol?: number
  version?: number
  payloadLength?: number
}

export function ipv6(fields: Ipv6Fields, content: Transport | Buffer): Network {
  const source = addressBytes(fields.source)
  const destination = addressBytes(fields.destination)
  const body = Buffer.isBuffer(content) ? content : content.bytes(source, destination)
  const extensions = fields.extensions ?? []
  const last = fields.protocol ?? (Buffer.isBuffer(content) ? Protocol.none : content.protocol(6))
  const chain = extensions.map((extension, index) => {
    const bytes = Buffer.from(extension.bytes)
    bytes.writeUInt8(extensions[index + 1]?.protocol ?? last, 0)
    return bytes
  })
  const payload = Buffer.concat([...chain, body])
  const header = Buffer.alloc(8)
  header.writeUInt32BE(
    (((fields.version ?? 6) << 28) | ((fields.trafficClass ?? 0) << 20) | (fields.flowLabel ?? 0)) >>> 0,
    0
  )
  header.writeUInt16BE(fields.payloadLength ?? payload.length, 4)
  header.writeUInt8(extensions[0]?.protocol ?? last, 6)
  header.writeUInt8(fields.hopLimit ?? 64, 7)
  return { etherType: EtherType.ipv6, bytes: Buffer.concat([header, source, destination, payload]) }
}

type IpFields = Pick<Ipv4Fields & Ipv6Fields, 'source' | 'destination'> & { ttl?: number }

/** IPv4 or IPv6, as the addresses say, with the fields both have. */
export function ip(fields: IpFields, content: Transport | Buffer): Network {
  const { source, destination, ttl } = fields
  return source.includes(':')
    ? ipv6({ source, destination, hopLimit: ttl }, content)
    : ipv4({ source, destination, ttl }, content)
}

export interface TcpFields {
  sourcePort: number
  destinationPort: number
  /** Letters of FSRPAUEC: 'S', 'SA', 'FA', ... 'A' unless given. */
  flags?: string
  sequence?: number
  acknowledgement?: number
  window?: number
  /** Raw options, padded to a multiple of 4. */
  options?: Buffer
  /** Header length in 32-bit words */
  dataOffset?: number
  urgent?: number
  checksum?: number
}

export const TCP_FLAGS = 'FSRPAUEC'

export function tcp(fields: TcpFields, payload: Buffer | string = ''): Transport {
  const header = Buffer.concat([Buffer.alloc(20), padded(fields.options ?? Buffer.alloc(0), 4)])
  header.writeUInt16BE(fields.sourcePort, 0)
  header.writeUInt16BE(fields.destinationPort, 2)
  header.writeUInt32BE(fields.sequence ?? 1, 4)
  header.writeUInt32BE(fields.acknowledgement ?? 0, 8)
  header.writeUInt8((fields.dataOffset ?? header.length / 4) << 4, 12)
  header.writeUInt8(
    [...(fields.flags ?? 'A')].reduce((bits, letter) => bits | (1 << TCP_FLAGS.indexOf(letter)), 0),
    13
  )
  header.writeUInt16BE(fields.window ?? 65535, 14)
  header.writeUInt16BE(fields.urgent ?? 0, 18)
  return summed(Protocol.tcp, Buffer.concat([header, Buffer.from(payload)]), 16, fields.checksum)
}

export interface UdpFields {
  sourcePort: number
  destinationPort: number
  length?: number
  /** 0: sent without a checksum */
  checksum?: number
}

export function udp(fields: UdpFields, payload: Buffer | string = ''): Transport {
  const body = Buffer.from(payload)
  const header = words(fields.sourcePort, fields.destinationPort, fields.length ?? 8 + body.length, 0)
  return summed(Protocol.udp, Buffer.concat([header, body]), 6, fields.checksum)
}

export interface EchoFields {
  reply?: boolean
  id: number
  sequence?: number
  checksum?: number
}

/** ICMP or ICMPv6 echo, as the IP packet around it says. */
export function echo(fields: EchoFields, payload: Buffer | string = ''): Transport {
  const rest = Buffer.concat([words(fields.id, fields.sequence ?? 1), Buffer.from(payload)])
  return icmp((family) => (family === 4 ? (fields.reply ? 0 : 8) : fields.reply ? 129 : 128), 0, rest, fields.checksum)
}

export interface IcmpErrorFields {
  type: number
  code: number
  /** The four bytes after the checksum: next hop MTU, pointer, ... */
  rest?: number
  /** Bytes of the original packet that are quoted; all unless given. */
  quote?: number
  checksum?: number
}

/** ICMP or ICMPv6 error about `original`. */
export function icmpError(fields: IcmpErrorFields, original: Network | Buffer): Transport {
  const quoted = (Buffer.isBuffer(original) ? original : original.bytes).subarray(0, fields.quote)
  const rest = Buffer.alloc(4)
  rest.writeUInt32BE(fields.rest ?? 0)
  return icmp(() => fields.type, fields.code, Buffer.concat([rest, quoted]), fields.checksum)
}

/** Neighbour solicitation (135) or advertisement (136) with a link-layer address option. */
export function neighbourDiscovery(type: 135 | 136, target: string, mac: string): Transport {
  const rest = Buffer.alloc(4)
  if (type === 136) rest.writeUInt32BE(0x60000000)
  const option = Buffer.concat([Buffer.from([type === 135 ? 1 : 2, 1]), macBytes(mac)])
  return icmp(() => type, 0, Buffer.concat([rest, addressBytes(target), option]))
}

/** Any ICMP or ICMPv6 message; `rest` starts after the checksum. */
export function icmp(type: (family: 4 | 6) => number, code: number, rest: Buffer, sum?: number): Transport {
  return {
    protocol: (family) => (family === 4 ? Protocol.icmp : Protocol.icmp6),
    bytes: (source, destination) => {
      const family = source.length === 4 ? 4 : 6
      const bytes = Buffer.concat([Buffer.from([type(family), code, 0, 0]), rest])
      const pseudo = family === 4 ? Buffer.alloc(0) : pseudoHeader(source, destination, Protocol.icmp6, bytes.length)
      bytes.writeUInt16BE(sum ?? checksum(pseudo, bytes), 2)
      return bytes
    }
  }
}

/** SCTP, GRE, ESP, IPIP, anything: bytes as they are. */
export function raw(protocol: number, bytes: Buffer | string = Buffer.alloc(16)): Transport {
  return { protocol: () => protocol, bytes: () => Buffer.from(bytes) }
}

/** Cuts `network` into fragments of at most `size` bytes of payload (multiple of 8). */
export function fragments(network: Network, size: number, id = 1): Network[] {
  const version = network.bytes[0]! >> 4
  const headerLength = version === 4 ? (network.bytes[0]! & 15) * 4 : 40
  const header = network.bytes.subarray(0, headerLength)
  const body = network.bytes.subarray(headerLength)
  const cuts = Array.from({ length: Math.ceil(body.length / size) }, (_, index) => index * size)
  return cuts.map((offset) => {
    const part = body.subarray(offset, offset + size)
    const more = offset + size < body.length
    const bytes = version === 4 ? fragment4(header, part, offset, more, id) : fragment6(header, part, offset, more, id)
    return { etherType: network.etherType, bytes }
  })
}

function fragment4(header: Buffer, part: Buffer, offset: number, more: boolean, id: number): Buffer {
  const copy = Buffer.from(header)
  copy.writeUInt16BE(copy.length + part.length, 2)
  copy.writeUInt16BE(id, 4)
  copy.writeUInt16BE((more ? 0x2000 : 0) | (offset >> 3), 6)
  copy.writeUInt16BE(0, 10)
  copy.writeUInt16BE(checksum(copy), 10)
  return Buffer.concat([copy, part])
}

function fragment6(header: Buffer, part: Buffer, offset: number, more: boolean, id: number): Buffer {
  const copy = Buffer.from(header)
  const extension = fragmentHeader(id, offset, more)
  extension.bytes.writeUInt8(copy[6]!, 0)
  copy.writeUInt8(Protocol.fragment, 6)
  copy.writeUInt16BE(8 + part.length, 4)
  return Buffer.concat([copy, extension.bytes, part])
}

/** A transport with a checksum over the pseudo header at `at`; UDP's computed 0 becomes 0xffff. */
function summed(protocol: number, template: Buffer, at: number, override: number | undefined): Transport {
  return {
    protocol: () => protocol,
    bytes: (source, destination) => {
      const bytes = Buffer.from(template)
      const computed = checksum(pseudoHeader(source, destination, protocol, bytes.length), bytes)
      const value = protocol === Protocol.udp && computed === 0 ? 0xffff : computed
      bytes.writeUInt16BE(override ?? value, at)
      return bytes
    }
  }
}

function words(...values: number[]): Buffer {
  const bytes = Buffer.alloc(values.length * 2)
  values.forEach((value, index) => bytes.writeUInt16BE(value, index * 2))
  return bytes
}

function padded(bytes: Buffer, multiple: number): Buffer {
  return Buffer.concat([bytes, Buffer.alloc((multiple - (bytes.length % multiple)) % multiple)])
}
