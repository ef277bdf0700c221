// Maps in use are replaced by others, of another size or layout, and nothing is lost:
//
//   new maps in <pins>/next-part, filled -> paused -> flow tables copied
//   -> next-part becomes next -> programs replaced -> no pause any more
//   -> what earlier programs have still written comes after -> next becomes
//   next-done -> its pins take the place of the old ones
//
// Both generations of the programs run side by side while these are replaced one
// by one. What they share is one map for both; what is new is written by one at a
// time: in the pause neither makes nor ends an entry (bpf/detour.h, is_paused()),
// so that no port is given twice and no answer comes to a program that does not
// know its flow. It lasts some tens of milliseconds.
//
// From the first copied row until the new maps are in use nobody else has the turn
// to write the plan. From the pause on, and for maps that are written out of turn,
// it is one turn of the event loop: the daemon writes no map meanwhile.
//
// Invariants
// - Until next-part has become next a failure, or the end of the process, leaves
//   the old programs and maps in force; the next start removes next-part.
// - From then on the maps of both are whole: a start that finds next goes on with
//   it (recover()), and until the programs are replaced a failure puts the old
//   ones back.
// - With the new programs attached, next is what they use: it is never discarded.
//   A version that cannot use it gives it the place of the old maps, and converts it.
//   What is still to do may fail and be done later (Unfinished), before anything
//   else replaces maps, or loads by the pins.

import { existsSync, mkdirSync, readdirSync, renameSync, rmdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type BpfMap, type BpfObject, native } from '../native.js'
import { ownLinks } from '../own-pins.js'
import { toEnd } from '../slice.js'
import { isTransient, together } from '../transient.js'
import {
  addCounts,
  type Convert,
  copyRows,
  inThePause,
  isCopiedAtOnce,
  isFlowTable,
  isPlanned,
  mergeRows
} from './map-copy.js'

export interface Migration {
  pinDirectory: string
  /** Names of the maps that are replaced. */
  fresh: readonly string[]
  /** Opens the old map; null: there was none. */
  old(name: string): BpfMap | null
  /** How its rows are to be written; null: as they are. */
  convert(name: string, next: BpfObject): Convert | null
  /** Loads the programs, with pins of `fresh` in the directory. */
  load(fresh: readonly string[], freshDirectory: string): Promise<BpfObject>
  /** Of both generations. */
  pause(on: boolean, next: BpfObject): void
  /** The clock of the programs, 32 bits of it. */
  jiffies(next: BpfObject): number
  /** Puts the programs of `next` in the place of the others; an error for each that failed. */
  replace(next: BpfObject): Error[]
  /** The other way round. */
  putBack(): Error[]
  /** Takes steps while nobody else writes what is planned. */
  inTurn(steps: () => Generator<void>): Promise<void>
  /** Throws; what it returns does not: whatever is written from here goes into the new maps from then on. */
  prepare(next: BpfObject): () => void
}

interface Recovery extends Omit<Migration, 'fresh' | 'putBack' | 'prepare' | 'inTurn'> {
  /** What another version has begun, and these programs cannot finish. inUse: by the programs that are attached. */
  onOther(inUse: boolean): void
}

const part = (pinDirectory: string) => join(pinDirectory, 'next-part')
const whole = (pinDirectory: string) => join(pinDirectory, 'next')
const done = (pinDirectory: string) => join(pinDirectory, 'next-done')
/** The clock may tick between reading it and the first copied row. */
const tolerance = 2
/** Milliseconds in which the daemon has written back what waited. */
const detourTime = 100
/** As long as no program runs, where the kernel does not tell. */
const longestProgram = 50

/** The new programs are attached, and their maps have not got their places yet. */
export interface Unfinished {
  next: BpfObject
  /** Milliseconds in which no flow could begin, as far as that is over. */
  paused: number
  /** Merges what earlier programs have still written, and gives the maps their places. Throws; then it may be called again. */
  finish(): void
}

