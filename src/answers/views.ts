// What is in the maps, as the control socket's rows. Pure: plan in, rows out.

import {
  formatAddress,
  formatMac,
  formatPrefix,
  longestPrefix,
  parsePrefix,
  splitAddresses,
  splitPrefix
} from '../address.js'
import type {
  NeighbourRow,
  NexthopRow,
  PodRow,
  RouteAnswer,
  RouteFilter,
  RouteLeg,
  RouteList,
  RouteRow
} from '../control/api.js'
import { type ClassRouteKey, isClassRoute, type NexthopKey, prefixIn, splitClassRouteKey } from '../plan/keys.js'
import { RouteMap } from '../plan/route-map.js'
import { selectRoutes } from '../plan/select.js'
import type { Plan, WantedClassRoute, WantedNexthop, WantedPod } from '../plan/types.js'
import { inSlices } from '../slice.js'
import type { Address, AddressList, Family, Prefix } from '../state/types.js'

const mostRoutes = 1000
const rowsAtOnce = 256
/** What only a program can say. */
const unasked = { from: null, reason: null, out: null, source: null } as const

/** served: hostroute is enabled; else none is ready. */
export function podRows(plan: Plan, served: boolean): PodRow[] {
  return [...plan.pods.values()].sort(byDeviceAndAddress).map((pod) => podRow(pod, served))
}

function podRow(pod: WantedPod, served: boolean): PodRow {
  return {
    address: formatAddress(pod.address),
    device: pod.device,
    ifindex: pod.ifindex,
    mac: pod.mac === null ? null : formatMac(pod.mac),
    hostMac: formatMac(pod.hostMac),
    mtu: pod.mtu,
    ready: served && (pod.l3 || pod.mac !== null),
    l3: pod.l3
  }
}

/** In parts: without class first; sorted by family, address and length. What the plan loses meanwhile is missing. */
export async function* routeList(
  plan: Plan,
  filter: RouteFilter
): AsyncGenerator<RouteRow[], Omit<RouteList, 'routes'>> {
  const { family, device, limit = mostRoutes } = filter
  const within = filter.within === undefined ? null : parsePrefix(filter.within)
  const steps = selectRoutes(
    plan,
    { ...(family && { family }), ...(within && { within }), ...(device !== undefined && { device }) },
    limit
  )
  const { keys, total } = await inSlices(steps)
  const classes = [...plan.classes.values()]
    .filter(({ family }) => filter.family === undefined || filter.family === family)
    .map(({ key, family, label, devices }) => ({ class: key, family, tables: label, devices }))
  for (let at = 0; at < keys.length; at += rowsAtOnce)
    yield keys
      .slice(at, at + rowsAtOnce)
      .map((key) => routeRow(plan, key))
      .filter((row) => row !== null)
  return { classes: classes.sort((a, b) => (a.class < b.class ? -1 : 1)), total }
}

function routeRow(plan: Plan, key: Prefix | ClassRouteKey): RouteRow | null {
  const route = isClassRoute(key) ? plan.classRoutes.get(key) : plan.routes.get(key)
  if (!route) return null
  const prefix = prefixIn(key)
  const { family } = splitPrefix(prefix)
  return {
    prefix: formatPrefix(prefix),
    family,
    class: isClassRoute(key) ? splitClassRouteKey(key).key : null,
    action: route.action,
    why: route.action === 'stack' ? route.why : null,
    legs: legsOf(plan, route, family)
  }
}

function legsOf(plan: Plan, route: WantedClassRoute, family: Family): RouteLeg[] {
  switch (route.action) {
    case 'stack':
    case 'main':
      return []
    case 'nexthop':
      return [legOf(plan.nexthops.get(route.nexthop), 1, family)]
    case 'group':
      return route.legs.map((leg) => legOf(plan.nexthops.get(leg.nexthop), leg.weight, family))
  }
}

function legOf(nexthop: WantedNexthop | undefined, weight: number, family: Family): RouteLeg {
  const snat = family === 4 ? nexthop?.snat4 : nexthop?.snat6
  return {
    device: nexthop?.device ?? '?',
    gateway: nexthop?.gateway ? formatAddress(nexthop.gateway) : null,
    weight,
    snat: snat && nexthop ? sourceText(snat, nexthop.sources) : null
  }
}

