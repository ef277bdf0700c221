// Rows of routes4 and routes6, and of class_routes4 and class_routes6. What was
// written is remembered as one number a prefix, for a table may have a million;
// for the same reason maps are read and written in batches. Keys are prefix keys ("0a000000/8"), in class routes with the class before
// ("3 0a000000/8").

import type { WantedClassRoute } from '../plan/types.js'
import { reasonCode } from '../reasons.js'
import type { Family } from '../state/types.js'
import { CapacityError, isFull, type MapAccess } from './access.js'
import { decodeClassRouteKey, decodeRoute, decodeRouteKey, encodeClassRouteKey, encodeRouteKey } from './codec.js'
import { CODES, STRUCTS } from './layout.js'
import { batchesOf, type RowDifference } from './mirror.js'
import type { GroupRows, NexthopRows } from './nexthops.js'

export interface RouteRows {
  load(): void
  /** Indexes of groups that the rows refer to, once for each route. */
  groupsInUse(): Iterable<number>
  /** true: it was written. CapacityError: the map is full. */
  write(key: string, wanted: WantedClassRoute): boolean
  /** Many, in this order, each once. true: something was written. After a throw the rows remembered are those in the map. */
  writeAll(all: Iterable<readonly [key: string, wanted: WantedClassRoute]>): boolean
  remove(key: string): boolean
  has(key: string): boolean
  keys(): Iterable<string>
  size(): number
  /** Leaves it to the kernel's stack for whatever reason; other rows refer to next hops or groups, or are none of ours. */
  isStack(key: string): boolean
  count(family: Family): number
  capacity(family: Family): number
  /** Compares with the kernel's contents, in steps of about a millisecond. What is written between them counts as right. One at a time. */
  differences(family: Family): Generator<void, RowDifference[]>
}

/** action + 4 * (index or reason); -1: a row that is none of ours. */
type Packed = number
/** Packed * 2 + mark: which comparison has seen the row, this one or the one before. */
type Marked = number

const local: Packed = CODES.ROUTE_STACK + 4 * reasonCode('local')
const rowsInStep = 512
const rowsAtOnce = 1024

/** After a row was written or removed: the prefix key, in class routes without the class; lost: of an address that the node has no longer. */
export type OnChange = (prefix: string, lost: boolean) => void

/** A row that is to be another. */
interface Pending {
  key: string
  before: Packed | undefined
  after: Packed
}

interface Kind {
  maps: Record<Family, string>
  encode(key: string): Buffer
  decode(bytes: Buffer): string
}

export const nodeRoutes: Kind = { maps: { 4: 'routes4', 6: 'routes6' }, encode: encodeRouteKey, decode: decodeRouteKey }
export const classRoutes: Kind = {
  maps: { 4: 'class_routes4', 6: 'class_routes6' },
  encode: encodeClassRouteKey,
  decode: decodeClassRouteKey
}

