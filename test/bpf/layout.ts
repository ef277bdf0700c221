// Encoders and decoders of bpf/types.h for the tests, apart from
// src/maps/layout.ts on purpose: a wrong offset there must show here.

import { readFileSync } from 'node:fs'
import { addressBytes, addressText, macBytes } from '../packets/bytes.js'

const header = readFileSync(new URL('../../../../bpf/types.h', import.meta.url), 'utf8')

/** enum reason as 'to-pod', 'drop-spoof', ... in order of their values. */
export const reasons = [...header.matchAll(/^\tREASON_(\w+)(?: = 0)?,/gm)].map((match) =>
  match[1]!.toLowerCase().replaceAll('_', '-')
)

export const REASON_MAX = 64
export const ROUTE_SLOTS = 1024
export const CONTROL = { traceMark: 68, routeGenerations: 88, shared: 88 + 4 * ROUTE_SLOTS } as const

export const Control = { on: 1, monitor: 2, snat: 4, dropProtocols: 8, marks: 16, handOver: 32, natChain: 128 } as const
export const Timeout = { opening: 0, established: 1, closing: 2, udpOneWay: 3, udpReplied: 4, icmp: 5 } as const
const VERDICTS = ['none', 'direct', 'snat', 'inbound', 'stack'] as const
const LIVES = ['live', 'dying', 'dead'] as const

/** 16 bytes, IPv4 mapped. */
export function mapped(address: string): Buffer {
  return addressBytes(address.includes(':') ? address : `::ffff:${address}`)
}

function u32(...values: number[]): Buffer {
  const bytes = Buffer.alloc(values.length * 4)
  values.forEach((value, index) => bytes.writeUInt32LE(value >>> 0, index * 4))
  return bytes
}

function u16(...values: number[]): Buffer {
  const bytes = Buffer.alloc(values.length * 2)
  values.forEach((value, index) => bytes.writeUInt16LE(value, index * 2))
  return bytes
}

const zeros = (count: number) => Buffer.alloc(count)

export interface DeviceRow {
  ifindex: number
  row: number
  kind: 'pod' | 'uplink'
  flags?: number
  podId?: number
  mtu?: number
  address4?: string
  address6?: string
  class4?: number
  class6?: number
  /** Strict rp_filter, by a number of the uplink's own. */
  replyTag?: number
  mac: string
}

export function encodeDevice(device: DeviceRow): Buffer {
  return Buffer.concat([
    u32(
      device.ifindex,
      device.row,
      device.kind === 'pod' ? 1 : 2,
      (device.flags ?? 0) | (device.kind === 'pod' && !device.address4 ? 1 : 0),
      device.podId ?? 0,
      device.mtu ?? 1500
    ),
    device.address4 ? addressBytes(device.address4) : zeros(4),
    u16(device.class4 ?? 0, device.class6 ?? 0),
    device.address6 ? addressBytes(device.address6) : zeros(16),
    macBytes(device.mac),
    Buffer.from([device.replyTag ?? 0, 0]),
    u32(device.row * 64, 0)
  ])
}

export interface PodRow {
  ifindex: number
  id: number
  mtu?: number
  /** 1 ready, 2 L3 */
  flags?: number
  mac: string
  hostMac: string
}

export function encodePod(pod: PodRow): Buffer {
  return Buffer.concat([
    u32(pod.ifindex, pod.id, pod.mtu ?? 1500, pod.flags ?? 1),
    macBytes(pod.mac),
    macBytes(pod.hostMac)
  ])
}

/** A pod that is not ready has no slot: then the hash is asked. */
export function encodePodSlot(address: string, pod: PodRow, more: boolean): Buffer {
  if ((pod.flags ?? 1) === 0) return Buffer.concat([zeros(44), u32(1), zeros(4)])
  const plain = address.includes(':') ? zeros(4) : addressBytes(address)
  return Buffer.concat([mapped(address), encodePod(pod), u32(more ? 1 : 0), plain])
}

export function encodePrefix(prefix: string): Buffer {
  const [address, length] = prefix.split('/')
  return Buffer.concat([u32(Number(length)), addressBytes(address!)])
}

