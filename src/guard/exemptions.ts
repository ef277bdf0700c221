// Who may write: systemd units, cgroups and executables, some until a time.
//
// Units and cgroups are given to the programs as paths (bpf/guard/cgroup.h), so
// that a cgroup made a moment ago is exempt from its first write on. An
// executable is known by device and inode, because names can be chosen by
// anybody; an updated file is another one, and refresh() follows it.
//
// A new daemon takes the maps over and adds its own rows before it removes the
// earlier daemon's: what is exempt in both is exempt all the time.

import { readFileSync, statSync } from 'node:fs'
import type { GuardAllowance, GuardAllowRequest } from '../control/guard-api.js'
import type { BpfMap, BpfObject } from '../native.js'
import { cgroupId, cgroupRoot, legacyHierarchies } from './cgroups.js'
import { controlOffset, u32, u64 } from './layout.js'

export interface Subject {
  kind: GuardAllowance['kind']
  /** A unit with its suffix, a path below the root of cgroups, or an absolute path. */
  name: string
}

export interface Exemption extends Subject {
  source: GuardAllowance['source']
}

/** By command, for a time. */
export interface TimedAllowance extends Subject {
  /** Milliseconds since 1970. */
  until: number
}

interface Entry extends Exemption {
  /** Its key in the map exemptions. */
  number: number
  /** Milliseconds since 1970; null: for ever. */
  until: number | null
}

type Row = [key: Buffer, value: Buffer]

const nameSize = 96
const rootNode = 0
const unitsNode = 0xffffffff

export class Exemptions {
  readonly #object: BpfObject
  readonly #paths: BpfMap
  readonly #executables: BpfMap
  readonly #numbers: BpfMap
  readonly #entries: Entry[] = []
  /** Directory above the last → its node in the tree of paths. */
  readonly #nodes = new Map<string, number>([['', rootNode]])
  #lastNumber = 0
  /** The numbers in the map are this daemon's. */
  #published = false

  /** Replaces what an earlier daemon allowed. Throws on a name that no cgroup can have. */
  constructor(object: BpfObject, exemptions: readonly Exemption[], timed: readonly TimedAllowance[] = []) {
    this.#object = object
    this.#paths = object.map('cgroup_paths')
    this.#executables = object.map('allowed_executables')
    this.#numbers = object.map('exemptions')
    const root = cgroupRoot()
    object.writeControl(controlOffset.cgroupRoot, u64((root === null ? null : cgroupId(root)) ?? 0n))
    object.writeControl(controlOffset.version1, u32(legacyHierarchies().length > 0 ? 1 : 0))
    for (const exemption of exemptions) this.#add(exemption, null)
    for (const { until, ...subject } of timed) this.#add({ ...subject, source: 'command' }, until)
    this.#publish()
  }

  allow(request: GuardAllowRequest): void {
    const until = request.seconds === undefined ? null : Date.now() + request.seconds * 1000
    this.#add({ ...subjectOf(request), source: 'command' }, until)
    this.#publish()
  }

  deny(request: GuardAllowRequest): boolean {
    const done = this.#drop(subjectOf(request))
    this.#publish()
    return done
  }

