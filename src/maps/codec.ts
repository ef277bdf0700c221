// Rows of the maps as objects, and back. Buffers are exactly one key or value.
// Addresses, MACs: hexadecimal as everywhere; a v4-mapped address comes out as
// the eight digits of the IPv4 address. Decoders never fail: they say what is
// there.

import {
  addressIn,
  formatAddress,
  formatMac,
  isAddress,
  isMac,
  macIn,
  prefixKey,
  splitPrefix,
  toMapped,
  unmapped,
  unmappedPrefix,
  unspecified
} from '../address.js'
import { REASON_MAX, reasonCode, reasonName } from '../reasons.js'
import type { Address, Mac, Prefix } from '../state/types.js'
import { type ClassRow, classRow, splitClassRow } from './keys.js'
import { CODES, GROUP_LEGS, STRUCTS } from './layout.js'

const {
  device,
  pod,
  pod_slot,
  class_route4_key,
  route,
  nexthop,
  neighbour,
  neighbour_key,
  masquerade_key,
  flow,
  reverse,
  owner,
  control,
  event
} = STRUCTS

/** 16 bytes: v4-mapped becomes 8 digits, all zero becomes null. */
function address16(bytes: Buffer, at: number): Address | null {
  const address = addressIn(bytes, at, 16)
  return address === unspecified[6] ? null : unmapped(address)
}

function address4(bytes: Buffer, at: number): Address | null {
  const address = addressIn(bytes, at, 4)
  return address === unspecified[4] ? null : address
}

export interface DeviceRow {
  ifindex: number
  row: number
  kind: number
  flags: number
  podId: number
  mtu: number
  address4: Address | null
  address6: Address | null
  /** 0: none. */
  class4: number
  class6: number
  /** Not 0: strict rp_filter, by a number of the uplink's own. */
  replyTag: number
  mac: Mac
}

export function encodeDevice(row: DeviceRow): Buffer {
  const bytes = Buffer.alloc(device.size)
  const at = device.offset
  bytes.writeUInt32LE(row.ifindex, at.ifindex)
  bytes.writeUInt32LE(row.row, at.row)
  bytes.writeUInt32LE(row.kind, at.kind)
  bytes.writeUInt32LE(row.flags, at.flags)
  bytes.writeUInt32LE(row.podId, at.pod_id)
  bytes.writeUInt32LE(row.mtu, at.mtu)
  if (row.address4) bytes.write(row.address4, at.address4, 'hex')
  bytes.writeUInt16LE(row.class4, at.class4)
  bytes.writeUInt16LE(row.class6, at.class6)
  bytes.writeUInt8(row.replyTag, at.reply_tag)
  if (row.address6) bytes.write(row.address6, at.address6, 'hex')
  bytes.write(row.mac, at.mac, 'hex')
  bytes.writeUInt32LE(row.row * REASON_MAX, at.counters)
  return bytes
}

export function decodeDevice(bytes: Buffer): DeviceRow {
  const at = device.offset
  return {
    ifindex: bytes.readUInt32LE(at.ifindex),
    row: bytes.readUInt32LE(at.row),
    kind: bytes.readUInt32LE(at.kind),
    flags: bytes.readUInt32LE(at.flags),
    podId: bytes.readUInt32LE(at.pod_id),
    mtu: bytes.readUInt32LE(at.mtu),
    address4: address4(bytes, at.address4),
    address6: address16(bytes, at.address6),
    class4: bytes.readUInt16LE(at.class4),
    class6: bytes.readUInt16LE(at.class6),
    replyTag: bytes.readUInt8(at.reply_tag),
    mac: macIn(bytes, at.mac)
  }
}

export interface PodRow {
  ifindex: number
  id: number
  mtu: number
  flags: number
  mac: Mac
  hostMac: Mac
}

export function encodePod(row: PodRow): Buffer {
  const bytes = Buffer.alloc(pod.size)
  const at = pod.offset
  bytes.writeUInt32LE(row.ifindex, at.ifindex)
  bytes.writeUInt32LE(row.id, at.id)
  bytes.writeUInt32LE(row.mtu, at.mtu)
  bytes.writeUInt32LE(row.flags, at.flags)
  bytes.write(row.mac, at.mac, 'hex')
  bytes.write(row.hostMac, at.host_mac, 'hex')
  return bytes
}

