// Where a daemon keeps what it has pinned and what outlives it, noted in its run
// directory: who knows only its socket finds the rest, also when it is gone.

import { rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
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
