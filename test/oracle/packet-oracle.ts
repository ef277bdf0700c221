// The packet oracle: what arrives from a node that hostroute forwards for is
// byte for byte what arrives from one whose kernel does, in the same order in
// each flow, and so are the ICMP errors that come back.

import { controlClient } from '../../src/control/client.js'
import type { DropRow } from '../../src/control/packet-api.js'
import { sleep } from '../lab/process.js'
import { type ParsedPacket, parsePacket } from '../packets/packet.js'
import { randomSource } from '../plan/churn.js'
import { openLabs, type Receiver, receivers, type Shot, type Side, type Translation } from './labs.js'
import { answersTo, makeStream, TOLD_MTU, tagOf } from './stream.js'

export interface PacketOptions {
  seed: number
  /** Draws in a round; a draw is one packet or all fragments of one. */
  draws: number
  rounds: number
  /** performance.now() after which no further round is begun. */
  deadline: number
  translation: Translation
  progress?(totals: PacketTotals): void
}

export interface PacketTotals {
  seed: number
  translation: Translation
  rounds: number
  sent: number
  /** Frames that arrived, in the kernel's lab. */
  arrived: number
  /** Packets that hostroute forwarded. */
  forwarded: number
  stackByReason: Map<string, number>
  exceptions: Map<string, number>
  faults: string[]
}

/** Milliseconds without a frame after which one that is missing does not come any more. */
const PATIENCE = 3_000

/** Known differences and why they stay. */
export const PACKET_EXCEPTIONS: Record<string, string> = {
  untracked: 'what conntrack takes for invalid leaves the kernel with the pod’s address, and hostroute masquerades it',
  'path-mtu':
    'the kernel’s IPv6 forwarding obeys a path MTU that the node itself was told; hostroute sends, and the narrow router tells',
  options:
    'with IP options or extension headers conntrack sees a packet of a flow it has not seen, and may leave the pod’s address',
  reset:
    'an RST in a connection that nobody has answered makes conntrack forget it, so the kernel cannot deliver an error about the RST',
  padding: 'bytes behind the IP packet are sent along, where the kernel cuts them off'
}

export async function runPacketOracle(options: PacketOptions): Promise<PacketTotals> {
  const { seed, translation } = options
  const totals: PacketTotals = {
    seed,
    translation,
    rounds: 0,
    sent: 0,
    arrived: 0,
    forwarded: 0,
    stackByReason: new Map(),
    exceptions: new Map(),
    faults: []
  }
  const labs = await openLabs({ translation })
  try {
    const marks: Marks = { kernel: start(), hostroute: start() }
    for (let round = 0; round < options.rounds && totals.faults.length === 0; round++) {
      if (performance.now() > options.deadline) break
      const random = randomSource(Math.imul(seed + round, 0x9e3779b1))
      const shots = makeStream(random, round * options.draws, options.draws, translation)
      await runRound(labs, shots, marks, totals)
      totals.rounds++
      options.progress?.(totals)
    }
    await count(labs.hostroute, totals)
  } finally {
    await labs.close()
  }
  return totals
}

/** How many frames of each capture belong to earlier rounds. */
type Marks = Record<Side['name'], Record<Receiver, number>>
const start = (): Record<Receiver, number> => ({ pod1: 0, pod2: 0, uplink: 0 })

type Labs = { kernel: Side; hostroute: Side }

async function runRound(labs: Labs, shots: readonly Shot[], marks: Marks, totals: PacketTotals): Promise<void> {
  const arrived = await send(labs, { kernel: shots, hostroute: shots }, marks, totals)
  if (totals.translation !== 'snat' || totals.faults.length > 0) return
  const answers = {
    kernel: answersTo(arrived.kernel.uplink, shots),
    hostroute: answersTo(arrived.hostroute.uplink, shots)
  }
  const both: Record<Side['name'], Shot[]> = { kernel: [], hostroute: [] }
  for (const [flow, byTag] of answers.kernel) {
    const other = answers.hostroute.get(flow)
    const tag = [...byTag.keys()].find((each) => other?.has(each))
    if (tag === undefined) continue
    both.kernel.push(...byTag.get(tag)!)
    both.hostroute.push(...other!.get(tag)!)
  }
  await send(labs, both, marks, totals)
}

