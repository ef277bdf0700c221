// The maps of a datapath whose daemon is gone, or hangs, through their pins: those
// that its programs use, also in the middle of a change of maps (migration.ts).
//
//   next-part  not in use
//   next       whole, and the programs that use it are attached or are just being
//              attached. What others have written into an old table since it was
//              copied is only there: entries that the new one lacks are read from it.
//   next-done  all is merged; what is there has not got its place yet
//
// Maps of another version come in the layout of this one, as at a start.

import { existsSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { converter, layoutOf } from '../maps/convert.js'
import { type BpfMap, type BpfObject, native } from '../native.js'
import { type Entry, entriesOf, type ReadMap } from './flow-reader.js'
import { isFlowTable } from './map-copy.js'

/** Where a map is pinned: the one in use first, then what it may not have been merged with yet. */
export function pinsOf(pinDirectory: string, name: string): string[] {
  const place = (directory: string) => join(pinDirectory, directory, name)
  if (existsSync(place('next-done'))) return [place('next-done')]
  return existsSync(place('next')) ? [place('next'), place('.')] : [place('.')]
}

/** A change of maps was not finished. */
export function isUnfinished(pinDirectory: string): boolean {
  return ['next', 'next-done'].some((name) => existsSync(join(pinDirectory, name)))
}

const array = 2

export class PinnedMaps {
  private readonly opened = new Map<string, ReadMap>()
  private readonly held: BpfMap[] = []
  private readonly differing = new Map<string, Set<string>>()
  private ours: BpfObject | null = null

  constructor(private readonly pinDirectory: string) {}

  /** Throws NativeError: ENOENT where it is not pinned. */
  map(name: string): ReadMap {
    const known = this.opened.get(name)
    if (known) return known
    const [first = '', second] = pinsOf(this.pinDirectory, name)
    const before = second !== undefined && isFlowTable(name) ? this.openIfThere(second) : null
    const map = before ? new Joined(this.open(first), before) : this.open(first)
    this.opened.set(name, map)
    return map
  }

  /** All rows of a table that is not long; none where it is not pinned. */
  rows(name: string): Entry[] {
    try {
      const map = this.map(name)
      return map.info.type === array ? arrayRows(map) : [...entriesOf(map)].flat()
    } catch (error) {
      if ((error as { code?: string }).code === 'ENOENT') return []
      throw error
    }
  }

  close(): void {
    for (const map of this.held.splice(0)) map.close()
    this.ours?.close()
    this.ours = null
    this.opened.clear()
  }

  private open(path: string): ReadMap {
    const map = native().openPinnedMap(path)
    this.held.push(map)
    const name = basename(path)
    if (!this.differs(dirname(path), name)) return map
    // only their layout is asked for
    this.ours ??= native().loadObject({ programs: [] })
    const ours = this.ours.map(name)
    this.held.push(ours)
    return new Converted(map, ours)
  }

  /** null: the generation before had none. */
  private openIfThere(path: string): ReadMap | null {
    try {
      return this.open(path)
    } catch (error) {
      if ((error as { code?: string }).code === 'ENOENT') return null
      throw error
    }
  }

  private differs(directory: string, name: string): boolean {
    const known = this.differing.get(directory) ?? new Set(native().differingMaps(directory))
    this.differing.set(directory, known)
    return known.has(name)
  }
}

function arrayRows(map: ReadMap): Entry[] {
  const rows: Entry[] = []
  for (let row = 0; row < map.info.maxEntries; row++) {
    const key = Buffer.alloc(4)
    key.writeUInt32LE(row)
    const value = map.lookup(key)
    if (value) rows.push({ key, value })
  }
  return rows
}

/** The first, and what it lacks of the second. */
class Joined implements ReadMap {
  readonly info: ReadMap['info']

  constructor(
    private readonly first: ReadMap,
    private readonly second: ReadMap
  ) {
    this.info = first.info
  }

  lookup(key: Buffer): Buffer | null {
    return this.first.lookup(key) ?? this.second.lookup(key)
  }

  /** A position begins with the number of the map that it is in. */
  readBatch(position: Buffer | null, most: number): ReturnType<ReadMap['readBatch']> {
    const inSecond = position !== null && position[0] === 1
    const inner = position !== null && position.length > 1 ? position.subarray(1) : null
    if (!inSecond) {
      const part = this.first.readBatch(inner, most)
      return { ...part, next: part.next ? Buffer.concat([Buffer.of(0), part.next]) : Buffer.of(1) }
    }
    const part = this.second.readBatch(inner, most)
    return { ...this.lacking(part), next: part.next && Buffer.concat([Buffer.of(1), part.next]) }
  }

  private lacking({ keys, values, count }: { keys: Buffer; values: Buffer; count: number }) {
    const { keySize, valueSize } = this.info
    const rows = Array.from({ length: count }, (_, row) => row).filter(
      (row) => this.first.lookup(keys.subarray(row * keySize, (row + 1) * keySize)) === null
    )
    return {
      keys: Buffer.concat(rows.map((row) => keys.subarray(row * keySize, (row + 1) * keySize))),
      values: Buffer.concat(rows.map((row) => values.subarray(row * valueSize, (row + 1) * valueSize))),
      count: rows.length
    }
  }
}

/** One of another version, in the layout of `ours`. */
class Converted implements ReadMap {
  readonly info: ReadMap['info']
  private readonly keys: (bytes: Buffer) => Buffer
  private readonly values: (bytes: Buffer) => Buffer
  private readonly keyBack: (bytes: Buffer) => Buffer

  constructor(
    private readonly map: BpfMap,
    ours: BpfMap
  ) {
    const [before, after] = [layoutOf(map), layoutOf(ours)]
    const [old, now] = [map.info, ours.info]
    this.info = { ...old, keySize: now.keySize, valueSize: now.valueSize }
    const keys = converter(before.key, after.key)
    const values = converter(before.value, after.value)
    const back = converter(after.key, before.key)
    this.keys = (bytes) => keys(bytes, old.keySize, now.keySize)
    this.values = (bytes) => values(bytes, old.valueSize, now.valueSize)
    this.keyBack = (bytes) => back(bytes, now.keySize, old.keySize)
  }

  lookup(key: Buffer): Buffer | null {
    const value = this.map.lookup(this.keyBack(key))
    return value && this.values(value)
  }

  readBatch(position: Buffer | null, most: number): ReturnType<ReadMap['readBatch']> {
    const { keys, values, count, next } = this.map.readBatch(position, most)
    return { keys: this.keys(keys), values: this.values(values), count, next }
  }
}
