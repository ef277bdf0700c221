// From what is seen to the journal: records of the programs, transactions of
// nf_tables that nothing refused, legacy tables that have grown.
//
// Each write is told once: what a program has reported, watching does not
// report again. Nothing is undone, unless guard.remove says so (removal.ts).

import type { GuardBackendName, GuardEventRow, GuardMode } from '../control/guard-api.js'
import type { NetfilterSocket } from '../native.js'
import { attribute as attributeEvent, executableOf } from './attribution.js'
import { cgroupOfProcess, unitOf } from './cgroups.js'
import { bootTimeNow, type Exemptions } from './exemptions.js'
import type { Journal } from './journal.js'
import { decodeEvent, type RawEvent } from './layout.js'
import type { LegacyReader, LegacyTable } from './legacy.js'
import { Policies } from './policies.js'
import { Removal } from './removal.js'
import { currentGeneration, type Transaction } from './watch.js'
import { Sightings } from './witness.js'

/** A program's report and the kernel's notice of the same write come by different ways. */
const settleTime = 150
/** Longest time from a program's report of a write to the kernel's notice: large rulesets take their time. */
const longestWrite = 60_000

export interface ObserverOptions {
  backend: GuardBackendName | null
  /** Something says who wrote to nf_tables, though it cannot refuse. */
  witnessed: boolean
  remove: boolean
  socket: NetfilterSocket
  legacy: LegacyReader
  journal: Journal
  exemptions: Exemptions | null
  mode: () => GuardMode
  /** An exempt writer was refused by a table that the guard owns. */
  onExemptRefused: (exemption: string) => void
}

export class Observer {
  readonly #options: ObserverOptions
  readonly #removal: Removal | null
  readonly #policies: Policies
  /** Threads whose nf_tables writes a program has reported or let through, until when. */
  readonly #threads = new Map<number, number>()
  /** "system table" → when programs let legacy writes through that have not been seen in the table. */
  readonly #legacyWrites = new Map<string, number[]>()
  readonly #sightings = new Sightings()
  /** Generation of the ruleset; null: all transactions count. */
  #begin: number | null = null
  #appeared = 0

  constructor(options: ObserverOptions) {
    this.#options = options
    this.#policies = new Policies(options.socket)
    this.#removal = options.remove && options.backend === 'cgroup' ? new Removal(options.socket) : null
  }

  get appeared(): number {
    return this.#appeared
  }

  /** What was judged by other rules than now. */
  forgetSightings(): void {
    this.#sightings.forget()
  }

  /** What was written before now, in mode off, is nobody's business, however late its notice comes. */
  beginHere(): void {
    this.#begin = currentGeneration(this.#options.socket)
  }

  /** Transactions were missed. */
  lost(): void {
    this.#removal?.forget()
    this.#policies.readAgain()
  }

  records(records: Buffer[]): void {
    const { journal, exemptions } = this.#options
    const offset = timeOffset()
    for (const record of records) {
      const raw = decodeEvent(record)
      if (!raw || raw.pid === process.pid) continue
      if (raw.backend === 'cgroup' && raw.system === 'nftables') this.#sightings.add(raw)
      const { verdict } = raw
      if (verdict === 'seen') continue
      if (verdict !== 'refused') this.#remember(raw)
      const exemption = exemptions?.named(raw.exemption) ?? null
      journal.add({ ...attributeEvent(raw, offset), verdict, exemption })
      if (verdict === 'refused' && exemption !== null) this.#options.onExemptRefused(exemption)
    }
  }

