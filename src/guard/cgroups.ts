// The cgroup2 tree: where it is mounted, and the way between a cgroup's id
// (its inode number), its path and the systemd unit it belongs to.

import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'

/** Mount point of the whole cgroup2 hierarchy: /sys/fs/cgroup, or /sys/fs/cgroup/unified beside version 1. */
export function cgroupRoot(): string | null {
  for (const line of readFileSync('/proc/self/mountinfo', 'utf8').split('\n')) {
    const [before = '', after = ''] = line.split(' - ')
    const [, , , root, point] = before.split(' ')
    if (after.startsWith('cgroup2 ') && root === '/' && point) return point
  }
  return null
}

/** Mount points of version 1 hierarchies, whole ones. */
export function legacyHierarchies(): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .flatMap((line) => {
      const [before = '', after = ''] = line.split(' - ')
      const [, , , root, point] = before.split(' ')
      return after.startsWith('cgroup ') && root === '/' && point ? [point] : []
    })
}

export function cgroupId(path: string): bigint | null {
  try {
    return statSync(path, { bigint: true }).ino
  } catch {
    return null
  }
}

/** Path below the root of a process's cgroup; null: the process is gone. */
export function cgroupOfProcess(pid: number): string | null {
  try {
    const line = readFileSync(`/proc/${pid}/cgroup`, 'utf8')
      .split('\n')
      .find((entry) => entry.startsWith('0::'))
    return line?.slice(3) ?? null
  } catch {
    return null
  }
}

/** The innermost unit on the way: "/system.slice/x.service/y" → "x.service". */
export function unitOf(path: string | null): string | null {
  const names = path?.split('/').filter((part) => /\.(service|scope|socket|mount)$/.test(part))
  return names?.at(-1) ?? null
}

/** First directory below the root for which `wanted` holds; path below the root. */
export function findCgroup(root: string, wanted: (name: string, path: string) => boolean): string | null {
  const waiting = ['']
  for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
    for (const child of children(join(root, next))) {
      const path = `${next}/${child}`
      if (wanted(child, join(root, path))) return path
      waiting.push(path)
    }
  }
  return null
}

function children(path: string): string[] {
  try {
    return readdirSync(path, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name)
  } catch {
    return []
  }
}
