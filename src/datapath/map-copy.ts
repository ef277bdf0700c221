// Rows of a map into another one that takes its place (migration.ts).

import { CODES, STRUCTS } from '../maps/layout.js'
import type { BpfMap, NativeError } from '../native.js'

export interface Rows {
  keys: Buffer
  values: Buffer
  count: number
}

/** Rows of an old map as the new one has them. */
export type Convert = (rows: Rows) => Rows

/** Written by the programs for each packet of a flow: copied while they make no entry, and once more what has changed. */
const flowTables = new Set(['flows4', 'flows6', 'reverse4', 'reverse6'])
/** Written with the entries. */
const charged = new Set(['accounts', 'usage'])
const copied = new Set([
  ...['devices', 'pod_slots', 'pods', 'pod_sources', 'routes4', 'routes6', 'class_routes4', 'class_routes6'],
  ...['nexthops', 'snat_sources', 'groups', 'neighbours', 'masquerade', 'snat_ports'],
  ...['owners4', 'owners6', 'stack_pairs', 'counted_before']
])

export const isFlowTable = (name: string): boolean => flowTables.has(name)
/** Else it holds only what a program needs while it runs. */
export const isCopied = (name: string): boolean => copied.has(name) || inThePause(name)
export const inThePause = (name: string): boolean => flowTables.has(name) || charged.has(name)

const rowsAtOnce = 8192
const onlyIfAbsent = 1
const hashes = new Set([1, 5, 9, 10])
const { flow, reverse, counter } = STRUCTS

/** Into an empty map. `flows`: entries that a program is about to delete are left out. Throws NativeError. */
export function copyRows(from: BpfMap, to: BpfMap, convert: Convert | null, flows: boolean): void {
  const lives = flows && (from.info.name.startsWith('flows') ? flow : reverse).offset.life
  for (const rows of partsOf(from)) {
    const { keys, values, count } = convert ? convert(rows) : rows
    const kept = lives === false ? { keys, values, count } : living({ keys, values, count }, to, lives)
    if (kept.count > 0) to.updateBatch(kept.keys, kept.values, kept.count)
  }
}

/**
 * What programs have written into an old table after it was copied: entries that
 * are missing in the new one, and what they have seen of the others. since: jiffies
 * before which nothing was written; null: not known.
 */
export function mergeRows(from: BpfMap, to: BpfMap, convert: Convert | null, name: string, since: number | null): void {
  const isFlow = name.startsWith('flows')
  const { seen, life } = (isFlow ? flow : reverse).offset
  const { keySize, valueSize } = to.info
  for (const rows of partsOf(from)) {
    const { keys, values, count } = convert ? convert(rows) : rows
    for (let row = 0; row < count; row++) {
      const value = values.subarray(row * valueSize, (row + 1) * valueSize)
      if (value.readUInt32LE(life) === CODES.FLOW_DEAD) continue
      if (since !== null && ((value.readUInt32LE(seen) - since) | 0) < 0) continue
      const key = keys.subarray(row * keySize, (row + 1) * keySize)
      mergeRow(to, key, value, isFlow)
    }
  }
}

function mergeRow(to: BpfMap, key: Buffer, value: Buffer, isFlow: boolean): void {
  const have = to.lookup(key)
  if (!have) return insert(to, key, value)
  const merged = Buffer.from(have)
  const { seen, life } = (isFlow ? flow : reverse).offset
  const bits = isFlow ? [flow.offset.tcp] : [reverse.offset.tcp, reverse.offset.replied]
  for (const at of bits) merged.writeUInt8(have.readUInt8(at) | value.readUInt8(at), at)
  if (have.readUInt32LE(life) === CODES.FLOW_DYING) merged.writeUInt32LE(CODES.FLOW_LIVE, life)
  if (merged.equals(have)) return
  if (((value.readUInt32LE(seen) - have.readUInt32LE(seen)) | 0) > 0)
    merged.writeUInt32LE(value.readUInt32LE(seen), seen)
  to.update(key, merged)
}

function insert(to: BpfMap, key: Buffer, value: Buffer): void {
  try {
    to.update(key, value, onlyIfAbsent)
  } catch (error) {
    // a program was first
    if ((error as NativeError).code !== 'EEXIST') throw error
  }
}

/** Sums over the CPUs, and what was carried before: written, not added, so that it may be done twice. */
export function addCounts(
  counters: BpfMap,
  before: BpfMap | null,
  to: BpfMap,
  convert: (name: string) => Convert | null
): void {
  const sums = new Map<number, [bigint, bigint]>()
  const add = (row: number, values: Buffer): void => {
    const sum = sums.get(row) ?? [0n, 0n]
    for (let at = 0; at < values.length; at += counter.size) {
      sum[0] += values.readBigUInt64LE(at + counter.offset.packets)
      sum[1] += values.readBigUInt64LE(at + counter.offset.bytes)
    }
    if (sum[0] > 0n) sums.set(row, sum)
  }
  for (const [map, name] of [[counters, 'counters'] as const, [before, 'counted_before'] as const]) {
    if (!map) continue
    const how = convert(name)
    for (const rows of partsOf(map)) {
      const { keys, values, count } = how ? how(rows) : rows
      const size = count === 0 ? 0 : values.length / count
      for (let row = 0; row < count; row++)
        add(keys.readUInt32LE(row * 4), values.subarray(row * size, (row + 1) * size))
    }
  }
  for (const [row, [packets, bytes]] of sums) {
    const key = Buffer.alloc(4)
    key.writeUInt32LE(row)
    const value = Buffer.alloc(counter.size)
    value.writeBigUInt64LE(packets, counter.offset.packets)
    value.writeBigUInt64LE(bytes, counter.offset.bytes)
    to.update(key, value)
  }
}

function living({ keys, values, count }: Rows, to: BpfMap, life: number): Rows {
  const { keySize, valueSize } = to.info
  const kept: number[] = []
  for (let row = 0; row < count; row++)
    if (values.readUInt32LE(row * valueSize + life) !== CODES.FLOW_DEAD) kept.push(row)
  if (kept.length === count) return { keys, values, count }
  return {
    keys: Buffer.concat(kept.map((row) => keys.subarray(row * keySize, (row + 1) * keySize))),
    values: Buffer.concat(kept.map((row) => values.subarray(row * valueSize, (row + 1) * valueSize))),
    count: kept.length
  }
}

/** A hash in parts, others whole. */
function* partsOf(map: BpfMap): Generator<Rows> {
  if (!hashes.has(map.info.type)) {
    yield map.dump()
    return
  }
  let position: Buffer | null = null
  do {
    const part = map.readBatch(position, rowsAtOnce)
    yield part
    position = part.next
  } while (position !== null)
}
