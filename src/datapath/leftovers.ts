// What a daemon that is gone left attached and pinned, when it is not wanted any
// more: detached and removed, without loading anything.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { type NativeError, native } from '../native.js'
import { ownLinks, removeOwnPins } from '../own-pins.js'
import { clsactPriority, journalOf, journalProblem, readJournal, removeJournal } from './clsact-journal.js'
import { PinnedControl } from './pinned-control.js'

/** Leaves nothing of hostroute on the node but the empty pin directory's parent. Never throws: a sentence for what stays all the same. */
export function removeLeftovers(pinDirectory: string, runDirectory: string): string[] {
  const stays: string[] = []
  const links = join(pinDirectory, 'links')
  attempt(() => {
    for (const name of ownLinks(links)) attempt(() => native().detachPinned(join(links, name)))
  })
  const journal = journalOf(runDirectory)
  for (const ifindex of readJournal(journal)) stays.push(...detachFilters(ifindex))
  const unknown = journalProblem(journal)
  if (unknown !== null) stays.push(unknown)
  // what could not be detached is found by it the next time
  if (stays.length === 0) attempt(() => removeJournal(journal))
  stays.push(...removeOwnPins(pinDirectory))
  return stays
}

/** Of clsact. A sentence if they stay. */
function detachFilters(ifindex: number): string[] {
  try {
    native().detachClsact(ifindex, clsactPriority)
    return []
  } catch (error) {
    const { code, message } = error as NativeError
    return code === 'ENODEV' ? [] : [`filters stay on device ${ifindex}: ${message}`]
  }
}

/**
 * What an earlier daemon pinned: 'works' also for one of another version; 'unfinished' when it was
 * never switched on, or is off again: its daemon ended while it enabled or disabled.
 */
export function pinned(pinDirectory: string): 'nothing' | 'unfinished' | 'works' {
  if (!existsSync(join(pinDirectory, 'control'))) return 'nothing'
  const control = PinnedControl.open(pinDirectory)
  try {
    return control && !control.isOn ? 'unfinished' : 'works'
  } finally {
    control?.close()
  }
}

/** A device that is gone, or a file that never was, is as good as removed. */
function attempt(action: () => unknown): void {
  try {
    action()
  } catch {
    // nothing left to do
  }
}
