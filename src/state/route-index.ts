// Which prefixes have routes through a device or gateway, by a nexthop object, in
// a table: so an event of one of these touches the routes that depend on it and
// no others.

import { type PrefixColumn, PrefixSet } from '../prefix-map.js'
import type { Address, Prefix, Route, RouteUsers } from './types.js'

const TABLE_MAIN = 254
const RTPROT_KERNEL = 2
/** From here on a set is kept in columns, which take more while they are few. */
const manyPrefixes = 128

export class RouteIndex implements RouteUsers {
  /** By device and gateway; '': without one. */
  private readonly devices = new Map<number, Map<Address | '', Set<Prefix>>>()
  private readonly objects = new Map<number, Set<Prefix>>()
  private readonly tables = new Map<number, Set<Prefix>>()
  private readonly sources = new Map<Address, Set<Prefix>>()
  /** How many routes prefer an address as source; without those that the kernel made with an IPv4 address, and takes away with a message each. */
  private readonly silent = new Map<Address, number>()
  /** How many dead next hops are on a device. */
  private readonly dead = new Map<number, number>()

  constructor(readonly kindOf: RouteUsers['kindOf'] = () => null) {}

  throughGateway(ifindex: number, gateway: Address | null): ReadonlySet<Prefix> {
    return this.devices.get(ifindex)?.get(gateway ?? '') ?? nothing
  }

  *throughDevice(ifindex: number): Iterable<Prefix> {
    for (const prefixes of this.devices.get(ifindex)?.values() ?? []) yield* prefixes
  }

  gatewaysOn(ifindex: number): Iterable<Address> {
    return [...(this.devices.get(ifindex)?.keys() ?? [])].filter((gateway): gateway is Address => gateway !== '')
  }

  byObject(id: number): ReadonlySet<Prefix> {
    return this.objects.get(id) ?? nothing
  }

  inTable(table: number): ReadonlySet<Prefix> {
    return this.tables.get(table) ?? nothing
  }

  preferring(source: Address): ReadonlySet<Prefix> {
    return this.sources.get(source) ?? nothing
  }

  /** Routes go, or prefer it no longer, without a message when the address goes. */
  prefers(source: Address): boolean {
    return this.silent.has(source)
  }

  hasDead(ifindex: number): boolean {
    return this.dead.has(ifindex)
  }

  add(prefix: Prefix, route: Route): void {
    this.count(route, 1)
    if (route.nexthopId !== 0) put(this.objects, route.nexthopId, prefix)
    else for (const { ifindex, gateway } of route.nexthops) put(this.gatewaysOf(ifindex), gateway ?? '', prefix)
    if (route.preferredSource !== null) put(this.sources, route.preferredSource, prefix)
    if (route.table !== TABLE_MAIN) put(this.tables, route.table, prefix)
  }

  /** The same for the prefix at a place. */
  addAt(column: PrefixColumn, at: number, route: Route): void {
    const { nexthopId, nexthops, preferredSource, table } = route
    this.count(route, 1)
    if (nexthopId !== 0) putAt(this.objects, nexthopId, column, at)
    else for (const { ifindex, gateway } of nexthops) putAt(this.gatewaysOf(ifindex), gateway ?? '', column, at)
    if (preferredSource !== null) putAt(this.sources, preferredSource, column, at)
    if (table !== TABLE_MAIN) putAt(this.tables, table, column, at)
  }

  /** left: the prefix's routes without this one. */
  remove(prefix: Prefix, route: Route, left: readonly Route[]): void {
    const { nexthopId, nexthops, table, preferredSource } = route
    this.count(route, -1)
    if (nexthopId !== 0) {
      if (!left.some((other) => other.nexthopId === nexthopId)) drop(this.objects, nexthopId, prefix)
    } else {
      for (const { ifindex, gateway } of nexthops) {
        if (left.some((other) => usesGateway(other, ifindex, gateway))) continue
        const gateways = this.gatewaysOf(ifindex)
        drop(gateways, gateway ?? '', prefix)
        if (gateways.size === 0) this.devices.delete(ifindex)
      }
    }
    if (preferredSource !== null && !left.some((other) => other.preferredSource === preferredSource))
      drop(this.sources, preferredSource, prefix)
    if (table !== TABLE_MAIN && !left.some((other) => other.table === table)) drop(this.tables, table, prefix)
  }

  private count({ family, protocol, preferredSource, nexthopId, nexthops }: Route, step: 1 | -1): void {
    if (preferredSource !== null && (family === 6 || protocol !== RTPROT_KERNEL))
      addTo(this.silent, preferredSource, step)
    if (nexthopId === 0) for (const { ifindex, dead } of nexthops) if (dead) addTo(this.dead, ifindex, step)
  }

  private gatewaysOf(ifindex: number): Map<Address | '', Set<Prefix>> {
    const gateways = this.devices.get(ifindex) ?? new Map<Address | '', Set<Prefix>>()
    this.devices.set(ifindex, gateways)
    return gateways
  }

  /** The prefix has other routes now. */
  replace(prefix: Prefix, before: readonly Route[], after: readonly Route[]): void {
    const [old, fresh] = [asSet(before), asSet(after)]
    for (const route of before) if (!fresh.has(route)) this.remove(prefix, route, after)
    for (const route of after) if (!old.has(route)) this.add(prefix, route)
  }
}

/** Most prefixes have one route. */
function asSet(routes: readonly Route[]): { has(route: Route): boolean } {
  return routes.length > 4 ? new Set(routes) : { has: (route) => routes.includes(route) }
}

const nothing: ReadonlySet<Prefix> = new Set()

/** By next hops of its own. */
export function usesDevice({ nexthopId, nexthops }: Route, ifindex: number): boolean {
  return nexthopId === 0 && nexthops.some((hop) => hop.ifindex === ifindex)
}

function usesGateway({ nexthopId, nexthops }: Route, ifindex: number, gateway: Address | null): boolean {
  return nexthopId === 0 && nexthops.some((hop) => hop.ifindex === ifindex && hop.gateway === gateway)
}

function addTo<K>(counts: Map<K, number>, key: K, step: 1 | -1): void {
  const count = (counts.get(key) ?? 0) + step
  if (count > 0) counts.set(key, count)
  else counts.delete(key)
}

function put<K>(index: Map<K, Set<Prefix>>, key: K, prefix: Prefix): void {
  const set = index.get(key)
  if (!set) index.set(key, new Set([prefix]))
  else if (set.size < manyPrefixes || set instanceof PrefixSet) set.add(prefix)
  else index.set(key, new PrefixSet(set).add(prefix))
}

function putAt<K>(index: Map<K, Set<Prefix>>, key: K, column: PrefixColumn, at: number): void {
  const set = index.get(key)
  if (set instanceof PrefixSet) set.columns[column.family].placeAs(column, at)
  else put(index, key, column.key(at))
}

function drop<K>(index: Map<K, Set<Prefix>>, key: K, prefix: Prefix): void {
  const set = index.get(key)
  if (set?.delete(prefix) && set.size === 0) index.delete(key)
}