/** Throws; then the old programs are attached, and nothing is left behind. */
export async function migrate(migration: Migration): Promise<Unfinished> {
  const { pinDirectory, fresh } = migration
  discard(part(pinDirectory))
  refuseUnfinished(pinDirectory)
  mkdirSync(part(pinDirectory), { mode: 0o700 })
  let loaded: BpfObject | null = null
  let unfinished: Unfinished
  try {
    const next = await migration.load(fresh, part(pinDirectory))
    loaded = next
    let since = 0
    let began = 0
    let goesOn = false
    await migration.inTurn(function* () {
      yield* copyAll(migration, next, isPlanned)
      toEnd(copyAll(migration, next, isCopiedAtOnce))
      began = performance.now()
      migration.pause(true, next)
      waitForPrograms()
      since = (migration.jiffies(next) - tolerance) >>> 0
      toEnd(copyAll(migration, next, inThePause))
      const adopt = migration.prepare(next)
      renameSync(part(pinDirectory), whole(pinDirectory))
      putInPlace(migration, next)
      adopt()
      goesOn = goOn(migration, next)
    })
    unfinished = { next, paused: performance.now() - began, finish: finishing(migration, next, since, goesOn) }
  } catch (error) {
    try {
      if (loaded) migration.pause(false, loaded)
    } finally {
      loaded?.close()
      discard(part(pinDirectory))
      discard(whole(pinDirectory))
    }
    throw error
  }
  // first what waits in the detour goes on
  await sleep(detourTime)
  return unfinished
}

/** Only an empty directory is nobody's. */
function refuseUnfinished(pinDirectory: string): void {
  if (existsSync(done(pinDirectory))) takePlace(pinDirectory)
  if (!existsSync(whole(pinDirectory))) return
  try {
    rmdirSync(whole(pinDirectory))
  } catch (cause) {
    const words = `an earlier change of maps has not come to its end: ${(cause as Error).message}`
    throw new Error(words, { cause })
  }
}

/** true: flows may begin again. */
function goOn({ pause }: Pick<Migration, 'pause'>, next: BpfObject): boolean {
  try {
    pause(false, next)
    return true
  } catch {
    // finish() tries it again, and says why it cannot
    return false
  }
}

/**
 * Goes on with what an earlier process has left of a migration: its programs are attached then.
 * null: there is nothing to go on with, or nothing that these programs can use, and nothing of it
 * is left. Throws; then all is left as it is, for another try.
 */
export async function recover(recovery: Recovery): Promise<Unfinished | null> {
  const { pinDirectory } = recovery
  discard(part(pinDirectory))
  if (existsSync(done(pinDirectory))) takePlace(pinDirectory)
  if (!existsSync(whole(pinDirectory))) return null
  const fresh = readdirSync(whole(pinDirectory))
  let next: BpfObject
  try {
    next = await recovery.load(fresh, whole(pinDirectory))
  } catch (error) {
    if ((error as { code?: string }).code !== 'ELAYOUT') throw error
    // of another version: if its programs run, their maps are the ones to convert
    const inUse = isInUse(pinDirectory, fresh)
    recovery.onOther(inUse)
    if (inUse) {
      renameSync(whole(pinDirectory), done(pinDirectory))
      takePlace(pinDirectory)
    } else discard(whole(pinDirectory))
    return null
  }
  const migration = { ...recovery, fresh }
  let since: number | null
  let began: number
  try {
    // flows have gone on to begin in the old tables; most are brought over before the pause
    since = mergeFlows(migration, next, null)
    began = performance.now()
    recovery.pause(true, next)
    waitForPrograms()
    // else an answer to a flow that began a moment ago would find no entry, and be the stack's
    since = mergeFlows(migration, next, since)
    const failed = recovery.replace(next)
    // where it fails for good the start says so for each device, when it attaches them
    if (failed.some(isTransient)) throw together(failed)
  } catch (error) {
    try {
      recovery.pause(false, next)
    } finally {
      next.close()
    }
    throw error
  }
  const goesOn = goOn(recovery, next)
  const paused = performance.now() - began
  await sleep(detourTime)
  return { next, paused, finish: finishing(migration, next, since, goesOn) }
}