export function decodePod(bytes: Buffer): PodRow {
  const at = pod.offset
  return {
    ifindex: bytes.readUInt32LE(at.ifindex),
    id: bytes.readUInt32LE(at.id),
    mtu: bytes.readUInt32LE(at.mtu),
    flags: bytes.readUInt32LE(at.flags),
    mac: macIn(bytes, at.mac),
    hostMac: macIn(bytes, at.host_mac)
  }
}

/** address null: nobody's, whatever `podBytes` says. */
export function encodePodSlot(address: Address | null, podBytes: Buffer | null, more: boolean): Buffer {
  const bytes = Buffer.alloc(pod_slot.size)
  const at = pod_slot.offset
  if (address !== null) bytes.write(toMapped(address), at.address, 'hex')
  if (address?.length === 8) bytes.write(address, at.address4, 'hex')
  if (podBytes) podBytes.copy(bytes, at.pod)
  bytes.writeUInt32LE(more ? 1 : 0, at.more)
  return bytes
}

export function decodePodSlot(bytes: Buffer): { address: Address | null; pod: PodRow; more: boolean } {
  const at = pod_slot.offset
  return {
    address: address16(bytes, at.address),
    pod: decodePod(bytes.subarray(at.pod, at.pod + pod.size)),
    more: bytes.readUInt32LE(at.more) !== 0
  }
}

/** Key of pods and, with 16 bytes, of most tables: v4-mapped. */
export function encodeAddress(address: Address): Buffer {
  return Buffer.from(toMapped(address), 'hex')
}

export function decodeAddress(bytes: Buffer): Address {
  return address16(bytes, 0) ?? unspecified[6]
}

/** Key of routes4 or routes6, by the prefix's family. */
export function encodeRouteKey(prefix: Prefix): Buffer {
  const { address, length } = splitPrefix(prefix)
  const bytes = Buffer.alloc(4 + address.length / 2)
  bytes.writeUInt32LE(length, 0)
  bytes.write(address, 4, 'hex')
  return bytes
}

export function decodeRouteKey(bytes: Buffer): Prefix {
  return prefixKey(addressIn(bytes, 4, bytes.length - 4), bytes.readUInt32LE(0))
}

/** Key of class_routes4 or class_routes6, by the prefix's family. */
export function encodeClassRouteKey(row: ClassRow): Buffer {
  const { number, prefix } = splitClassRow(row)
  const { address, length } = splitPrefix(prefix)
  const bytes = Buffer.alloc(8 + address.length / 2)
  bytes.writeUInt32LE(32 + length, class_route4_key.offset.prefix_length)
  bytes.writeUInt32LE(number, class_route4_key.offset.route_class)
  bytes.write(address, class_route4_key.offset.address, 'hex')
  return bytes
}

export function decodeClassRouteKey(bytes: Buffer): ClassRow {
  const at = class_route4_key.offset
  const address = addressIn(bytes, at.address, bytes.length - 8)
  return classRow(bytes.readUInt32LE(at.route_class), prefixKey(address, bytes.readUInt32LE(at.prefix_length) - 32))
}

export interface RouteRow {
  action: number
  nexthop: number
  reason: number
}

export function encodeRoute(row: RouteRow): Buffer {
  const bytes = Buffer.alloc(route.size)
  bytes.writeUInt32LE(row.action, route.offset.action)
  bytes.writeUInt32LE(row.nexthop, route.offset.nexthop)
  bytes.writeUInt32LE(row.reason, route.offset.reason)
  return bytes
}

export function decodeRoute(bytes: Buffer): RouteRow {
  return {
    action: bytes.readUInt32LE(route.offset.action),
    nexthop: bytes.readUInt32LE(route.offset.nexthop),
    reason: bytes.readUInt32LE(route.offset.reason)
  }
}

export interface NexthopRow {
  ifindex: number
  gateway: Address | null
  mac: Mac
  macKnown: boolean
  sourceMac: Mac
  mtu: number
  snat4: Address | null
  snat6: Address | null
  /** Row of snat_sources; 0: none. */
  sources: number
  /** What is due for SNAT is dropped. */
  noSource: boolean
}

