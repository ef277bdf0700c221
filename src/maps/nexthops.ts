// Rows of `nexthops` and `groups`.
//
// Row 0 of nexthops is never used: to the programs "leg 0" means none. A row of
// groups counts as used while a route refers to it, since all zeros may be
// anything there.

import { noMac } from '../address.js'
import { type NexthopKey, nexthopKey, splitNexthopKey } from '../plan/keys.js'
import type { Plan, WantedNexthop, WantedRoute } from '../plan/types.js'
import { eachOf } from '../slice.js'
import type { Address } from '../state/types.js'
import { CapacityError, type MapAccess } from './access.js'
import { decodeGroup, decodeNexthop, encodeGroup, encodeNexthop, type NexthopRow } from './codec.js'
import { createIndexPool } from './index-pool.js'
import { GROUP_LEGS } from './layout.js'
import { createMirror, indexKey, type Mirror } from './mirror.js'
import { createSnatSourceRows } from './snat-sources.js'

export interface NexthopRows {
  mirror: Mirror
  /** snat_sources */
  sources: Mirror
  load(): void
  /** Writes the row, a new one if the key has none. CapacityError: no row is left. */
  write(wanted: WantedNexthop): void
  indexOf(key: NexthopKey): number
  has(key: NexthopKey): boolean
  keys(): Iterable<NexthopKey>
  keyAt(index: number): NexthopKey | undefined
  /** Zeroes the rows of these keys, all keys if absent, that the plan does not have. In steps. */
  prune(plan: Plan, among?: Iterable<NexthopKey>): Generator<void>
  settle(): void
}

export function createNexthopRows(access: MapAccess): NexthopRows {
  const mirror = createMirror(access.map('nexthops'))
  const sources = createSnatSourceRows(access)
  const pool = createIndexPool(1, mirror.map.info.maxEntries)
  const indexes = new Map<NexthopKey, number>()
  const keys = new Map<number, NexthopKey>()
  /** Row of snat_sources, by key; of next hops with several source addresses. */
  const lists = new Map<NexthopKey, number>()

  /** The plan's key of a row found in the map. */
  const keyOfRow = (row: NexthopRow): NexthopKey => {
    const several = row.sources === 0 ? null : (sources.listAt(row.sources) ?? '?')
    const source = (own: Address | null) => (own !== null ? (several ?? own) : row.noSource ? 'none' : '-')
    return nexthopKey(row.ifindex, row.gateway, row.mtu, source(row.snat4), source(row.snat6))
  }

  return {
    mirror,
    sources: sources.mirror,
    settle() {
      pool.settle()
      sources.settle()
    },
    has: (key) => indexes.has(key),
    keys: () => indexes.keys(),
    keyAt: (index) => keys.get(index),
    indexOf(key) {
      const index = indexes.get(key)
      if (index === undefined) throw new Error(`next hop ${key} has no row`)
      return index
    },
    load() {
      mirror.load()
      pool.clear()
      indexes.clear()
      keys.clear()
      lists.clear()
      sources.load()
      for (const [name, bytes] of [...mirror.rows]) {
        const index = Buffer.from(name, 'hex').readUInt32LE()
        const row = decodeNexthop(bytes)
        const key = keyOfRow(row)
        if (row.ifindex === 0 || indexes.has(key) || !pool.reserve(index)) {
          mirror.remove(name)
          continue
        }
        indexes.set(key, index)
        keys.set(index, key)
        if (row.sources === 0) continue
        lists.set(key, row.sources)
        sources.adopt(row.sources)
      }
    },
    write(wanted) {
      let index = indexes.get(wanted.key)
      if (index === undefined) {
        const free = pool.take()
        if (free === null) throw new CapacityError([4, 6], `more than ${mirror.map.info.maxEntries - 1} next hops`)
        index = free
        indexes.set(wanted.key, index)
        keys.set(index, wanted.key)
      }
      if (wanted.sources !== '' && !lists.has(wanted.key)) lists.set(wanted.key, sources.acquire(wanted.sources))
      mirror.put(indexKey(index), encodeNexthop(rowOf(wanted, lists.get(wanted.key) ?? 0)))
    },
    prune: (plan, among = [...indexes.keys()]) =>
      eachOf(among, (key) => {
        const index = indexes.get(key)
        if (index === undefined || plan.nexthops.has(key)) return
        mirror.remove(indexKey(index))
        indexes.delete(key)
        keys.delete(index)
        pool.giveBack(index)
        const list = lists.get(key)
        if (list !== undefined) sources.release(list)
        lists.delete(key)
      })
  }
}

