// Devices that have clsact filters of ours: these have no links, so what was attached
// is written down before it happens, for the next daemon to detach it.
//
// Invariants
// - A journal that cannot be read is never taken for an empty one, or overwritten: before
//   another is written it is renamed to NAME.damaged. Until somebody has removed it, it is told.

import { existsSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { readOwnFile } from '../read-file.js'

export const clsactPriority = 50

export const journalOf = (runDirectory: string): string => join(runDirectory, 'clsact.json')
const damagedOf = (path: string) => `${path}.damaged`

/** Devices that have filters; none where there is no journal, or none that can be read. */
export function readJournal(path: string): Set<number> {
  return readOr(path).devices
}

/** A sentence where filters may be attached to devices that are not known; else null. */
export function journalProblem(path: string): string | null {
  const { why } = readOr(path)
  if (why !== null) return sentence(path, why)
  return existsSync(damagedOf(path)) ? sentence(damagedOf(path), 'it was damaged when it was read') : null
}

export function writeJournal(path: string, devices: ReadonlySet<number>): void {
  if (readOr(path).why !== null) renameSync(path, damagedOf(path))
  const next = `${path}.tmp`
  // whatever is there: a pipe would hold the daemon up
  rmSync(next, { force: true })
  writeFileSync(next, JSON.stringify([...devices]), { flag: 'wx' })
  renameSync(next, path)
}

/** Once nothing is attached any more; one that cannot be read stays. Throws. */
export function removeJournal(path: string): void {
  if (readOr(path).why === null) rmSync(path, { force: true })
}

/** why: it cannot be read. */
function readOr(path: string): { devices: Set<number>; why: string | null } {
  try {
    const list: unknown = JSON.parse(readOwnFile(path))
    if (!Array.isArray(list) || !list.every((item) => Number.isInteger(item)))
      return { devices: new Set(), why: 'it is no list of numbers' }
    return { devices: new Set(list as number[]), why: null }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    return { devices: new Set(), why: code === 'ENOENT' ? null : message }
  }
}

function sentence(path: string, why: string): string {
  return `which devices still have filters of hostroute is not known: ${path} cannot be read (${why}); on each device that tc filter show dev DEVICE ingress pref ${clsactPriority} names one of, remove them (tc filter del dev DEVICE ingress pref ${clsactPriority}, the same with egress), then remove the file`
}