  transaction(transaction: Transaction): void {
    this.#removal?.note(transaction)
    const onlyZeroes = this.#policies.onlyZeroes(transaction)
    // Numbers of generations wrap around.
    if (this.#begin !== null && ((transaction.generation - this.#begin) | 0) <= 0) return
    if (this.#options.mode() === 'off' || transaction.pid === process.pid || onlyZeroes) return
    // Now, while it may still be alive.
    const writer = {
      command: transaction.command,
      pid: transaction.pid,
      cgroup: cgroupOfProcess(transaction.pid),
      executable: executableOf(transaction.pid)
    }
    if (this.#options.backend === 'cgroup') {
      if (this.#options.witnessed)
        this.#sightings.find(transaction.pid, (sighting) => this.#judge(transaction, writer, sighting))
      else this.#judge(transaction, writer, null)
      return
    }
    setTimeout(() => {
      if ((this.#threads.get(transaction.pid) ?? 0) < Date.now()) this.#report(transaction, writer, 'appeared')
    }, settleTime).unref()
  }

  /** To be called every half second: legacy tables. */
  look(): void {
    const now = Date.now()
    for (const [thread, until] of this.#threads) if (until < now) this.#threads.delete(thread)
    this.#sightings.forgetOld()
    for (const { table, rows } of this.#options.legacy.added()) {
      if (this.#options.mode() === 'off') continue
      // The report of this write may still be on its way.
      setTimeout(() => this.#grown(table, rows), settleTime).unref()
    }
  }

  /** A write that was let through accounts for one change of its table. */
  #grown({ system, family, table }: LegacyTable, rows: number): void {
    const writes = this.#recentWrites(`${system} ${table}`)
    if (writes.shift() !== undefined) return
    this.#tell({ verdict: 'appeared', system, family, table, message: 'REPLACE', repeated: rows })
  }

  #recentWrites(key: string): number[] {
    const writes = (this.#legacyWrites.get(key) ?? []).filter((time) => time > Date.now() - longestWrite)
    this.#legacyWrites.set(key, writes)
    return writes
  }

  #remember(raw: RawEvent): void {
    const now = Date.now()
    if (raw.system === 'nftables') this.#threads.set(raw.thread, now + longestWrite)
    else this.#recentWrites(`${raw.system} ${raw.table}`).push(now)
  }

  /** Backend cgroup: nothing has refused it. sighting: who it was, and whether a program has reported it itself. */
  #judge(transaction: Transaction, living: Writer & Living, sighting: RawEvent | null): void {
    if (sighting?.verdict === 'exempt' || sighting?.verdict === 'audited') return
    const exemption = sighting ? null : this.#options.exemptions?.covering(living.cgroup, living.executable)
    if (exemption) return this.#report(transaction, { ...living, exemption }, 'exempt')
    const writer = sighting ? attributeEvent(sighting, timeOffset()) : living
    if (this.#options.mode() === 'audit') return this.#report(transaction, writer, 'audited')
    const isKnown = sighting !== null || living.cgroup !== null
    const removed = isKnown && (this.#removal?.remove(transaction) ?? false)
    this.#report(transaction, writer, removed ? 'removed' : 'appeared')
  }

  /** One event per transaction: of its first rule, or of whatever came first. */
  #report({ added }: Transaction, writer: Writer, verdict: GuardEventRow['verdict']): void {
    const first = added.find(({ message }) => message === 'NEWRULE') ?? added[0]
    if (!first) return
    const { family, table, chain, message } = first
    this.#tell({ ...writer, verdict, system: 'nftables', family, table, chain, message })
  }

  #tell(event: Writer & Pick<GuardEventRow, 'verdict' | 'system' | 'family' | 'table' | 'message'>): void {
    const row = { ...nobody, ...event, time: new Date().toISOString(), position: 0, unit: unitOf(event.cgroup ?? null) }
    if (row.verdict === 'appeared' || row.verdict === 'removed') this.#appeared += row.repeated
    this.#options.journal.add(row)
  }
}

/** Who and what, as far as it is known. */
type Writer = Partial<Omit<GuardEventRow, 'verdict'>>

interface Living {
  cgroup: string | null
  executable: string | null
}

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
  exemption: null,
  repeated: 1
} as const

/** Nanoseconds from CLOCK_BOOTTIME to 1970. */
function timeOffset(): bigint {
  return BigInt(Date.now()) * 1_000_000n - bootTimeNow()
}
