// Rows of a map into another one that takes its place (migration.ts).

import { CODES, FLOW_BATCH, STRUCTS } from '../maps/layout.js'
import { batchesOf } from '../maps/mirror.js'
import type { BpfMap, BpfObject } from '../native.js'

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
/** Follow from the plan. */
const planned = new Set([
  ...['devices', 'pod_slots', 'pods', 'pod_sources', 'routes4', 'routes6', 'class_routes4', 'class_routes6'],
  ...['nexthops', 'snat_sources', 'groups', 'neighbours']
])
const atOnce = new Set(['masquerade', 'snat_ports', 'owners4', 'owners6', 'stack_pairs', 'counted_before'])

export const isFlowTable = (name: string): boolean => flowTables.has(name)
/** What is none of these three holds only what a program needs while it runs. */
export const isPlanned = (name: string): boolean => planned.has(name)
export const inThePause = (name: string): boolean => flowTables.has(name) || charged.has(name)
/** Written by programs, or by the daemon whosever turn it is: nothing is to come between copying and taking over. */
export const isCopiedAtOnce = (name: string): boolean => atOnce.has(name)

/** Takes some milliseconds. */
const rowsAtOnce = 2048
/** Hashes, LRU or per CPU or neither, and tries. */
const inParts = new Set([1, 5, 9, 10, 11])
const { flow, reverse, counter, merge_args, merge_rows } = STRUCTS

/** Into an empty map, in steps. `flows`: entries that a program is about to delete are left out. Throws NativeError. */
export function* copyRows(from: BpfMap, to: BpfMap, convert: Convert | null, flows: boolean): Generator<void> {
  const lives = flows && (from.info.name.startsWith('flows') ? flow : reverse).offset.life
  for (const rows of partsOf(from)) {
    const { keys, values, count } = convert ? convert(rows) : rows
    const kept = lives === false ? { keys, values, count } : living({ keys, values, count }, to, lives)
    if (kept.count > 0) to.updateBatch(kept.keys, kept.values, kept.count)
    yield
  }
}

/**
 * What programs have written into an old table after it was copied, by a program (bpf/merge.h):
 * entries that are missing in the new one, and what they have seen of the others. since: jiffies
 * before which nothing was written; null: not known. Throws when an entry finds no room.
 */
export function mergeRows(from: BpfMap, next: Merging, convert: Convert | null, name: string, since: number | null) {
  const isFlow = name.startsWith('flows')
  const { seen, life } = (isFlow ? flow : reverse).offset
  const batch = new MergeBatch(next, name, since)
  try {
    for (const rows of partsOf(from)) {
      const { keys, values, count } = convert ? convert(rows) : rows
      const [keySize, valueSize] = count === 0 ? [0, 0] : [keys.length / count, values.length / count]
      for (let row = 0; row < count; row++) {
        const value = values.subarray(row * valueSize, (row + 1) * valueSize)
        if (value.readUInt32LE(life) === CODES.FLOW_DEAD) continue
        const older = since !== null && isBefore(value.readUInt32LE(seen), since)
        if (older && !(isFlow && mayHaveHeard(value))) continue
        batch.add(keys.subarray(row * keySize, (row + 1) * keySize), value)
      }
    }
    batch.run()
  } finally {
    batch.close()
  }
}

const isBefore = (jiffies: number, than: number): boolean => ((jiffies - than) | 0) < 0

const ofRemote = CODES.SEEN_REMOTE_FIN | CODES.SEEN_REMOTE_RST

/** What the remote says changes a flow, and not when the pod's last packet was. */
function mayHaveHeard(value: Buffer): boolean {
  const tcp = value.readUInt8(flow.offset.tcp)
  const acknowledged = (tcp & CODES.SEEN_REMOTE_ACK) !== 0 && (tcp & CODES.SEEN_ACK) === 0
  return acknowledged || (tcp & ofRemote) !== 0
}

type Merging = Pick<BpfObject, 'map' | 'testRun'>

class MergeBatch {
  private readonly context = Buffer.alloc(merge_args.size)
  private readonly rows = Buffer.alloc(merge_rows.size)
  private readonly map: BpfMap
  private count = 0

  constructor(
    private readonly next: Merging,
    private readonly name: string,
    since: number | null
  ) {
    this.map = next.map('merge_rows')
    this.context.writeUInt32LE(name.endsWith('4') ? 4 : 6, merge_args.offset.family)
    this.context.writeUInt32LE(name.startsWith('reverse') ? 1 : 0, merge_args.offset.reverse)
    this.context.writeUInt32LE(since === null ? 0 : 1, merge_args.offset.knows_since)
    this.context.writeUInt32LE(since ?? 0, merge_args.offset.since)
  }

  add(key: Buffer, value: Buffer): void {
    key.copy(this.rows, merge_rows.offset.key + this.count * keyRoom)
    value.copy(this.rows, merge_rows.offset.value + this.count * valueRoom)
    this.count++
    if (this.count === FLOW_BATCH) this.run()
  }

  run(): void {
    if (this.count === 0) return
    this.map.update(firstRow, this.rows)
    this.context.writeUInt32LE(this.count, merge_args.offset.count)
    this.count = 0
    const error = this.next.testRun('merge', { context: this.context }).context.readInt32LE(merge_args.offset.error)
    if (error !== 0) throw new Error(`an entry of ${this.name} cannot be merged (error ${-error})`)
  }

  close(): void {
    this.map.close()
  }
}

const keyRoom = STRUCTS.tuple6.size
const valueRoom = flow.size
const firstRow = Buffer.alloc(4)

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

/** Hashes and tries in parts, others whole. */
function* partsOf(map: BpfMap): Iterable<Rows> {
  if (inParts.has(map.info.type)) yield* batchesOf(map, rowsAtOnce)
  else yield map.dump()
}
