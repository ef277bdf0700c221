// Flow tables filled by hand: many flows of many pods, without packets.

import { CODES, STRUCTS } from '../../src/maps/layout.js'
import type { BpfMap } from '../../src/native.js'

export interface MadeFlow {
  pod: string
  podPort: number
  remote: string
  remotePort: number
  protocol: number
  /** Absent: direct. */
  nat?: { address: string; port: number }
  /** jiffies, low 32 bits */
  created: number
  seen: number
}

const { tuple4, flow: flowStruct, reverse: reverseStruct } = STRUCTS

/** IPv4 only. */
export function fillTables(flows: BpfMap, reverses: BpfMap, made: Iterable<MadeFlow>, count: number): void {
  const keys = Buffer.alloc(count * tuple4.size)
  const values = Buffer.alloc(count * flowStruct.size)
  const outside = Buffer.alloc(count * tuple4.size)
  const answers = Buffer.alloc(count * reverseStruct.size)
  let at = 0
  let masqueraded = 0
  for (const flow of made) {
    writeTuple(keys, at, flow, flow.pod, flow.podPort)
    const value = at * flowStruct.size
    values.writeUInt32LE(flow.seen, value + flowStruct.offset.seen)
    values.writeUInt32LE(flow.created, value + flowStruct.offset.created)
    values.writeUInt8(flow.nat ? CODES.FLOW_SNAT : CODES.FLOW_DIRECT, value + flowStruct.offset.verdict)
    if (flow.nat) {
      writeAddress(values, value + flowStruct.offset.nat_address + 12, flow.nat.address)
      values.fill(0xff, value + flowStruct.offset.nat_address + 10, value + flowStruct.offset.nat_address + 12)
      values.writeUInt16BE(flow.nat.port, value + flowStruct.offset.nat_port)
      writeTuple(outside, masqueraded, flow, flow.nat.address, flow.nat.port)
      answers.writeUInt8(1, masqueraded * reverseStruct.size + reverseStruct.offset.replied)
      answers.writeUInt32LE(flow.seen, masqueraded * reverseStruct.size + reverseStruct.offset.seen)
      masqueraded++
    }
    at++
  }
  flows.updateBatch(keys, values, count)
  reverses.updateBatch(
    outside.subarray(0, masqueraded * tuple4.size),
    answers.subarray(0, masqueraded * reverseStruct.size),
    masqueraded
  )
}

function writeTuple(keys: Buffer, row: number, flow: MadeFlow, local: string, port: number): void {
  const at = row * tuple4.size
  writeAddress(keys, at + tuple4.offset.local, local)
  writeAddress(keys, at + tuple4.offset.remote, flow.remote)
  keys.writeUInt16BE(port, at + tuple4.offset.local_port)
  keys.writeUInt16BE(flow.remotePort, at + tuple4.offset.remote_port)
  keys.writeUInt8(flow.protocol, at + tuple4.offset.protocol)
}

function writeAddress(bytes: Buffer, at: number, text: string): void {
  text.split('.').forEach((part, index) => bytes.writeUInt8(Number(part), at + index))
}

/** `count` flows through SNAT, to 64 remotes and of 250 pods in turn; the first `young` have just begun. */
export function* manyFlows(count: number, now: number, perSecond: number, young = 0): Generator<MadeFlow> {
  for (let at = 0; at < count; at++) {
    const age = at < young ? 1 : 3600
    yield {
      pod: `10.1.${at % 250}.2`,
      podPort: 1024 + (Math.floor(at / 250) % 60_000),
      remote: `203.0.113.${at % 64}`,
      remotePort: 443,
      protocol: 6,
      nat: { address: '192.0.2.10', port: 1024 + Math.floor(at / 64) },
      created: (now - age * perSecond) >>> 0,
      seen: (now - perSecond) >>> 0
    }
  }
}
