// What a new plan changed against the one before, so that the writer works
// only on that. A key that is no longer in the plan was removed.

import { toEnd } from '../slice.js'
import type { Address, NeighbourKey, Prefix } from '../state/types.js'
import type { ClassKey, ClassRouteKey, NexthopKey } from './keys.js'
import { RouteMap } from './route-map.js'
import type {
  Plan,
  WantedClassRoute,
  WantedDevice,
  WantedNeighbour,
  WantedNexthop,
  WantedPod,
  WantedRoute
} from './types.js'

const keysInStep = 512

export interface PlanChange {
  devices: Set<number>
  unserved: boolean
  pods: Set<Address>
  nexthops: Set<NexthopKey>
  routes: Set<Prefix>
  classes: Set<ClassKey>
  classRoutes: Set<ClassRouteKey>
  neighbours: Set<NeighbourKey>
  managed: Set<NeighbourKey>
}

export function emptyPlan(): Plan {
  return {
    devices: new Map(),
    unserved: [],
    pods: new Map(),
    nexthops: new Map(),
    routes: new RouteMap(),
    classes: new Map(),
    classRoutes: new Map(),
    neighbours: new Map(),
    marks: false,
    managed: new Map(),
    lackingSources: { entries: [], families: [] }
  }
}

export function emptyChange(): PlanChange {
  return {
    devices: new Set(),
    unserved: false,
    pods: new Set(),
    nexthops: new Set(),
    routes: new Set(),
    classes: new Set(),
    classRoutes: new Set(),
    neighbours: new Set(),
    managed: new Set()
  }
}

/** Nothing changed. */
export function isEmpty(change: PlanChange): boolean {
  return Object.values(change).every((part) => (part instanceof Set ? part.size === 0 : !part))
}

export function comparePlans(before: Plan, after: Plan): PlanChange {
  return toEnd(comparingPlans(before, after))
}

/** In steps (src/slice.ts). */
export function* comparingPlans(before: Plan, after: Plan): Generator<void, PlanChange> {
  return {
    devices: yield* compareTables(before.devices, after.devices, sameDevice),
    unserved: JSON.stringify(before.unserved) !== JSON.stringify(after.unserved),
    pods: yield* compareTables(before.pods, after.pods, sameFlat),
    nexthops: yield* compareTables(before.nexthops, after.nexthops, sameFlat),
    routes: yield* compareRoutes(before.routes, after.routes),
    classes: yield* compareTables(before.classes, after.classes, (a, b) => JSON.stringify(a) === JSON.stringify(b)),
    classRoutes: yield* compareTables(before.classRoutes, after.classRoutes, sameRoute),
    neighbours: yield* compareTables(before.neighbours, after.neighbours, sameNeighbour),
    managed: yield* compareTables(before.managed, after.managed, () => true)
  }
}

function* compareRoutes(before: Plan['routes'], after: Plan['routes']): Generator<void, Set<Prefix>> {
  if (!(after instanceof RouteMap)) return yield* compareTables(before, after, sameRoute)
  if (before.size === 0) return after.copyOfKeys()
  return before instanceof RouteMap
    ? yield* after.keysUnlike(before, sameRoute)
    : yield* compareTables<Prefix, WantedRoute>(before, after, sameRoute)
}

function* compareTables<K, V>(
  before: Map<K, V>,
  after: Map<K, V>,
  same: (a: V, b: V) => boolean
): Generator<void, Set<K>> {
  const changed = new Set<K>()
  let done = 0
  for (const [key, value] of after) {
    const old = before.get(key)
    if (old === undefined || !same(old, value)) changed.add(key)
    if (++done % keysInStep === 0) yield
  }
  for (const key of before.keys()) {
    if (!after.has(key)) changed.add(key)
    if (++done % keysInStep === 0) yield
  }
  return changed
}

export function sameRoute(a: WantedClassRoute, b: WantedClassRoute): boolean {
  if (a === b) return true
  switch (a.action) {
    case 'main':
      return b.action === 'main'
    case 'stack':
      return b.action === 'stack' && a.reason === b.reason && a.why === b.why
    case 'nexthop':
      return b.action === 'nexthop' && a.nexthop === b.nexthop
    case 'group':
      return (
        b.action === 'group' &&
        a.legs.length === b.legs.length &&
        a.legs.every((leg, index) => leg.nexthop === b.legs[index]?.nexthop && leg.weight === b.legs[index]?.weight)
      )
  }
}

/** Objects whose values are all primitive, made in one place: same keys. */
export function sameFlat<T extends WantedPod | WantedNexthop>(a: T, b: T): boolean {
  for (const key in a) if (a[key] !== b[key]) return false
  return true
}

export function sameNeighbour(a: WantedNeighbour, b: WantedNeighbour): boolean {
  return a.mac === b.mac && a.known === b.known
}

export function sameDevice(a: WantedDevice, b: WantedDevice): boolean {
  return JSON.stringify(a) === JSON.stringify(b)
}
