// What the kernel would do for a prefix: which of its routes answers, and
// through which legs. Order of tables as without extra ip rules: local, then
// main. Table default (253) is asked only when main has no answer, and then
// "no route" leads to the stack anyway.
//
// Within main the lowest metric answers. Where the kernel's choice depends on
// what the table does not show (type of service, reachability of several
// routers with one metric, a dead next hop behind which another route stands)
// the prefix is left to the stack.

import type { NexthopObject, Route, RouteNexthop } from '../state/types.js'
import type { StackReason } from './types.js'

export const TABLE_LOCAL = 255
export const TABLE_MAIN = 254
export const UNICAST = 1
const LOCAL = 2
const MULTICAST = 5
const THROW = 9
/** GROUP_LEGS of bpf/types.h. */
const mostLegs = 64

const typeNames: Record<number, string> = {
  2: 'local',
  3: 'broadcast',
  4: 'anycast',
  5: 'multicast',
  6: 'blackhole',
  7: 'unreachable',
  8: 'prohibit',
  9: 'throw'
}

export type Choice =
  | { kind: 'stack'; reason: StackReason; why: string }
  | { kind: 'forward'; route: Route; legs: readonly RouteNexthop[] }

/** Table local's answer for the prefix, null if it has none. It stands above everything in main. */
export function chooseLocal(routes: readonly Route[]): Choice | null {
  const route = routes.find((candidate) => candidate.table === TABLE_LOCAL)
  if (!route) return null
  if (route.type === MULTICAST) return stack('link-local', 'multicast')
  if (route.type >= LOCAL && route.type < MULTICAST) return stack('local', typeNames[route.type] ?? 'local')
  return stack('route', `${typeNames[route.type] ?? 'route'} in table local`)
}

/** A table's answer for the prefix, null if it has none. `no-route` (throw): the next rule is asked. */
export function chooseFrom(
  table: number,
  routes: readonly Route[],
  objects: ReadonlyMap<number, NexthopObject>
): Choice | null {
  let best: Route | null = null
  let ties = 0
  for (const route of routes) {
    if (route.table !== table) continue
    if (route.tos !== 0) return stack('route', 'routes by type of service')
    if (route.unsupported.length > 0) return stack('route', route.unsupported.join(', '))
    if (!best || route.metric < best.metric) {
      best = route
      ties = 1
    } else if (route.metric === best.metric) ties++
  }
  if (!best) return null
  if (ties > 1 && (best.family === 6 || best.prefixLength === 0)) {
    return stack('route', 'several routes of one metric: the kernel looks at their routers')
  }
  if (best.type === THROW) return stack('no-route', 'throw')
  if (best.type !== UNICAST)
    return stack(best.type < MULTICAST ? 'local' : 'route', typeNames[best.type] ?? `type ${best.type}`)
  const legs = legsOf(best, objects)
  if (typeof legs === 'string') return stack('route', legs)
  const alive = legs.some((leg) => leg.dead) ? legs.filter((leg) => !leg.dead) : legs
  if (alive.length === 0) return stack('route', legs.length === 0 ? 'no next hop' : 'next hop is down')
  if (alive.length > mostLegs) return stack('route', `${alive.length} next hops, more than ${mostLegs}`)
  if (alive.some((leg) => leg.encap)) return stack('route', 'encapsulation')
  return { kind: 'forward', route: best, legs: alive }
}

/** All legs of a route, also dead ones; text: why they are not known or not expressible. */
export function legsOf(route: Route, objects: ReadonlyMap<number, NexthopObject>): readonly RouteNexthop[] | string {
  if (route.nexthopId === 0) return route.nexthops
  const object = objects.get(route.nexthopId)
  if (!object) return `next hop object ${route.nexthopId} is not known`
  if (object.unsupported.length > 0) return `next hop object ${object.id}: ${object.unsupported.join(', ')}`
  if (object.blackhole) return 'blackhole'
  if (object.group.length === 0) return object.nexthop ? [object.nexthop] : `next hop object ${object.id} is empty`
  const legs: RouteNexthop[] = []
  for (const { id, weight } of object.group) {
    const member = objects.get(id)
    if (!member) return `next hop object ${id} is not known`
    if (member.unsupported.length > 0) return `next hop object ${id}: ${member.unsupported.join(', ')}`
    if (member.blackhole || !member.nexthop) return `next hop object ${id} is no next hop`
    legs.push({ ...member.nexthop, weight })
  }
  return legs
}

function stack(reason: StackReason, why: string): Choice {
  return { kind: 'stack', reason, why }
}