type Arrived = Record<Side['name'], Record<Receiver, Buffer[]>>

/** Sends to both, and notes where what arrives is not the same. */
async function send(
  labs: Labs,
  shots: Record<Side['name'], readonly Shot[]>,
  marks: Marks,
  totals: PacketTotals
): Promise<Arrived> {
  const { kernel, hostroute } = labs
  const [refused, refusedToo] = [await kernel.send(shots.kernel), await hostroute.send(shots.hostroute)]
  if (refused.join() !== refusedToo.join())
    throw new Error(`the labs do not take the same frames: ${refused.join()} and ${refusedToo.join()}`)
  totals.sent += shots.kernel.length - refused.length
  let differences: Difference[] = []
  const exceptions = new Map<string, number>()
  const count = () => receivers.reduce((sum, each) => sum + kernel.count(each) + hostroute.count(each), 0)
  // Late ones may still be on their way: nothing is missing before nothing has come for a while.
  for (let last = count(), since = performance.now(); performance.now() - since < PATIENCE; ) {
    await sleep(100)
    if (count() !== last) {
      last = count()
      since = performance.now()
      continue
    }
    exceptions.clear()
    differences = difference(labs, marks, totals.translation, exceptions)
    if (differences.length === 0) break
  }
  for (const [name, times] of exceptions) totals.exceptions.set(name, (totals.exceptions.get(name) ?? 0) + times)
  for (const { receiver, flow, text, frames } of differences.slice(0, 10))
    totals.faults.push([`at ${receiver}, ${flow}: ${text}`, ...explain(frames, shots.kernel)].join('\n'))
  const arrived = {} as Arrived
  for (const side of [labs.kernel, labs.hostroute]) {
    arrived[side.name] = {} as Arrived['kernel']
    for (const receiver of receivers) {
      const frames = side.seen(receiver)
      arrived[side.name][receiver] = frames.slice(marks[side.name][receiver])
      marks[side.name][receiver] = frames.length
      if (side.name === 'kernel') totals.arrived += arrived.kernel[receiver].length
    }
  }
  return arrived
}

interface Difference {
  receiver: Receiver
  flow: string
  text: string
  frames: Buffer[]
}

/** `exceptions` counts what is allowed to differ. */
function difference(
  { kernel, hostroute }: Labs,
  marks: Marks,
  translation: Translation,
  exceptions: Map<string, number>
): Difference[] {
  const found: Difference[] = []
  const fresh = (side: Side, receiver: Receiver) => side.seen(receiver).slice(marks[side.name][receiver])
  const [all, too] = [kernel, hostroute].map((side) => receivers.flatMap((each) => fresh(side, each)))
  const refused = refusedByPathMtu(all ?? [], too ?? [])
  if (refused.size > 0) exceptions.set('path-mtu', refused.size)
  const isRefused = (frame: Buffer) => refused.has(tagOf(frame) ?? '')
  const resets = translation === 'none' ? new Set<string>() : errorsAboutResets(all ?? [], too ?? [])
  if (resets.size > 0) exceptions.set('reset', resets.size)
  for (const receiver of receivers) {
    const [wanted, got] = [kernel, hostroute].map((side) =>
      byFlow(
        fresh(side, receiver).filter((frame) => !isRefused(frame)),
        translation === 'snat' && receiver === 'uplink',
        translation === 'services'
      )
    ) as [Flows, Flows]
    for (const flow of new Set([...wanted.keys(), ...got.keys()])) {
      const should = wanted.get(flow) ?? []
      const does = (got.get(flow) ?? []).filter((frame) => !resets.has(errorAboutReset(frame)))
      const at = should.findIndex((frame, index) => {
        const other = does[index]
        if (other && frame.equals(other)) return false
        const exception = other ? exceptionFor(frame, other) : null
        if (exception) exceptions.set(exception, (exceptions.get(exception) ?? 0) + 1)
        return exception === null
      })
      if (at < 0 && does.length === should.length) continue
      const place = at < 0 ? should.length : at
      const text = `frame ${place} of ${should.length} (hostroute: ${does.length})`
      const frames = [should[place], does[place]].filter((each) => each !== undefined)
      found.push({ receiver, flow, text, frames })
    }
  }
  return found
}