/** Key of class_routes4 and class_routes6. */
export function encodeClassPrefix(routeClass: number, prefix: string): Buffer {
  const [address, length] = prefix.split('/')
  return Buffer.concat([u32(32 + Number(length), routeClass), addressBytes(address!)])
}

export type RouteTo = { nexthop: number } | { group: number } | { stack: string } | 'main'

export function encodeRoute(route: RouteTo): Buffer {
  if (route === 'main') return u32(3, 0, 0, 0)
  if ('nexthop' in route) return u32(1, route.nexthop, 0, 0)
  if ('group' in route) return u32(2, route.group, 0, 0)
  return u32(0, 0, reasons.indexOf(route.stack), 0)
}

export interface NexthopRow {
  ifindex: number
  gateway?: string
  mac?: string
  /** false: the MAC is stale; true when absent. */
  known?: boolean
  sourceMac: string
  mtu?: number
  snat4?: string
  snat6?: string
  /** Row of snat_sources. */
  sources?: number
  noSource?: boolean
}

/** The eight bytes that say a MAC and whether the kernel vouches for it. */
function macAndKnown(mac: string, known = true): Buffer {
  return Buffer.concat([macBytes(mac), Buffer.from([known ? 1 : 0, 0])])
}

export function encodeNexthop(nexthop: NexthopRow): Buffer {
  const flags =
    (nexthop.gateway ? 1 : 0) | (nexthop.snat4 ? 2 : 0) | (nexthop.snat6 ? 4 : 0) | (nexthop.noSource ? 8 : 0)
  return Buffer.concat([
    u32(nexthop.ifindex, flags),
    nexthop.mac && nexthop.gateway ? macAndKnown(nexthop.mac, nexthop.known) : zeros(8),
    macBytes(nexthop.sourceMac),
    u16(nexthop.sources ?? 0),
    nexthop.gateway ? mapped(nexthop.gateway) : zeros(16),
    u32(nexthop.mtu ?? 1500),
    nexthop.snat4 ? addressBytes(nexthop.snat4) : zeros(4),
    nexthop.snat6 ? addressBytes(nexthop.snat6) : zeros(16)
  ])
}

/** Addresses over the 64 places of a row of snat_sources, in turn. */
export function encodeSources(addresses: string[]): Buffer {
  return Buffer.concat(Array.from({ length: 64 }, (_, place) => mapped(addresses[place % addresses.length]!)))
}

/** Legs over the 64 places of a group, in turn. */
export function encodeGroup(legs: number[]): Buffer {
  return u32(...Array.from({ length: 64 }, (_, index) => legs[index % legs.length]!))
}

export function encodeNeighbour(ifindex: number, address: string, mac: string, known = true) {
  return { key: Buffer.concat([u32(ifindex), mapped(address)]), value: macAndKnown(mac, known) }
}

export function encodeMasquerade(epoch: number, prefix: string): Buffer {
  const [address, length] = prefix.split('/')
  const bits = 32 + Number(length) + (address!.includes(':') ? 0 : 96)
  return Buffer.concat([u32(bits, epoch), mapped(address!)])
}

/** Key of pod_sources. */
export function encodePodSource(ifindex: number, prefix: string): Buffer {
  return encodeMasquerade(ifindex, prefix)
}

export interface ControlValues {
  flags: number
  lease: bigint
  /** presumed: conntrack has not been read. */
  translating: boolean | 'presumed'
  /** Of all slots. */
  routeGeneration: number
  epoch: number
  portCount: number
  eventRate: number
  timeouts: number[]
  flowLimit?: number
  /** ifindex of the daemon's TAP device. */
  detour?: number
  /** Absent: 1 where it is on, not monitored and not after its lease. */
  straight?: number
  /** Few of them: what takes seconds takes less. */
  jiffiesPerSecond?: number
}

