// What `hostroute guard` said last, on disk beside the switch: the mode, and who may
// write until when. It holds for the next daemon, too, however this one ends.
//
// Invariants
// - The mode of the command counts until the configuration's is another than when the
//   command was given.
// - What is allowed without a time ends with the daemon, and is not kept.

import { join } from 'node:path'
import * as v from 'valibot'
import type { GuardMode } from '../control/guard-api.js'
import type { TimedAllowance } from '../guard/exemptions.js'
import { readOwnFile } from '../read-file.js'
import { replaceFile } from '../replace-file.js'

const modes = v.picklist(['enforce', 'audit', 'off'])
const schema = v.object({
  /** null: as configured. */
  mode: v.nullable(v.object({ said: modes, configured: modes })),
  allowed: v.array(
    v.object({
      kind: v.picklist(['unit', 'cgroup', 'executable']),
      name: v.string(),
      until: v.pipe(v.string(), v.isoTimestamp())
    })
  )
})

export interface GuardWords {
  /** null: as configured. */
  mode: GuardMode | null
  allowed: TimedAllowance[]
}

export function guardFile(stateDirectory: string): string {
  return join(stateDirectory, 'guard.json')
}

/** configured: `guard.mode` of the configuration; `changed`: it was another when the mode was said. Throws Error, with the path, when the file is there but says nothing. */
export function readGuardWords(stateDirectory: string, configured: GuardMode): GuardWords & { changed: boolean } {
  const path = guardFile(stateDirectory)
  try {
    const { mode, allowed } = v.parse(schema, JSON.parse(readOwnFile(path)))
    return {
      changed: mode !== null && mode.configured !== configured,
      mode: mode?.configured === configured ? mode.said : null,
      allowed: allowed
        .map(({ kind, name, until }) => ({ kind, name, until: Date.parse(until) }))
        .filter(({ until }) => until > Date.now())
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return { changed: false, mode: null, allowed: [] }
    throw new Error(
      `${path}, which says what hostroute guard said last, cannot be read (${(error as Error).message}): the configuration decides until the next hostroute guard mode or allow`,
      { cause: error }
    )
  }
}

/** Throws the file system's error; then what was said before stands. */
export function writeGuardWords(stateDirectory: string, configured: GuardMode, { mode, allowed }: GuardWords): void {
  const rows = allowed.map(({ kind, name, until }) => ({ kind, name, until: new Date(until).toISOString() }))
  const words: v.InferOutput<typeof schema> = {
    mode: mode === null ? null : { said: mode, configured },
    allowed: rows
  }
  replaceFile(guardFile(stateDirectory), `${JSON.stringify(words)}\n`)
}