/**
 * Tags of packets that only the kernel’s node has called too big for a path MTU
 * (the one that errors in the stream name) which it has no device or route for.
 */
function refusedByPathMtu(wanted: readonly Buffer[], found: readonly Buffer[]): Set<string> {
  const tags = (frames: readonly Buffer[]) =>
    frames.filter((frame) => isToldOfPathMtu(frame)).map((frame) => tagOf(frame) ?? '')
  const both = new Set(tags(found))
  return new Set(tags(wanted).filter((tag) => tag !== '' && !both.has(tag)))
}

/** Tags of RSTs that only hostroute’s node has delivered an error about. */
function errorsAboutResets(wanted: readonly Buffer[], found: readonly Buffer[]): Set<string> {
  const known = new Set(wanted.map(errorAboutReset))
  return new Set(found.map(errorAboutReset).filter((tag) => tag !== '' && !known.has(tag)))
}

/** The tag of the RST that this error is about, or ''. */
function errorAboutReset(frame: Buffer): string {
  const embedded = parsePacket(frame).embedded?.l4
  return embedded?.protocol === 'tcp' && embedded.flags?.includes('R') ? (tagOf(frame) ?? '') : ''
}

function isToldOfPathMtu(frame: Buffer): boolean {
  const { ip, l4, embedded } = parsePacket(frame)
  if (!ip || !isRouter(ip.source) || l4?.protocol !== 'icmp6' || l4.type !== 2 || l4.rest !== TOLD_MTU) return false
  return embedded?.ip !== undefined && !embedded.ip.destination.startsWith('fd00:244:2:')
}

/** The exception that covers the difference; null: none does. */
function exceptionFor(should: Buffer, does: Buffer): string | null {
  const [{ ip: wanted }, { ip: found }] = [parsePacket(should), parsePacket(does)]
  if (!wanted || !found) return null
  if (isPod(wanted.source) && isRouter(found.source)) return 'untracked'
  const optional = wanted.options.length > 0 || wanted.extensions.some((each) => each !== 44)
  if (isRouter(wanted.source) && isPod(found.source) && optional) return 'options'
  const cut = does.length > should.length && should.length === 14 + wanted.length
  return cut && does.subarray(0, should.length).equals(should) ? 'padding' : null
}

function isPod(address: string): boolean {
  return /^10\.244\.|^fd00:244:/.test(address)
}

type Flows = Map<string, Buffer[]>

/**
 * Errors are told apart by their code: that a neighbour does not answer is told seconds later, in no order with others.
 * `snat`: whatever the source and its port are, which are drawn. `services`: whatever the identification of IPv6
 * fragments is, which conntrack puts together and cuts again.
 */
function byFlow(frames: readonly Buffer[], snat: boolean, services: boolean): Flows {
  const flows: Flows = new Map()
  for (const frame of frames) {
    const packet = parsePacket(frame)
    if (isOwnTalk(packet)) continue
    const { ip, l4 } = packet
    const ports = l4
      ? `${l4.protocol} ${snat ? '' : (l4.sourcePort ?? typeOf(l4))} ${l4.destinationPort ?? (snat ? '' : l4.id) ?? ''}`
      : ''
    const flow = ip
      ? `${snat ? '' : ip.source} → ${ip.destination} ${ip.protocol} ${ports}`
      : `ethertype ${packet.etherType.toString(16)}`
    const list = flows.get(flow) ?? []
    const drawn = normal(frame, packet, snat)
    if (services && packet.ip?.family === 6) dropFragmentId(drawn)
    list.push(snat ? withoutPort(drawn, packet) : drawn)
    flows.set(flow, list)
  }
  return flows
}

