// Who may write: systemd units, cgroups and executables, some until a time.
// Kept in two maps by id, because names can be chosen by anybody: a cgroup by
// its inode (all cgroups below it are meant too), an executable by device and
// inode. A unit has a cgroup only while it runs and another one after each
// start, an updated executable is another file: refresh() follows them.

import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import type { GuardAllowance, GuardAllowRequest } from '../control/guard-api.js'
import type { BpfMap, BpfObject } from '../native.js'
import { cgroupId, cgroupRoot, findCgroup } from './cgroups.js'
import { controlOffset, u32, u64 } from './layout.js'

interface Entry {
  kind: GuardAllowance['kind']
  name: string
  /** Milliseconds since 1970; null: for ever. */
  until: number | null
  /** Key in its map while it is there. */
  key: Buffer | null
  /** Where its cgroup was found last. */
  path: string | null
  /** Of keys it had before. */
  usedBefore: number
}

const patience = 2000

export class Exemptions {
  readonly #object: BpfObject
  readonly #cgroups: BpfMap
  readonly #executables: BpfMap
  readonly #root = cgroupRoot()
  readonly #entries: Entry[] = []
  #lastSearch = 0

  /** Forgets what an earlier daemon allowed. */
  constructor(object: BpfObject) {
    this.#object = object
    this.#cgroups = object.map('allowed_cgroups')
    this.#executables = object.map('allowed_executables')
    for (const map of [this.#cgroups, this.#executables]) {
      const { keys, count } = map.dump()
      if (count > 0) map.deleteBatch(keys, count)
    }
    this.#publish()
  }

  allow(request: GuardAllowRequest): void {
    const { kind, name } = subject(request)
    this.deny(request)
    const until = request.seconds === undefined ? null : Date.now() + request.seconds * 1000
    this.#entries.push({ kind, name, until, key: null, path: null, usedBefore: 0 })
    this.#lastSearch = 0
    this.refresh()
  }

  deny(request: GuardAllowRequest): boolean {
    const { kind, name } = subject(request)
    const index = this.#entries.findIndex((entry) => entry.kind === kind && entry.name === name)
    const [entry] = index < 0 ? [] : this.#entries.splice(index, 1)
    if (!entry) return false
    this.#drop(entry)
    this.#publish()
    return true
  }

  rows(): GuardAllowance[] {
    return this.#entries.map((entry) => ({
      kind: entry.kind,
      name: entry.name,
      until: entry.until === null ? null : new Date(entry.until).toISOString(),
      used: entry.usedBefore + this.#used(entry),
      present: entry.key !== null
    }))
  }

  /** Whether a process that still lives is exempt; for what no hook has judged. */
  covers(cgroup: string | null, executable: string | null): boolean {
    return this.#entries.some(({ kind, name }) => {
      if (kind === 'executable') return executable === name
      if (cgroup === null) return false
      const wanted = kind === 'unit' ? name : name.replace(/^\//, '')
      return kind === 'unit' ? cgroup.split('/').includes(wanted) : `${cgroup}/`.startsWith(`/${wanted}/`)
    })
  }

  /** Follows units that started or ended and files that were replaced; drops what is over. */
  refresh(): void {
    const now = Date.now()
    for (const entry of [...this.#entries]) {
      if (entry.until !== null && entry.until <= now) {
        this.#drop(entry)
        this.#entries.splice(this.#entries.indexOf(entry), 1)
        continue
      }
      const key = entry.kind === 'executable' ? executableKey(entry.name) : this.#cgroupKey(entry, now)
      if (key === null ? entry.key === null : entry.key?.equals(key)) continue
      this.#drop(entry)
      if (key) this.#map(entry).update(key, Buffer.concat([u64(untilBootTime(entry.until)), u64(0n)]))
      entry.key = key
    }
    this.#publish()
  }

  #cgroupKey(entry: Entry, now: number): Buffer | null {
    if (this.#root === null) return null
    const direct = entry.kind === 'cgroup' ? entry.name : (entry.path ?? `/system.slice/${entry.name}`)
    let id = cgroupId(join(this.#root, direct))
    if (id === null && entry.kind === 'unit' && now - this.#lastSearch > patience) {
      entry.path = findCgroup(this.#root, (name) => name === entry.name)
      id = entry.path === null ? null : cgroupId(join(this.#root, entry.path))
      if (id === null) this.#lastSearch = now
    }
    return id === null ? null : u64(id)
  }

  #used(entry: Entry): number {
    const value = entry.key && this.#map(entry).lookup(entry.key)
    return value ? Number(value.readBigUInt64LE(8)) : 0
  }

  #drop(entry: Entry): void {
    if (!entry.key) return
    entry.usedBefore += this.#used(entry)
    this.#map(entry).delete(entry.key)
    entry.key = null
  }

  #map(entry: Entry): BpfMap {
    return entry.kind === 'executable' ? this.#executables : this.#cgroups
  }

  /** The programs look nowhere while there is nothing. */
  #publish(): void {
    const count = (executable: boolean) =>
      this.#entries.filter((entry) => (entry.kind === 'executable') === executable && entry.key).length
    this.#object.writeControl(controlOffset.cgroups, u32(count(false)))
    this.#object.writeControl(controlOffset.executables, u32(count(true)))
  }
}

function subject(request: GuardAllowRequest): { kind: GuardAllowance['kind']; name: string } {
  const { unit, cgroup, executable } = request
  if ([unit, cgroup, executable].filter((given) => given !== undefined).length !== 1)
    throw new Error('name one of unit, cgroup and executable')
  if (unit !== undefined) return { kind: 'unit', name: /\.[a-z]+$/.test(unit) ? unit : `${unit}.service` }
  if (cgroup !== undefined) return { kind: 'cgroup', name: `/${cgroup.replace(/^\/+|\/+$/g, '')}` }
  return { kind: 'executable', name: executable as string }
}

/** struct guard_executable; the kernel's own form of a device number. */
function executableKey(path: string): Buffer | null {
  try {
    const { ino, dev } = statSync(path, { bigint: true })
    const major = Number((dev >> 8n) & 0xfffn)
    const minor = Number((dev & 0xffn) | ((dev >> 12n) & 0xfff00n))
    return Buffer.concat([u64(ino), u32((major << 20) | minor), u32(0)])
  } catch {
    return null
  }
}

function untilBootTime(until: number | null): bigint {
  if (until === null) return 0n
  const left = BigInt(Math.max(1, until - Date.now())) * 1_000_000n
  return bootTimeNow() + left
}

/** CLOCK_BOOTTIME in nanoseconds, exact to 10 ms. */
export function bootTimeNow(): bigint {
  return BigInt(Math.round(uptime() * 1e9))
}

function uptime(): number {
  return Number(readFileSync('/proc/uptime', 'utf8').split(' ')[0])
}
