// Routes of one family by prefix, with the kernel's own ideas of which routes
// are one and the same.
//
// Each prefix has a list sorted by table, metric, tos. Routes equal in these
// three stand in the kernel's order: the first is the one in use.
//   IPv4: several such routes may stand side by side. RTM_NEWROUTE puts its
//         route before them, with NLM_F_APPEND behind them, with NLM_F_REPLACE
//         in the place of the first; no RTM_DELROUTE tells of the one replaced.
//         A changed nexthop object makes the kernel tell its routes anew with
//         NLM_F_REPLACE, each in its own place.
//   IPv6: unicast routes through gateways with equal table and metric are one
//         route with several next hops. It is announced whole, or (deletions,
//         older kernels) by single next hops. Others stand side by side. Next
//         hops that joined one by one may have properties (an MTU) of their own;
//         an event shows those of the one that joined, a dump those of the first.
// Applying a message twice, or one older than the dump, does no harm once the
// messages after it have been applied too.

import { prefixKey } from '../address.js'
import { sameFact } from './equal.js'
import type { RouteIndex } from './route-index.js'
import type { Changes, Prefix, Route, RouteNexthop } from './types.js'

/** A table as far as it is needed here. What `get` returns may be changed, and is then `set`. */
export interface RouteLists {
  get(key: Prefix): Route[] | undefined
  set(key: Prefix, routes: Route[]): unknown
  delete(key: Prefix): boolean
}

type Index = Pick<RouteIndex, 'add' | 'remove'>

export interface RouteEvent {
  removed: boolean
  replace: boolean
  append: boolean
  route: Route
}

const RTN_UNICAST = 1
const RTPROT_REDIRECT = 1
const RTPROT_RA = 9

/**
 * 'unsure': a removal fitted none of the routes that have its table, metric and tos. 'ambiguous': see isAmbiguous, or
 * the next hops of an IPv6 route differ in their properties. `mixed`: prefixes of such, kept here.
 */
export function applyRoute(
  table: RouteLists,
  event: RouteEvent,
  changes: Changes,
  mixed: Set<Prefix>,
  index: Index
): 'sure' | 'unsure' | 'ambiguous' {
  const { route } = event
  const key = prefixKey(route.destination, route.prefixLength)
  const list = table.get(key)
  if (event.removed) {
    const outcome = list ? removeRoute(list, route, key, index) : 'absent'
    if (outcome !== 'absent') changes.prefixes.add(key)
    if (list && list.length > 0) table.set(key, list)
    if (outcome === 'removed' && list?.length !== 0 && mixed.has(key)) return 'ambiguous'
    if (list?.length === 0) {
      table.delete(key)
      mixed.delete(key)
    }
    return outcome === 'misfit' ? 'unsure' : 'sure'
  }
  if (!list) {
    table.set(key, [route])
    index.add(key, route)
  }
  const mixes = list?.some((known) => joinsAsAnother(known, event)) ?? false
  if (mixes) mixed.add(key)
  const ambiguous = mixes || (list !== undefined && isAmbiguous(list, event))
  if (!list) changes.prefixes.add(key)
  else if (addRoute(list, event, key, index)) {
    table.set(key, list)
    changes.prefixes.add(key)
  }
  return ambiguous ? 'ambiguous' : 'sure'
}

/**
 * A route of a nexthop object that is there already, among others, replaces:
 * its object has changed, or it has taken the place of the first. IPv4 refuses
 * the latter; but in a replay the route may be there from the dump.
 */
function isAmbiguous(list: readonly Route[], { route, replace }: RouteEvent): boolean {
  if (!replace || route.nexthopId === 0) return false
  const peers = list.filter((known) => order(known, route) === 0)
  return peers.length > 1 && peers.some((known) => sameRoute(known, route))
}

