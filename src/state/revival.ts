// What the kernel does to routes, without a message for each, when a device is
// up again, has its carrier back or gets an IPv4 address
// (net/ipv4/fib_semantics.c, fib_sync_up; net/ipv6/route.c, rt6_sync_up).
//
//              IPv4                                    IPv6
//   up         next hops live again; without carrier   as soon as it is ready, which it is
//              they stay marked                        when it runs
//   carrier    the mark of the carrier goes; next      all live again
//              hops that died with the last address
//              stay dead
//   address    next hops live again, as for "up"       nothing
//
// A route with one next hop is never there dead but for the carrier: it goes
// when its next hop dies.

import { usesDevice } from './route-index.js'
import type { Route } from './types.js'

export type Revival = 'up' | 'carrier' | 'address'

export interface Revived {
  /** The routes of a prefix afterwards; null: the same. */
  routes: Route[] | null
  /** false: only a dump can tell. */
  sure: boolean
}

/** bound: no next hop on the device can have died with its last IPv4 address. */
export function afterRevival(routes: readonly Route[], ifindex: number, bound: boolean): Revived {
  let changed = false
  let sure = true
  const after = routes.map((route) => {
    if (!usesDevice(route, ifindex)) return route
    if (!route.nexthops.some((hop) => hop.ifindex === ifindex && hop.dead)) return route
    if (route.family === 4 && route.nexthops.length > 1 && !bound) {
      sure = false
      return route
    }
    changed = true
    return {
      ...route,
      nexthops: route.nexthops.map((hop) => (hop.ifindex === ifindex && hop.dead ? { ...hop, dead: false } : hop))
    }
  })
  return { routes: changed ? after : null, sure }
}
