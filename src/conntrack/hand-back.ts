// Gives connections of the fast path to the stack: an entry with the same
// translation for each, before the fast path ends. The entries track no
// window: conntrack has not seen what was sent before.
//
// An entry of the same flow may be there already:
// - with the same translation: it is what is wanted;
// - without translation, or of the other direction and unanswered: made by
//   packets that the fast path passed to the stack; replaced;
// - any other: the flow cannot continue.

import type { Address, Family } from '../state/types.js'
import {
  attributes,
  type Entry,
  isEcho,
  isTranslated,
  protocols,
  status,
  type Tuple,
  tcpFlag,
  tcpState
} from './entry.js'
import { lifetime } from './forget.js'
import { type Batch, flags, messageType } from './messages.js'
import { type NatState, natStates } from './nat.js'
import { Queue, setting, Table } from './table.js'

/** A flow of the fast path; echo: podPort is the identifier, remotePort of no matter. */
export interface LiveFlow {
  family: Family
  protocol: number
  pod: Address
  podPort: number
  remote: Address
  remotePort: number
  /** Replaces the pod's address and port on the way out; null: nothing is replaced. */
  nat: { address: Address; port: number } | null
  /** Who has spoken first. */
  opener: 'pod' | 'remote'
  /** opening: no answer yet. closing: both sides have said that they are done, or one has reset. */
  stage: 'opening' | 'established' | 'closing'
}

export interface HandBackResult {
  /** Live flows that continue: their entries are there. Closing ones are handed back, too, and not counted. */
  continues: number
  cannot: { flow: LiveFlow; why: CannotContinue }[]
}

/** An errno's name is what the kernel said to the entry. */
export type CannotContinue = Exclude<NatState, 'applied'> | 'clash' | `E${string}`

/** Throws NativeError and ConntrackError when nfnetlink cannot be used; what fails for one flow is in the result. */
export async function handBack(flows: readonly LiveFlow[]): Promise<HandBackResult> {
  const result: HandBackResult = { continues: 0, cannot: [] }
  if (flows.length === 0) return result
  if (setting('nf_conntrack_count') === null) {
    // not loaded, and an entry would load it for nothing: nobody translates here
    const open = flows.filter(({ stage }) => stage !== 'closing')
    return { continues: 0, cannot: open.map((flow) => ({ flow, why: 'not tracked' })) }
  }
  const states = await natStates()
  const table = new Table()
  try {
    const failed = await create(table, flows)
    await retry(table, failed)
    for (const flow of flows) {
      if (flow.stage === 'closing') continue
      const why = failed.get(flow) ?? (flow.nat ? states[flow.family] : 'applied')
      if (why === 'applied') result.continues++
      else result.cannot.push({ flow, why })
    }
  } finally {
    table.close()
  }
  return result
}

/** Returns what failed. */
async function create(table: Table, flows: readonly LiveFlow[]): Promise<Map<LiveFlow, CannotContinue>> {
  const failed = new Map<LiveFlow, CannotContinue>()
  const queue = new Queue()
  const seconds = lifetimes()
  for (const flow of flows) queue.add((batch) => writeNew(batch, flow, seconds))
  await table.send(queue, (position, code) => {
    const flow = flows[position]
    if (flow) failed.set(flow, code as CannotContinue)
  })
  return failed
}

/** Looks at what stands in the way and removes it if it may be removed. `failed` keeps what cannot be helped. */
async function retry(table: Table, failed: Map<LiveFlow, CannotContinue>): Promise<void> {
  const obstacles = new Queue()
  const again: LiveFlow[] = []
  for (const [flow, why] of failed) {
    if (why !== 'EEXIST') continue
    const { original, reply } = tuplesOf(flow)
    const same = findBy(table, flow.family, original)
    if (same && translatesAs(same, flow)) {
      failed.delete(flow)
      continue
    }
    const found = [same, findBy(table, flow.family, reply)].filter((entry) => entry !== null)
    if (found.length === 0 || found.some((entry) => !isReplaceable(entry, flow))) {
      failed.set(flow, found.length === 0 ? why : 'clash')
      continue
    }
    for (const entry of found) obstacles.add((batch) => batch.delete(entry))
    again.push(flow)
  }
  if (again.length === 0) return
  await table.send(obstacles, () => {})
  const still = await create(table, again)
  for (const flow of again) {
    const why = still.get(flow)
    if (why) failed.set(flow, why)
    else failed.delete(flow)
  }
}

