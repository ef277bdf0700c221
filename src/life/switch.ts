// Whether hostroute is to serve this node: what `hostroute enable`, `disable` and
// `--confirm-within` said last, on disk, so that it outlives a restart, a crash and
// a reboot.
//
// Invariants
// - The file is replaced as a whole and synced: a crash leaves the old word or the
//   new one.
// - The later word counts: the command's, or that of the configuration if `enabled`
//   has changed there since the command.

import { join } from 'node:path'
import * as v from 'valibot'
import { readOwnFile } from '../read-file.js'
import { replaceFile } from '../replace-file.js'

const schema = v.object({
  enabled: v.boolean(),
  /** `enabled` of the configuration when the command was given. */
  configured: v.boolean(),
  /** When. */
  since: v.string(),
  /** Enabled on probation: without `hostroute confirm` it ends then. */
  confirmUntil: v.nullable(v.pipe(v.string(), v.isoTimestamp()))
})
type Word = v.InferOutput<typeof schema>

export interface Wanted {
  enabled: boolean
  by: 'command' | 'configuration'
  /** Milliseconds since 1970; null: not on probation. */
  confirmUntil: number | null
}

export function switchFile(stateDirectory: string): string {
  return join(stateDirectory, 'switch.json')
}

/** What is wanted, with `configured` for `enabled` of the configuration. Throws Error, with the remedy, when the file is there but says nothing. */
export function readSwitch(stateDirectory: string, configured: boolean): Wanted {
  const path = switchFile(stateDirectory)
  const word = readWord(path)
  if (word === null || word.configured !== configured) {
    return { enabled: configured, by: 'configuration', confirmUntil: null }
  }
  const { enabled, confirmUntil } = word
  return { enabled, by: 'command', confirmUntil: confirmUntil === null ? null : Date.parse(confirmUntil) }
}

function readWord(path: string): Word | null {
  try {
    return v.parse(schema, JSON.parse(readOwnFile(path)))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw new Error(
      `${path}, which says whether hostroute is switched on, cannot be read (${(error as Error).message}): the configuration decides until the next hostroute enable or disable`,
      { cause: error }
    )
  }
}

/** Throws the file system's error; then the word before stands. */
export function writeSwitch(
  stateDirectory: string,
  { enabled, configured, confirmUntil }: { enabled: boolean; configured: boolean; confirmUntil: number | null }
): void {
  const word: Word = {
    enabled,
    configured,
    since: new Date().toISOString(),
    confirmUntil: confirmUntil === null ? null : new Date(confirmUntil).toISOString()
  }
  replaceFile(switchFile(stateDirectory), `${JSON.stringify(word)}\n`)
}
