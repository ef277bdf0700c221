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
// From the first copied row until the new maps are in use is one turn of the event
// loop: the daemon writes no map meanwhile.
//
// Invariants
// - Until next-part has become next a failure, or the end of the process, leaves
//   the old programs and maps in force; the next start removes next-part.
// - From then on the maps of both are whole: a failure puts the old programs back,
//   and a start that finds next goes on with it (recover()).

import { existsSync, mkdirSync, readdirSync, renameSync, rmdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type BpfMap, type BpfObject, native } from '../native.js'
import { together } from '../transient.js'
import { addCounts, type Convert, copyRows, inThePause, isCopied, isFlowTable, mergeRows } from './map-copy.js'

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
  /** Whatever is written from here from now on goes into the new maps. */
  adopt(next: BpfObject): void
}

type Recovery = Omit<Migration, 'fresh' | 'putBack' | 'adopt'>

const part = (pinDirectory: string) => join(pinDirectory, 'next-part')
const whole = (pinDirectory: string) => join(pinDirectory, 'next')
const done = (pinDirectory: string) => join(pinDirectory, 'next-done')
/** The clock may tick between reading it and the first copied row. */
const tolerance = 2
/** Milliseconds in which the daemon has written back what waited. */
const detourTime = 100
/** As long as no program runs, where the kernel does not tell. */
const longestProgram = 50

export interface Migrated {
  /** Its programs are attached now. */
  next: BpfObject
  /** Milliseconds in which no flow could begin. */
  paused: number
}

/** Throws; then the old programs are attached, and nothing is left behind. */
export async function migrate(migration: Migration): Promise<Migrated> {
  const { pinDirectory, fresh } = migration
  discard(part(pinDirectory))
  mkdirSync(part(pinDirectory), { mode: 0o700 })
  let next: BpfObject | null = null
  let since = 0
  let paused = 0
  try {
    next = await migration.load(fresh, part(pinDirectory))
    copyAll(migration, next, (name) => isCopied(name) && !inThePause(name))
    const began = performance.now()
    migration.pause(true, next)
    waitForPrograms()
    since = (migration.jiffies(next) - tolerance) >>> 0
    copyAll(migration, next, inThePause)
    renameSync(part(pinDirectory), whole(pinDirectory))
    putInPlace(migration, next)
    migration.pause(false, next)
    paused = performance.now() - began
  } catch (error) {
    try {
      if (next) migration.pause(false, next)
    } finally {
      next?.close()
      discard(part(pinDirectory))
      discard(whole(pinDirectory))
    }
    throw error
  }

  migration.adopt(next)
  // first what waits in the detour goes on
  await sleep(detourTime)

  finish(migration, next, since)
  return { next, paused }
}

/**
 * Goes on with what an earlier process has left of a migration. The object whose programs
 * are attached now; null: there is nothing to go on with, and nothing of it is left.
 */
export async function recover(recovery: Recovery): Promise<BpfObject | null> {
  const { pinDirectory } = recovery
  discard(part(pinDirectory))
  if (existsSync(done(pinDirectory))) takePlace(pinDirectory)
  if (!existsSync(whole(pinDirectory))) return null
  const fresh = readdirSync(whole(pinDirectory))
  let next: BpfObject | null = null
  try {
    next = await recovery.load(fresh, whole(pinDirectory))
    const failed = recovery.replace(next)
    if (failed.length > 0) throw together(failed)
    recovery.pause(false, next)
  } catch {
    // the start after it replaces the programs on all devices
    next?.close()
    discard(whole(pinDirectory))
    return null
  }
  finish({ ...recovery, fresh, putBack: () => [], adopt: () => {} }, next, null)
  return next
}

function copyAll(migration: Migration, next: BpfObject, which: (name: string) => boolean): void {
  for (const name of migration.fresh) {
    if (!which(name)) continue
    const [from, to] = [migration.old(name), next.map(name)]
    try {
      if (from) copyRows(from, to, migration.convert(name, next), isFlowTable(name))
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

/** since: jiffies before which both have the same; null: it is not known. */
function finish(migration: Migration, next: BpfObject, since: number | null): void {
  waitForPrograms()
  const convert = (name: string) => migration.convert(name, next)
  for (const name of migration.fresh) {
    const [from, to] = [migration.old(name), next.map(name)]
    if (from && isFlowTable(name)) mergeRows(from, to, convert(name), name, since)
    if (from && name === 'counters') carryCounts(migration, from, next)
    from?.close()
    to.close()
  }
  renameSync(whole(migration.pinDirectory), done(migration.pinDirectory))
  takePlace(migration.pinDirectory)
}

/** counters, and what had been carried before, if that is replaced, too; else it stays where it is. */
function carryCounts(migration: Migration, counters: BpfMap, next: BpfObject): void {
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
  if (native().gracePeriod()) return
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, longestProgram)
}

function discard(directory: string): void {
  rmSync(directory, { recursive: true, force: true })
}
