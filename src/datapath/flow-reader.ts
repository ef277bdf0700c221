// Reads tables of flows a part at a time: of the loaded object, or pinned by a
// daemon that is gone.

import type { BpfMap } from '../native.js'

/** Rows as this version lays them out. */
export type ReadMap = Pick<BpfMap, 'info' | 'lookup' | 'readBatch'>

const entriesAtOnce = 256

export interface Entry {
  key: Buffer
  value: Buffer
}

/** Every entry that is there throughout comes once. */
export function* entriesOf(map: ReadMap): Generator<Entry[]> {
  const { keySize, valueSize } = map.info
  let position: Buffer | null = null
  do {
    const { keys, values, count, next } = map.readBatch(position, entriesAtOnce)
    yield Array.from({ length: count }, (_, row) => ({
      key: keys.subarray(row * keySize, (row + 1) * keySize),
      value: values.subarray(row * valueSize, (row + 1) * valueSize)
    }))
    position = next
  } while (position !== null)
}
