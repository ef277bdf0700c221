// Whether a daemon holds the lock of a run directory, without asking for the lock:
// a daemon that starts just then must get it.

import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'

export const lockName = 'hostrouted.lock'

/** Of the daemon as this process sees it; null: nobody holds it, or it cannot be told. */
export function lockHolder(runDirectory: string, locks = '/proc/locks'): number | null {
  try {
    const { dev, ino } = statSync(join(runDirectory, lockName), { bigint: true })
    const major = hex((dev >> 8n) & 0xfffn)
    const minor = hex((dev & 0xffn) | ((dev >> 12n) & 0xfff00n))
    for (const line of readFileSync(locks, 'utf8').split('\n')) {
      const [, kind, , , pid, file] = line.split(/\s+/)
      if (kind === 'FLOCK' && file === `${major}:${minor}:${ino}`) return Number(pid)
    }
  } catch {
    // nothing is known
  }
  return null
}

function hex(value: bigint): string {
  return value.toString(16).padStart(2, '0')
}
