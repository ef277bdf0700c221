// Keeping State equal to the kernel: subscribe, dump, replay, follow.
//
//   reader thread ──chunks──▶ queue ──slices──▶ State ──▶ pending ──▶ onChanges
//   dump socket  ──chunks──▶ Replacement ──difference──▶ State
//
// Invariants:
// - Events go on being applied and published while routes are dumped, which may
//   take seconds: State takes them into account when it compares (its
//   replacement.ts). During dumps of other tables, and the first one of all, they
//   wait in the queue and are replayed after it; then nothing is published
//   between the first byte of the dump and the end of that replay, so nobody sees
//   a table older than one shown before.
// - The tables are never emptied: a dump is taken in as a difference, and one
//   that failed or was interrupted is dropped and repeated. Where IPv6 routes
//   change without a pause, what several interrupted ones show together counts
//   until one is whole.
// - What State did on its own account is published at once and confirmed by a
//   dump later; what it cannot tell is dumped at once.
// - While somebody reads State in slices (`readers`) it stands still: events, and
//   what a dump has shown, wait.
// - No slice of work holds the event loop for more than about 10 ms.
// - Everything happens in the network namespace of the process.

import { native } from '../native.js'
import { clearChanges, hasChanges, mergeChanges, noChanges } from '../state/changes.js'
import { type DumpKind, dumpKinds, type RoutePart } from '../state/messages.js'
import { type Replacement, State } from '../state/state.js'
import type { Changes } from '../state/types.js'
import type { Turns } from '../turns.js'
import { type MessageCursor, messagesOf } from './bytes.js'
import { joinedGroups } from './constants.js'
import { type DecodeCounters, decodeRoutes, nextFact } from './decode.js'
import { DumpInbox, RouteInbox } from './dump-inbox.js'
import { dumpRequests } from './dumps.js'
import { Slice } from './slice.js'

export interface SyncStatus {
  state: 'starting' | 'synced' | 'resyncing'
  /** Milliseconds since the epoch of the end of the last dump and its replay; 0 never. */
  lastSync: number
  /** How often the kernel dropped events (ENOBUFS). */
  overruns: number
  /** Dumps completed, one for each table. */
  dumps: number
  /** Dumps that were not whole because the table changed meanwhile. */
  interrupted: number
  /** Messages that could not be read. */
  malformed: number
  /** Messages of types that nobody here decodes. */
  unknown: number
  /** Events applied. */
  events: number
  /** The last failure of a dump or of a listener, in a sentence. */
  lastError: string | null
}

export interface SyncOptions {
  /** Something changed in State. The first call, with `all`, says that State is complete. The object is the callee's. Who fails is told again with the next change. */
  onChanges(changes: Changes): Promise<void> | void
  /** Work that goes through State in slices. Absent: nobody does. */
  readers?: Pick<Turns, 'busy' | 'idle'>
  /** `state` of the status became another. */
  onStatus?(status: SyncStatus): void
  log?(level: 'info' | 'warning' | 'error', message: string): void
  /** Bytes of the socket's receive buffer; 64 MiB hold about 100,000 events. */
  receiveBuffer?: number
}

export interface Sync {
  readonly state: State
  status(): SyncStatus
  /** Dumps all tables again and applies the differences. */
  resync(): void
  /** Stops; nothing is called afterwards. Resolves when a dump in flight has ended. */
  close(): Promise<void>
}

/** Least distance of two onChanges while busy; a callee that takes longer before it returns gets no more than half of the time. */
const publishInterval = 1
/** Of work that events are not to wait for. */
const shortSlice = 2
/** Of events: publishing comes on top. */
const eventSlice = 4
/** Of a dump, before the clock is looked at. */
const routesAtOnce = 256
const interruptedAttempts = 5
const retryMilliseconds = 1000
/** After dumps that together may still lack a route. */
const longestRetry = 60_000
/** Needs that come together (a link goes, its addresses go) are met by one dump. */
const gatherMilliseconds = 5
const longestDumpPause = 2000
/** A dump that only confirms waits until its predecessor's time is 1/50 of what has passed. */
const confirmPauses = 50
const leastConfirmPause = 100
const longestConfirmPause = 300_000
/** A storm overruns and interrupts many times a second. */
const logInterval = 10_000