  /** Those by command that end by themselves. */
  get timed(): TimedAllowance[] {
    return this.#entries.flatMap(({ kind, name, source, until }) =>
      source === 'command' && until !== null ? [{ kind, name, until }] : []
    )
  }

  subjects(): readonly Exemption[] {
    return this.#entries
  }

  /** exists: whether there is such a unit, cgroup or file now. */
  rows(exists: (subject: Subject) => boolean): GuardAllowance[] {
    return this.#entries.map((entry) => ({
      kind: entry.kind,
      name: entry.name,
      source: entry.source,
      until: entry.until === null ? null : new Date(entry.until).toISOString(),
      used: this.#used(entry),
      present: exists(entry)
    }))
  }

  /** In words, by the number in an event; null: none, or taken back meanwhile. */
  named(number: number): string | null {
    const entry = this.#entries.find((one) => one.number === number)
    return entry ? words(entry) : null
  }

  /** In words, what exempts a process that still lives; for what no hook has judged. */
  covering(cgroup: string | null, executable: string | null): string | null {
    const entry = this.#entries.find(({ kind, name }) => {
      if (kind === 'executable') return executable === name
      if (cgroup === null) return false
      return kind === 'unit' ? isInUnit(cgroup, name) : `${cgroup}/`.startsWith(`${name}/`)
    })
    return entry ? words(entry) : null
  }

  /** Follows files that were replaced; drops what is over. True: something was dropped. */
  refresh(): boolean {
    const now = Date.now()
    const over = this.#entries.filter(({ until }) => until !== null && until <= now)
    for (const entry of over) this.#drop(entry)
    if (over.length > 0) this.#publish()
    else if (this.#entries.some(({ kind }) => kind === 'executable')) this.#publishExecutables()
    return over.length > 0
  }

  #add(exemption: Exemption, until: number | null): void {
    for (const part of exemption.kind === 'executable' ? [] : exemption.name.split('/'))
      if (Buffer.byteLength(part) >= nameSize)
        throw new Error(`${exemption.kind} ${exemption.name}: a name in it has more than ${nameSize - 1} bytes`)
    this.#drop(exemption)
    this.#entries.push({ ...exemption, until, number: ++this.#lastNumber })
  }

  #drop({ kind, name }: Subject): boolean {
    const index = this.#entries.findIndex((entry) => entry.kind === kind && entry.name === name)
    if (index >= 0) this.#entries.splice(index, 1)
    return index >= 0
  }

  #used({ number }: Entry): number {
    const value = this.#numbers.lookup(u32(number))
    return value ? Number(value.readBigUInt64LE(8)) : 0
  }

  /** First what is new, last what is over. The programs look nowhere while there is nothing. */
  #publish(): void {
    const known = new Set(keysOf(this.#numbers))
    const numbers = this.#entries.map(({ number, until }): Row => [u32(number), allowance(until)])
    // A row that stands keeps its count, unless it is an earlier daemon's.
    const fresh = numbers.filter(([key]) => !known.has(key.toString('hex')) || !this.#published)
    for (const [key, value] of fresh) this.#numbers.update(key, value)
    const paths = this.#pathRows()
    replace(this.#paths, paths)
    this.#object.writeControl(controlOffset.paths, u32(paths.length))
    this.#publishExecutables()
    removeOthers(this.#numbers, numbers)
    this.#published = true
  }

  #publishExecutables(): void {
    const rows = this.#entries.flatMap(({ kind, name, number }): Row[] => {
      const key = kind === 'executable' ? executableKey(name) : null
      return key ? [[key, u32(number)]] : []
    })
    replace(this.#executables, rows)
    this.#object.writeControl(controlOffset.executables, u32(rows.length))
  }

  #pathRows(): Row[] {
    const rows = new Map<string, { key: Buffer; node: number; exemption: number }>()
    const row = (node: number, name: string) => {
      const key = Buffer.alloc(4 + nameSize)
      key.writeUInt32LE(node)
      key.write(name, 4)
      const known = rows.get(key.toString('hex')) ?? { key, node: 0, exemption: 0 }
      rows.set(key.toString('hex'), known)
      return known
    }
    for (const { kind, name, number } of this.#entries) {
      if (kind === 'unit') row(unitsNode, name).exemption = number
      if (kind !== 'cgroup') continue
      const parts = name.split('/').slice(1)
      let above = ''
      for (const part of parts.slice(0, -1)) {
        const inner = row(this.#node(above), part)
        above = `${above}/${part}`
        inner.node = this.#node(above)
      }
      row(this.#node(above), parts.at(-1) ?? '').exemption = number
    }
    return [...rows.values()].map(({ key, node, exemption }) => [key, Buffer.concat([u32(node), u32(exemption)])])
  }

  #node(directory: string): number {
    const node = this.#nodes.get(directory) ?? this.#nodes.size
    this.#nodes.set(directory, node)
    return node
  }
}

/** "cgroup /kubepods (default)" */
export function words({ kind, name, source }: Exemption): string {
  return `${kind} ${name} (${source})`
}

/** As systemd makes them: a unit's cgroup has nothing but slices above it. */
function isInUnit(cgroup: string, unit: string): boolean {
  for (const part of cgroup.split('/').slice(1)) {
    if (part === unit) return true
    if (!part.endsWith('.slice')) return false
  }
  return false
}

function subjectOf(request: GuardAllowRequest): Subject {
  const { unit, cgroup, executable } = request
  if ([unit, cgroup, executable].filter((given) => given !== undefined).length !== 1)
    throw new Error('name one of unit, cgroup and executable')
  if (unit !== undefined) return unitSubject(unit)
  if (cgroup !== undefined) return { kind: 'cgroup', name: `/${cgroup.replace(/^\/+|\/+$/g, '')}` }
  return { kind: 'executable', name: executable as string }
}

export function unitSubject(unit: string): Subject {
  return { kind: 'unit', name: /\.[a-z]+$/.test(unit) ? unit : `${unit}.service` }
}

function keysOf(map: BpfMap): string[] {
  const { keys, count } = map.dump()
  const size = count === 0 ? 0 : keys.length / count
  return Array.from({ length: count }, (_, index) => keys.subarray(index * size, (index + 1) * size).toString('hex'))
}

function replace(map: BpfMap, rows: Row[]): void {
  for (const [key, value] of rows) if (!map.lookup(key)?.equals(value)) map.update(key, value)
  removeOthers(map, rows)
}

function removeOthers(map: BpfMap, rows: Row[]): void {
  const wanted = new Set(rows.map(([key]) => key.toString('hex')))
  for (const key of keysOf(map)) if (!wanted.has(key)) map.delete(Buffer.from(key, 'hex'))
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

/** struct guard_allowance */
function allowance(until: number | null): Buffer {
  if (until === null) return Buffer.concat([u64(0n), u64(0n)])
  const left = BigInt(Math.max(1, until - Date.now())) * 1_000_000n
  return Buffer.concat([u64(bootTimeNow() + left), u64(0n)])
}

/** CLOCK_BOOTTIME in nanoseconds, exact to 10 ms. */
export function bootTimeNow(): bigint {
  return BigInt(Math.round(uptime() * 1e9))
}

function uptime(): number {
  return Number(readFileSync('/proc/uptime', 'utf8').split(' ')[0])
}
