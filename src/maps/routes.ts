// Rows of routes4 and routes6, and of class_routes4 and class_routes6. What was
// written is remembered as one number a prefix, for a table may have a million; for
// the same reason maps are read and written in batches, and a whole plan's routes
// pass from its columns into them (route-columns.ts).

import { RouteMap } from '../plan/route-map.js'
import type { WantedClassRoute } from '../plan/types.js'
import { type PrefixColumn, PrefixMap, PrefixSet } from '../prefix-map.js'
import { reasonCode } from '../reasons.js'
import type { Family, Prefix } from '../state/types.js'
import { CapacityError, isFull, type MapAccess } from './access.js'
import { decodeClassRouteKey, decodeRouteKey, encodeClassRouteKey, encodeRouteKey } from './codec.js'
import { mostPrefixes } from './generations.js'
import { type ClassRow, familyOfKey, prefixOfRow, type RouteRowKey } from './keys.js'
import { CODES, STRUCTS } from './layout.js'
import { batchesOf, type RowDifference } from './mirror.js'
import type { GroupRows, NexthopRows } from './nexthops.js'
import { findKey, longestFirst, type Packed, packRow, placeKey, putKey, putRow } from './route-columns.js'

export interface RouteRows<Key extends RouteRowKey> {
  /** In steps. room: a column for as many prefixes. Returns how many rows refer to each group, by its index. */
  load(room: PrefixMap['columns'] | null): Generator<void, Map<number, number>>
  /** true: it was written. CapacityError: the map is full. */
  write(key: Key, wanted: WantedClassRoute): boolean
  /** Many, in this order, each once, in steps; after each, and after a throw, the rows remembered are those in the map. */
  writeAll(all: Iterable<readonly [key: Key, wanted: WantedClassRoute]>): Generator<void>
  /** A whole family's of the node's own, longer prefixes first; otherwise as writeAll(). `wanted` must not change meanwhile. */
  writeFamily(family: Family, wanted: RouteMap): Generator<void>
  remove(key: Key): boolean
  has(key: Key): boolean
  keys(): Iterable<Key>
  /** Of the node's own rows, those that the plan does not have. whole: they have all of the plan. null: many have been looked at since. */
  keysBeyond(wanted: ReadonlyMap<Key, WantedClassRoute>, whole: boolean): Iterable<Key | null>
  size(): number
  /** Leaves it to the kernel's stack for whatever reason; other rows refer to next hops or groups, or are none of ours. */
  isStack(key: Key): boolean
  count(family: Family): number
  capacity(family: Family): number
  /** Compares with the kernel's contents, in steps of about a millisecond. What is written between them counts as right. One at a time. */
  differences(family: Family): Generator<void, RowDifference[]>
}

/** Packed * 2 + mark: which comparison has seen the row, this one or the one before. */
type Marked = number

const local: Packed = CODES.ROUTE_STACK + 4 * reasonCode('local')
const rowsInStep = 1024
/** Of a write. */
const rowsAtOnce = 512

/**
 * After a row was written or removed: its prefix; lost: of an address that
 * the node has no longer. Of a whole family no more than one beyond mostPrefixes (generations.ts).
 */
export type OnChange = (prefix: Prefix, lost: boolean) => void

/** A row that is to be another. */
interface Pending {
  key: RouteRowKey
  before: Packed | undefined
  after: Packed
}

interface Kind<Key extends RouteRowKey> {
  /** Keys are prefixes and nothing else. */
  plain: boolean
  maps: Record<Family, string>
  encode(key: Key): Buffer
  decode(bytes: Buffer): Key
}

export const nodeRoutes: Kind<Prefix> = {
  plain: true,
  maps: { 4: 'routes4', 6: 'routes6' },
  encode: encodeRouteKey,
  decode: decodeRouteKey
}
export const classRoutes: Kind<ClassRow> = {
  plain: false,
  maps: { 4: 'class_routes4', 6: 'class_routes6' },
  encode: encodeClassRouteKey,
  decode: decodeClassRouteKey
}

/** What is remembered: of prefixes in columns. */
interface Remembered {
  readonly size: number
  has(key: RouteRowKey): boolean
  get(key: RouteRowKey): Marked | undefined
  set(key: RouteRowKey, marked: Marked): unknown
  delete(key: RouteRowKey): boolean
  clear(): void
  keys(): Iterable<RouteRowKey>
  values(): Iterable<Marked>
  [Symbol.iterator](): Iterator<[RouteRowKey, Marked], undefined>
}

