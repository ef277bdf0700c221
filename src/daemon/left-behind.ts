// What a daemon that is gone, or hangs, left at work on the node: read from the
// pins, for the command.

import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { PinnedControl } from '../datapath/pinned-control.js'
import { isUnfinished, PinnedMaps } from '../datapath/pinned-maps.js'
import { commandLine, type Paths } from './options.js'

/** A sentence or two; null: nothing is pinned. */
export function leftBehind(paths: Paths): string | null {
  const { pinDirectory } = paths
  if (!existsSync(join(pinDirectory, 'control'))) return null
  const remove = commandLine(['--remove'], paths)
  const control = PinnedControl.open(pinDirectory)
  if (!control)
    return `${pinDirectory} holds maps that cannot be read: they are of another version, or you are not root`
  try {
    const devices = new Set(names(join(pinDirectory, 'links')).map((name) => name.slice(name.lastIndexOf('-') + 1)))
    const where =
      devices.size === 0 ? '' : `, attached to ${devices.size} ${devices.size === 1 ? 'device' : 'devices'},`
    if (!control.isForwarding)
      return `Its programs${where} leave all packets to the kernel: they are switched off, or their lease is over. ${remove} takes them off.`
    const left = control.secondsLeft
    const until =
      left === null ? 'for ever' : `until ${new Date(Date.now() + left * 1000).toISOString().slice(0, 19)}Z (${left} s)`
    const unfinished = isUnfinished(pinDirectory) ? ' It was replacing maps, which its next start goes on with.' : ''
    return `Its programs${where} go on forwarding for ${count(pinDirectory)} pod addresses ${until}; systemctl restart hostrouted takes them over, ${remove} takes them off.${unfinished}`
  } finally {
    control.close()
  }
}

function names(directory: string): string[] {
  try {
    return readdirSync(directory)
  } catch {
    return []
  }
}

function count(pinDirectory: string): number {
  const maps = new PinnedMaps(pinDirectory)
  try {
    return maps.rows('pods').length
  } finally {
    maps.close()
  }
}
