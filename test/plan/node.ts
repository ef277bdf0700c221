// A node made of plain facts, for tests of the planner and of the maps.

import {
  familyOf,
  hexMac,
  hostPrefix,
  maskAddress,
  neighbourKey,
  noAddress,
  noMac,
  parseAddress,
  parsePrefix,
  prefixKey,
  splitPrefix
} from '../../src/address.js'
import { noChanges } from '../../src/state/changes.js'
import type {
  Address,
  Changes,
  InterfaceAddress,
  Link,
  Neighbour,
  NeighbourKey,
  NexthopObject,
  NodeState,
  Prefix,
  Route,
  RouteNexthop,
  RouteUsers,
  Rule
} from '../../src/state/types.js'

export interface TestNode extends NodeState {
  links: Map<number, Link>
  addresses: Map<number, InterfaceAddress[]>
  routes4: Map<Prefix, Route[]>
  routes6: Map<Prefix, Route[]>
  rules: Rule[]
  nexthopObjects: Map<number, NexthopObject>
  neighbours: Map<NeighbourKey, Neighbour>
}

export const everything: Changes = { ...noChanges(), all: true }

export function some(prefixes: Prefix[], neighbours: NeighbourKey[] = []): Changes {
  return { ...noChanges(), prefixes: new Set(prefixes), neighbours: new Set(neighbours) }
}

/** Found by looking at all routes each time: tests change the tables as they like. */
function lookAtAll(node: Pick<NodeState, 'routes4' | 'routes6'>): RouteUsers {
  const where = (fits: (route: Route) => boolean): Set<Prefix> => {
    const found = new Set<Prefix>()
    for (const table of [node.routes4, node.routes6])
      for (const [prefix, routes] of table) if (routes.some(fits)) found.add(prefix)
    return found
  }
  const hops = ({ nexthopId, nexthops }: Route, ifindex: number) =>
    nexthopId === 0 ? nexthops.filter((hop) => hop.ifindex === ifindex) : []
  return {
    throughDevice: (ifindex) => where((route) => hops(route, ifindex).length > 0),
    throughGateway: (ifindex, wanted) =>
      where((route) => hops(route, ifindex).some(({ gateway }) => gateway === wanted)),
    gatewaysOn(ifindex) {
      const found = new Set<Address>()
      for (const table of [node.routes4, node.routes6])
        for (const route of [...table.values()].flat())
          for (const { gateway } of hops(route, ifindex)) if (gateway !== null) found.add(gateway)
      return found
    },
    preferring: (source) => where(({ preferredSource }) => preferredSource === source),
    byObject: (id) => where((route) => route.nexthopId === id),
    inTable: (table) => where((route) => route.table === table),
    kindOf(prefix) {
      const routes = node.routes4.get(prefix) ?? node.routes6.get(prefix) ?? []
      const [only] = routes
      if (!only || routes.length > 1) return null
      const kind = { ...only, destination: noAddress, prefixLength: 0 }
      const text = JSON.stringify(kind)
      const known = kinds.get(text) ?? kind
      kinds.set(text, known)
      return known
    }
  }
}

const kinds = new Map<string, Route>()

export function hex(text: string): Address {
  const address = parseAddress(text)
  if (address === null) throw new Error(`not an address: ${text}`)
  return address
}

/** "10.0.0.0/8" -> "0a000000/8"; an address without length is a host. */
export function key(text: string): Prefix {
  if (!text.includes('/')) return hostPrefix(hex(text))
  const prefix = parsePrefix(text)
  if (!prefix) throw new Error(`not a prefix: ${text}`)
  return prefixKey(maskAddress(prefix.address, prefix.length), prefix.length)
}

export function rule(family: 4 | 6, priority: number, table: number, fields: Partial<Rule> = {}): Rule {
  return {
    family,
    priority,
    action: 1,
    table,
    source: null,
    sourceLength: 0,
    destination: null,
    destinationLength: 0,
    iif: null,
    oif: null,
    mark: 0,
    markMask: 0,
    invert: false,
    tos: 0,
    suppressPrefixLength: -1,
    suppressGroup: -1,
    l3mdev: false,
    goto: 0,
    uidRange: null,
    tunnelId: null,
    unsupported: [],
    ...fields
  }
}

export function defaultRules(): Rule[] {
  return [rule(4, 0, 255), rule(4, 32766, 254), rule(4, 32767, 253), rule(6, 0, 255), rule(6, 32766, 254)]
}

export function link(ifindex: number, name: string, fields: Partial<Link> = {}): Link {
  return {
    ifindex,
    name,
    kind: null,
    type: 1,
    mac: hexMac(`0200000000${(ifindex & 255).toString(16).padStart(2, '0')}`),
    mtu: 1500,
    up: true,
    carrier: true,
    link: 0,
    linkNamespace: null,
    master: 0,
    netkitMode: null,
    netkitPrimary: false,
    bridgeNetfilter: false,
    ...fields
  }
}

export function podLink(ifindex: number, name: string, fields: Partial<Link> = {}): Link {
  return link(ifindex, name, { kind: 'veth', link: 2, linkNamespace: 0, ...fields })
}

export function leg(ifindex: number, gateway: string | null = null, fields: Partial<RouteNexthop> = {}): RouteNexthop {
  return {
    ifindex,
    gateway: gateway === null ? null : hex(gateway),
    weight: 1,
    dead: false,
    onlink: false,
    encap: false,
    ...fields
  }
}

