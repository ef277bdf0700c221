// From a table's answer to a row of the maps: its next hops acquired, or the
// stack where the maps cannot hold a leg.

import type { Link, Prefix, RouteNexthop } from '../state/types.js'
import type { PlanChange } from './change.js'
import type { ClassKey } from './keys.js'
import type { Choice } from './routes.js'
import type { StackReason, WantedClassRoute, WantedRoute } from './types.js'
import type { World } from './world-types.js'

/** user: the prefix or class that the row belongs to, as for Gateways. */
export function forwardRoute(
  world: World,
  choice: Choice & { kind: 'forward' },
  six: boolean,
  user: Prefix | ClassKey,
  change: PlanChange
): WantedRoute {
  const links: Link[] = []
  const usable = world.gateways.usable(choice, user)
  for (const leg of usable) {
    const link = world.state.links.get(leg.ifindex)
    const refusal = refuseLeg(world, leg, link, six)
    if (refusal !== null || !link) return stackRoute(world, 'route', refusal ?? 'unknown device')
    links.push(link)
  }
  const legs = usable.map((leg, index) => ({
    nexthop: world.nexthops.keyOf(choice.route, leg, links[index] as Link),
    weight: leg.weight
  }))
  const [only] = legs
  if (legs.length === 1 && only) return world.nexthops.acquire(only.nexthop, change).route
  for (const leg of legs) world.nexthops.acquire(leg.nexthop, change)
  return { action: 'group', legs }
}

/** Why the maps cannot hold a leg; null: they can. */
function refuseLeg(world: World, leg: RouteNexthop, link: Link | undefined, six: boolean): string | null {
  if (!link) return `device ${leg.ifindex} is not known`
  if (six && leg.gateway?.length === 8) return 'IPv6 through an IPv4 gateway'
  const role = world.roles.get(leg.ifindex)
  if (role?.role === 'uplink') return null
  if (role?.role === 'pod') return `pod device ${link.name}`
  return role?.role === 'unserved' ? `${link.name}: ${role.why}` : `${link.name} is no uplink`
}

/** rule: the ip rule because of which, as `ip rule` prints it. */
export function stackRoute(world: World, reason: StackReason, why: string, rule: string | null = null): WantedRoute {
  const key = `${reason} ${why}`
  let route = world.stackRoutes.get(key)
  if (!route) {
    route = { action: 'stack', reason, why, rule }
    world.stackRoutes.set(key, route)
  }
  return route
}

export function releaseRoute(world: World, route: WantedClassRoute, change: PlanChange): void {
  if (route.action === 'nexthop') world.nexthops.release(route.nexthop, change)
  else if (route.action === 'group') for (const leg of route.legs) world.nexthops.release(leg.nexthop, change)
}
