// Rows of routes4 and routes6, and of class_routes4 and class_routes6. What was
// written is remembered as one number a prefix, for a table may have a million.
// Keys are prefix keys ("0a000000/8"), in class routes with the class before
// ("3 0a000000/8").

import type { WantedClassRoute } from '../plan/types.js'
import type { Family } from '../state/types.js'
import { CapacityError, isFull, type MapAccess } from './access.js'
import {
  decodeClassRouteKey,
  decodeRoute,
  decodeRouteKey,
  encodeClassRouteKey,
  encodeRoute,
  encodeRouteKey
} from './codec.js'
import { CODES } from './layout.js'
import { entries, type RowDifference } from './mirror.js'
import type { GroupRows, NexthopRows } from './nexthops.js'
import { reasonCode } from './reasons.js'

export interface RouteRows {
  load(): void
  /** Indexes of groups that the rows refer to, once for each route. */
  groupsInUse(): Iterable<number>
  /** true: it was written. CapacityError: the map is full. */
  write(key: string, wanted: WantedClassRoute): boolean
  remove(key: string): boolean
  readonly keys: ReadonlyMap<string, number>
  capacity(family: Family): number
  differences(family: Family): RowDifference[]
}

/** action + 4 * (index or reason); -1: a row that is none of ours. */
type Packed = number

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

export function createRouteRows(access: MapAccess, nexthops: NexthopRows, groups: GroupRows, kind: Kind): RouteRows {
  const maps = { 4: access.map(kind.maps[4]), 6: access.map(kind.maps[6]) }
  const rows = new Map<string, Packed>()
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

  return {
    keys: rows,
    capacity: (family) => maps[family].info.maxEntries,
    load() {
      rows.clear()
      for (const map of [maps[4], maps[6]]) {
        for (const [key, value] of entries(map)) rows.set(kind.decode(key), packRow(value))
      }
    },
    *groupsInUse() {
      for (const packed of rows.values()) if (packed >= 0 && packed % 4 === CODES.ROUTE_GROUP) yield packed >> 2
    },
    write(prefix, wanted) {
      const before = rows.get(prefix)
      const after = pack(wanted)
      if (before !== after) {
        const map = mapOf(prefix)
        try {
          map.update(kind.encode(prefix), unpack(after))
        } catch (cause) {
          releaseGroup(after)
          if (!isFull(cause)) throw cause
          throw new CapacityError([familyOfKey(prefix)], `${map.info.name} is full at ${map.info.maxEntries} routes`, {
            cause
          })
        }
        rows.set(prefix, after)
      }
      releaseGroup(before)
      return before !== after
    },
    remove(prefix) {
      const before = rows.get(prefix)
      if (before === undefined) return false
      mapOf(prefix).delete(kind.encode(prefix))
      rows.delete(prefix)
      releaseGroup(before)
      return true
    },
    differences(family) {
      const found: RowDifference[] = []
      const seen = new Set<string>()
      for (const [key, value] of entries(maps[family])) {
        const prefix = kind.decode(key)
        const want = rows.get(prefix)
        seen.add(prefix)
        if (want === undefined || packRow(value) !== want)
          found.push({ key, have: value, want: want === undefined ? null : unpack(want) })
      }
      for (const [prefix, want] of rows) {
        if (familyOfKey(prefix) === family && !seen.has(prefix))
          found.push({ key: kind.encode(prefix), have: null, want: unpack(want) })
      }
      return found
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
  const action = packed % 4
  const value = packed >> 2
  return encodeRoute(
    action === CODES.ROUTE_STACK ? { action, nexthop: 0, reason: value } : { action, nexthop: value, reason: 0 }
  )
}