/** All of several: each pod has one of them. */
function sourceText(first: Address, several: AddressList): string {
  return several === '' ? formatAddress(first) : splitAddresses(several).map(formatAddress).join(', ')
}

/** masquerade: what the policy says about an address that is sent out. What the tables hold for an address: pod first, then the longest prefix. */
export function routeAnswer(
  plan: Plan,
  address: Address,
  masquerade: (address: Address) => RouteAnswer['masquerade']
): RouteAnswer {
  const pod = plan.pods.get(address)
  if (pod) {
    const ready = pod.l3 || pod.mac !== null
    const why = ready
      ? `a pod of this node, on ${pod.device}`
      : `a pod of this node on ${pod.device} whose MAC address is not known yet`
    return {
      ...unasked,
      address: formatAddress(address),
      verdict: ready ? 'pod' : 'stack',
      why,
      pod: podRow(pod, true),
      route: null,
      masquerade: null
    }
  }
  const key = longestPrefix(address, (candidate) => plan.routes.has(candidate))
  const row = key === null ? null : routeRow(plan, key)
  const leaves = row !== null && row.action !== 'stack'
  return {
    ...unasked,
    address: formatAddress(address),
    verdict: leaves ? 'uplink' : 'stack',
    why: whyOf(row),
    pod: null,
    route: row,
    masquerade: leaves ? masquerade(address) : null
  }
}

function whyOf(row: RouteRow | null): string {
  if (!row) return 'no route covers it: the kernel answers'
  if (row.action === 'stack') return `${row.prefix} is left to the kernel: ${row.why}`
  const ways = row.legs.map((leg) => `${leg.gateway ? `via ${leg.gateway} ` : 'directly '}on ${leg.device}`)
  return `${row.prefix} leads ${ways.join(' or ')}`
}

/** The node's routes may be a million: equal ones come once. */
function* counted({ routes, classRoutes }: Plan): Iterable<[WantedClassRoute, number]> {
  if (routes instanceof RouteMap) yield* routes.counts()
  else for (const route of routes.values()) yield [route, 1]
  for (const route of classRoutes.values()) yield [route, 1]
}

/** indexOf: row in the map, by key. */
export function nexthopRows(plan: Plan, indexOf: (key: NexthopKey) => number): NexthopRow[] {
  const uses = new Map<NexthopKey, number>()
  for (const [route, count] of counted(plan)) {
    const legs =
      route.action === 'nexthop'
        ? [route.nexthop]
        : route.action === 'group'
          ? route.legs.map((leg) => leg.nexthop)
          : []
    for (const key of legs) uses.set(key, (uses.get(key) ?? 0) + count)
  }
  const rows = [...plan.nexthops.values()].map((nexthop) => ({
    index: indexOf(nexthop.key),
    device: nexthop.device,
    gateway: nexthop.gateway ? formatAddress(nexthop.gateway) : null,
    mac: nexthop.mac ? formatMac(nexthop.mac) : null,
    macKnown: nexthop.macKnown,
    sourceMac: formatMac(nexthop.sourceMac),
    mtu: nexthop.mtu,
    snat4: nexthop.snat4 ? sourceText(nexthop.snat4, nexthop.sources) : null,
    snat6: nexthop.snat6 ? sourceText(nexthop.snat6, nexthop.sources) : null,
    routes: uses.get(nexthop.key) ?? 0
  }))
  return rows.sort((a, b) => a.index - b.index)
}

export function neighbourRows(plan: Plan, deviceName: (ifindex: number) => string): NeighbourRow[] {
  const rows = [...plan.neighbours.values()].map((neighbour) => ({
    device: deviceName(neighbour.ifindex),
    address: formatAddress(neighbour.address),
    mac: formatMac(neighbour.mac),
    known: neighbour.known
  }))
  return rows.sort((a, b) => (a.device < b.device ? -1 : a.device > b.device ? 1 : a.address < b.address ? -1 : 1))
}

function byDeviceAndAddress(a: WantedPod, b: WantedPod): number {
  if (a.device !== b.device) return a.device < b.device ? -1 : 1
  return a.address.length - b.address.length || (a.address < b.address ? -1 : 1)
}
