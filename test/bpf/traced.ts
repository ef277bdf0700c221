// The same packet asked about before it is sent: what test/bpf sends goes
// through here first, so that every packet table is a table of traces, too. A
// trace has the verdict, the way and the rewriting of the packet that follows,
// and changes nothing.

import assert from 'node:assert/strict'
import type { BpfMap, BpfObject } from '../../src/native.js'
import { macText } from '../packets/bytes.js'
import { EtherType, type ParsedPacket } from '../packets/packet.js'
import { CONTROL, reasons, unmapped } from './layout.js'

/** Offsets in struct __sk_buff, struct control and struct trace. */
const SKB = { size: 192, mark: 8, ifindex: 40, gsoSegments: 164, gsoSize: 176 }
const TRACE_MARK = CONTROL.traceMark
export const Stage = {
  source: 1 << 0,
  pod: 1 << 1,
  flow: 1 << 2,
  flowOutdated: 1 << 3,
  flowNew: 1 << 4,
  askedReverse: 1 << 5,
  reverse: 1 << 6,
  askedRoute: 1 << 7,
  route: 1 << 8,
  askedMasquerade: 1 << 9,
  masquerade: 1 << 10,
  nexthop: 1 << 11,
  sent: 1 << 12,
  icmpError: 1 << 13,
  askedOwner: 1 << 14,
  conntrack: 1 << 15
} as const

export interface Trace {
  stages: number
  reason: string
  out: number
  nexthop: number
  to: string | null
  from: string | null
  nat: string | null
  natPort: number
}

/** Everything a packet may leave behind, as text. */
type Remains = (name: string) => BpfMap

const MARK = 0x5eed1234
/** Reading all tables takes milliseconds: the first traces of a file are compared, then one of so many. */
const COMPARED = { first: 100, every: 50 }
let traces = 0

function remains(map: Remains, family: 4 | 6): string {
  const tables = [`flows${family}`, `reverse${family}`, `owners${family}`].map((name) => map(name).dump())
  return tables.map(({ keys, values }) => `${keys.toString('hex')} ${values.toString('hex')}`).join('\n')
}

/** Runs `frame` with the trace mark; asserts that nothing changed and nothing was sent. */
export function traceFrame(
  object: BpfObject,
  map: Remains,
  program: string,
  frame: Buffer,
  ifindex: number,
  gsoSize = 0
): Trace {
  const context = skbContext(ifindex, gsoSize)
  context.writeUInt32LE(MARK, SKB.mark)
  const empty = Buffer.alloc(map('traces').info.valueSize)
  empty.writeUInt32LE(reasons.length, 4)
  map('traces').update(Buffer.alloc(4), empty)
  const family = frame.readUInt16BE(12) === EtherType.ipv6 ? 6 : 4
  const compare = traces++ < COMPARED.first || traces % COMPARED.every === 0
  const before = compare ? remains(map, family) : ''
  object.writeControl(TRACE_MARK, Buffer.from(Uint32Array.of(MARK).buffer))
  const { retval, data, context: after } = object.testRun(program, { data: frame, context })
  object.writeControl(TRACE_MARK, Buffer.alloc(4))
  assert.equal(retval, -1, 'a traced packet goes to the stack')
  assert.equal(data.toString('hex'), frame.toString('hex'), 'and is as it was')
  assert.equal(after.readUInt32LE(SKB.mark), MARK, 'with its mark')
  if (compare) assert.equal(remains(map, family), before, 'a trace leaves nothing behind')
  return decode(map('traces').lookup(Buffer.alloc(4))!)
}

export function skbContext(ifindex: number, gsoSize: number, mark = 0): Buffer {
  const context = Buffer.alloc(SKB.size)
  context.writeUInt32LE(mark, SKB.mark)
  context.writeUInt32LE(ifindex, SKB.ifindex)
  if (gsoSize > 0) {
    context.writeUInt32LE(2, SKB.gsoSegments)
    context.writeUInt32LE(gsoSize, SKB.gsoSize)
  }
  return context
}

function decode(bytes: Buffer): Trace {
  const mac = (at: number) => (bytes.readUIntBE(at, 6) === 0 ? null : macText(bytes.subarray(at, at + 6)))
  const nat = bytes.subarray(48, 64)
  return {
    stages: bytes.readUInt32LE(0),
    reason: reasons[bytes.readUInt32LE(4)] ?? 'nothing',
    nexthop: bytes.readUInt32LE(12),
    out: bytes.readUInt32LE(16),
    to: mac(36),
    from: mac(42),
    nat: nat.every((byte) => byte === 0) ? null : unmapped(nat),
    natPort: bytes.readUInt16BE(64)
  }
}

/** That the packet took the way the trace has told. */
export function assertTold(trace: Trace, reason: string, before: ParsedPacket, after: ParsedPacket): void {
  // with most ports taken the tries are a matter of luck
  if (trace.stages & Stage.masquerade && [trace.reason, reason].includes('drop-ports')) return
  assert.equal(trace.reason, reason, 'the trace tells the verdict')
  const forwarded = ['to-pod', 'to-uplink', 'to-neighbour'].includes(reason)
  assert.equal((trace.stages & Stage.sent) !== 0, forwarded, 'sent or not')
  if (!forwarded) return
  if (trace.to) {
    assert.equal(after.destinationMac, trace.to, 'destination MAC')
    assert.equal(after.sourceMac, trace.from, 'source MAC')
  }
  assert.notEqual(trace.out, 0, 'the device is told')
  const nat = [before.ip?.source !== after.ip?.source, before.ip?.destination !== after.ip?.destination]
  assert.equal(trace.nat !== null, nat[0] || nat[1], 'NAT or not')
  if (trace.nat === null) return
  assert.equal(nat[0] ? after.ip?.source : after.ip?.destination, trace.nat, 'the address after NAT')
  // a new flow may get another port than the traced packet was told
  if (trace.stages & (Stage.flowNew | Stage.icmpError)) return
  // of fragments only the first has one
  const port = after.l4?.id ?? (nat[0] ? after.l4?.sourcePort : after.l4?.destinationPort) ?? 0
  assert.equal(port, trace.natPort, 'the port after NAT')
}