/** Starts to follow. Throws NativeError if the socket cannot be opened; all later failures are logged, counted and retried. */
export function startSync(options: SyncOptions): Sync {
  const sync = new SyncLoop(options)
  sync.start()
  return sync
}

class SyncLoop implements Sync {
  readonly state = new State()
  private readonly counters: DecodeCounters = { malformed: 0, unknown: 0 }
  private readonly counts = { overruns: 0, dumps: 0, interrupted: 0, events: 0 }
  private phase: SyncStatus['state'] = 'starting'
  private lastSync = 0
  private lastError: string | null = null
  private reader: { close(): void } | null = null
  private closed = false

  private queue: Buffer[] = []
  private readonly wanted = new Set<DumpKind>(dumpKinds)
  /** Kinds never dumped yet. */
  private readonly missing = new Set<DumpKind>(dumpKinds)
  /** performance.now() before which no dump starts. */
  private dumpNotBefore = 0
  private working: Promise<void> | null = null
  private applying: Promise<void> | null = null
  /** Routes are dumped, and events applied meanwhile. */
  private following = false
  private workTimer: NodeJS.Timeout | null = null
  /** Between the begin of a dump that events wait for, and the end of their replay. */
  private settling = false

  private overrunLogged = Number.NEGATIVE_INFINITY
  private interruptLogged = Number.NEGATIVE_INFINITY
  /** Times in a row that no dump of IPv6 routes was whole. */
  private unquiet = 0
  private quietTimer: NodeJS.Timeout | null = null
  private confirmTimer: NodeJS.Timeout | null = null
  /** performance.now() before which no dump is made only to confirm. */
  private confirmNotBefore = 0

  private pending = noChanges()
  /** performance.now() before which nothing is published. */
  private publishNotBefore = 0
  private publishTimer: NodeJS.Timeout | null = null

  constructor(private readonly options: SyncOptions) {}

  start(): void {
    const receiveBuffer = this.options.receiveBuffer ?? 64 << 20
    this.reader = native().openNetlinkReader({ groups: joinedGroups, receiveBuffer }, (messages, overrun) => {
      if (this.closed) return
      if (messages.length > 0) this.queue.push(messages)
      if (overrun) this.noteOverrun()
      this.wake()
    })
    this.wake()
  }

  status(): SyncStatus {
    const { phase, lastSync, lastError, counts, counters } = this
    return { state: phase, lastSync, ...counts, malformed: counters.malformed, unknown: counters.unknown, lastError }
  }

  resync(): void {
    this.want(dumpKinds)
    this.wake()
  }

  async close(): Promise<void> {
    this.closed = true
    this.reader?.close()
    if (this.workTimer) clearTimeout(this.workTimer)
    if (this.publishTimer) clearTimeout(this.publishTimer)
    if (this.quietTimer) clearTimeout(this.quietTimer)
    if (this.confirmTimer) clearTimeout(this.confirmTimer)
    await this.working
  }

  private noteOverrun(): void {
    this.counts.overruns++
    const now = performance.now()
    if (now - this.overrunLogged > logInterval) {
      this.overrunLogged = now
      this.logOverrun()
    }
    this.want(dumpKinds)
  }

  private logOverrun(): void {
    this.log('warning', 'the kernel dropped netlink events (receive buffer full): dumping all tables again')
  }