function rowOf(wanted: WantedNexthop, sources: number): NexthopRow {
  return { ...wanted, mac: wanted.mac ?? noMac, macKnown: wanted.macKnown && wanted.mac !== null, sources }
}

export interface GroupRows {
  mirror: Mirror
  /** found: by the group's index, how many routes in the maps refer to it; several such lists. */
  load(found: readonly ReadonlyMap<number, number>[]): void
  /** Index of the group with these legs, one more user. CapacityError: no row is left. */
  acquire(route: WantedRoute & { action: 'group' }): number
  release(index: number): void
  /** Zeroes the rows that lost their last user; they may be taken again. */
  settle(): void
}

export function createGroupRows(access: MapAccess, nexthops: NexthopRows): GroupRows {
  const mirror = createMirror(access.map('groups'))
  const pool = createIndexPool(0, mirror.map.info.maxEntries)
  const indexes = new Map<string, number>()
  const contents = new Map<number, string>()
  const users = new Map<number, number>()
  const left = new Set<number>()
  const know = (content: string, index: number): void => {
    indexes.set(content, index)
    contents.set(index, content)
  }
  return {
    mirror,
    settle() {
      for (const index of left) mirror.remove(indexKey(index))
      left.clear()
      pool.settle()
    },
    load(found) {
      mirror.load()
      pool.clear()
      indexes.clear()
      contents.clear()
      users.clear()
      left.clear()
      for (const counts of found) for (const [index, count] of counts) users.set(index, (users.get(index) ?? 0) + count)
      for (const [name, bytes] of [...mirror.rows]) {
        const index = Buffer.from(name, 'hex').readUInt32LE()
        if (!users.has(index)) mirror.remove(name)
        else if (!indexes.has(decodeGroup(bytes).join())) know(decodeGroup(bytes).join(), index)
      }
      for (const index of users.keys()) pool.reserve(index)
    },
    acquire(route) {
      const legs = spreadLegs(route.legs.map((leg) => ({ index: nexthops.indexOf(leg.nexthop), weight: leg.weight })))
      const content = legs.join()
      let index = indexes.get(content)
      if (index === undefined) {
        const free = pool.take()
        const families = familyOfRoute(route)
        if (free === null)
          throw new CapacityError(families, `more than ${mirror.map.info.maxEntries} groups of next hops`)
        index = free
        know(content, index)
        mirror.put(indexKey(index), encodeGroup(legs))
      }
      users.set(index, (users.get(index) ?? 0) + 1)
      return index
    },
    release(index) {
      const others = (users.get(index) ?? 0) - 1
      if (others > 0) {
        users.set(index, others)
        return
      }
      users.delete(index)
      indexes.delete(contents.get(index) ?? '')
      contents.delete(index)
      left.add(index)
      pool.giveBack(index)
    }
  }
}

function familyOfRoute(route: WantedRoute & { action: 'group' }): (4 | 6)[] {
  const [first] = route.legs
  if (!first) return [4]
  const { gateway, snat6 } = splitNexthopKey(first.nexthop)
  return snat6.length > 0 || gateway?.length === 32 ? [4, 6] : [4]
}

/**
 * GROUP_LEGS places shared by weight: each leg has at least one, the rest goes
 * by largest remainder. Legs keep their order.
 */
export function spreadLegs(legs: readonly { index: number; weight: number }[]): number[] {
  const total = legs.reduce((sum, leg) => sum + leg.weight, 0)
  const shares = legs.map((leg) => ({ index: leg.index, exact: (leg.weight * GROUP_LEGS) / total, places: 0 }))
  for (const share of shares) share.places = Math.max(1, Math.floor(share.exact))
  let left = GROUP_LEGS - shares.reduce((sum, share) => sum + share.places, 0)
  for (; left > 0; left--) pick(shares, (share) => share.exact - share.places).places++
  for (; left < 0; left++)
    pick(shares, (share) => (share.places > 1 ? share.places - share.exact : -GROUP_LEGS)).places--
  return shares.flatMap((share) => new Array<number>(share.places).fill(share.index))
}

/** The first with the highest score. */
function pick<T>(items: readonly T[], score: (item: T) => number): T {
  return items.reduce((best, item) => (score(item) > score(best) ? item : best))
}
