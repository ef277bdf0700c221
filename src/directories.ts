// Where a daemon keeps what it has pinned and what outlives it, noted in its run
// directory: who knows only its socket finds the rest, also when it is gone.

import { readlinkSync, realpathSync, rmSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { readOwnFile } from './read-file.js'
import { replaceFile } from './replace-file.js'

export interface Directories {
  /** The configuration's file. */
  config: string
  pinDirectory: string
  stateDirectory: string
}

/** namespace: the network namespace it serves, "dev:inode". */
export type Noted = Directories & { namespace: string }

export function directoriesFile(runDirectory: string): string {
  return join(runDirectory, 'directories.json')
}

/** Never throws: where it cannot be written none is there. */
export function noteDirectories(runDirectory: string, noted: Noted): void {
  const { config, pinDirectory, stateDirectory, namespace } = noted
  const absolute: Noted = {
    config: resolve(config),
    pinDirectory: resolve(pinDirectory),
    stateDirectory: resolve(stateDirectory),
    namespace
  }
  const path = directoriesFile(runDirectory)
  try {
    replaceFile(path, `${JSON.stringify(absolute)}\n`)
  } catch {
    rmSync(path, { force: true })
  }
}

/** null: there is no note, or none that says all. */
export function notedDirectories(runDirectory: string): Noted | null {
  try {
    const noted = JSON.parse(readOwnFile(directoriesFile(runDirectory))) as Partial<Noted>
    const { config, pinDirectory, stateDirectory, namespace } = noted
    const whole = [config, pinDirectory, stateDirectory, namespace].every((text) => typeof text === 'string')
    return whole ? (noted as Noted) : null
  } catch {
    return null
  }
}

/**
 * Absolute, and without symbolic links, also where a part of it is not there yet: what is made and
 * removed there is never a link, or what has taken its place. One that leads in a circle stays.
 */
export function realDirectory(path: string, mostLinks = 40): string {
  const whole = resolve(path)
  try {
    return realpathSync(whole)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') return whole
  }
  const parent = dirname(whole)
  if (parent === whole || mostLinks === 0) return whole
  const above = realDirectory(parent, mostLinks)
  const target = linkTarget(whole)
  return target === null ? join(above, basename(whole)) : realDirectory(resolve(above, target), mostLinks - 1)
}

/** null: it is no symbolic link. */
function linkTarget(path: string): string | null {
  try {
    return readlinkSync(path)
  } catch {
    return null
  }
}
