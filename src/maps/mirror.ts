// A map of the kernel and what we wrote into it. Writes go through `put` and
// `remove`, which do nothing when the row is already so; hence after a plan was
// applied the mirror is the wanted contents, and `differences` finds what
// somebody else changed.
//
// Keys are hexadecimal bytes. In an array map a row of zeros is an absent one.

import type { BpfMap, MapBatch } from '../native.js'

const BPF_MAP_TYPE_ARRAY = 2

/** One row that is not as wanted; null: absent. */
export interface RowDifference {
  key: Buffer
  have: Buffer | null
  want: Buffer | null
}

export interface Mirror {
  readonly map: BpfMap
  readonly rows: ReadonlyMap<string, Buffer>
  /** Reads the map: from now on the mirror holds what it holds. */
  load(): void
  /** true: it was written. On a throw the mirror is as before. */
  put(key: string, value: Buffer): boolean
  remove(key: string): boolean
  /** Many at once, of a map that is no array. On a throw some may be in the map, and the mirror is as before. */
  putAll(keys: readonly string[], values: readonly Buffer[]): void
  removeAll(keys: readonly string[]): void
  /** Compares with the kernel's contents. */
  differences(): RowDifference[]
}

export function createMirror(map: BpfMap): Mirror {
  const rows = new Map<string, Buffer>()
  const isArray = map.info.type === BPF_MAP_TYPE_ARRAY
  const zeros = Buffer.alloc(map.info.valueSize)
  return {
    map,
    rows,
    load() {
      rows.clear()
      for (const [key, value] of entries(map)) rows.set(key.toString('hex'), Buffer.from(value))
    },
    put(key, value) {
      if (rows.get(key)?.equals(value)) return false
      map.update(Buffer.from(key, 'hex'), value)
      rows.set(key, value)
      return true
    },
    remove(key) {
      if (!rows.has(key)) return false
      if (isArray) map.update(Buffer.from(key, 'hex'), zeros)
      else map.delete(Buffer.from(key, 'hex'))
      rows.delete(key)
      return true
    },
    putAll(keys, values) {
      if (keys.length === 0) return
      map.updateBatch(Buffer.from(keys.join(''), 'hex'), Buffer.concat(values), values.length)
      keys.forEach((key, index) => {
        rows.set(key, values[index] as Buffer)
      })
    },
    removeAll(keys) {
      if (keys.length === 0) return
      map.deleteBatch(Buffer.from(keys.join(''), 'hex'), keys.length)
      for (const key of keys) rows.delete(key)
    },
    differences() {
      const found: RowDifference[] = []
      const seen = new Set<string>()
      for (const [key, have] of entries(map)) {
        const name = key.toString('hex')
        const want = rows.get(name) ?? null
        seen.add(name)
        if (!want?.equals(have)) found.push({ key, have, want })
      }
      for (const [name, want] of rows)
        if (!seen.has(name)) found.push({ key: Buffer.from(name, 'hex'), have: null, want })
      return found
    }
  }
}

/** Writes what is wanted over what is there. */
export function restore(map: BpfMap, difference: RowDifference): void {
  if (difference.want) map.update(difference.key, difference.want)
  else if (map.info.type === BPF_MAP_TYPE_ARRAY) map.update(difference.key, Buffer.alloc(map.info.valueSize))
  else map.delete(difference.key)
}

/** A map's entries; of an array only rows that are not zeros. The buffers are parts of two large ones: copy what is kept for long. */
export function* entries(map: BpfMap): Iterable<[Buffer, Buffer]> {
  const { keySize, valueSize } = map.info
  const { keys, values, count } = map.dumpPresent()
  for (let i = 0; i < count; i++) {
    yield [keys.subarray(i * keySize, (i + 1) * keySize), values.subarray(i * valueSize, (i + 1) * valueSize)]
  }
}

/** A trie's entries, some at a time. What is deleted meanwhile may make some come twice; never for ever. */
export function* batchesOf(map: BpfMap, most: number): Iterable<MapBatch> {
  let position: Buffer | null = null
  let left = 2 * map.info.maxEntries + most
  do {
    const batch = map.readBatch(position, most)
    if (batch.count > 0) yield batch
    position = batch.next
    left -= batch.count
  } while (position !== null && left > 0)
}

/** Key of an array map. */
export function indexKey(index: number): string {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(index)
  return bytes.toString('hex')
}
