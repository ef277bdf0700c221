// Flows as rows for `hostroute snat`. Reads the whole table: for people, not
// for a loop.

import { formatAddress } from '../address.js'
import { isEcho } from '../conntrack/entry.js'
import type { FlowFilter, FlowList, FlowRow, FlowVerdict } from '../control/api.js'
import {
  decodeFlow,
  decodeOwner,
  decodeReverse,
  decodeTuple,
  type FlowRow as Flow,
  type FlowKey,
  type ReverseRow
} from '../maps/codec.js'
import { CODES, STRUCTS } from '../maps/layout.js'
import type { BpfObject } from '../native.js'
import type { Family } from '../state/types.js'
import { isClosed, reverseKey } from './live-flows.js'
import { protocolName } from './protocols.js'

const verdicts: Record<number, FlowVerdict> = {
  [CODES.FLOW_DIRECT]: 'direct',
  [CODES.FLOW_SNAT]: 'snat',
  [CODES.FLOW_INBOUND]: 'inbound'
}
const tcp = 6
const udp = 17

/** jiffies now and a second's worth of them. */
export interface Now {
  jiffies: bigint
  perSecond: number
}

/** Matching flows, the most recently used first, at most `limit`. */
export function listFlows(object: BpfObject, now: Now, filter: FlowFilter, limit: number): FlowList {
  const families: Family[] = filter.family ? [filter.family] : [4, 6]
  const rows = families.flatMap((family) => rowsOf(object, family, now)).filter((row) => matches(row, filter))
  rows.sort((a, b) => a.idle - b.idle || (a.age ?? 0) - (b.age ?? 0))
  return { flows: rows.slice(0, limit), total: rows.length }
}

function rowsOf(object: BpfObject, family: Family, now: Now): FlowRow[] {
  const reverses = object.map(`reverse${family}`)
  const { keys, values, count } = object.map(`flows${family}`).dump()
  const keySize = STRUCTS[`tuple${family}`].size
  const rows: FlowRow[] = []
  for (let i = 0; i < count; i++) {
    const keyBytes = keys.subarray(i * keySize, (i + 1) * keySize)
    const key = decodeTuple(keyBytes)
    const flow = decodeFlow(values.subarray(i * STRUCTS.flow.size, (i + 1) * STRUCTS.flow.size))
    const reverseBytes = flow.verdict === CODES.FLOW_SNAT ? reverses.lookup(reverseKey(keyBytes, flow, family)) : null
    rows.push(flowRow(key, flow, reverseBytes ? decodeReverse(reverseBytes) : null, family, now))
  }
  return [...rows, ...stackRows(object, family, now)]
}

/** Flows that are remembered as the stack's. */
function stackRows(object: BpfObject, family: Family, now: Now): FlowRow[] {
  const { keys, values, count } = object.map(`owners${family}`).dump()
  const keySize = STRUCTS[`tuple${family}`].size
  const rows: FlowRow[] = []
  for (let i = 0; i < count; i++) {
    const { seen, reason } = decodeOwner(values.subarray(i * STRUCTS.owner.size, (i + 1) * STRUCTS.owner.size))
    if (reason === null) continue
    const key = decodeTuple(keys.subarray(i * keySize, (i + 1) * keySize))
    rows.push({
      family,
      protocol: protocolName(key.protocol),
      pod: formatAddress(key.local),
      podPort: key.localPort,
      remote: formatAddress(key.remote),
      remotePort: remotePort(key),
      verdict: 'stack',
      natAddress: null,
      natPort: null,
      state: reason,
      idle: round(secondsSince(seen, now)),
      age: null
    })
  }
  return rows
}

/** 0 of an echo, which has none: the key says there who asks. */
function remotePort(key: FlowKey): number {
  return isEcho(key.protocol) ? 0 : key.remotePort
}

function secondsSince(then: number, now: Now): number {
  return ((Number(now.jiffies & 0xffffffffn) - then) >>> 0) / now.perSecond
}

function flowRow(key: FlowKey, flow: Flow, reverse: ReverseRow | null, family: Family, now: Now): FlowRow {
  const seconds = (then: number) => secondsSince(then, now)
  const snat = flow.verdict === CODES.FLOW_SNAT
  const idle = Math.min(seconds(flow.seen), reverse?.replied ? seconds(reverse.seen) : Number.POSITIVE_INFINITY)
  return {
    family,
    protocol: protocolName(key.protocol),
    pod: formatAddress(key.local),
    podPort: key.localPort,
    remote: formatAddress(key.remote),
    remotePort: remotePort(key),
    verdict: verdicts[flow.verdict] ?? 'stack',
    natAddress: snat && flow.natAddress ? formatAddress(flow.natAddress) : null,
    natPort: snat ? flow.natPort : null,
    state: stateOf(key.protocol, flow, reverse),
    idle: round(idle),
    age: round(seconds(flow.created))
  }
}

function stateOf(protocol: number, flow: Flow, reverse: ReverseRow | null): string {
  if (flow.life !== CODES.FLOW_LIVE) return 'dying'
  const answered = flow.verdict === CODES.FLOW_SNAT ? reverse?.replied === true : true
  if (protocol === tcp) {
    if (isClosed(flow.tcp)) return 'closing'
    return answered && (flow.tcp & CODES.SEEN_ACK) !== 0 ? 'established' : 'opening'
  }
  if (protocol === udp || flow.verdict === CODES.FLOW_SNAT) return answered ? 'replied' : 'one-way'
  return 'established'
}

function matches(row: FlowRow, filter: FlowFilter): boolean {
  return (
    (filter.verdict === undefined || row.verdict === filter.verdict) &&
    (filter.protocol === undefined || row.protocol === filter.protocol) &&
    (filter.pod === undefined || row.pod === filter.pod) &&
    (filter.remote === undefined || row.remote === filter.remote)
  )
}

function round(value: number): number {
  return Math.round(value * 10) / 10
}
