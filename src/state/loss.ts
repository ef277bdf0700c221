// What the kernel does to routes, without a message for each, when a device
// goes down, loses its carrier or its last IPv4 address, or vanishes
// (net/ipv4/fib_semantics.c, fib_sync_down_dev; net/ipv6/route.c, fib6_ifdown).
//
//                  IPv4                                   IPv6
//   down, no IPv4  next hops die; routes that have no     the same; routes that go are
//   address left   other go, unannounced                  announced, unless a sysctl says no
//   no carrier     next hops are marked, routes stay      likewise
//   gone           routes with a next hop on it go whole  the next hop goes
//
// IPv4 next hops of scope "nowhere" (routes to the host itself) outlive a device
// that is down; they go with its addresses.

import { usesDevice } from './route-index.js'
import type { Route, RouteNexthop } from './types.js'

export type Loss = 'gone' | 'down' | 'carrier' | 'addresses'

const RTN_LOCAL = 2
const RTN_ANYCAST = 4
const RT_SCOPE_HOST = 254

/** The routes of a prefix afterwards; null: the same. isUp: of other devices. */
export function afterLoss(
  routes: readonly Route[],
  ifindex: number,
  loss: Loss,
  isUp: (ifindex: number) => boolean
): Route[] | null {
  let changed = false
  const left: Route[] = []
  for (const route of routes) {
    const after = usesDevice(route, ifindex) ? routeAfter(route, ifindex, loss, isUp) : route
    if (after !== route) changed = true
    if (after) left.push(after)
  }
  return changed ? left : null
}

function routeAfter(route: Route, ifindex: number, loss: Loss, isUp: (ifindex: number) => boolean): Route | null {
  const { family, nexthops } = route
  if (outlives(route, loss)) return route
  if (loss === 'gone') {
    const others = family === 4 ? [] : nexthops.filter((hop) => hop.ifindex !== ifindex)
    return others.length === 0 ? null : { ...route, nexthops: others }
  }
  const dead = (hop: RouteNexthop): boolean => hop.ifindex === ifindex || !isUp(hop.ifindex)
  if (loss !== 'carrier' && nexthops.every(dead)) return null
  if (nexthops.every((hop) => hop.ifindex !== ifindex || hop.dead)) return route
  return { ...route, nexthops: nexthops.map((hop) => (hop.ifindex === ifindex ? { ...hop, dead: true } : hop)) }
}

function outlives({ family, type, scope }: Route, loss: Loss): boolean {
  if (loss === 'addresses') return family === 6
  if (family === 4) return loss !== 'gone' && scope === RT_SCOPE_HOST
  return loss === 'carrier' && (type === RTN_LOCAL || type === RTN_ANYCAST)
}
