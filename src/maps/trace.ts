// The one row of `traces`: what a program found out about a traced packet
// (bpf/trace.h), and the blank that is put there before a run.

import { addressIn, macIn } from '../address.js'
import { REASON_MAX, reasonName } from '../reasons.js'
import type { Address, Mac } from '../state/types.js'
import { decodeAddress, decodeFlow, decodeRoute, type FlowRow, type RouteRow } from './codec.js'
import { CODES, STRUCTS } from './layout.js'

const { size, offset } = STRUCTS.trace
const AF_INET = 2

export type TraceStage = Extract<keyof typeof CODES, `TRACE_${string}`>

export interface TraceRow {
  /** The packet came through this stage, or this was found there. */
  has(stage: TraceStage): boolean
  /** null: the program said nothing, since it knows no such device. */
  reason: string | null
  /** ifindex of the pod it is for; null: none, or it did not come to that. */
  pod: number | null
  /** Row of nexthops: as it was chosen, or as the flow remembers it. null: it did not come to that. */
  nexthop: number | null
  /** ifindex; valid with TRACE_SENT, as are the MACs (null: the kernel's neighbour entry has them) and what NAT does. */
  out: number
  to: Mac | null
  from: Mac | null
  natAddress: Address | null
  natPort: number
  /** null: no route was asked for, or none covers the destination. */
  route: RouteRow | null
  /** The flow that was found, or what this packet would make. */
  flow: FlowRow | null
  /** What conntrack has for the flow, if it translates it. */
  conntrack: { original: ConntrackTuple; reply: ConntrackTuple } | null
}

/** As conntrack keeps it. */
export interface ConntrackTuple {
  source: Address
  sourcePort: number
  destination: Address
  destinationPort: number
}

export function blankTrace(): Buffer {
  const bytes = Buffer.alloc(size)
  bytes.writeUInt32LE(REASON_MAX, offset.reason)
  return bytes
}

export function decodeTrace(bytes: Buffer): TraceRow {
  const stages = bytes.readUInt32LE(offset.stages)
  const reason = bytes.readUInt32LE(offset.reason)
  const has = (stage: TraceStage) => (stages & CODES[stage]) !== 0
  const part = (at: number, length: number) => bytes.subarray(at, at + length)
  const mac = (at: number) => (part(at, 6).every((byte) => byte === 0) ? null : macIn(bytes, at))
  const nat = part(offset.nat_address, 16)
  const flow = has('TRACE_FLOW') || has('TRACE_FLOW_NEW') ? decodeFlow(part(offset.flow, STRUCTS.flow.size)) : null
  return {
    has,
    reason: reason === REASON_MAX ? null : reasonName(reason),
    pod: has('TRACE_POD') ? bytes.readUInt32LE(offset.pod) : null,
    nexthop: has('TRACE_NEXTHOP')
      ? bytes.readUInt32LE(offset.nexthop)
      : flow && flow.generation !== 0
        ? flow.nexthop
        : null,
    out: bytes.readUInt32LE(offset.out),
    to: mac(offset.to),
    from: mac(offset.from),
    natAddress: nat.every((byte) => byte === 0) ? null : decodeAddress(nat),
    natPort: bytes.readUInt16BE(offset.nat_port),
    route: has('TRACE_ROUTE') ? decodeRoute(part(offset.route, STRUCTS.route.size)) : null,
    flow,
    conntrack: has('TRACE_CONNTRACK')
      ? { original: decodeConntrack(bytes, offset.original), reply: decodeConntrack(bytes, offset.reply) }
      : null
  }
}

function decodeConntrack(bytes: Buffer, at: number): ConntrackTuple {
  const { offset } = STRUCTS.conntrack_tuple
  const width = bytes.readUInt16LE(at + offset.family) === AF_INET ? 4 : 16
  const address = (from: number) => addressIn(bytes, at + from, width)
  return {
    source: address(offset.source),
    sourcePort: bytes.readUInt16BE(at + offset.source_port),
    destination: address(offset.destination),
    destinationPort: bytes.readUInt16BE(at + offset.destination_port)
  }
}
