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
import type { Logger } from 'pino'
import type {
  GuardAllowRequest,
  GuardBackendName,
  GuardControl,
  GuardEventRow,
  GuardMode,
  GuardPresentRow,
  GuardStatus
} from '../control/guard-api.js'
import { type BpfObject, type NetfilterSocket, native } from '../native.js'
import { attribute as attributeEvent, executableOf } from './attribution.js'
import { backendNames, type Chosen, chooseBackend, removePins } from './backend.js'
import { cgroupOfProcess, unitOf } from './cgroups.js'
import { bootTimeNow, Exemptions } from './exemptions.js'
import { Journal, sentence } from './journal.js'
import { controlOffset, countRow, decodeEvent, kindCode, modeCode, type RawEvent, u32, u64 } from './layout.js'
import { LegacyReader, presentRules } from './legacy.js'
import { OwnedTables } from './owned-tables.js'
import {
  type Appearance,
  countRules,
  findStanding,
  remove,
  type Standing,
  type TransactionWatch,
  watchTransactions
} from './watch.js'
import { Sightings } from './witness.js'

export interface GuardOptions {
  /** On a bpffs; the guard keeps to guard/ in it. */
  pinDirectory: string
  runDirectory: string
  mode: GuardMode
  backend: 'auto' | GuardBackendName
  allow: { units: string[]; executables: string[] }
  log: Logger
}