/** An IPv6 next hop joins a route whose properties are not its own. */
function joinsAsAnother(known: Route, { route, replace }: RouteEvent): boolean {
  if (replace || route.family === 4 || order(known, route) !== 0) return false
  if (!joinable(known) || !joinable(route) || !sameSource(known, route)) return false
  return !sameRoute({ ...known, nexthops: route.nexthops }, route)
}

/** true: the list is another now. */
function addRoute(list: Route[], { route, replace, append }: RouteEvent, key: Prefix, index: Index): boolean {
  const first = list.findIndex((known) => order(known, route) >= 0)
  const peersStart = first < 0 ? list.length : first
  let peersEnd = peersStart
  while (peersEnd < list.length && order(list[peersEnd] as Route, route) === 0) peersEnd++

  const target = targetOf(list, peersStart, peersEnd, route, replace)
  if (target >= 0) {
    const known = list[target] as Route
    const next = replace || route.family === 4 ? route : joined(known, route)
    if (sameRoute(known, next)) return false
    list[target] = next
    index.remove(key, known, list)
    index.add(key, next)
    if (route.family === 4) dropCopies(list, target, peersStart, peersEnd, key, index)
    return true
  }
  list.splice(append || route.family === 6 ? peersEnd : peersStart, 0, route)
  index.add(key, route)
  return true
}

/** Index of the route that the new one takes the place of or joins; -1: it stands by itself. */
function targetOf(list: Route[], start: number, end: number, route: Route, replace: boolean): number {
  if (start === end) return -1
  for (let i = start; i < end && !replace; i++) {
    const known = list[i] as Route
    if (route.family === 4 ? sameRoute(known, route) : sameEntry6(known, route)) return i
  }
  if (!replace) return -1
  for (let i = start; i < end && route.nexthopId !== 0; i++) if (sameRoute(list[i] as Route, route)) return i
  if (route.family === 4) return start
  // IPv6 replaces the first route of its own sort (several next hops possible or not), else the first.
  for (let i = start; i < end; i++) {
    if (joinable(list[i] as Route) === joinable(route)) return i
  }
  return start
}

/** A replayed replace can make two of a kind, of which IPv4 never has two (IPv6 has, after a replace). */
function dropCopies(list: Route[], kept: number, start: number, end: number, key: Prefix, index: Index): void {
  for (let i = end - 1; i >= start; i--) {
    const copy = list[i] as Route
    if (i !== kept && sameRoute(copy, list[kept] as Route)) {
      list.splice(i, 1)
      index.remove(key, copy, list)
      if (i < kept) kept--
    }
  }
}

function removeRoute(list: Route[], route: Route, key: Prefix, index: Index): 'removed' | 'absent' | 'misfit' {
  let peers = 0
  for (let i = 0; i < list.length; i++) {
    const known = list[i] as Route
    if (order(known, route) !== 0) continue
    peers++
    if (route.family === 4 ? !sameForRemoval4(known, route) : !sameEntry6(known, route)) continue
    const left = route.family === 6 && joinable(known) ? without(known.nexthops, route.nexthops) : []
    // Next hops that another message has taken away already: nothing left to do.
    if (left.length === known.nexthops.length && left.length > 0) return 'misfit'
    if (left.length > 0) {
      const rest = { ...known, nexthops: left }
      list[i] = rest
      index.remove(key, known, list)
      index.add(key, rest)
      return 'removed'
    }
    list.splice(i, 1)
    index.remove(key, known, list)
    // Of two of a kind the dump that showed them may have told one twice.
    return route.family === 6 && list.some((other) => sameRoute(other, known)) ? 'misfit' : 'removed'
  }
  return peers === 0 ? 'absent' : 'misfit'
}

/** Order of the lists: negative when a stands before b. */
function order(a: Route, b: Route): number {
  return a.table - b.table || a.metric - b.metric || a.tos - b.tos
}

/** May be one of several next hops of an IPv6 route (the kernel's rt6_qualify_for_ecmp). */
function joinable(route: Route): boolean {
  if (route.nexthopId !== 0 || route.type !== RTN_UNICAST) return false
  if (route.protocol === RTPROT_RA || route.protocol === RTPROT_REDIRECT) return false
  return route.nexthops.length > 1 || route.nexthops.some((nexthop) => nexthop.gateway !== null)
}

