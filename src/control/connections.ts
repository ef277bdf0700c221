// Who holds how much of the control server, so that nobody keeps others out.
//
// Invariants
// - Root is never refused for what others hold: of everything some is left for it.
// - What waits to be read is bounded: in time (a connection that takes nothing is
//   ended) and, for all but root together, in bytes.

import type { Socket } from 'node:net'
import { native } from '../native.js'
import type { Caller } from './flow-api.js'

export interface ServerLimits {
  /** Milliseconds after which a connection ends that takes nothing of what waits for it. */
  stalled: number
  /** Bytes that may wait for all callers but root together, before the answer that is asked for. */
  unsent: number
}

export const serverLimits: ServerLimits = { stalled: 30_000, unsent: 32 * 1024 * 1024 }

type Share = 'connections' | 'lists' | 'monitors'

/** In all, of all users but root together, and of one of these. */
const most: Record<Share, { all: number; others: number; one: number }> = {
  connections: { all: 512, others: 256, one: 64 },
  lists: { all: 16, others: 12, one: 4 },
  monitors: { all: 16, others: 12, one: 4 }
}
/** Connections beyond their share that are told so; more are closed at once. */
const mostRefused = 32
const refusedFor = 1000

export const mostConnections = most.connections.all + mostRefused

export interface Connection {
  socket: Socket
  /** null: unknown, and then not root. */
  caller: Caller | null
  /** Beyond its user's share: every request is refused with this sentence. */
  refused: string | null
  /** A request that has not been answered to its end. */
  isAnswering: boolean
  /** Bytes of an answer that are not even with the socket yet. */
  held: number
  /** Bytes taken when it was looked last, and since when it has been so. */
  taken: number
  since: number
}

export class Connections {
  private readonly bySocket = new Map<Socket, Connection>()
  private readonly used: Record<Share, Map<number, number>> = {
    connections: new Map(),
    lists: new Map(),
    monitors: new Map()
  }
  private readonly timer: NodeJS.Timeout
  private refused = 0

  constructor(private readonly limits: ServerLimits) {
    this.timer = setInterval(() => this.endStalled(), Math.min(1000, limits.stalled / 4))
    this.timer.unref()
  }

  /** A new connection, also where it is more than its user may have. */
  add(socket: Socket): void {
    const caller = callerOf(socket)
    const connection: Connection = {
      socket,
      caller,
      refused: null,
      isAnswering: false,
      held: 0,
      taken: 0,
      since: 0
    }
    const taken = this.take('connections', caller)
    if (typeof taken === 'string') {
      if (this.refused >= mostRefused) return void socket.destroy()
      connection.refused = taken
      this.refused++
      setTimeout(() => socket.destroy(), refusedFor).unref()
    }
    this.bySocket.set(socket, connection)
    socket.once('close', () => {
      this.bySocket.delete(socket)
      if (typeof taken === 'string') this.refused--
      else taken()
    })
  }

  of(socket: Socket): Connection | undefined {
    return this.bySocket.get(socket)
  }

  /** How to give it back, or why there is none to be had. */
  take(share: Share, caller: Caller | null): (() => void) | string {
    const uid = caller?.uid ?? unknown
    const used = this.used[share]
    const own = used.get(uid) ?? 0
    const ofRoot = used.get(0) ?? 0
    let all = 0
    for (const count of used.values()) all += count
    const { all: mostOfAll, others, one } = most[share]
    if (all >= mostOfAll) return full(share, mostOfAll)
    if (uid !== 0 && own >= one) return `${full(share, one)} for this user`
    if (uid !== 0 && all - ofRoot >= others) return `${full(share, others)} for others than root`
    used.set(uid, own + 1)
    return () => {
      const left = (used.get(uid) ?? 1) - 1
      if (left > 0) used.set(uid, left)
      else used.delete(uid)
    }
  }

  /** Whether so much waits already that this caller gets no answer. */
  isFull(caller: Caller | null): boolean {
    if (caller?.uid === 0) return false
    let waiting = 0
    for (const { socket, caller, held } of this.bySocket.values())
      if (caller?.uid !== 0) waiting += held + socket.writableLength
    return waiting >= this.limits.unsent
  }

  close(): void {
    clearInterval(this.timer)
  }

  private endStalled(): void {
    const now = performance.now()
    for (const connection of this.bySocket.values()) {
      const { socket } = connection
      const taken = socket.bytesWritten - socket.writableLength
      if (socket.writableLength === 0 || taken !== connection.taken) {
        connection.taken = taken
        connection.since = now
      } else if (now - connection.since >= this.limits.stalled) {
        socket.destroy()
      }
    }
  }
}

const unknown = -1

function full(share: Share, count: number): string {
  switch (share) {
    case 'connections':
      return `${count} connections are open already`
    case 'lists':
      return `${count} lists are being sent already`
    case 'monitors':
      return `${count} monitors are running already`
  }
}

/** node:net has no public descriptor; without one nobody is known. */
function callerOf(socket: Socket): Caller | null {
  const fd = (socket as Socket & { _handle?: { fd?: number } })._handle?.fd
  if (fd === undefined || fd < 0) return null
  try {
    return native().peerCredentials(fd)
  } catch {
    return null
  }
}
