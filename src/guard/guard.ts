// The guard: refuses iptables writes in the network namespace this process
// runs in, judged by the socket's namespace, and reports each attempt.
//
// Invariants
// - A backend is in use only when it was seen to refuse (backend.ts).
// - What refuses is pinned or held by others: it outlives this process, and
//   goes only by stop({remove: true}) or Guard.remove().
// - The cookie of the namespace is written last: until then nothing is judged.
// - Each attempt is reported once: what a hook reported, watching does not
//   report again.

import { join } from 'node:path'
import type {
  GuardAllowRequest,
  GuardBackendName,
  GuardControl,
  GuardEventRow,
  GuardMode,
  GuardPresentRow,
  GuardStatus
} from '../control/guard-api.js'
import type { Logger } from '../log.js'
import { type BpfObject, type NetfilterSocket, native } from '../native.js'
import { backendNames, type Chosen, chooseBackend, removePins } from './backend.js'
import { cgroupRoot, legacyHierarchies } from './cgroups.js'
import { defaultExemptions } from './defaults.js'
import { type Exemption, Exemptions, type TimedAllowance, unitSubject, words } from './exemptions.js'
import { Journal } from './journal.js'
import { controlOffset, countRow, kindCode, modeCode, u32, u64 } from './layout.js'
import { LegacyReader, presentRules } from './legacy.js'
import { GuardLines } from './lines.js'
import { Observer } from './observer.js'
import { OwnedTables } from './owned-tables.js'
import { Presence } from './presence.js'
import { countRules, watchTransactions } from './watch.js'

export interface GuardOptions {
  /** On a bpffs; the guard keeps to guard/ in it. */
  pinDirectory: string
  runDirectory: string
  mode: GuardMode
  backend: 'auto' | GuardBackendName
  /** Take away what could not be refused, where removal.ts allows it. */
  remove: boolean
  allow: { defaults: boolean; units: string[]; cgroups: string[]; executables: string[] }
  /** What commands allowed an earlier daemon's guard, and has not ended. */
  allowed?: TimedAllowance[]
  /** After a command: what is to hold also for the next daemon. */
  onCommand?(said: { mode: GuardMode; allowed: TimedAllowance[] }): void
  log: Logger
}

const watchInterval = 500
/** Of looks: whether the owned tables stand. */
const looksPerProof = 4

export class Guard implements GuardControl {
  readonly #options: GuardOptions
  readonly #chosen: Chosen
  readonly #object: BpfObject | null
  readonly #socket: NetfilterSocket
  readonly #journal = new Journal()
  readonly #exemptions: Exemptions | null
  readonly #legacy: LegacyReader
  readonly #tables: OwnedTables
  readonly #present: GuardPresentRow[]
  readonly #presence: Presence
  readonly #observer: Observer
  readonly #closers: (() => void)[] = []
  /** A program that tries the same over and over is told of in sum; every attempt is an event. */
  readonly #lines: GuardLines
  #looks = 0
  /** Why owned tables that have gone could not be taken again. */
  #untaken: string | null = null
  #mode: GuardMode
  /** Backend cgroup: the exemption for whose sake no table is owned. */
  #unownedFor: string | null = null

  /**
   * Chooses a backend, proves it and guards. Rejects only when the kernel
   * lacks what all backends need; when none refuses, status() says so and
   * rules that appear are still reported.
   */
  static async start(options: GuardOptions): Promise<Guard> {
    const candidates = options.backend === 'auto' ? backendNames : [options.backend]
    const chosen = chooseBackend(join(options.pinDirectory, 'guard'), candidates)
    return new Guard(options, chosen)
  }

  /** Removes all that an earlier guard left, without starting one. */
  static remove({ pinDirectory, runDirectory }: { pinDirectory: string; runDirectory: string }): void {
    removePins(join(pinDirectory, 'guard'))
    new OwnedTables(runDirectory).release()
  }