/** The same IPv6 route, perhaps with other next hops or properties. */
function sameEntry6(a: Route, b: Route): boolean {
  if (a.nexthopId !== b.nexthopId || !sameSource(a, b)) return false
  if (a.nexthopId !== 0) return true
  if (joinable(a) && joinable(b)) return true
  return a.type === b.type && a.protocol === b.protocol && sameHops(a.nexthops, b.nexthops)
}

function sameForRemoval4(a: Route, b: Route): boolean {
  return (
    a.type === b.type &&
    a.scope === b.scope &&
    a.protocol === b.protocol &&
    a.preferredSource === b.preferredSource &&
    a.nexthopId === b.nexthopId &&
    (a.nexthopId !== 0 || sameHops(a.nexthops, b.nexthops))
  )
}

/** IPv6 routes from a source prefix carry it in `unsupported`. */
function sameSource(a: Route, b: Route): boolean {
  if (a.unsupported.length === 0 && b.unsupported.length === 0) return true
  const isSource = (what: string): boolean => what.startsWith('from ')
  return a.unsupported.find(isSource) === b.unsupported.find(isSource)
}

/** The known route after a message with all or one of its next hops; those that stay keep their order. */
function joined(known: Route, route: Route): Route {
  if (!joinable(known) || !joinable(route)) return route
  const added = without(route.nexthops, known.nexthops)
  // A single one that is known already says nothing about the others.
  const one = route.nexthops.length === 1
  const stayed = known.nexthops.flatMap((old) => route.nexthops.find((hop) => sameHop(hop, old)) ?? (one ? [old] : []))
  const nexthops = [...stayed, ...added]
  return { ...route, nexthops: sameFact(nexthops, route.nexthops) ? route.nexthops : nexthops }
}

function without(nexthops: RouteNexthop[], gone: RouteNexthop[]): RouteNexthop[] {
  return nexthops.filter((nexthop) => !gone.some((other) => sameHop(nexthop, other)))
}

function sameHops(a: RouteNexthop[], b: RouteNexthop[]): boolean {
  return a === b || (a.length === b.length && a.every((hop, index) => sameHop(hop, b[index] as RouteNexthop)))
}

/** Whatever their state and weight. */
function sameHop(a: RouteNexthop, b: RouteNexthop): boolean {
  return a.ifindex === b.ifindex && a.gateway === b.gateway
}

/** Equal in everything; next hops of a nexthop object belong to the object. */
export function sameRoute(a: Route, b: Route): boolean {
  return (
    order(a, b) === 0 &&
    a.type === b.type &&
    a.protocol === b.protocol &&
    a.scope === b.scope &&
    a.mtu === b.mtu &&
    a.preferredSource === b.preferredSource &&
    a.nexthopId === b.nexthopId &&
    (a.nexthops === b.nexthops || a.nexthopId !== 0 || sameFact(a.nexthops, b.nexthops)) &&
    (a.unsupported === b.unsupported || sameFact(a.unsupported, b.unsupported))
  )
}

/** Adds one route of a dump to what it shows. */
export function addDumped(fresh: Map<Prefix, Route[]>, route: Route): void {
  const key = prefixKey(route.destination, route.prefixLength)
  const list = fresh.get(key)
  if (list) insertDumped(list, route)
  else fresh.set(key, [route])
}

/** Into the list of its prefix: a dump shows routes whole, and equal ones in the kernel's order. */
export function insertDumped(list: Route[], route: Route): void {
  let at = list.length
  while (at > 0 && order(list[at - 1] as Route, route) > 0) at--
  list.splice(at, 0, route)
}

/** Without routes that stand twice. */
export function withoutCopies(list: Route[]): Route[] {
  return list.filter((route, at) => !list.slice(0, at).some((other) => sameRoute(other, route)))
}
