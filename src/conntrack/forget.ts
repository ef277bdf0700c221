// TCP entries that the fast path makes stale: conntrack does not see what the
// fast path forwards, and would class the rest of such a connection as INVALID
// once the stack has it again. Of other protocols it follows no sequence: their
// entries stay, and tell who opened the flow. Translated ones stay, too: their
// flows are the stack's.
//
// - nf_conntrack_tcp_loose=1 (default): the entry is deleted. The next packet
//   through the stack makes a new one, which tracks no window.
// - nf_conntrack_tcp_loose=0: no packet in the middle of a connection makes an
//   entry, so the entry stays, as an established one that tracks no window.

import type { Address } from '../state/types.js'
import { attributes, type Entry, isTranslated, protocols, status, tcpFlag, tcpState } from './entry.js'
import { type Batch, messageType } from './messages.js'
import { Queue, readEntries, setting, Table } from './table.js'

export interface ForgetOptions {
  isPod(address: Address): boolean
  /** Connections between the two use the stack: one is the node's own, or routes, rules or configuration say so. */
  isStacks(one: Address, other: Address): boolean
  /** Only entries of established TCP connections that no packet has passed for so many seconds. Absent: all. */
  idle?: number
}

export interface Forgotten {
  read: number
  deleted: number
  /** Kept, without window tracking from now on. */
  liberal: number
  /** Errno names and how often; ENOENT does not count: the entry is gone. */
  failed: Map<string, number>
}

/** Throws ConntrackError when the table cannot be read. */
export async function forgetUntranslated(options: ForgetOptions): Promise<Forgotten> {
  const loose = setting('nf_conntrack_tcp_loose') !== 0
  const idleBelow = options.idle === undefined ? null : lifetime('established') - options.idle
  const queues = { delete: new Queue(), update: new Queue() }
  const read = await readEntries((entry) => {
    if (idleBelow !== null && !isIdle(entry, idleBelow)) return
    if (!isStale(entry, options)) return
    if (loose) queues.delete.add((batch) => batch.delete(entry))
    else queues.update.add((batch) => writeLiberal(batch, entry))
  })
  const result: Forgotten = { read, deleted: queues.delete.length, liberal: queues.update.length, failed: new Map() }
  if (result.deleted + result.liberal === 0) return result
  const table = new Table()
  try {
    await table.send(queues.delete, (_, code) => {
      result.deleted--
      count(result.failed, code)
    })
    await table.send(queues.update, (_, code) => {
      result.liberal--
      count(result.failed, code)
    })
  } finally {
    table.close()
  }
  return result
}

function count(failed: Map<string, number>, code: string): void {
  if (code !== 'ENOENT') failed.set(code, (failed.get(code) ?? 0) + 1)
}

function isStale(entry: Entry, { isPod, isStacks }: ForgetOptions): boolean {
  const { source, destination, protocol } = entry.original
  if (protocol !== protocols.tcp || isTranslated(entry)) return false
  if ((entry.status & (status.offloaded | status.dying)) !== 0) return false
  return (isPod(source) || isPod(destination)) && !isStacks(source, destination)
}

function isIdle({ tcp, timeout }: Entry, below: number): boolean {
  return tcp?.state === tcpState.established && timeout < below && (tcp.flags[0] & tcp.flags[1] & tcpFlag.liberal) === 0
}

/** Seconds that conntrack gives a TCP connection in this state. */
export function lifetime(state: 'established' | 'syn_sent' | 'time_wait'): number {
  return setting(`nf_conntrack_tcp_timeout_${state}`) ?? { established: 432_000, syn_sent: 120, time_wait: 120 }[state]
}

const unfinished = new Set<number>([tcpState.synSent, tcpState.synReceived, tcpState.synSent2])

/** A handshake that conntrack has seen half of has long been finished past it, or never will be. */
function writeLiberal(batch: Batch, entry: Entry): void {
  const { family, original, zone, tcp } = entry
  const revive = tcp !== null && unfinished.has(tcp.state)
  batch.begin(messageType.new, 0, family)
  batch.key(family, original, zone)
  batch.tcp(revive ? tcpState.established : null, tcpFlag.liberal)
  if (revive) {
    batch.u32(attributes.entry.status, entry.status | status.seenReply | status.assured)
    batch.u32(attributes.entry.timeout, lifetime('established'))
  }
  batch.end()
}
