// The first of the plan's routes that match, in order, without sorting all.

import { splitPrefix } from '../address.js'
import type { Address, Prefix } from '../state/types.js'
import { contains } from './cover.js'
import { type ClassRouteKey, prefixIn } from './keys.js'
import type { Plan, WantedClassRoute } from './types.js'

type RouteKey = Prefix | ClassRouteKey

export interface RouteSelection {
  family?: 4 | 6
  /** Only prefixes inside this one. */
  within?: { address: Address; length: number }
  /** Only routes over the device of this name. */
  device?: string
}

const keysInStep = 4096

/**
 * Keys of plan.routes and plan.classRoutes: `most` of those that match, and how
 * many do. Those without class first, then by family. In steps; what the plan
 * gains or loses between them may be missing.
 */
export function* selectRoutes(
  plan: Plan,
  selection: RouteSelection,
  most: number
): Generator<void, { keys: RouteKey[]; total: number }> {
  const first = firstOf(most)
  let total = 0
  let done = 0
  const tables: Iterable<[RouteKey, WantedClassRoute]>[] = [plan.routes, plan.classRoutes]
  for (const table of tables) {
    for (const [key, route] of table) {
      if (++done % keysInStep === 0) yield
      if (!matches(plan, selection, key, route)) continue
      total++
      first.add(key)
    }
  }
  return { keys: first.sorted(), total }
}

function matches(
  plan: Plan,
  { family, within, device }: RouteSelection,
  key: RouteKey,
  route: WantedClassRoute
): boolean {
  if (family !== undefined || within !== undefined) {
    const { address, length, family: own } = splitPrefix(prefixIn(key))
    if (family !== undefined && own !== family) return false
    if (within && (length < within.length || !contains(within.address, within.length, address))) return false
  }
  return device === undefined || isOver(plan, route, device)
}

function isOver({ nexthops }: Plan, route: WantedClassRoute, device: string): boolean {
  if (route.action === 'nexthop') return nexthops.get(route.nexthop)?.device === device
  return route.action === 'group' && route.legs.some((leg) => nexthops.get(leg.nexthop)?.device === device)
}

/** Keys of classes are longer, and those of IPv6. */
function order(a: RouteKey, b: RouteKey): number {
  return a.length - b.length || (a < b ? -1 : a > b ? 1 : 0)
}

/** Keeps the `most` first of what is added. */
function firstOf(most: number): { add(key: RouteKey): void; sorted(): RouteKey[] } {
  let kept: RouteKey[] = []
  /** The last of the first `most`, once there are so many. */
  let last: RouteKey | null = null
  const cut = (): void => {
    kept = kept.sort(order).slice(0, most)
    last = kept.length === most ? (kept[most - 1] ?? null) : null
  }
  return {
    add(key) {
      if (most === 0 || (last !== null && order(key, last) > 0)) return
      kept.push(key)
      if (kept.length >= 2 * most) cut()
    },
    sorted() {
      cut()
      return kept
    }
  }
}