function findBy(table: Table, family: Family, tuple: Tuple): Entry | null {
  return table.find((batch) => batch.get(family, tuple))
}

function translatesAs(entry: Entry, flow: LiveFlow): boolean {
  const { original, reply } = tuplesOf(flow)
  return sameTuple(entry.original, original) && sameTuple(entry.reply, reply)
}

function sameTuple(one: Tuple, other: Tuple): boolean {
  const names = ['source', 'destination', 'sourcePort', 'destinationPort'] as const
  return names.every((name) => one[name] === other[name])
}

function isReplaceable(entry: Entry, flow: LiveFlow): boolean {
  if (isTranslated(entry)) return false
  return entry.original.source === flow.pod || (entry.status & status.assured) === 0
}

/** Both directions as packets have them before the source is translated, and after. */
function tuplesOf(flow: LiveFlow): { original: Tuple; inverse: Tuple; reply: Tuple } {
  const out = tuple(flow.pod, flow.podPort, flow.remote, flow.remotePort, flow)
  const back = tuple(flow.remote, flow.remotePort, flow.pod, flow.podPort, flow)
  const { address, port } = flow.nat ?? { address: flow.pod, port: flow.podPort }
  const outside = tuple(flow.remote, flow.remotePort, address, port, flow)
  return flow.opener === 'pod'
    ? { original: out, inverse: back, reply: outside }
    : { original: outside, inverse: out, reply: out }
}

const echo: Record<number, { request: number; reply: number }> = {
  [protocols.icmp]: { request: 8, reply: 0 },
  [protocols.icmp6]: { request: 128, reply: 129 }
}

function tuple(source: Address, sourcePort: number, destination: Address, port: number, flow: LiveFlow): Tuple {
  const { protocol } = flow
  const kind = echo[protocol]
  if (!kind) return { source, destination, protocol, sourcePort, destinationPort: port, type: 0, code: 0, zone: 0 }
  const asks = (source === flow.remote) === (flow.opener === 'remote')
  const id = source === flow.remote ? port : sourcePort
  return {
    source,
    destination,
    protocol,
    sourcePort: id,
    destinationPort: 0,
    type: asks ? kind.request : kind.reply,
    code: 0,
    zone: 0
  }
}

type Lifetimes = Record<string, number>

/** Seconds without a packet, as the kernel gives them here. */
function lifetimes(): Lifetimes {
  const of = (name: string, otherwise: number) => setting(`nf_conntrack_${name}`) ?? otherwise
  const { tcp, udp, icmp, icmp6 } = protocols
  return {
    [`${tcp} opening`]: lifetime('syn_sent'),
    [`${tcp} established`]: lifetime('established'),
    [`${tcp} closing`]: lifetime('time_wait'),
    [`${udp} opening`]: of('udp_timeout', 30),
    [`${udp} established`]: of('udp_timeout_stream', 120),
    [`${icmp} established`]: of('icmp_timeout', 30),
    [`${icmp6} established`]: of('icmpv6_timeout', 30)
  }
}

/**
 * The fast path goes on until all flows are handed back, so a handshake may go on, too: ESTABLISHED
 * without a window takes a SYN, a SYN-ACK and what follows; in SYN_SENT the opener's next ACK would be
 * invalid when conntrack has missed the SYN-ACK (nf_conntrack_proto_tcp.c, tcp_conntracks).
 */
const states = { opening: tcpState.established, established: tcpState.established, closing: tcpState.timeWait }

/** The kernel makes the reply tuple itself from the translation; what is given is the inverse of the original. */
function writeNew(batch: Batch, flow: LiveFlow, seconds: Lifetimes): void {
  const { family, protocol, stage, nat } = flow
  const { original, inverse } = tuplesOf(flow)
  const answered = stage === 'opening' ? 0 : status.seenReply | (isEcho(protocol) ? 0 : status.assured)
  batch.begin(messageType.new, flags.create | flags.exclusive, family)
  batch.tuple(attributes.entry.original, family, original)
  batch.tuple(attributes.entry.reply, family, inverse)
  batch.u32(attributes.entry.status, status.confirmed | answered)
  batch.u32(attributes.entry.timeout, seconds[`${protocol} ${stage}`] ?? seconds[`${protocol} established`] ?? 30)
  if (protocol === protocols.tcp) batch.tcp(states[stage], tcpFlag.liberal)
  if (nat) batch.sourceNat(family, nat.address, nat.port)
  batch.end()
}
