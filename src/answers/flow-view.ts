// Flows as rows for `hostroute snat`, a part at a time: a million of them take
// no more memory than a few, and the event loop turns in between.

import { formatAddress, parseAddress } from '../address.js'
import { isEcho } from '../conntrack/entry.js'
import type { FlowFilter, FlowRow, FlowStream, FlowVerdict } from '../control/flow-api.js'
import { entriesOf } from '../datapath/flow-reader.js'
import { isClosed, type Maps, reverseKey } from '../datapath/live-flows.js'
import {
  decodeFlow,
  decodeOwner,
  decodeReverse,
  decodeTuple,
  type FlowRow as Flow,
  type FlowKey,
  type ReverseRow
} from '../maps/codec.js'
import { CODES } from '../maps/layout.js'
import { Slice } from '../netlink/slice.js'
import type { Family } from '../state/types.js'
import { Best } from './best.js'
import { protocolName } from './protocols.js'

const verdicts: Record<number, FlowVerdict> = {
  [CODES.FLOW_DIRECT]: 'direct',
  [CODES.FLOW_SNAT]: 'snat',
  [CODES.FLOW_INBOUND]: 'inbound'
}
const tcp = 6
const udp = 17
const sliceMilliseconds = 4
const rowsAtOnce = 256
/** Jiffies: more than a part takes. */
const future = 65_536

/** jiffies now and a second's worth of them. */
export interface Now {
  jiffies: bigint
  perSecond: number
}

/**
 * Matching flows in parts. With a limit the most recently used first, and only
 * so many are held; without, as they come: then `now` is asked for each part, since
 * a reader may take its time.
 */
export async function* listFlows(maps: Maps, now: () => Now, filter: FlowFilter, limit: number | null): FlowStream {
  if (limit === null) {
    let total = 0
    for await (const rows of matchingFlows(maps, now, filter)) {
      total += rows.length
      if (rows.length > 0) yield rows
    }
    return { total }
  }
  const best = new Best<FlowRow>(limit, (a, b) => a.idle - b.idle || (a.age ?? 0) - (b.age ?? 0))
  const moment = now()
  let total = 0
  for await (const rows of matchingFlows(maps, () => moment, filter)) {
    total += rows.length
    for (const row of rows) best.add(row)
  }
  yield* inParts(await sorted(best))
  return { total }
}

async function sorted(best: Best<FlowRow>): Promise<FlowRow[]> {
  const slice = new Slice(sliceMilliseconds)
  const rows: FlowRow[] = []
  for (let row = best.takeWorst(); row !== undefined; row = best.takeWorst()) {
    rows.push(row)
    if (slice.due()) await slice.rest()
  }
  return rows.reverse()
}

function* inParts(rows: FlowRow[]): Generator<FlowRow[]> {
  for (let at = 0; at < rows.length; at += rowsAtOnce) yield rows.slice(at, at + rowsAtOnce)
}

async function* matchingFlows(maps: Maps, now: () => Now, filter: FlowFilter): AsyncGenerator<FlowRow[]> {
  const slice = new Slice(sliceMilliseconds)
  const wanted = selectionOf(filter)
  for (const family of filter.family ? [filter.family] : ([4, 6] as const)) {
    const parts = filter.verdict === 'stack' ? [] : flowRows(maps, family, now, wanted)
    for (const rows of parts) {
      yield rows
      if (slice.due(true)) await slice.rest()
    }
    if (filter.verdict !== undefined && filter.verdict !== 'stack') continue
    for (const rows of stackRows(maps, family, now, wanted)) {
      yield rows
      if (slice.due(true)) await slice.rest()
    }
  }
}

type Wanted = (key: FlowKey, verdict: FlowVerdict) => boolean

/** Decided by the key, before anything else of a flow is looked at. */
function selectionOf(filter: FlowFilter): Wanted {
  const pod = filter.pod === undefined ? null : parseAddress(filter.pod)
  const remote = filter.remote === undefined ? null : parseAddress(filter.remote)
  return (key, verdict) =>
    (filter.verdict === undefined || filter.verdict === verdict) &&
    (filter.protocol === undefined || filter.protocol === protocolName(key.protocol)) &&
    (pod === null || pod === key.local) &&
    (remote === null || remote === key.remote)
}

function* flowRows(maps: Maps, family: Family, now: () => Now, wanted: Wanted): Generator<FlowRow[]> {
  const reverses = maps.map(`reverse${family}`)
  for (const entries of entriesOf(maps.map(`flows${family}`))) {
    const moment = now()
    const rows: FlowRow[] = []
    for (const { key: keyBytes, value } of entries) {
      const key = decodeTuple(keyBytes)
      const flow = decodeFlow(value)
      if (!wanted(key, verdicts[flow.verdict] ?? 'stack')) continue
      const reverse = flow.verdict === CODES.FLOW_SNAT ? reverses.lookup(reverseKey(keyBytes, flow, family)) : null
      rows.push(flowRow(key, flow, reverse ? decodeReverse(reverse) : null, family, moment))
    }
    yield rows
  }
}

/** Flows that are remembered as the stack's. */
function* stackRows(maps: Maps, family: Family, now: () => Now, wanted: Wanted): Generator<FlowRow[]> {
  for (const entries of entriesOf(maps.map(`owners${family}`))) {
    const moment = now()
    const rows: FlowRow[] = []
    for (const { key: keyBytes, value } of entries) {
      const { seen, reason } = decodeOwner(value)
      const key = decodeTuple(keyBytes)
      if (reason === null || !wanted(key, 'stack')) continue
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
        idle: round(secondsSince(seen, moment)),
        age: null
      })
    }
    yield rows
  }
}

/** 0 of an echo, which has none: the key says there who asks. */
function remotePort(key: FlowKey): number {
  return isEcho(key.protocol) ? 0 : key.remotePort
}

export function secondsSince(then: number, now: Now): number {
  const jiffies = (Number(now.jiffies & 0xffffffffn) - then) >>> 0
  // a packet that came after `now` was read
  return jiffies > 0xffff_ffff - future ? 0 : jiffies / now.perSecond
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

function round(value: number): number {
  return Math.round(value * 10) / 10
}