function typeOf({ type, code }: NonNullable<ParsedPacket['l4']>): string {
  return type === undefined ? '' : `${type}/${code}`
}

/** Neighbour discovery, MLD and ARP between the hosts themselves. */
function isOwnTalk({ arp, ip, l4 }: ParsedPacket): boolean {
  if (arp) return !arp.sender.startsWith('10.244.9.')
  const type = l4?.protocol === 'icmp6' ? (l4.type ?? 0) : 0
  return (type >= 130 && type <= 143) || (ip?.extensions[0] === 0 && type === 143)
}

/** What a kernel draws: IP or fragment id and flow label of the errors and answers that a router makes itself. */
function normal(frame: Buffer, { ip, l4, vlans }: ParsedPacket, snat: boolean): Buffer {
  const copy = Buffer.from(frame)
  if (!ip || vlans.length > 0 || !isRouter(ip.source)) return copy
  // a later fragment after SNAT has the id that the pod drew
  if (ip.family === 4 && (l4 || !snat)) {
    copy.writeUInt16BE(0, 18)
    copy.writeUInt16BE(ip.headerChecksumOk ? 1 : 0, 24)
  } else if (ip.family === 6) {
    copy.writeUInt32BE(copy.readUInt32BE(14) & 0xfff00000, 14)
    dropFragmentId(copy)
  }
  return copy
}

/**
 * What SNAT draws: port or identifier, and with it the checksum, which says then
 * only whether it is right; and the identification of IPv6 fragments, which
 * conntrack puts together and cuts again.
 */
function withoutPort(frame: Buffer, { ip, l4 }: ParsedPacket): Buffer {
  if (!ip || !isRouter(ip.source)) return frame
  const copy = Buffer.from(frame)
  if (ip.family === 6) dropFragmentId(copy)
  if (!l4 || l4.protocol === 'other') return copy
  const at = 14 + ip.headerLength
  const [port, sum] = { tcp: [0, 16], udp: [0, 6], icmp: [4, 2], icmp6: [4, 2] }[l4.protocol] as [number, number]
  if (copy.length < at + Math.max(port, sum) + 2) return frame
  copy.writeUInt16BE(0, at + port)
  const right = l4.checksumOk === null ? 2 : l4.checksumOk ? 1 : 3
  // of UDP alone 0 says that there is none; of others it may be the right one
  if (l4.protocol !== 'udp' || copy.readUInt16BE(at + sum) !== 0) copy.writeUInt16BE(right, at + sum)
  return copy
}

function dropFragmentId(frame: Buffer): void {
  if (frame[20] === 44 && frame.length >= 62) frame.writeUInt32BE(0, 58)
}

function isRouter(address: string): boolean {
  // conntrack gives a router's error a Service's address
  return /^10\.96\.|^fd00:96:|^192\.168\.100\.|^fd00:168:|^169\.254\.|^fe80:|^203\.0\.113\.1$|^2001:db8:99::1$/.test(
    address
  )
}

function explain(frames: readonly Buffer[], shots: readonly Shot[]): string[] {
  const lines: string[] = []
  for (const frame of frames)
    lines.push(`  ${frame.subarray(0, 160).toString('hex')}${frame.length > 160 ? '…' : ''} (${frame.length})`)
  const at = frames[0]?.indexOf('#orc') ?? -1
  if (at < 0) return lines
  const tag = frames[0]!.subarray(at, at + 8)
  for (const { text, from, frame } of shots)
    if (frame.includes(tag)) lines.push(`  sent from ${from}: ${text}`, `  ${frame.subarray(0, 160).toString('hex')}`)
  return lines.slice(0, 8)
}

async function count(side: Side, totals: PacketTotals): Promise<void> {
  for (const { reason, packets } of await drops(side)) {
    if (reason.startsWith('to-')) totals.forwarded += packets
    else totals.stackByReason.set(reason, (totals.stackByReason.get(reason) ?? 0) + packets)
  }
}

async function drops(side: Side): Promise<DropRow[]> {
  const { value } = await controlClient(side.lab.node(0).daemon.socket).get<DropRow[]>('/v1/drops')
  return value
}
