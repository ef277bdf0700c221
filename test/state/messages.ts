// Messages for tests of the state, and ways to look at it.

import { familyOfPrefix, hexMac, hexPrefix, parseAddress, parsePrefix } from '../../src/address.js'
import { noChanges } from '../../src/state/changes.js'
import type { StateMessage } from '../../src/state/messages.js'
import type { State } from '../../src/state/state.js'
import type {
  Address,
  Changes,
  InterfaceAddress,
  Link,
  Neighbour,
  NexthopObject,
  Prefix,
  Route,
  RouteNexthop,
  Rule
} from '../../src/state/types.js'

export function hex(text: string): Address {
  const address = parseAddress(text)
  if (address === null) throw new Error(text)
  return address
}

export function hop(ifindex: number, gateway: string | null = null): RouteNexthop {
  return {
    ifindex,
    gateway: gateway === null ? null : hex(gateway),
    weight: 1,
    dead: false,
    onlink: false,
    encap: false
  }
}

export function route(prefix: string, nexthops: RouteNexthop[], fields: Partial<Route> = {}): Route {
  const parsed = parsePrefix(prefix)
  if (!parsed) throw new Error(prefix)
  return {
    family: parsed.address.length === 8 ? 4 : 6,
    destination: parsed.address,
    prefixLength: parsed.length,
    table: 254,
    type: 1,
    metric: 0,
    tos: 0,
    protocol: 3,
    scope: 0,
    nexthops,
    nexthopId: 0,
    preferredSource: null,
    mtu: 0,
    unsupported: [],
    ...fields
  }
}

export function add(entry: Route, flags: { replace?: boolean; append?: boolean } = {}): StateMessage {
  return { kind: 'route', removed: false, replace: false, append: false, ...flags, route: entry }
}

export function del(entry: Route): StateMessage {
  return { kind: 'route', removed: true, replace: false, append: false, route: entry }
}

export function link(ifindex: number, fields: Partial<Link> = {}): StateMessage & { kind: 'link' } {
  return {
    kind: 'link',
    removed: false,
    running: true,
    link: {
      ifindex,
      name: `d${ifindex}`,
      kind: 'veth',
      type: 1,
      mac: hexMac('020000000001'),
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
}

export function neighbour(
  ifindex: number,
  address: string,
  fields: Partial<Neighbour> = {}
): StateMessage & { kind: 'neighbour' } {
  const entry: Neighbour = {
    ifindex,
    family: address.includes(':') ? 6 : 4,
    address: hex(address),
    mac: hexMac('020000000002'),
    state: 2,
    flags: 0,
    managed: false,
    ...fields
  }
  return { kind: 'neighbour', removed: false, neighbour: entry }
}

export function address(ifindex: number, text: string): StateMessage & { kind: 'address' } {
  const entry: InterfaceAddress = {
    ifindex,
    family: text.includes(':') ? 6 : 4,
    address: hex(text),
    local: hex(text),
    prefixLength: 24,
    scope: 0,
    secondary: false,
    usable: true
  }
  return { kind: 'address', removed: false, address: entry }
}

export function nexthop(id: number, fields: Partial<NexthopObject>): StateMessage & { kind: 'nexthop' } {
  return {
    kind: 'nexthop',
    removed: false,
    object: { id, family: 4, nexthop: null, blackhole: false, group: [], unsupported: [], ...fields }
  }
}

export function rule(priority: number, table: number): StateMessage & { kind: 'rule' } {
  const entry: Rule = {
    family: 4,
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
    unsupported: []
  }
  return { kind: 'rule', removed: false, rule: entry }
}

export function gone<M extends StateMessage>(message: M): M {
  return { ...message, removed: true }
}

export function after(state: State, ...messages: StateMessage[]): Changes {
  const changes = noChanges()
  for (const message of messages) state.apply(message, changes)
  return changes
}

/** Gateways in order, as the last byte; next hops of one route joined by '+'. */
export function gateways(state: State, key: Prefix): string {
  const list = (familyOfPrefix(key) === 6 ? state.routes6 : state.routes4).get(key) ?? []
  return list
    .map((entry) => entry.nexthops.map((leg) => Number.parseInt((leg.gateway ?? '00').slice(-2), 16)).join('+'))
    .join(' ')
}

export const p4 = hexPrefix('0a010000/16')
export const p6 = hexPrefix('20010db8000100000000000000000000/48')
export const r4 = (last: number, fields: Partial<Route> = {}): Route =>
  route('10.1.0.0/16', [hop(2, `192.0.2.${last}`)], fields)
export const r6 = (...last: number[]): Route =>
  route(
    '2001:db8:1::/48',
    last.map((n) => hop(2, `2001:db8::${n}`)),
    { metric: 1024 }
  )

export const silent = new Set(['nexthops', 'routes4', 'routes6'])
export const both4 = r4(1, { nexthops: [hop(2, '192.0.2.1'), hop(3, '192.0.2.2')] })
export const both6 = { ...r6(1), nexthops: [hop(2, '2001:db8::1'), hop(3, '2001:db8::2')] }
export const other4 = r4(3, { nexthops: [hop(3, '192.0.2.3')], metric: 9 })
