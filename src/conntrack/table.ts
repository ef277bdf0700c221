// The namespace's table of tracked connections: read by a dump on a thread of
// its own and in slices, changed by batches of at most 64 messages: neither
// holds the event loop for more than some 8 ms. What the kernel has dumped is in
// memory until it is decoded: 24 MB for 100,000 entries.

import { readFileSync } from 'node:fs'
import { getSystemErrorName } from 'node:util'
import { type NativeError, type NetfilterSocket, native } from '../native.js'
import { Malformed, messagesOf, nextMessage } from '../netlink/bytes.js'
import { NLMSG_ERROR } from '../netlink/constants.js'
import { DumpInbox } from '../netlink/dump-inbox.js'
import { Slice } from '../netlink/slice.js'
import { decodeEntry, type Entry } from './entry.js'
import { Batch, messageType } from './messages.js'

const netfilterProtocol = 12
const perBatch = 64
/** The chunks that come meanwhile and a batch take their time, too. */
const sliceMilliseconds = 2
const settings = '/proc/sys/net/netfilter/'

/** conntrack could not be read or written. The message says what was tried and what follows. */
export class ConntrackError extends Error {}

/** A setting of conntrack in this namespace, e.g. 'nf_conntrack_count'; null: conntrack is not loaded, or has no such setting. */
export function setting(name: string): number | null {
  try {
    const value = Number(readFileSync(settings + name, 'utf8'))
    return Number.isFinite(value) ? value : null
  } catch {
    return null
  }
}

/** nf_conntrack is there, built in or as a module. */
export function isLoaded(): boolean {
  return setting('nf_conntrack_count') !== null
}

/** nothing: conntrack is not loaded, or knows no connection here. A dump would load its module. */
export function tracksNothing(): boolean {
  return (setting('nf_conntrack_count') ?? 0) === 0
}

/** Calls `visit` for each entry; resolves with their number. Entries that come or go meanwhile may be missed. Throws ConntrackError. */
export async function readEntries(visit: (entry: Entry) => void): Promise<number> {
  if (tracksNothing()) return 0
  const inbox = new DumpInbox({ type: messageType.get, body: Buffer.alloc(4), protocol: netfilterProtocol })
  const slice = new Slice(sliceMilliseconds)
  let count = 0
  for (let chunk = await inbox.next(); chunk; chunk = await inbox.next()) {
    const cursor = messagesOf(chunk)
    while (nextMessage(cursor) === 'message') {
      const entry = decoded(chunk, cursor.body, cursor.end)
      if (entry) {
        count++
        visit(entry)
      }
      if (slice.due()) await slice.rest()
    }
  }
  if (inbox.failure === null) return count
  const { message } = inbox.failure as Error
  const missing = isMissing(inbox.failure) ? '; is the module nf_conntrack_netlink there?' : ''
  throw new ConntrackError(`cannot read the tracked connections: ${message}${missing}`, { cause: inbox.failure })
}

/** nfnetlink answers EINVAL for a subsystem that it does not have and cannot load. */
function isMissing(error: unknown): boolean {
  return ['EINVAL', 'EOPNOTSUPP', 'EPROTONOSUPPORT'].includes((error as Partial<NativeError>).code ?? '')
}

function decoded(bytes: Buffer, body: number, end: number): Entry | null {
  try {
    return decodeEntry(bytes, body, end)
  } catch (error) {
    if (error instanceof Malformed) return null
    throw error
  }
}

/** Writes one request into the batch. */
export type Write = (batch: Batch) => void

/** Requests that wait, as bytes. */
export class Queue {
  private readonly full: Batch[] = []
  private last = new Batch(perBatch)

  get length(): number {
    return this.full.length * perBatch + this.last.count
  }

  add(write: Write): void {
    if (this.last.count === perBatch) {
      this.full.push(this.last)
      this.last = new Batch(perBatch)
    }
    write(this.last)
  }

  get batches(): Batch[] {
    return this.last.count > 0 ? [...this.full, this.last] : this.full
  }
}

/** The table, to be changed. Close it. */
export class Table {
  private readonly socket: NetfilterSocket

  constructor() {
    this.socket = native().openNetfilter(false)
  }

  close(): void {
    this.socket.close()
  }

  /** Calls `failed` with the request's position in the queue and the errno's name. */
  async send(queue: Queue, failed: (position: number, code: string) => void): Promise<void> {
    const slice = new Slice(sliceMilliseconds)
    let before = 0
    for (const batch of queue.batches) {
      const first = before
      this.exchange(batch, (sequence, error) => failed(first + sequence - 1, getSystemErrorName(error)))
      before += batch.count
      if (slice.due(true)) await slice.rest()
    }
  }

  /** The entry that one request asks for; null: there is none. */
  find(write: Write): Entry | null {
    const batch = new Batch(1)
    write(batch)
    let found: Entry | null = null
    this.exchange(
      batch,
      () => {},
      (entry) => {
        found ??= entry
      }
    )
    return found
  }

  private exchange(
    batch: Batch,
    failed: (sequence: number, error: number) => void,
    answered: (entry: Entry) => void = () => {}
  ): void {
    const answers = this.socket.request(batch.content)
    const cursor = messagesOf(answers)
    let start = 0
    while (nextMessage(cursor) === 'message') {
      const sequence = answers.readUInt32LE(start + 8)
      start = cursor.next
      if (cursor.type === NLMSG_ERROR) {
        const error = answers.readInt32LE(cursor.body)
        if (error !== 0) failed(sequence, error)
      } else if (cursor.type === messageType.new) {
        const entry = decoded(answers, cursor.body, cursor.end)
        if (entry) answered(entry)
      }
    }
  }
}
