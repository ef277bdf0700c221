// From a record of the programs to a row for people: time, executable, cgroup
// and unit. The process may have ended: what it has left in the record counts,
// what /proc still says is better.

import { readlinkSync } from 'node:fs'
import { join } from 'node:path'
import type { GuardEventRow } from '../control/guard-api.js'
import { cgroupId, cgroupOfProcess, cgroupRoot, findCgroup, unitOf } from './cgroups.js'
import type { RawEvent } from './layout.js'

const remembered = new Map<bigint, string | null>()
const mostRemembered = 1000

/** offset: nanoseconds from CLOCK_BOOTTIME to 1970. */
export function attribute(raw: RawEvent, offset: bigint): Omit<GuardEventRow, 'verdict'> {
  const cgroup = cgroupPath(raw)
  return {
    time: new Date(Number((raw.time + offset) / 1_000_000n)).toISOString(),
    reason: raw.reason,
    backend: raw.backend,
    system: raw.system,
    family: raw.family,
    table: raw.table,
    chain: raw.chain,
    message: raw.message,
    position: raw.position,
    pid: raw.pid,
    uid: raw.uid,
    command: raw.command,
    arguments: raw.arguments,
    executable: raw.executable ?? executableOf(raw.pid),
    cgroup,
    unit: unitOf(cgroup),
    exemption: null,
    repeated: 1
  }
}

/** null: the process is gone, or a kernel thread. */
export function executableOf(pid: number): string | null {
  try {
    return readlinkSync(`/proc/${pid}/exe`).replace(/ \(deleted\)$/, '')
  } catch {
    return null
  }
}

/** The id in the record says which one it was at the time; a process can be moved, its number used again. */
function cgroupPath(raw: RawEvent): string | null {
  const known = remembered.get(raw.cgroup)
  if (known !== undefined) return known
  const root = cgroupRoot()
  if (root === null) return null
  const matches = (path: string) => cgroupId(path) === raw.cgroup
  const now = cgroupOfProcess(raw.pid)
  let path: string | null = null
  if (now !== null && matches(join(root, now))) path = now
  else if (matches(root)) path = '/'
  else path = findCgroup(root, (_, candidate) => matches(candidate))
  if (remembered.size >= mostRemembered) remembered.clear()
  remembered.set(raw.cgroup, path)
  return path
}
