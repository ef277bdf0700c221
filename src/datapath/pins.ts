// The pins of a running datapath's maps: without them the next daemon would find
// nothing to take over. Whoever may write there can remove them, or all of the bpffs,
// and nobody tells; so they are looked at every few seconds, and made again from the
// maps as the daemon holds them.
//
// Invariants
// - A pin is the same file for as long as it lives, and holds one object. One that was
//   seen to hold the right one is only asked for its inode from then on.
// - `control` is pinned last: where it is missing, the next daemon begins anew with all
//   maps and does not mix two generations.

import { existsSync, mkdirSync, readdirSync, rmSync, statSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { type NativeError, native } from '../native.js'
import type { LoadedObject } from './live-object.js'
import { Refusal, refusalUnlessTransient } from './refusal.js'

function liesOnBpffs(directory: string): boolean {
  let existing = resolve(directory)
  while (!existsSync(existing) && existing !== '/') existing = dirname(existing)
  return native().isBpffs(existing)
}

/** Before what a daemon has left is taken away. Throws Refusal: nothing of hostroute is there. */
export function refuseNoPinDirectory(directory: string): void {
  if (liesOnBpffs(directory)) return
  throw new Refusal(
    `${directory} is not on a BPF file system, so hostroute has pinned nothing there, and nothing was removed: name the directory of its pins (hostrouted --pin-directory; for the command, HOSTROUTE_PINS), or mount the file system again (mount -t bpf bpf /sys/fs/bpf)`
  )
}

/** Makes `directory`; it must lie on a bpffs. Throws Refusal. */
export function preparePinDirectory(directory: string): void {
  if (!liesOnBpffs(directory)) {
    throw new Refusal(
      `${directory} is not on a BPF file system, so maps and programs could not outlive the daemon: mount one (mount -t bpf bpf /sys/fs/bpf) or name another place with --pin-directory`
    )
  }
  try {
    mkdirSync(join(directory, 'links'), { recursive: true, mode: 0o700 })
  } catch (error) {
    const { message } = error as Error
    throw refusalUnlessTransient(`cannot make ${directory}: ${message}; is the BPF file system writable?`, error)
  }
}

/** What a pin is known by, as long as it lives. null: there is none. */
export class SeenPins {
  private readonly seen = new Map<string, string>()

  /** The pin at `path` is the one that saw() was told of last. */
  isSame(path: string): boolean {
    const stamp = stampOf(path)
    return stamp !== null && this.seen.get(path) === stamp
  }

  /** What is there now is as it should be. */
  saw(path: string): void {
    const stamp = stampOf(path)
    if (stamp === null) this.seen.delete(path)
    else this.seen.set(path, stamp)
  }

  forget(path: string): void {
    this.seen.delete(path)
  }
}

function stampOf(path: string): string | null {
  const found = statSync(path, { throwIfNoEntry: false, bigint: true })
  return found ? `${found.dev}:${found.ino}:${found.ctimeNs}` : null
}

export class MapPins {
  private readonly names: string[]
  private readonly pins = new SeenPins()

  /** All maps of `object` are pinned in `directory` at that moment. Throws the file system's error. */
  constructor(
    private readonly directory: string,
    private readonly object: Pick<LoadedObject, 'map'>
  ) {
    this.names = readdirSync(directory, { withFileTypes: true })
      .filter((entry) => !entry.isDirectory() && entry.name !== 'control')
      .map(({ name }) => name)
      .filter((name) => hasMap(object, name))
    this.names.push('control')
    for (const name of this.names) this.pins.saw(join(directory, name))
  }

  /** Pins again what is not pinned any more, or is another map's pin. Returns the maps' names. Throws; then the rest is as it was. */
  mend(): string[] {
    return this.names.filter((name) => {
      const path = join(this.directory, name)
      if (this.pins.isSame(path)) return false
      const map = this.object.map(name)
      try {
        const right = pinnedId(path) === map.info.id
        if (!right) {
          rmSync(path, { force: true })
          map.pin(path)
        }
        this.pins.saw(path)
        return !right
      } finally {
        map.close()
      }
    })
  }
}

/** false: what is pinned by this name is somebody else's. */
function hasMap(object: Pick<LoadedObject, 'map'>, name: string): boolean {
  try {
    object.map(name).close()
    return true
  } catch (error) {
    if ((error as NativeError).code === 'ENOENT') return false
    throw error
  }
}

/** null: no map is pinned there. */
function pinnedId(path: string): number | null {
  try {
    const map = native().openPinnedMap(path)
    const { id } = map.info
    map.close()
    return id
  } catch (error) {
    const { code } = error as NativeError
    if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'EINVAL' || code === 'EACCES') return null
    throw error
  }
}
