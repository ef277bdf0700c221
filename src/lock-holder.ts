// Whether a daemon lives: it holds the lock of its run directory, which is not asked
// for here, since a daemon that starts just then must get it; and its maps.

import { existsSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
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

/** Of a run directory whose lock file somebody has removed, the holder of the lock cannot be told. */
export function isLockMissing(runDirectory: string): boolean {
  return !existsSync(join(runDirectory, lockName))
}

/** A process besides this one that has the BPF map with this id open; null: none is seen. */
export function mapHolder(id: number): number | null {
  const processes = list('/proc').filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
  return Number(processes.find((pid) => list(`/proc/${pid}/fd`).some((fd) => holds(pid, fd, id))) ?? 0) || null
}

function holds(pid: string, fd: string, id: number): boolean {
  try {
    if (readlinkSync(`/proc/${pid}/fd/${fd}`) !== 'anon_inode:bpf-map') return false
    return Number(/^map_id:\s*(\d+)$/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'utf8'))?.[1]) === id
  } catch {
    // it has ended, or closed it
    return false
  }
}

function list(directory: string): string[] {
  try {
    return readdirSync(directory)
  } catch {
    return []
  }
}

function hex(value: bigint): string {
  return value.toString(16).padStart(2, '0')
}