export function route(prefix: string, nexthops: RouteNexthop[], fields: Partial<Route> = {}): Route {
  const { address: destination, length: prefixLength, family } = splitPrefix(key(prefix))
  return {
    family,
    destination,
    prefixLength,
    table: 254,
    type: 1,
    metric: 0,
    tos: 0,
    protocol: 4,
    scope: 0,
    nexthops,
    nexthopId: 0,
    preferredSource: null,
    mtu: 0,
    unsupported: [],
    ...fields
  }
}

/** A next hop object, in the node; a group if `fields` says so. */
export function addObject(node: TestNode, id: number, fields: Partial<NexthopObject>): void {
  const empty = { family: 4, nexthop: null, blackhole: false, group: [], unsupported: [] } as const
  node.nexthopObjects.set(id, { ...empty, group: [], unsupported: [], id, ...fields })
}

/** Adds routes as the state keeps them: sorted by table, metric, tos. Returns their keys. */
export function addRoutes<Routes extends Route[]>(node: TestNode, ...routes: Routes): { [At in keyof Routes]: Prefix } {
  const add = (entry: Route): Prefix => {
    const prefix = prefixKey(entry.destination, entry.prefixLength)
    const table = entry.family === 4 ? node.routes4 : node.routes6
    table.set(
      prefix,
      [...(table.get(prefix) ?? []), entry].sort((a, b) => a.table - b.table || a.metric - b.metric || a.tos - b.tos)
    )
    return prefix
  }
  return routes.map(add) as { [At in keyof Routes]: Prefix }
}

export function setNeighbour(
  node: TestNode,
  ifindex: number,
  address: string,
  mac: string | null,
  state: number,
  flags = 0
): NeighbourKey {
  const digits = hex(address)
  const name = neighbourKey(ifindex, digits)
  node.neighbours.set(name, {
    ifindex,
    family: familyOf(digits),
    address: digits,
    mac: mac === null ? null : hexMac(mac),
    state,
    flags,
    managed: false
  })
  return name
}

export function interfaceAddress(
  ifindex: number,
  text: string,
  fields: Partial<InterfaceAddress> = {}
): InterfaceAddress {
  const prefix = parsePrefix(text)
  if (!prefix) throw new Error(`not a prefix: ${text}`)
  const { address, length } = prefix
  return {
    ifindex,
    family: address.length === 8 ? 4 : 6,
    address,
    local: address,
    prefixLength: length,
    scope: 0,
    secondary: false,
    usable: true,
    ...fields
  }
}

/** lo, eth0 (192.0.2.10/24, 2001:db8::10/64) with default routes through .1 and ::1, and a second uplink eth1. */
export function plainNode(): TestNode {
  const tables = { routes4: new Map<Prefix, Route[]>(), routes6: new Map<Prefix, Route[]>() }
  const node: TestNode = {
    links: new Map(
      [link(1, 'lo', { type: 772, mac: noMac, mtu: 65536 }), link(2, 'eth0'), link(3, 'eth1', { mtu: 9000 })].map(
        (entry) => [entry.ifindex, entry]
      )
    ),
    addresses: new Map([
      [1, [interfaceAddress(1, '127.0.0.1/8', { scope: 254 })]],
      [2, [interfaceAddress(2, '192.0.2.10/24'), interfaceAddress(2, '2001:db8::10/64')]],
      [3, [interfaceAddress(3, '198.51.100.10/24')]]
    ]),
    ...tables,
    routeUsers: lookAtAll(tables),
    rules: defaultRules(),
    nexthopObjects: new Map(),
    neighbours: new Map()
  }
  const local = { table: 255, type: 2 }
  addRoutes(
    node,
    route('127.0.0.0/8', [leg(1)], local),
    route('127.0.0.1', [leg(1)], local),
    route('192.0.2.10', [leg(2)], local),
    route('192.0.2.255', [leg(2)], { table: 255, type: 3 }),
    route('198.51.100.10', [leg(3)], local),
    route('2001:db8::10', [leg(2)], local),
    route('fe80::/64', [leg(2)], { metric: 256 }),
    route('ff00::/8', [leg(2)], { table: 255, type: 5, metric: 256 }),
    route('0.0.0.0/0', [leg(2, '192.0.2.1')]),
    route('192.0.2.0/24', [leg(2)], { scope: 253 }),
    route('198.51.100.0/24', [leg(3)], { scope: 253 }),
    route('::/0', [leg(2, '2001:db8::1')], { metric: 1024 }),
    route('2001:db8::/64', [leg(2)], { metric: 256 })
  )
  setNeighbour(node, 2, '192.0.2.1', '020000000101', 0x02)
  setNeighbour(node, 2, '2001:db8::1', '020000000101', 0x04)
  setNeighbour(node, 2, '192.0.2.77', '020000000177', 0x04)
  return node
}

/** A pod with its veth, host routes and neighbour entries. Returns the prefixes. */
export function addPod(node: TestNode, ifindex: number, addresses: string[], fields: Partial<Link> = {}): Prefix[] {
  node.links.set(ifindex, podLink(ifindex, `pod${ifindex}`, fields))
  for (const address of addresses)
    setNeighbour(node, ifindex, address, `0a00000000${(ifindex & 255).toString(16).padStart(2, '0')}`, 0x04)
  return addresses.flatMap((address) => addRoutes(node, route(address, [leg(ifindex)], { scope: 253 })))
}
