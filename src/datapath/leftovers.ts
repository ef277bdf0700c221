// What a daemon that is gone left attached and pinned, when it is not wanted any
// more: detached and removed, without loading anything.

import { existsSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { type NativeError, native } from '../native.js'
import { readOwnFile } from '../read-file.js'
import { clsactPriority } from './hooks.js'
import { PinnedControl } from './pinned-control.js'

/** Leaves nothing of hostroute on the node but the empty pin directory's parent. Never throws: a sentence for what stays all the same. */
export function removeLeftovers(pinDirectory: string, runDirectory: string): string[] {
  const stays: string[] = []
  const links = join(pinDirectory, 'links')
  for (const name of list(links)) attempt(() => native().detachPinned(join(links, name)))
  const journal = join(runDirectory, 'clsact.json')
  attempt(() => {
    const ifindexes = JSON.parse(readOwnFile(journal)) as number[]
    for (const ifindex of ifindexes) stays.push(...detachFilters(ifindex))
  })
  // what could not be detached is found by it the next time
  if (stays.length === 0) attempt(() => rmSync(journal, { force: true }))
  stays.push(...removePins(pinDirectory))
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

/** Programs and maps go with their pins. A sentence if some stay. */
export function removePins(pinDirectory: string): string[] {
  try {
    rmSync(pinDirectory, { recursive: true, force: true })
    return []
  } catch (error) {
    return [`${pinDirectory} stays: ${(error as Error).message}`]
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

function list(directory: string): string[] {
  try {
    return readdirSync(directory)
  } catch {
    return []
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
