// What a daemon that is gone left attached and pinned, when it is not wanted any
// more: detached and removed, without loading anything.

import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { native } from '../native.js'
import { clsactPriority } from './hooks.js'
import { PinnedControl } from './pinned-control.js'

/** Leaves nothing of hostroute on the node but the empty pin directory's parent. Never throws. */
export function removeLeftovers(pinDirectory: string, runDirectory: string): void {
  const links = join(pinDirectory, 'links')
  for (const name of list(links)) attempt(() => native().detachPinned(join(links, name)))
  const journal = join(runDirectory, 'clsact.json')
  attempt(() => {
    const ifindexes = JSON.parse(readFileSync(journal, 'utf8')) as number[]
    for (const ifindex of ifindexes) attempt(() => native().detachClsact(ifindex, clsactPriority))
  })
  rmSync(journal, { force: true })
  attempt(() => rmSync(pinDirectory, { recursive: true, force: true }))
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