export function createRouteRows(
  access: MapAccess,
  nexthops: NexthopRows,
  groups: GroupRows,
  kind: Kind,
  onChange: OnChange
): RouteRows {
  const maps = { 4: access.map(kind.maps[4]), 6: access.map(kind.maps[6]) }
  const rows = new Map<string, Marked>()
  const marks: Record<Family, 0 | 1> = { 4: 0, 6: 0 }
  const counts = { 4: 0, 6: 0 }
  /** For each comparison that goes on, what was written since its begin. */
  const watching = new Set<Set<string>>()
  const mapOf = (key: string) => maps[familyOfKey(key)]

  const pack = (wanted: WantedClassRoute): Packed => {
    switch (wanted.action) {
      case 'stack':
        return CODES.ROUTE_STACK + 4 * reasonCode(wanted.reason)
      case 'nexthop':
        return CODES.ROUTE_NEXTHOP + 4 * nexthops.indexOf(wanted.nexthop)
      case 'group':
        return CODES.ROUTE_GROUP + 4 * groups.acquire(wanted)
      case 'main':
        return CODES.ROUTE_MAIN
    }
  }
  const releaseGroup = (packed: Packed | undefined): void => {
    if (packed !== undefined && packed >= 0 && packed % 4 === CODES.ROUTE_GROUP) groups.release(packed >> 2)
  }

  const get = (key: string): Packed | undefined => {
    const marked = rows.get(key)
    return marked === undefined ? undefined : marked >> 1
  }

  const set = (key: string, packed: Packed): void => {
    const family = familyOfKey(key)
    if (!rows.has(key)) counts[family]++
    rows.set(key, packed * 2 + marks[family])
    for (const since of watching) since.add(key)
  }

  const changed = (key: string, before: Packed | undefined, after: Packed | undefined): void => {
    onChange(key.slice(key.indexOf(' ') + 1), before === local && after !== local)
  }

  const refused = (family: Family, cause: unknown): unknown => {
    if (!isFull(cause)) return cause
    const { name, maxEntries } = maps[family].info
    return new CapacityError([family], `${name} is full at ${maxEntries} routes`, { cause })
  }

  /** Writes rows of one family that are others now. */
  const flush = (family: Family, batch: readonly Pending[]): void => {
    const { keySize, valueSize } = maps[family].info
    const keys = Buffer.allocUnsafe(batch.length * keySize)
    const values = Buffer.alloc(batch.length * valueSize)
    batch.forEach(({ key, after }, at) => {
      kind.encode(key).copy(keys, at * keySize)
      putRow(after, values, at * valueSize)
    })
    let done = batch.length
    try {
      maps[family].updateBatch(keys, values, batch.length)
    } catch (cause) {
      done = (cause as { written?: number }).written ?? 0
      for (const { after } of batch.slice(done)) releaseGroup(after)
      throw refused(family, cause)
    } finally {
      for (const { key, before, after } of batch.slice(0, done)) {
        set(key, after)
        changed(key, before, after)
        releaseGroup(before)
      }
    }
  }

  /** Which rows a comparison has met. Marks in the rows cost nothing; only one comparison at a time has them. */
  const meet = (
    family: Family
  ): { met(key: string, marked: Marked): void; isMet(key: string, marked: Marked): boolean } => {
    if (watching.size > 1) {
      const keys = new Set<string>()
      return { met: (key) => keys.add(key), isMet: (key) => keys.has(key) }
    }
    const mark = marks[family] === 0 ? 1 : 0
    marks[family] = mark
    return {
      met: (key, marked) => {
        if ((marked & 1) !== mark) rows.set(key, marked ^ 1)
      },
      isMet: (_, marked) => (marked & 1) === mark
    }
  }

  function* compare(family: Family, changed: ReadonlySet<string>): Generator<void, RowDifference[]> {
    const found: RowDifference[] = []
    const { met, isMet } = meet(family)
    const { keySize, valueSize } = maps[family].info
    for (const { keys, values, count } of batchesOf(maps[family], rowsInStep)) {
      for (let at = 0; at < count; at++) {
        const key = keys.subarray(at * keySize, (at + 1) * keySize)
        const value = values.subarray(at * valueSize, (at + 1) * valueSize)
        const prefix = kind.decode(key)
        const marked = rows.get(prefix)
        if (marked !== undefined) met(prefix, marked)
        const want = marked === undefined ? null : marked >> 1
        if (want !== null && packRow(value) === want) continue
        if (!changed.has(prefix)) found.push({ key, have: value, want: want === null ? null : unpack(want) })
      }
      yield
    }
    let done = 0
    for (const [prefix, marked] of rows) {
      if (++done % (rowsInStep * 8) === 0) yield
      if (familyOfKey(prefix) !== family || isMet(prefix, marked)) continue
      met(prefix, marked)
      if (!changed.has(prefix)) found.push({ key: kind.encode(prefix), have: null, want: unpack(marked >> 1) })
    }
    return found.filter(({ key }) => !changed.has(kind.decode(key)))
  }

  return {
    has: (key) => rows.has(key),
    keys: () => rows.keys(),
    size: () => rows.size,
    isStack: (key) => {
      const packed = get(key)
      return packed !== undefined && packed >= 0 && packed % 4 === CODES.ROUTE_STACK
    },
    count: (family) => counts[family],
    capacity: (family) => maps[family].info.maxEntries,
    load() {
      rows.clear()
      counts[4] = counts[6] = 0
      for (const map of [maps[4], maps[6]]) {
        const { keySize, valueSize } = map.info
        for (const { keys, values, count } of batchesOf(map, rowsAtOnce))
          for (let at = 0; at < count; at++)
            set(
              kind.decode(keys.subarray(at * keySize, (at + 1) * keySize)),
              packRow(values.subarray(at * valueSize, (at + 1) * valueSize))
            )
      }
    },
    *groupsInUse() {
      for (const marked of rows.values()) {
        const packed = marked >> 1
        if (packed >= 0 && packed % 4 === CODES.ROUTE_GROUP) yield packed >> 2
      }
    },
    writeAll(all) {
      const batches: Record<Family, Pending[]> = { 4: [], 6: [] }
      let any = false
      const send = (family: Family, least: number): void => {
        const batch = batches[family]
        if (batch.length < least) return
        batches[family] = []
        flush(family, batch)
      }
      try {
        for (const [key, wanted] of all) {
          const before = get(key)
          const after = pack(wanted)
          if (before === after) {
            releaseGroup(before)
            continue
          }
          any = true
          const family = familyOfKey(key)
          batches[family].push({ key, before, after })
          send(family, rowsAtOnce)
        }
        send(4, 1)
        send(6, 1)
      } catch (error) {
        for (const { after } of [...batches[4], ...batches[6]]) releaseGroup(after)
        throw error
      }
      return any
    },
    write(prefix, wanted) {
      const before = get(prefix)
      const after = pack(wanted)
      if (before !== after) {
        const map = mapOf(prefix)
        try {
          map.update(kind.encode(prefix), unpack(after))
        } catch (cause) {
          releaseGroup(after)
          throw refused(familyOfKey(prefix), cause)
        }
        set(prefix, after)
        changed(prefix, before, after)
      }
      releaseGroup(before)
      return before !== after
    },
    remove(prefix) {
      const before = get(prefix)
      if (before === undefined) return false
      mapOf(prefix).delete(kind.encode(prefix))
      rows.delete(prefix)
      counts[familyOfKey(prefix)]--
      for (const since of watching) since.add(prefix)
      changed(prefix, before, undefined)
      releaseGroup(before)
      return true
    },
    *differences(family) {
      const changed = new Set<string>()
      watching.add(changed)
      let whole = false
      try {
        const found = yield* compare(family, changed)
        whole = true
        return found
      } finally {
        watching.delete(changed)
        // the next one must find all rows with one mark
        if (!whole)
          for (const [key, marked] of rows)
            if (familyOfKey(key) === family) rows.set(key, (marked >> 1) * 2 + marks[family])
      }
    }
  }
}

/** Of a prefix key, with or without a class before it. */
export function familyOfKey(key: string): Family {
  return key.indexOf('/') - key.indexOf(' ') === 9 ? 4 : 6
}

function packRow(bytes: Buffer): Packed {
  const { action, nexthop, reason } = decodeRoute(bytes)
  const packed = action + 4 * (action === CODES.ROUTE_STACK ? reason : nexthop)
  return action <= CODES.ROUTE_MAIN && packed < 2 ** 31 && unpack(packed).equals(bytes) ? packed : -1
}

function unpack(packed: Packed): Buffer {
  const bytes = Buffer.alloc(STRUCTS.route.size)
  putRow(packed, bytes, 0)
  return bytes
}

/** Into bytes that are zero. */
function putRow(packed: Packed, bytes: Buffer, at: number): void {
  const action = packed % 4
  const { offset } = STRUCTS.route
  bytes.writeUInt32LE(action, at + offset.action)
  bytes.writeUInt32LE(packed >> 2, at + (action === CODES.ROUTE_STACK ? offset.reason : offset.nexthop))
}