export function encodeControl(control: ControlValues): Buffer {
  const lease = zeros(8)
  lease.writeBigUInt64LE(control.lease)
  const { on, monitor } = Control
  const straight = control.straight ?? ((control.flags & (on | monitor)) === on && control.lease > 1_000_000n ? 1 : 0)
  const timeouts = Array.from({ length: 8 }, (_, index) => control.timeouts[index] ?? 0)
  return Buffer.concat([
    u32(6, control.flags),
    lease,
    u32(
      control.translating === 'presumed' ? 0x100 : Number(control.translating),
      control.epoch,
      control.portCount,
      control.eventRate,
      ...timeouts,
      control.jiffiesPerSecond ?? 250,
      0,
      straight,
      0
    ),
    u32(control.flowLimit ?? 262_144, control.detour ?? 0),
    u32(...new Array<number>(ROUTE_SLOTS).fill(control.routeGeneration))
  ])
}

export interface Tuple {
  local: string
  remote: string
  localPort: number
  remotePort: number
  protocol: number
}

export function encodeTuple(tuple: Tuple): Buffer {
  const tail = zeros(8)
  tail.writeUInt16BE(tuple.localPort, 0)
  tail.writeUInt16BE(tuple.remotePort, 2)
  tail.writeUInt8(tuple.protocol, 4)
  return Buffer.concat([addressBytes(tuple.local), addressBytes(tuple.remote), tail])
}

/** As pair_of() in bpf/owner.h has it. IPv4 only. */
export function stackPairRow({ local, remote }: Tuple): number {
  const mixed = (address: string) => BigInt(addressBytes(address).readUInt32BE(0)) * 0x9e3779b1n
  return Number(((mixed(local) ^ mixed(remote)) >> 16n) & 0xffffn)
}

export function decodeTuple(bytes: Buffer): Tuple {
  const width = bytes.length === 16 ? 4 : 16
  return {
    local: addressText(bytes.subarray(0, width)),
    remote: addressText(bytes.subarray(width, width * 2)),
    localPort: bytes.readUInt16BE(width * 2),
    remotePort: bytes.readUInt16BE(width * 2 + 2),
    protocol: bytes.readUInt8(width * 2 + 4)
  }
}

/** reason null: the fast path's. */
export function encodeOwner(seen: number, podId: number, reason: string | null): Buffer {
  return u32(seen, podId, reason === null ? 0 : reasons.indexOf(reason))
}

export interface OwnerView extends Tuple {
  podId: number
  reason: string
}

export function decodeOwner(key: Buffer, value: Buffer): OwnerView {
  const reason = value.readUInt32LE(8)
  return {
    ...decodeTuple(key),
    podId: value.readUInt32LE(4),
    reason: reason === 0 ? 'fast path' : (reasons[reason] ?? String(reason))
  }
}

/** 16 bytes; a v4-mapped address as IPv4. */
export function unmapped(bytes: Buffer): string {
  const text = addressText(bytes)
  return text.startsWith('::ffff:') ? addressText(bytes.subarray(12)) : text
}

export interface FlowView extends Tuple {
  verdict: (typeof VERDICTS)[number]
  life: (typeof LIVES)[number]
  podId: number
  natPort: number
  natAddress: string
  tcp: number
}

export function decodeFlow(key: Buffer, value: Buffer): FlowView {
  return {
    ...decodeTuple(key),
    podId: value.readUInt32LE(12),
    life: LIVES[value.readUInt32LE(16)]!,
    verdict: VERDICTS[value.readUInt8(20)]!,
    tcp: value.readUInt8(21),
    natPort: value.readUInt16BE(22),
    natAddress: unmapped(value.subarray(24, 40))
  }
}

export interface ReverseView extends Tuple {
  pod: string
  podPort: number
  podId: number
  replied: boolean
  life: (typeof LIVES)[number]
}

export function decodeReverse(key: Buffer, value: Buffer): ReverseView {
  return {
    ...decodeTuple(key),
    pod: unmapped(value.subarray(0, 16)),
    podPort: value.readUInt16BE(16),
    replied: value.readUInt8(19) === 1,
    podId: value.readUInt32LE(24),
    life: LIVES[value.readUInt32LE(28)]!
  }
}