export function encodeNexthop(row: NexthopRow): Buffer {
  const bytes = Buffer.alloc(nexthop.size)
  const at = nexthop.offset
  let flags = 0
  bytes.writeUInt32LE(row.ifindex, at.ifindex)
  bytes.write(row.mac, at.mac, 'hex')
  bytes.writeUInt8(row.macKnown ? 1 : 0, at.mac_known)
  bytes.write(row.sourceMac, at.source_mac, 'hex')
  bytes.writeUInt16LE(row.sources, at.sources)
  bytes.writeUInt32LE(row.mtu, at.mtu)
  if (row.gateway !== null) {
    flags |= CODES.NEXTHOP_GATEWAY
    bytes.write(toMapped(row.gateway), at.gateway, 'hex')
  }
  if (row.snat4 !== null) {
    flags |= CODES.NEXTHOP_SNAT4
    bytes.write(row.snat4, at.snat4, 'hex')
  }
  if (row.snat6 !== null) {
    flags |= CODES.NEXTHOP_SNAT6
    bytes.write(row.snat6, at.snat6, 'hex')
  }
  if (row.noSource) flags |= CODES.NEXTHOP_NO_SOURCE
  bytes.writeUInt32LE(flags, at.flags)
  return bytes
}

export function decodeNexthop(bytes: Buffer): NexthopRow {
  const at = nexthop.offset
  const flags = bytes.readUInt32LE(at.flags)
  return {
    ifindex: bytes.readUInt32LE(at.ifindex),
    gateway: flags & CODES.NEXTHOP_GATEWAY ? address16(bytes, at.gateway) : null,
    mac: macIn(bytes, at.mac),
    macKnown: bytes.readUInt8(at.mac_known) !== 0,
    sourceMac: macIn(bytes, at.source_mac),
    mtu: bytes.readUInt32LE(at.mtu),
    snat4: flags & CODES.NEXTHOP_SNAT4 ? addressIn(bytes, at.snat4, 4) : null,
    snat6: flags & CODES.NEXTHOP_SNAT6 ? addressIn(bytes, at.snat6, 16) : null,
    sources: bytes.readUInt16LE(at.sources),
    noSource: (flags & CODES.NEXTHOP_NO_SOURCE) !== 0
  }
}

/** Exactly GROUP_LEGS indexes of nexthops. */
export function encodeGroup(legs: readonly number[]): Buffer {
  const bytes = Buffer.alloc(STRUCTS.group.size)
  for (let i = 0; i < GROUP_LEGS; i++) bytes.writeUInt32LE(legs[i] ?? 0, i * 4)
  return bytes
}

export function decodeGroup(bytes: Buffer): number[] {
  return Array.from({ length: GROUP_LEGS }, (_, i) => bytes.readUInt32LE(i * 4))
}

export function encodeNeighbourKey(ifindex: number, address: Address): Buffer {
  const bytes = Buffer.alloc(neighbour_key.size)
  bytes.writeUInt32LE(ifindex, neighbour_key.offset.ifindex)
  bytes.write(toMapped(address), neighbour_key.offset.address, 'hex')
  return bytes
}

export function decodeNeighbourKey(bytes: Buffer): { ifindex: number; address: Address } {
  const at = neighbour_key.offset
  return { ifindex: bytes.readUInt32LE(at.ifindex), address: address16(bytes, at.address) ?? unspecified[6] }
}

export function encodeNeighbour(mac: Mac, known: boolean): Buffer {
  const bytes = Buffer.alloc(neighbour.size)
  bytes.write(mac, neighbour.offset.mac, 'hex')
  bytes.writeUInt8(known ? 1 : 0, neighbour.offset.known)
  return bytes
}

export function decodeNeighbour(bytes: Buffer): { mac: Mac; known: boolean } {
  return { mac: macIn(bytes, neighbour.offset.mac), known: bytes.readUInt8(neighbour.offset.known) !== 0 }
}

export function encodeMasqueradeKey(epoch: number, prefix: Prefix): Buffer {
  const { address, length, family } = splitPrefix(prefix)
  const bytes = Buffer.alloc(masquerade_key.size)
  bytes.writeUInt32LE(32 + (family === 4 ? 96 : 0) + length, masquerade_key.offset.prefix_length)
  bytes.writeUInt32LE(epoch, masquerade_key.offset.epoch)
  bytes.write(toMapped(address), masquerade_key.offset.address, 'hex')
  return bytes
}

/** encodeMasqueradeKey as hexadecimal digits, for thousands of prefixes under one epoch. */
export function masqueradeKeyWriter(epoch: number): (prefix: Prefix) => string {
  const heads: string[] = []
  return (prefix) => {
    const { address, length: own, family } = splitPrefix(prefix)
    const length = own + (family === 4 ? 96 : 0)
    // prefix length and epoch are the same for many; the address is the rest
    heads[length] ??= encodeMasqueradeKey(epoch, prefixKey(unspecified[6], length)).toString(
      'hex',
      0,
      masquerade_key.offset.address
    )
    return heads[length] + toMapped(address)
  }
}