/** An attached program uses maps of `next`. Of clsact there are no links: between the maps and the programs there is but a moment. */
function isInUse(pinDirectory: string, fresh: readonly string[]): boolean {
  const ids = new Set(
    fresh.map((name) => {
      const map = native().openPinnedMap(join(whole(pinDirectory), name))
      map.close()
      return map.info.id
    })
  )
  const links = ownLinks(join(pinDirectory, 'links'))
  return (
    links.length === 0 ||
    links.some((name) =>
      native()
        .linkedMaps(join(pinDirectory, 'links', name))
        .some((id) => ids.has(id))
    )
  )
}

/** Returns the jiffies before which both have the same; null: it is not known, for it has failed, and finish() says why. */
function mergeFlows(migration: Finishing & Pick<Migration, 'jiffies'>, next: BpfObject, since: number | null) {
  const now = (migration.jiffies(next) - tolerance) >>> 0
  try {
    for (const name of migration.fresh) if (isFlowTable(name)) merge(migration, next, name, since)
    return now
  } catch {
    return since
  }
}

function* copyAll(migration: Migration, next: BpfObject, which: (name: string) => boolean): Generator<void> {
  for (const name of migration.fresh) {
    if (!which(name)) continue
    const [from, to] = [migration.old(name), next.map(name)]
    try {
      if (from) yield* copyRows(from, to, migration.convert(name, next), isFlowTable(name))
    } finally {
      from?.close()
      to.close()
    }
  }
}

function putInPlace(migration: Migration, next: BpfObject): void {
  const failed = migration.replace(next)
  if (failed.length === 0) return
  throw together([...failed, ...migration.putBack()])
}

type Finishing = Pick<Migration, 'pinDirectory' | 'fresh' | 'old' | 'convert' | 'pause'>

/** since: jiffies before which both have the same; null: it is not known. goesOn: the pause is over. */
function finishing(migration: Finishing, next: BpfObject, since: number | null, goesOn: boolean): () => void {
  const { pinDirectory, fresh } = migration
  const merged = new Set<string>()
  let paused = !goesOn
  return () => {
    if (paused) migration.pause(false, next)
    paused = false
    if (existsSync(whole(pinDirectory))) {
      waitForPrograms()
      for (const name of fresh) {
        if (!merged.has(name)) merge(migration, next, name, since)
        merged.add(name)
      }
      renameSync(whole(pinDirectory), done(pinDirectory))
    }
    if (existsSync(done(pinDirectory))) takePlace(pinDirectory)
  }
}

function merge(migration: Finishing, next: BpfObject, name: string, since: number | null): void {
  if (!isFlowTable(name) && name !== 'counters') return
  const from = migration.old(name)
  if (!from) return
  try {
    if (name === 'counters') return carryCounts(migration, from, next)
    mergeRows(from, next, migration.convert(name, next), name, since)
  } finally {
    from.close()
  }
}

/** counters, and what had been carried before, if that is replaced, too; else it stays where it is. */
function carryCounts(migration: Finishing, counters: BpfMap, next: BpfObject): void {
  const [before, to] = [migration.old('counted_before'), next.map('counted_before')]
  addCounts(counters, before, to, (name) => migration.convert(name, next))
  before?.close()
  to.close()
}

function takePlace(pinDirectory: string): void {
  for (const name of readdirSync(done(pinDirectory)))
    renameSync(join(done(pinDirectory), name), join(pinDirectory, name))
  rmdirSync(done(pinDirectory))
}

function waitForPrograms(): void {
  try {
    if (native().gracePeriod()) return
  } catch {
    // as where the kernel does not tell
  }
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, longestProgram)
}

function discard(directory: string): void {
  rmSync(directory, { recursive: true, force: true })
}