  private want(kinds: Iterable<DumpKind>): void {
    const earliest = performance.now() + gatherMilliseconds
    for (const kind of kinds) {
      if (this.wanted.size === 0 && this.dumpNotBefore < earliest) this.dumpNotBefore = earliest
      this.wanted.add(kind)
    }
    if (this.wanted.size > 0) this.enter(this.missing.size > 0 ? 'starting' : 'resyncing')
  }

  /** Makes sure that somebody works on the queue and on wanted dumps. */
  private wake(): void {
    if (this.closed) return
    if (this.following) void this.applyArrived()
    if (this.working) return
    if (this.workTimer) clearTimeout(this.workTimer)
    this.workTimer = null
    this.working = this.work()
      .catch((error: unknown) => this.fail('the sync loop failed', error))
      .finally(() => {
        this.working = null
        this.sleep()
      })
  }

  /** After work: comes back when the next dump is due, at once if events came in the last moment. */
  private sleep(): void {
    if (this.closed) return
    if (this.queue.length > 0 && this.missing.size === 0) this.wake()
    else if (this.wanted.size > 0 && !this.workTimer) {
      const wait = Math.max(1, Math.ceil(this.dumpNotBefore - performance.now()))
      this.workTimer = setTimeout(() => {
        this.workTimer = null
        this.wake()
      }, wait)
    }
  }

  private async work(): Promise<void> {
    while (!this.closed) {
      if (this.wanted.size > 0 && performance.now() >= this.dumpNotBefore) await this.dumpWanted()
      else if (this.queue.length > 0 && this.missing.size === 0) await this.applyQueue(false)
      else break
    }
  }

  /** One round: dumps of all wanted kinds, and the events that come meanwhile. */
  private async dumpWanted(): Promise<void> {
    const first = this.missing.size > 0
    this.settling = true
    // what came before a gap must not be replayed over the dump that closes it
    if (!first) await this.applyQueue(false)
    const kinds = dumpKinds.filter((kind) => this.wanted.has(kind))
    const begin = performance.now()
    this.wanted.clear()
    this.state.needsDump.clear()
    for (const kind of kinds) this.state.doubts.delete(kind)
    const failed = new Set<DumpKind>()
    for (const kind of kinds) {
      if (this.closed) return
      const follows = !first && (kind === 'routes4' || kind === 'routes6')
      if (follows) this.follow()
      const outcome = await this.dumpKind(kind, first)
      this.following = false
      this.settling = true
      if (!first) await this.applyQueue(true)
      if (outcome !== 'failed') this.missing.delete(kind)
      if (outcome === 'failed') failed.add(kind)
      if (kind === 'routes6') this.noteUnquiet(outcome === 'united')
    }
    if (first) await this.applyQueue(true)
    this.settling = false
    const end = performance.now()
    this.dumpNotBefore = Math.max(this.dumpNotBefore, end + Math.min(4 * (end - begin), longestDumpPause))
    this.confirmNotBefore = end + Math.min(confirmPauses * (end - begin), longestConfirmPause)
    if (failed.size > 0) {
      this.want(failed)
      this.dumpNotBefore = end + retryMilliseconds
    }
    this.finishRound()
  }

  private follow(): void {
    this.settling = false
    this.following = true
    this.publishSoon()
    void this.applyArrived()
  }

  /** What comes while routes are dumped, at once. */
  private async applyArrived(): Promise<void> {
    if (this.applying) return
    try {
      while (this.following && this.queue.length > 0 && !this.closed) await this.applyQueue(false)
    } catch (error) {
      this.fail('the sync loop failed', error)
    }
  }

  /** What State did without a message is confirmed by a dump, when that costs little. */
  private confirmSoon(): void {
    if (this.confirmTimer || this.state.doubts.size === 0) return
    const wait = Math.max(leastConfirmPause, this.confirmNotBefore - performance.now())
    this.confirmTimer = setTimeout(() => {
      this.confirmTimer = null
      this.want(this.state.doubts)
      this.wake()
    }, wait)
  }

