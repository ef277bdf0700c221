// Next hops in use, counted by the routes that use them. Identity is
// everything but MACs, so one MAC change is one row, however many routes share
// it.
//
// Invariant: plan.nexthops, byNeighbour and byDevice hold exactly the next
// hops with at least one user.

import { joinAddresses, neighbourKey, noMac } from '../address.js'
import type { Address, Family, Link, NeighbourKey, NodeState, Route, RouteNexthop } from '../state/types.js'
import { type PlanChange, sameFlat } from './change.js'
import { type NexthopKey, nexthopKey, type SourcesInKey, sourcesInKey, splitNexthopKey } from './keys.js'
import { resolve } from './neighbours.js'
import type { PlanOptions } from './options.js'
import type { SourceChooser } from './sources.js'
import type { Plan, WantedNexthop, WantedRoute } from './types.js'

interface Row {
  users: number
  /** Shared by all routes that use the next hop alone. */
  route: WantedRoute
}

export interface NexthopContext {
  state: NodeState
  options: PlanOptions
  sources: SourceChooser
}

export interface NexthopTable {
  /** The key of a leg; creates nothing. The leg's device is an uplink. */
  keyOf(route: Route, leg: RouteNexthop, link: Link): NexthopKey
  /** One more user, or several. Creates the next hop with its first. */
  acquire(key: NexthopKey, change: PlanChange, users?: number): Row
  release(key: NexthopKey, change: PlanChange): void
  /** A neighbour entry changed: its next hops are built anew. */
  refresh(neighbour: NeighbourKey, change: PlanChange): void
  /** Likewise for a device's name or MAC. */
  refreshDevice(ifindex: number, change: PlanChange): void
  /** The neighbour is the gateway of a next hop in use. */
  usesNeighbour(neighbour: NeighbourKey): boolean
}

export function createNexthopTable(plan: Plan, context: NexthopContext): NexthopTable {
  const { state, options, sources } = context
  const rows = new Map<NexthopKey, Row>()
  const byNeighbour = new Map<NeighbourKey, Set<NexthopKey>>()
  const byDevice = new Map<number, Set<NexthopKey>>()

  const put = (key: NexthopKey, change: PlanChange): void => {
    const wanted = build(key, state)
    const before = plan.nexthops.get(key)
    if (before && sameFlat(before, wanted)) return
    plan.nexthops.set(key, wanted)
    change.nexthops.add(key)
  }

  const watch = (key: NexthopKey, change: PlanChange): void => {
    const { ifindex, gateway } = splitNexthopKey(key)
    byDevice.set(ifindex, (byDevice.get(ifindex) ?? new Set()).add(key))
    if (gateway === null) return
    const neighbour = neighbourKey(ifindex, gateway)
    const users = byNeighbour.get(neighbour) ?? new Set()
    users.add(key)
    byNeighbour.set(neighbour, users)
    plan.managed.set(neighbour, { ifindex, address: gateway })
    change.managed.add(neighbour)
  }

  const unwatch = (key: NexthopKey, change: PlanChange): void => {
    const { ifindex, gateway } = splitNexthopKey(key)
    const others = byDevice.get(ifindex)
    if (others?.delete(key) && others.size === 0) byDevice.delete(ifindex)
    if (gateway === null) return
    const neighbour = neighbourKey(ifindex, gateway)
    const users = byNeighbour.get(neighbour)
    users?.delete(key)
    if (users && users.size > 0) return
    byNeighbour.delete(neighbour)
    plan.managed.delete(neighbour)
    change.managed.add(neighbour)
  }

  return {
    usesNeighbour: (neighbour) => byNeighbour.has(neighbour),
    keyOf(route, leg, link) {
      const mtu = route.mtu === 0 ? link.mtu : Math.min(route.mtu, link.mtu)
      const source = options.snat ? sourcesOf(route, leg, sources) : '-'
      const [snat4, snat6]: [SourcesInKey, SourcesInKey] = route.family === 4 ? [source, '-'] : ['-', source]
      return nexthopKey(leg.ifindex, leg.gateway, mtu, snat4, snat6)
    },
    acquire(key, change, users = 1) {
      let row = rows.get(key)
      if (!row) {
        row = { users: 0, route: { action: 'nexthop', nexthop: key } }
        rows.set(key, row)
        put(key, change)
        watch(key, change)
      }
      row.users += users
      return row
    },
    release(key, change) {
      const row = rows.get(key)
      if (!row || --row.users > 0) return
      rows.delete(key)
      plan.nexthops.delete(key)
      change.nexthops.add(key)
      unwatch(key, change)
    },
    refresh(neighbour, change) {
      for (const key of byNeighbour.get(neighbour) ?? []) put(key, change)
    },
    refreshDevice(ifindex, change) {
      for (const key of byDevice.get(ifindex) ?? []) put(key, change)
    }
  }
}

/** The kernel's MASQUERADE asks with the gateway, or on-link with the destination. */
function sourcesOf(route: Route, leg: RouteNexthop, sources: SourceChooser): SourcesInKey {
  const family: Family = route.family
  const configured = sources.configured(family, leg.ifindex)
  if (configured !== null) return sourcesInKey(configured)
  let target: Address | null = null
  if (leg.gateway !== null && leg.gateway.length === (family === 4 ? 8 : 32)) target = leg.gateway
  else if (route.prefixLength > 0) target = route.destination
  return sources.source(family, leg.ifindex, target, route.preferredSource) ?? '-'
}

function build(key: NexthopKey, state: NodeState): WantedNexthop {
  const { ifindex, gateway, mtu, snat4, snat6, noSource } = splitNexthopKey(key)
  const link = state.links.get(ifindex)
  const { mac, known } = resolve(gateway === null ? undefined : state.neighbours.get(neighbourKey(ifindex, gateway)))
  return {
    key,
    ifindex,
    device: link?.name ?? String(ifindex),
    gateway,
    mac,
    macKnown: known,
    sourceMac: link?.mac ?? noMac,
    mtu,
    snat4: snat4[0] ?? null,
    snat6: snat6[0] ?? null,
    sources: joinAddresses([snat4, snat6].find((addresses) => addresses.length > 1) ?? []),
    noSource
  }
}