export function decodeMasqueradeKey(bytes: Buffer): { epoch: number; prefix: Prefix } {
  const at = masquerade_key.offset
  return {
    epoch: bytes.readUInt32LE(at.epoch),
    prefix: unmappedPrefix(addressIn(bytes, at.address, 16), bytes.readUInt32LE(at.prefix_length) - 32)
  }
}

export function encodeMasquerade(due: boolean): Buffer {
  const bytes = Buffer.alloc(STRUCTS.masquerade.size)
  bytes.writeUInt32LE(due ? 1 : 0, 0)
  return bytes
}

export function decodeMasquerade(bytes: Buffer): boolean {
  return bytes.readUInt32LE(STRUCTS.masquerade.offset.masquerade) === 1
}

export interface FlowKey {
  local: Address
  remote: Address
  localPort: number
  remotePort: number
  protocol: number
}

/** Key of flows*, reverse* and owners*; both addresses of one family. */
export function encodeTuple(key: FlowKey): Buffer {
  const { size, offset } = key.local.length === 8 ? STRUCTS.tuple4 : STRUCTS.tuple6
  const bytes = Buffer.alloc(size)
  bytes.write(key.local, offset.local, 'hex')
  bytes.write(key.remote, offset.remote, 'hex')
  bytes.writeUInt16BE(key.localPort, offset.local_port)
  bytes.writeUInt16BE(key.remotePort, offset.remote_port)
  bytes.writeUInt8(key.protocol, offset.protocol)
  return bytes
}

export interface OwnerRow {
  /** jiffies, low 32 bits */
  seen: number
  podId: number
  /** Why it is the stack's; null: the fast path's. */
  reason: string | null
}

export function encodeOwner({ seen, podId, reason }: OwnerRow): Buffer {
  const bytes = Buffer.alloc(owner.size)
  bytes.writeUInt32LE(seen >>> 0, owner.offset.seen)
  bytes.writeUInt32LE(podId, owner.offset.pod_id)
  bytes.writeUInt32LE(reason === null ? 0 : reasonCode(reason), owner.offset.reason)
  return bytes
}

export function decodeOwner(bytes: Buffer): OwnerRow {
  const reason = bytes.readUInt32LE(owner.offset.reason)
  return {
    seen: bytes.readUInt32LE(owner.offset.seen),
    podId: bytes.readUInt32LE(owner.offset.pod_id),
    reason: reason === 0 ? null : reasonName(reason)
  }
}

/** Key of flows*, reverse* and owners*: the family is told by the length. */
export function decodeTuple(bytes: Buffer): FlowKey {
  const width = bytes.length === STRUCTS.tuple4.size ? 4 : 16
  return {
    local: addressIn(bytes, 0, width),
    remote: addressIn(bytes, width, width),
    localPort: bytes.readUInt16BE(2 * width),
    remotePort: bytes.readUInt16BE(2 * width + 2),
    protocol: bytes.readUInt8(2 * width + 4)
  }
}

export interface FlowRow {
  generation: number
  nexthop: number
  seen: number
  podId: number
  life: number
  verdict: number
  tcp: number
  natPort: number
  natAddress: Address | null
  created: number
}

/** An entry of flows* without SNAT, whose route is looked up with its first packet. */
export function encodePlainFlow(row: Pick<FlowRow, 'seen' | 'created' | 'podId' | 'verdict' | 'tcp'>): Buffer {
  const bytes = Buffer.alloc(flow.size)
  const at = flow.offset
  bytes.writeUInt32LE(row.seen >>> 0, at.seen)
  bytes.writeUInt32LE(row.created >>> 0, at.created)
  bytes.writeUInt32LE(row.podId, at.pod_id)
  bytes.writeUInt8(row.verdict, at.verdict)
  bytes.writeUInt8(row.tcp, at.tcp)
  return bytes
}

export function decodeFlow(bytes: Buffer): FlowRow {
  const at = flow.offset
  return {
    nexthop: bytes.readUInt16LE(at.nexthop),
    generation: bytes.readUInt32LE(at.generation),
    seen: bytes.readUInt32LE(at.seen),
    podId: bytes.readUInt32LE(at.pod_id),
    life: bytes.readUInt32LE(at.life),
    verdict: bytes.readUInt8(at.verdict),
    tcp: bytes.readUInt8(at.tcp),
    natPort: bytes.readUInt16BE(at.nat_port),
    natAddress: address16(bytes, at.nat_address),
    created: bytes.readUInt32LE(at.created)
  }
}