export function createRouteRows<Key extends RouteRowKey>(
  access: MapAccess,
  nexthops: NexthopRows,
  groups: GroupRows,
  kind: Kind<Key>,
  onChange: OnChange
): RouteRows<Key>
export function createRouteRows(
  access: MapAccess,
  nexthops: NexthopRows,
  groups: GroupRows,
  kind: Kind<RouteRowKey>,
  onChange: OnChange
): RouteRows<RouteRowKey> {
  const maps = { 4: access.map(kind.maps[4]), 6: access.map(kind.maps[6]) }
  const prefixes = kind.plain ? new PrefixMap() : null
  const rows: Remembered = prefixes ?? new Map<ClassRow, Marked>()
  const marks: Record<Family, 0 | 1> = { 4: 0, 6: 0 }
  const counts = { 4: 0, 6: 0 }
  /** For each comparison that goes on, what was written since its begin. */
  const watching = new Set<Set<RouteRowKey>>()
  const mapOf = (key: RouteRowKey) => maps[familyOfKey(key)]

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
    if (packed !== undefined && isGroup(packed)) groups.release(packed >> 2)
  }

  const get = (key: RouteRowKey): Packed | undefined => {
    const marked = rows.get(key)
    return marked === undefined ? undefined : marked >> 1
  }

  const set = (key: RouteRowKey, packed: Packed): void => {
    const family = familyOfKey(key)
    if (!rows.has(key)) counts[family]++
    rows.set(key, packed * 2 + marks[family])
    for (const since of watching) since.add(key)
  }

  const changed = (key: RouteRowKey, before: Packed | undefined, after: Packed | undefined): void => {
    onChange(prefixOfRow(key), before === local && after !== local)
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
  ): { met(key: RouteRowKey, marked: Marked): void; isMet(key: RouteRowKey, marked: Marked): boolean } => {
    if (watching.size > 1) {
      const keys: Set<RouteRowKey> = prefixes ? new PrefixSet() : new Set()
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

  /** Whole families; see flush(). `places`: of the plan's column. told: so many changes more are worth telling apart. */
  const flushPlaces = (
    column: PrefixColumn,
    from: PrefixColumn,
    places: Int32Array,
    after: Int32Array,
    told: { left: number }
  ): void => {
    const { family } = column
    const { keySize, valueSize } = maps[family].info
    const keys = Buffer.allocUnsafe(places.length * keySize)
    const values = Buffer.alloc(places.length * valueSize)
    for (let i = 0; i < places.length; i++) {
      putKey(from, places[i] as number, keys, i * keySize)
      putRow(after[i] as number, values, i * valueSize)
    }
    let done = places.length
    try {
      maps[family].updateBatch(keys, values, places.length)
    } catch (cause) {
      done = (cause as { written?: number }).written ?? 0
      for (const packed of after.subarray(done)) releaseGroup(packed)
      throw refused(family, cause)
    } finally {
      for (let i = 0; i < done; i++) {
        const count = column.size
        const at = column.placeAs(from, places[i] as number)
        const before = column.size > count ? undefined : (column.values[at] as number) >> 1
        column.values[at] = (after[i] as number) * 2 + marks[family]
        counts[family] = column.size
        for (const since of watching) since.add(column.key(at))
        if (told.left-- > 0) changed(column.key(at), before, after[i] as number)
        releaseGroup(before)
      }
    }
  }

  /** Marks the row at the place as met, if it is in the map as wanted and this comparison has the marks. */
  const meetPlace = (column: PrefixColumn, at: number, have: Packed): boolean => {
    if (at < 0 || watching.size > 1) return false
    const marked = column.values[at] as number
    if (have < 0 || marked >> 1 !== have) return false
    if ((marked & 1) !== marks[column.family]) column.values[at] = marked ^ 1
    return true
  }

  /** Rows that the comparison may not have met. */
  function* unmet(family: Family): Generator<[RouteRowKey, Marked] | null> {
    if (!prefixes) yield* rows
    else {
      const column = prefixes.columns[family]
      for (const at of column.places()) {
        const marked = column.values[at] as number
        yield watching.size === 1 && (marked & 1) === marks[family] ? null : [column.key(at), marked]
      }
    }
  }

  const markAll = (family: Family): void => {
    if (prefixes) {
      const { values, end } = prefixes.columns[family]
      for (let at = 0; at < end; at++) values[at] = ((values[at] as number) >> 1) * 2 + marks[family]
      return
    }
    for (const [key, marked] of rows) if (familyOfKey(key) === family) rows.set(key, (marked >> 1) * 2 + marks[family])
  }

  function* compare(family: Family, changed: ReadonlySet<RouteRowKey>): Generator<void, RowDifference[]> {
    const found: RowDifference[] = []
    const { met, isMet } = meet(family)
    const { keySize, valueSize } = maps[family].info
    for (const { keys, values, count } of batchesOf(maps[family], rowsInStep)) {
      const column = prefixes?.columns[family]
      for (let at = 0; at < count; at++) {
        if (column && meetPlace(column, findKey(column, keys, at * keySize), packRow(values, at * valueSize))) continue
        const key = keys.subarray(at * keySize, (at + 1) * keySize)
        const value = values.subarray(at * valueSize, (at + 1) * valueSize)
        const prefix = kind.decode(key)
        const marked = rows.get(prefix)
        if (marked !== undefined) met(prefix, marked)
        const want = marked === undefined ? null : marked >> 1
        if (want !== null && packRow(value, 0) === want) continue
        if (!changed.has(prefix)) found.push({ key, have: value, want: want === null ? null : unpack(want) })
      }
      yield
    }
    let done = 0
    for (const row of unmet(family)) {
      if (++done % (rowsInStep * 8) === 0) yield
      if (!row) continue
      const [prefix, marked] = row
      if (familyOfKey(prefix) !== family || isMet(prefix, marked)) continue
      met(prefix, marked)
      if (!changed.has(prefix)) found.push({ key: kind.encode(prefix), have: null, want: unpack(marked >> 1) })
    }
    return found.filter(({ key }) => !changed.has(kind.decode(key)))
  }

  return {
    has: (key) => rows.has(key),
    keys: () => rows.keys(),
    *keysBeyond(wanted, whole) {
      if (whole && wanted.size === rows.size) return
      if (!prefixes || !(wanted instanceof RouteMap)) {
        for (const key of rows.keys()) if (!wanted.has(key)) yield key
        return
      }
      let done = 0
      for (const column of Object.values(prefixes.columns))
        for (const at of column.places()) {
          if (++done % rowsInStep === 0) yield null
          if (wanted.columns[column.family].findAs(column, at) < 0) yield column.key(at)
        }
    },
    size: () => rows.size,
    isStack: (key) => {
      const packed = get(key)
      return packed !== undefined && packed >= 0 && packed % 4 === CODES.ROUTE_STACK
    },
    count: (family) => counts[family],
    capacity: (family) => maps[family].info.maxEntries,
    *load(room) {
      rows.clear()
      counts[4] = counts[6] = 0
      const users = new Map<number, number>()
      for (const family of [4, 6] as const) {
        const { keySize, valueSize } = maps[family].info
        const column = prefixes?.columns[family]
        if (room) column?.reserve(room[family].size)
        for (const { keys, values, count } of batchesOf(maps[family], rowsInStep)) {
          for (let at = 0; at < count; at++) {
            const packed = packRow(values, at * valueSize)
            if (isGroup(packed)) users.set(packed >> 2, (users.get(packed >> 2) ?? 0) + 1)
            if (column) {
              // first: an insertion may make the values another array
              const place = placeKey(column, keys, at * keySize)
              column.values[place] = packed * 2 + marks[column.family]
            } else set(kind.decode(keys.subarray(at * keySize, (at + 1) * keySize)), packed)
          }
          yield
        }
        if (column) counts[family] = column.size
      }
      return users
    },
    *writeAll(all) {
      const batches: Record<Family, Pending[]> = { 4: [], 6: [] }
      let done = 0
      const send = (family: Family, least: number): void => {
        const batch = batches[family]
        if (batch.length < least) return
        batches[family] = []
        flush(family, batch)
      }
      try {
        for (const [key, wanted] of all) {
          if (++done % rowsAtOnce === 0) yield
          const before = get(key)
          const after = pack(wanted)
          if (before === after) {
            releaseGroup(before)
            continue
          }
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
    },
    *writeFamily(family, wanted) {
      const column = prefixes?.columns[family]
      if (!column) throw new Error('rows of classes are not written by family')
      const from = wanted.columns[family]
      column.reserve(from.size)
      /** By the plan's number; a group's is acquired for each row. */
      const known: (Packed | undefined)[] = []
      const [places, after] = [new Int32Array(rowsAtOnce), new Int32Array(rowsAtOnce)]
      const empty = column.size === 0
      const told = { left: mostPrefixes + 1 }
      let pending = 0
      let done = 0
      const send = (): void => {
        const count = pending
        pending = 0
        if (count > 0) flushPlaces(column, from, places.subarray(0, count), after.subarray(0, count), told)
      }
      try {
        for (const at of longestFirst(from)) {
          if (at < 0 || ++done % rowsInStep === 0) yield
          if (at < 0) continue
          const number = from.values[at] as number
          let packed = known[number]
          if (packed === undefined) {
            packed = pack(wanted.routeAt(number) as WantedClassRoute)
            if (packed % 4 !== CODES.ROUTE_GROUP) known[number] = packed
          }
          const own = empty ? -1 : column.findAs(from, at)
          if (own >= 0 && (column.values[own] as number) >> 1 === packed) {
            releaseGroup(packed)
            continue
          }
          places[pending] = at
          after[pending++] = packed
          if (pending < rowsAtOnce) continue
          send()
          yield
        }
        send()
      } catch (error) {
        for (const packed of after.subarray(0, pending)) releaseGroup(packed)
        throw error
      }
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
      const changed: Set<RouteRowKey> = prefixes ? new PrefixSet() : new Set()
      watching.add(changed)
      let whole = false
      try {
        const found = yield* compare(family, changed)
        whole = true
        return found
      } finally {
        watching.delete(changed)
        // the next one must find all rows with one mark
        if (!whole) markAll(family)
      }
    }
  }
}

function isGroup(packed: Packed): boolean {
  return packed >= 0 && packed % 4 === CODES.ROUTE_GROUP
}

function unpack(packed: Packed): Buffer {
  const bytes = Buffer.alloc(STRUCTS.route.size)
  putRow(packed, bytes, 0)
  return bytes
}