const watchInterval = 500
/** A hook's report and the kernel's notice of the same write come by different ways. */
const settleTime = 150
const rememberedTime = 5000

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
  readonly #standing: Standing
  /** Threads whose writes a hook has reported or let through, until when; and legacy tables likewise. */
  readonly #reported = new Map<string, number>()
  readonly #sightings = new Sightings()
  readonly #closers: (() => void)[] = []
  #mode: GuardMode
  #appeared = 0

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
    this.#socket = native().openNetfilter(false)
    this.#legacy = new LegacyReader(this.#socket)
    this.#tables = new OwnedTables(options.runDirectory)
    this.#standing = findStanding(this.#socket)
    this.#present = this.#findPresent()
    this.#exemptions = chosen.object && new Exemptions(chosen.object)
    for (const unit of options.allow.units) this.#exemptions?.allow({ unit })
    for (const executable of options.allow.executables) this.#exemptions?.allow({ executable })
    this.#watch()
    this.#arm()
    this.#sayHow()
  }

  status(): GuardStatus {
    const counts = this.#counts()
    return {
      mode: this.#mode,
      backend: this.#chosen.name,
      why: this.#why(),
      backends: this.#chosen.tried,
      witness: this.#chosen.witness,
      counts: { ...counts, appeared: this.#appeared },
      tables: this.#tables.rows(),
      allowances: this.#exemptions?.rows() ?? [],
      present: this.#present,
      last: this.#journal.recent(1)[0] ?? null
    }
  }

  /** Holds for the next write; no event is lost. */
  setMode(mode: GuardMode): void {
    if (mode === this.#mode) return
    this.#mode = mode
    this.#sightings.forget()
    this.#arm()
    this.#options.log.info(`the guard's mode is ${mode} now`)
  }

  /** A second call for the same name replaces the first. */
  allow(request: GuardAllowRequest): void {
    if (!this.#exemptions) throw new Error('nothing is guarded: no backend works here')
    this.#exemptions.allow(request)
  }

  deny(request: GuardAllowRequest): boolean {
    this.#sightings.forget()
    return this.#exemptions?.deny(request) ?? false
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
    if (options.remove) {
      this.#object?.writeControl(controlOffset.mode, u32(modeCode.off))
      removePins(join(this.#options.pinDirectory, 'guard'))
      this.#tables.release()
    } else {
      this.#tables.leave()
    }
    this.#object?.close()
    this.#socket.close()
  }

  #arm(): void {
    const object = this.#object
    if (!object) return
    object.writeControl(controlOffset.mode, u32(modeCode[this.#mode]))
    object.writeControl(controlOffset.namespaceCookie, u64(this.#socket.cookie))
    if (this.#chosen.name !== 'cgroup') return
    const known = object.map('owned_tables')
    // What take() writes is refused where an earlier daemon's socket owns the table: nobody's attempt.
    const { keys, count } = known.dump()
    if (count > 0) known.deleteBatch(keys, count)
    if (this.#mode === 'enforce') this.#tables.take()
    else this.#tables.release()
    for (const key of this.#tables.keys()) known.update(key, u32(1))
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
      const ring = native().readRing(object.map('guard_events'), (records) => this.#receive(records))
      this.#closers.push(() => ring.close())
    }
    const watch: TransactionWatch = watchTransactions(
      (appearances) => this.#settle(appearances),
      () => this.#options.log.warn('missed notices of nf_tables: rules may have appeared unseen; see nft list ruleset')
    )
    const timer = setInterval(() => this.#look(), watchInterval)
    timer.unref()
    this.#closers.push(
      () => watch.close(),
      () => clearInterval(timer)
    )
    this.#closers.push(this.#journal.listen((event) => this.#log(event)))
  }

  #log(event: GuardEventRow): void {
    const { verdict, backend, system, family, table, chain, pid, uid, command, executable, cgroup, unit, repeated } =
      event
    const fields = {
      verdict,
      backend,
      system,
      family,
      table,
      chain,
      pid,
      uid,
      command,
      executable,
      cgroup,
      unit,
      repeated
    }
    if (verdict === 'exempt') this.#options.log.info(fields, sentence(event))
    else this.#options.log.warn(fields, sentence(event))
  }

  #receive(records: Buffer[]): void {
    const offset = timeOffset()
    for (const record of records) {
      const raw = decodeEvent(record)
      if (!raw || raw.pid === process.pid) continue
      if (raw.backend === 'cgroup' && raw.system === 'nftables') this.#sightings.add(raw)
      const { verdict } = raw
      if (verdict === 'seen') continue
      if (verdict !== 'refused') this.#remember(raw)
      this.#journal.add({ ...attributeEvent(raw, offset), verdict })
    }
  }

  #remember(raw: RawEvent): void {
    const until = Date.now() + rememberedTime
    this.#reported.set(raw.system === 'nftables' ? `thread ${raw.thread}` : `${raw.system} ${raw.table}`, until)
  }

  #wasReported(key: string): boolean {
    return (this.#reported.get(key) ?? 0) > Date.now()
  }

  /** Every half second: legacy tables, exemptions. */
  #look(): void {
    const now = Date.now()
    for (const [key, until] of this.#reported) if (until < now) this.#reported.delete(key)
    this.#sightings.forgetOld()
    this.#exemptions?.refresh()
    for (const { table, rows } of this.#legacy.added()) {
      if (this.#mode === 'off' || this.#wasReported(`${table.system} ${table.table}`)) continue
      const { system, family, table: name } = table
      this.#appear({ verdict: 'appeared', system, family, table: name, message: 'REPLACE', repeated: rows })
    }
  }

  #settle(appearances: Appearance[]): void {
    const [first] = appearances
    if (!first || this.#mode === 'off' || first.pid === process.pid) return
    // Now, while it may still be alive.
    const writer = {
      command: first.command,
      pid: first.pid,
      cgroup: cgroupOfProcess(first.pid),
      executable: executableOf(first.pid)
    }
    if (this.#chosen.name === 'cgroup') {
      if (this.#chosen.witness?.name == null) this.#judge(appearances, writer)
      else this.#sightings.find(first.pid, (sighting) => this.#judge(appearances, writer, sighting))
      return
    }
    setTimeout(() => {
      if (!this.#wasReported(`thread ${first.pid}`)) this.#report(appearances, [], writer)
    }, settleTime).unref()
  }

  /** Backend cgroup: nothing has refused it. sighting: who it was, and whether the witness has reported it itself. */
  #judge(appearances: Appearance[], living: Writer, sighting: RawEvent | null = null): void {
    if (sighting?.verdict === 'exempt' || sighting?.verdict === 'audited') return
    const writer = sighting ? attributeEvent(sighting, timeOffset()) : living
    const { cgroup = null, executable = null } = living
    if (!sighting && this.#exemptions?.covers(cgroup, executable))
      return this.#report(appearances, [], writer, 'exempt')
    if (this.#mode === 'audit') return this.#report(appearances, [], writer, 'audited')
    this.#report(appearances, remove(this.#socket, appearances, this.#standing), writer)
  }

  /** One event per transaction: of its first rule, or of whatever came first; removed only if all of it went. */
  #report(appearances: Appearance[], removed: boolean[], writer: Writer, verdict?: 'exempt' | 'audited'): void {
    const first = appearances.find(({ message }) => message === 'NEWRULE') ?? appearances[0]
    if (!first) return
    const { family, table, chain, message } = first
    const gone = removed.length > 0 && removed.every((one) => one)
    this.#appear({
      ...writer,
      verdict: verdict ?? (gone ? 'removed' : 'appeared'),
      system: 'nftables',
      family,
      table,
      chain,
      message
    })
  }

  #appear(event: Writer & Pick<GuardEventRow, 'verdict' | 'system' | 'family' | 'table' | 'message'>): void {
    const row = { ...nobody, ...event, time: new Date().toISOString(), position: 0, unit: unitOf(event.cgroup ?? null) }
    if (row.verdict === 'appeared' || row.verdict === 'removed') this.#appeared += row.repeated
    this.#journal.add(row)
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
    const foreign = this.#tables.rows().filter(({ owned }) => !owned)
    if (foreign.length === 0) return null
    const names = foreign.map(({ family, table }) => `${family} ${table}`).join(', ')
    return `these tables of iptables-nft are not owned by the guard, what is written there is removed afterwards: ${names}`
  }

  #sayHow(): void {
    const { log } = this.#options
    for (const { name, state, why } of this.#chosen.tried)
      if (state === 'failed') log.info(`the guard's backend ${name} is not used: ${why}`)
    const why = this.#why()
    if (why !== null) log.warn(why)
    if (this.#chosen.name) log.info(`the guard's backend is ${this.#chosen.name}, its mode ${this.#mode}`)
    for (const { system, family, table, rules } of this.#present)
      log.warn(`${rules} ${system} rules were there before the guard, in ${family} ${table}`)
  }
}

/** Who and what, as far as it is known. */
type Writer = Partial<Omit<GuardEventRow, 'verdict'>>

const nobody = {
  reason: 'write',
  backend: null,
  chain: null,
  pid: 0,
  uid: null,
  command: '',
  arguments: null,
  executable: null,
  cgroup: null,
  repeated: 1
} as const

/** Nanoseconds from CLOCK_BOOTTIME to 1970. */
function timeOffset(): bigint {
  return BigInt(Date.now()) * 1_000_000n - bootTimeNow()
}