export interface ReverseRow {
  pod: Address
  podPort: number
  tcp: number
  replied: boolean
  seen: number
  podId: number
  life: number
}

/** An entry of reverse* by which a program finds the pod, and what it is to see; what that does to checksums is not in it. */
export function encodeReverse(row: Pick<ReverseRow, 'pod' | 'podPort' | 'podId'>): Buffer {
  const bytes = Buffer.alloc(reverse.size)
  const at = reverse.offset
  bytes.write(toMapped(row.pod), at.pod, 'hex')
  bytes.writeUInt16BE(row.podPort, at.pod_port)
  bytes.writeUInt32LE(row.podId, at.pod_id)
  return bytes
}

export function decodeReverse(bytes: Buffer): ReverseRow {
  const at = reverse.offset
  return {
    pod: address16(bytes, at.pod) ?? unspecified[6],
    podPort: bytes.readUInt16BE(at.pod_port),
    tcp: bytes.readUInt8(at.tcp),
    replied: bytes.readUInt8(at.replied) !== 0,
    seen: bytes.readUInt32LE(at.seen),
    podId: bytes.readUInt32LE(at.pod_id),
    life: bytes.readUInt32LE(at.life)
  }
}

/** One CPU's counter at `at`. */
export function decodeCounter(bytes: Buffer, at = 0): { packets: bigint; bytes: bigint } {
  return { packets: bytes.readBigUInt64LE(at), bytes: bytes.readBigUInt64LE(at + 8) }
}

export interface ControlRow {
  layout: number
  flags: number
  /** jiffies64 */
  lease: bigint
  /** The stack owns some flows that look like the fast path's. */
  translating: boolean
  masqueradeEpoch: number
  portCount: number
  eventRate: number
  /** jiffies, by enum timeout */
  timeouts: number[]
  jiffiesPerSecond: number
}

export function decodeControl(bytes: Buffer): ControlRow {
  const at = control.offset
  return {
    layout: bytes.readUInt32LE(at.layout),
    flags: bytes.readUInt32LE(at.flags),
    lease: bytes.readBigUInt64LE(at.lease),
    translating: bytes.readUInt32LE(at.translating) !== 0,
    masqueradeEpoch: bytes.readUInt32LE(at.masquerade_epoch),
    portCount: bytes.readUInt32LE(at.port_count),
    eventRate: bytes.readUInt32LE(at.event_rate),
    timeouts: Array.from({ length: CODES.TIMEOUT_MAX }, (_, i) => bytes.readUInt32LE(at.timeout + i * 4)),
    jiffiesPerSecond: bytes.readUInt32LE(at.jiffies_per_second)
  }
}

export interface EventRow {
  /** CLOCK_MONOTONIC, ns */
  time: bigint
  type: number
  reason: string
  ifindex: number
  /** 0 unknown */
  out: number
  length: number
  family: 4 | 6 | 0
  protocol: number
  source: Address | null
  sourcePort: number
  destination: Address | null
  destinationPort: number
  natAddress: Address | null
  natPort: number
  lost: number
}

export function decodeEvent(bytes: Buffer): EventRow {
  const at = event.offset
  const family = bytes.readUInt8(at.family)
  return {
    time: bytes.readBigUInt64LE(at.time),
    type: bytes.readUInt32LE(at.type),
    reason: reasonName(bytes.readUInt32LE(at.reason)),
    ifindex: bytes.readUInt32LE(at.ifindex),
    out: bytes.readUInt32LE(at.out),
    length: bytes.readUInt32LE(at.length),
    family: family === 4 || family === 6 ? family : 0,
    protocol: bytes.readUInt8(at.protocol),
    source: address16(bytes, at.source),
    sourcePort: bytes.readUInt16BE(at.source_port),
    destination: address16(bytes, at.destination),
    destinationPort: bytes.readUInt16BE(at.destination_port),
    natAddress: address16(bytes, at.nat_address),
    natPort: bytes.readUInt16BE(at.nat_port),
    lost: bytes.readUInt32LE(at.lost)
  }
}

/** For people: addresses and MACs of a decoded row as text, everything else as it is. */
export function readable(row: object): Record<string, unknown> {
  const text: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(row)) {
    if (typeof value !== 'string')
      text[name] = value !== null && typeof value === 'object' && !Array.isArray(value) ? readable(value) : value
    else if (isMac(value)) text[name] = formatMac(value)
    else if (isAddress(value)) text[name] = formatAddress(value)
    else text[name] = value
  }
  return text
}