  private constructor(options: GuardOptions, chosen: Chosen) {
    this.#options = options
    this.#chosen = chosen
    this.#object = chosen.object
    this.#mode = options.mode
    this.#lines = new GuardLines(options.log)
    this.#socket = native().openNetfilter(false)
    this.#legacy = new LegacyReader(this.#socket)
    this.#tables = new OwnedTables(options.runDirectory)
    this.#present = this.#findPresent()
    this.#exemptions = chosen.object && new Exemptions(chosen.object, configured(options.allow), options.allowed)
    this.#presence = new Presence(cgroupRoot(), legacyHierarchies(), () => this.#makeWay())
    this.#presence.follow(this.#exemptions?.subjects() ?? [])
    this.#observer = new Observer({
      backend: chosen.name,
      witnessed: chosen.witness?.name != null,
      remove: options.remove,
      socket: this.#socket,
      legacy: this.#legacy,
      journal: this.#journal,
      exemptions: this.#exemptions,
      mode: () => this.#mode,
      onExemptRefused: (exemption) => this.#giveUpTables(exemption)
    })
    this.#watch()
    this.#arm()
    this.#sayHow()
  }

  status(): GuardStatus {
    const counts = this.#counts()
    return {
      mode: this.#mode,
      backend: this.#chosen.name,
      refuses: this.#refuses(),
      why: this.#why(),
      backends: this.#chosen.tried,
      witness: this.#chosen.witness,
      counts: { ...counts, appeared: this.#observer.appeared },
      tables: this.#tables.rows(),
      unownedFor: this.#unownedFor,
      allowances: this.#exemptions?.rows((subject) => this.#presence.exists(subject)) ?? [],
      present: this.#present,
      last: this.#journal.recent(1)[0] ?? null
    }
  }

  /** Holds for the next write; no event is lost. */
  setMode(mode: GuardMode): void {
    this.#changeMode(mode)
    this.#tellCommand()
  }

  #changeMode(mode: GuardMode): void {
    // what was in the way may be gone, e.g. a table of somebody's
    if (mode === this.#mode) return this.#arm()
    if (this.#mode === 'off') this.#observer.beginHere()
    this.#mode = mode
    this.#observer.forgetSightings()
    this.#arm()
    this.#options.log.info(`the guard's mode is ${mode} now`)
  }

  /** A second call for the same name replaces the first. */
  allow(request: GuardAllowRequest): void {
    if (!this.#exemptions) throw new Error('nothing is guarded: no backend works here')
    this.#exemptions.allow(request)
    this.#exemptionsChanged()
    this.#tellCommand()
  }

  deny(request: GuardAllowRequest): boolean {
    this.#observer.forgetSightings()
    const done = this.#exemptions?.deny(request) ?? false
    if (done) this.#exemptionsChanged()
    if (done) this.#tellCommand()
    return done
  }

  #tellCommand(): void {
    this.#options.onCommand?.({ mode: this.#mode, allowed: this.#exemptions?.timed ?? [] })
  }

  /** Calls listener for each event until the returned function is called. */
  events(listener: (event: GuardEventRow) => void): () => void {
    return this.#journal.listen(listener)
  }

  /** Newest last. */
  recentEvents(limit: number): GuardEventRow[] {
    return this.#journal.recent(limit)
  }

  /** remove: nothing of the guard stays; else it goes on refusing without this process. */
  async stop(options: { remove: boolean }): Promise<void> {
    for (const close of this.#closers.splice(0)) close()
    this.#journal.flush()
    this.#lines.close()
    try {
      if (options.remove) this.#remove()
      else this.#tables.leave()
    } finally {
      this.#object?.close()
      this.#socket.close()
    }
  }

  /** All that can be, also where something of it fails. */
  #remove(): void {
    try {
      this.#object?.writeControl(controlOffset.mode, u32(modeCode.off))
    } finally {
      try {
        removePins(join(this.#options.pinDirectory, 'guard'))
      } finally {
        this.#tables.release()
      }
    }
  }

  #arm(): void {
    const object = this.#object
    if (!object) return
    object.writeControl(controlOffset.mode, u32(modeCode[this.#mode]))
    object.writeControl(controlOffset.namespaceCookie, u64(this.#socket.cookie))
    if (this.#chosen.name === 'cgroup') this.#holdTables()
  }

  #exemptionsChanged(): void {
    this.#presence.follow(this.#exemptions?.subjects() ?? [])
    if (this.#chosen.name === 'cgroup') this.#holdTables()
  }

  /** Owns tables in mode enforce, and only while nobody is about who may write there. */
  #holdTables(): void {
    const expected = this.#mode === 'enforce' ? this.#expectedWriter() : null
    if (expected !== null) return this.#giveUpTables(expected)
    this.#unownedFor = null
    // What take() writes is refused where an earlier daemon's socket owns the table: nobody's attempt.
    this.#publishTables([])
    if (this.#mode === 'enforce') this.#tables.take()
    else this.#tables.release()
    this.#publishTables(this.#tables.keys())
  }

  /** An exempt writer has appeared: it must not be refused, not even once. */
  #makeWay(): void {
    if (this.#chosen.name !== 'cgroup' || this.#mode !== 'enforce' || this.#unownedFor !== null) return
    const there = this.#exemptions?.subjects().find((subject) => this.#presence.exists(subject))
    if (there) this.#giveUpTables(words(there))
  }

  /** Until the mode or the exemptions change: a writer that is gone for a moment finds its way free. */
  #giveUpTables(exemption: string): void {
    if (this.#unownedFor !== null) return
    this.#unownedFor = exemption
    this.#publishTables([])
    this.#tables.release()
    this.#options.log.warn(this.#why() ?? '')
  }

  #expectedWriter(): string | null {
    const expected = this.#exemptions?.subjects().find((subject) => this.#presence.isExpected(subject))
    return expected ? words(expected) : null
  }

  /** For the witness: who writes there will be refused. */
  #publishTables(keys: Buffer[]): void {
    const known = this.#object?.map('owned_tables')
    if (!known) return
    const before = known.dump()
    if (before.count > 0) known.deleteBatch(before.keys, before.count)
    for (const key of keys) known.update(key, u32(1))
  }

  /** Also tells the programs which legacy policies stood before. */
  #findPresent(): GuardPresentRow[] {
    const legacy = this.#legacy.tables()
    const policies = this.#object?.map('legacy_policies')
    for (const { system, table, otherPolicies } of legacy) {
      const key = Buffer.alloc(36)
      key.writeUInt32LE(kindCode[system])
      key.write(table, 4)
      policies?.update(key, u32(otherPolicies))
    }
    this.#legacy.added()
    const native = [...countRules(this.#socket)].map(([key, rules]): GuardPresentRow => {
      const [family = '', table = ''] = key.split(' ')
      return { system: 'nftables', family, table, rules }
    })
    return [...native, ...presentRules(legacy)]
  }

  #watch(): void {
    const object = this.#object
    if (object) {
      const ring = native().readRing(object.map('guard_events'), (records) => this.#observer.records(records))
      this.#closers.push(() => ring.close())
    }
    const watch = watchTransactions(
      (transaction) => this.#observer.transaction(transaction),
      () => {
        this.#observer.lost()
        this.#options.log.warn('missed notices of nf_tables: rules may have appeared unseen; see nft list ruleset')
      }
    )
    const timer = setInterval(() => this.#look(), watchInterval)
    timer.unref()
    this.#closers.push(
      () => watch.close(),
      () => this.#presence.close(),
      () => clearInterval(timer)
    )
    this.#closers.push(this.#journal.listen((event) => this.#lines.write(event)))
  }

  /** Every half second. */
  #look(): void {
    this.#presence.refresh()
    if (this.#exemptions?.refresh()) this.#exemptionsChanged()
    else this.#makeWay()
    this.#observer.look()
    if (++this.#looks % looksPerProof === 0) this.#lookAtTables()
  }

  /** Their keeper may have been ended, and others have made them since. */
  #lookAtTables(): void {
    try {
      if (this.#untaken === null && this.#tables.stands(this.#socket)) return
      this.#options.log.warn('tables of iptables-nft that the guard owned have gone; it takes them again')
      this.#publishTables([])
      this.#tables.release()
      this.#holdTables()
      this.#untaken = null
    } catch (error) {
      const { message } = error as Error
      if (message !== this.#untaken)
        this.#options.log.warn(`the tables of iptables-nft could not be taken: ${message}; it is tried again by itself`)
      this.#untaken = message
    }
  }

  #refuses(): GuardStatus['refuses'] {
    if (this.#mode !== 'enforce' || this.#chosen.name === null) return 'nothing'
    if (this.#chosen.name !== 'cgroup') return 'all writes'
    return this.#tables.rows().some(({ owned }) => owned) ? 'iptables writes' : 'iptables-legacy writes'
  }

  #counts(): Omit<GuardStatus['counts'], 'appeared'> {
    const map = this.#object?.map('guard_counts')
    const sum = (row: number) => {
      const values = map?.lookup(u32(row))
      let total = 0n
      for (let at = 0; values && at + 8 <= values.length; at += 8) total += values.readBigUInt64LE(at)
      return Number(total)
    }
    return {
      refused: sum(countRow.refused),
      audited: sum(countRow.audited),
      exempt: sum(countRow.exempt),
      removals: sum(countRow.removals),
      lost: sum(countRow.lost)
    }
  }

  #why(): string | null {
    if (this.#chosen.name === null)
      return 'no backend refuses writes on this kernel: rules that appear are only reported'
    if (this.#unownedFor !== null)
      return `nf_tables writes are only reported: ${this.#unownedFor} may write there, and would be refused as well if the guard owned the tables of iptables-nft`
    const foreign = this.#tables.rows().filter(({ owned }) => !owned)
    if (foreign.length === 0) return null
    const names = foreign.map(({ family, table }) => `${family} ${table}`).join(', ')
    return `these tables of iptables-nft are not owned by the guard, what is written there is reported, not refused: ${names}`
  }

  #sayHow(): void {
    const { log } = this.#options
    for (const { name, state, why } of this.#chosen.tried)
      if (state === 'failed') log.info(`the guard's backend ${name} is not used: ${why}`)
    const why = this.#why()
    if (why !== null && this.#unownedFor === null) log.warn(why)
    if (this.#chosen.name) log.info(`the guard's backend is ${this.#chosen.name}, its mode ${this.#mode}`)
    for (const { system, family, table, rules } of this.#present)
      log.warn(`${rules} ${system} rules were there before the guard, in ${family} ${table}`)
  }
}

function configured({ defaults, units, cgroups, executables }: GuardOptions['allow']): Exemption[] {
  const source = 'configuration'
  return [
    ...(defaults ? defaultExemptions : []).map((subject): Exemption => ({ ...subject, source: 'default' })),
    ...units.map((unit): Exemption => ({ ...unitSubject(unit), source })),
    ...cgroups.map((name): Exemption => ({ kind: 'cgroup', name, source })),
    ...executables.map((name): Exemption => ({ kind: 'executable', name, source }))
  ]
}