  /** IPv6 routes are dumped again later, without holding up other dumps. */
  private noteUnquiet(united: boolean): void {
    if (this.quietTimer) clearTimeout(this.quietTimer)
    this.quietTimer = null
    this.unquiet = united ? this.unquiet + 1 : 0
    if (!united) return
    const wait = Math.min(retryMilliseconds * 2 ** (this.unquiet - 1), longestRetry)
    this.quietTimer = setTimeout(() => {
      this.quietTimer = null
      this.want(['routes6'])
      this.wake()
    }, wait)
  }

  private finishRound(): void {
    if (this.missing.size > 0 || this.closed) return
    this.lastSync = Date.now()
    if (this.phase === 'starting') this.pending.all = true
    if (this.wanted.size === 0 && this.unquiet === 0) this.enter('synced')
    else this.enter('resyncing')
    this.publish()
  }

  /**
   * Dumps one table into State. 'failed': it could not be had now, State is as
   * it was. 'united': IPv6 routes change so fast that no dump is whole, so State
   * has what several show together.
   */
  private async dumpKind(kind: DumpKind, first: boolean): Promise<'whole' | 'united' | 'failed'> {
    const replacement = this.state.beginReplace(kind, first)
    const changes = noChanges()
    try {
      let whole = false
      for (let attempt = 1; attempt <= interruptedAttempts && !whole && !this.closed; attempt++) {
        if (attempt > 1) {
          replacement.again()
          await delay(5 * 2 ** (attempt - 1))
        }
        whole = await this.dumpOnce(kind, replacement)
        if (!whole) this.counts.interrupted++
      }
      if (this.closed) return 'failed'
      if (!whole) this.logInterrupted(kind)
      if (!whole && kind !== 'routes6') return 'failed'
      const slice = new Slice(this.following ? shortSlice : undefined)
      while (this.isRead) await this.readersGone()
      const steps = whole ? replacement.finish(changes) : replacement.unite(changes)
      for (const _ of steps) {
        if (!slice.due(true)) continue
        this.take(changes)
        await slice.rest()
        while (this.isRead) await this.readersGone()
        slice.start()
      }
      this.counts.dumps++
      return whole ? 'whole' : 'united'
    } catch (error) {
      this.fail(`cannot dump ${kind}, trying again in a second`, error)
    } finally {
      replacement.drop()
      this.take(changes)
    }
    return 'failed'
  }

  private gather(changes: Changes): void {
    mergeChanges(this.pending, changes)
    clearChanges(changes)
  }

  /** Changes that a dump has brought so far. */
  private take(changes: Changes): void {
    this.gather(changes)
    if (this.following) this.publishSoon()
  }

  private logInterrupted(kind: DumpKind): void {
    if (performance.now() - this.interruptLogged < logInterval) return
    this.interruptLogged = performance.now()
    const what = `the dump of ${kind} was interrupted ${interruptedAttempts} times by changes`
    this.log(
      'warning',
      kind === 'routes6' ? `${what}: taken together, and made again later` : `${what}: made again in a second`
    )
  }

  /** false: the table changed meanwhile, or closed. */
  private async dumpOnce(kind: DumpKind, replacement: Replacement): Promise<boolean> {
    const slice = new Slice(this.following ? shortSlice : undefined)
    for (const request of dumpRequests(kind)) {
      const dump =
        kind === 'routes4' || kind === 'routes6'
          ? await this.takeRoutes(kind === 'routes4' ? 4 : 6, new RouteInbox(request), replacement, slice)
          : await this.takeMessages(new DumpInbox(request), replacement, slice)
      if (dump.failure) throw dump.failure
      if (dump.interrupted || this.closed) return false
    }
    return true
  }

  /** All of the dump. */
  private async takeMessages(dump: DumpInbox, replacement: Replacement, slice: Slice): Promise<DumpInbox> {
    for (let chunk = await dump.next(); chunk; chunk = await dump.next()) {
      const cursor = messagesOf(chunk)
      for (let fact = this.fact(cursor); fact; fact = this.fact(cursor)) {
        replacement.add(fact)
        if (slice.due()) await slice.rest()
      }
    }
    return dump
  }

