// Rows of routes4 and routes6 between columns (src/prefix-map.ts) and the bytes
// of the maps, without a string or an object for each.

import type { PrefixColumn } from '../prefix-map.js'
import { CODES, STRUCTS } from './layout.js'

/** action + 4 * (index or reason); -1: a row that is none of ours. */
export type Packed = number

const { size: rowSize, offset: rowOffset } = STRUCTS.route
const { size: keySize4, offset: keyOffset } = STRUCTS.route4_key

/** The place of a map's key; -1: none. */
export function findKey(column: PrefixColumn, keys: Buffer, at: number): number {
  const length = keys.readUInt32LE(at + keyOffset.prefix_length)
  if (column.family === 4) return column.find(length, keys.readUInt32BE(at + keyOffset.address))
  const [a, b, c, d] = wordsAt(keys, at + keyOffset.address)
  return column.find(length, a, b, c, d)
}

/** The same, new if there is none. */
export function placeKey(column: PrefixColumn, keys: Buffer, at: number): number {
  const length = keys.readUInt32LE(at + keyOffset.prefix_length)
  if (column.family === 4) return column.place(length, keys.readUInt32BE(at + keyOffset.address))
  const [a, b, c, d] = wordsAt(keys, at + keyOffset.address)
  return column.place(length, a, b, c, d)
}

function wordsAt(bytes: Buffer, at: number): [a: number, b: number, c: number, d: number] {
  return [bytes.readUInt32BE(at), bytes.readUInt32BE(at + 4), bytes.readUInt32BE(at + 8), bytes.readUInt32BE(at + 12)]
}

/** The key of a place, into bytes. */
export function putKey({ family, lengths, words }: PrefixColumn, place: number, keys: Buffer, at: number): void {
  keys.writeUInt32LE((lengths[place] as number) - 1, at + keyOffset.prefix_length)
  if (family === 4) {
    keys.writeUInt32BE(words[place] as number, at + keyOffset.address)
    return
  }
  for (let word = 0; word < 4; word++)
    keys.writeUInt32BE(words[place * 4 + word] as number, at + keyOffset.address + word * 4)
}

export function keySizeOf({ family }: PrefixColumn): number {
  return family === 4 ? keySize4 : STRUCTS.route6_key.size
}

/** A row into bytes that are zero. */
export function putRow(packed: Packed, bytes: Buffer, at: number): void {
  const action = packed % 4
  bytes.writeUInt32LE(action, at + rowOffset.action)
  bytes.writeUInt32LE(packed >> 2, at + (action === CODES.ROUTE_STACK ? rowOffset.reason : rowOffset.nexthop))
}

/** -1: none of ours. */
export function packRow(bytes: Buffer, at: number): Packed {
  const action = bytes.readUInt32LE(at + rowOffset.action)
  const index = bytes.readUInt32LE(at + (action === CODES.ROUTE_STACK ? rowOffset.reason : rowOffset.nexthop))
  if (action > CODES.ROUTE_MAIN || index >= 2 ** 28) return -1
  const other = bytes.readUInt32LE(at + (action === CODES.ROUTE_STACK ? rowOffset.nexthop : rowOffset.reason))
  const rest = rowOffset.reason + 4
  for (let byte = rest; byte < rowSize; byte++) if (bytes[at + byte] !== 0) return -1
  return other === 0 ? action + 4 * index : -1
}

const placesInStep = 1 << 17

/** Places by the length of their prefixes, longer ones first. Nothing may come or go meanwhile. -1: many have been looked at since. */
export function* longestFirst(column: PrefixColumn): Generator<number> {
  const counts = new Uint32Array(129)
  for (let at = 0; at < column.end; at++) {
    const length = column.lengths[at] as number
    if (length > 0) counts[length - 1] = (counts[length - 1] as number) + 1
  }
  let done = 0
  for (let length = 128; length >= 0; length--) {
    let left = counts[length] as number
    for (let at = 0; left > 0; at++) {
      if (++done % placesInStep === 0) yield -1
      if (column.lengths[at] !== length + 1) continue
      left--
      yield at
    }
  }
}