  private async takeRoutes(
    family: RoutePart['family'],
    dump: RouteInbox,
    replacement: Replacement,
    slice: Slice
  ): Promise<RouteInbox> {
    for (let chunk = await dump.next(); chunk; chunk = await dump.next()) {
      const part = decodeRoutes(family, chunk, this.counters)
      const count = part.records.length / (family === 4 ? 2 : 5)
      for (let from = 0; from < count; from += routesAtOnce) {
        replacement.addPart(part, from, Math.min(from + routesAtOnce, count))
        if (slice.due(true)) await slice.rest()
      }
    }
    return dump
  }

  private fact(cursor: MessageCursor): ReturnType<typeof nextFact> {
    return nextFact(cursor, this.counters)
  }

  /** Applies what is in the queue now, after whoever does so already. Live events are published as they go; replayed ones by the caller. */
  private async applyQueue(replaying: boolean): Promise<void> {
    while (this.applying) await this.applying.catch(() => {})
    this.applying = this.applyChunks(replaying)
    try {
      await this.applying
    } finally {
      this.applying = null
    }
  }

  private async applyChunks(replaying: boolean): Promise<void> {
    while (this.isRead) await this.readersGone()
    const chunks = this.queue
    this.queue = []
    const slice = new Slice(eventSlice)
    const changes = noChanges()
    const rest = async () => {
      this.gather(changes)
      if (!replaying) this.publishSoon()
      await slice.rest()
      while (this.isRead) await this.readersGone()
      slice.start()
    }
    try {
      for (const chunk of chunks) {
        const cursor = messagesOf(chunk)
        for (let fact = this.fact(cursor); fact && !this.closed; fact = this.fact(cursor)) {
          for (const _ of this.state.applying(fact, changes, replaying)) if (slice.due(true)) await rest()
          this.counts.events++
          if (slice.due()) await rest()
        }
      }
    } finally {
      this.gather(changes)
    }
    if (this.state.needsDump.size > 0) {
      this.want(this.state.needsDump)
      this.state.needsDump.clear()
    }
    this.confirmSoon()
    if (!replaying) this.publishSoon()
  }

  private get isRead(): boolean {
    return this.options.readers?.busy ?? false
  }

  private readersGone(): Promise<void> | undefined {
    return this.options.readers?.idle()
  }

  private publishSoon(): void {
    if (this.publishTimer || !hasChanges(this.pending)) return
    const wait = this.publishNotBefore - performance.now()
    if (wait <= 0) this.publish()
    else this.publishTimer = setTimeout(() => this.publish(), Math.ceil(wait))
  }

  private publish(): void {
    if (this.publishTimer) clearTimeout(this.publishTimer)
    this.publishTimer = null
    if (this.closed || this.settling || !hasChanges(this.pending)) return
    const changes = this.pending
    this.pending = noChanges()
    const begin = performance.now()
    void this.tell(changes)
    const end = performance.now()
    this.publishNotBefore = end + Math.max(publishInterval, end - begin)
  }

  private async tell(changes: Changes): Promise<void> {
    try {
      await this.options.onChanges(changes)
    } catch (error) {
      this.fail('a change could not be processed', error)
      mergeChanges(this.pending, changes)
    }
  }

  private enter(phase: SyncStatus['state']): void {
    if (phase === this.phase) return
    this.phase = phase
    this.options.onStatus?.(this.status())
  }

  private fail(what: string, error: unknown): void {
    this.lastError = `${what}: ${error instanceof Error ? error.message : String(error)}`
    this.log('error', this.lastError)
  }

  private log(level: 'info' | 'warning' | 'error', message: string): void {
    this.options.log?.(level, message)
  }
}

function delay(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds))
}
