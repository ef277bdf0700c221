// Facts about the node, as the kernel tells them over rtnetlink. Plain data,
// no behaviour. Decoded in src/netlink, kept in src/state, read by src/plan.
//
// Addresses are lowercase hexadecimal bytes: 8 digits are IPv4, 32 are IPv6
// ("0a010002" is 10.1.0.2). They compare as strings, encode without parsing and
// become text only at the surfaces (src/address.ts).

export type Family = 4 | 6

declare const meaning: unique symbol
/** A string that the compiler tells from others: there is no such property. One file makes those of a meaning; these src/address.ts. */
export type Text<Meaning extends string> = string & { readonly [meaning]: Meaning }
/** Hexadecimal bytes of an IP address, 8 or 32 digits. */
export type Address = Text<'address'>
/** "0a010000/16": key of a prefix in the tables of state, plan and maps. */
export type Prefix = Text<'prefix'>
/** Six bytes in hexadecimal, 12 digits. */
export type Mac = Text<'mac'>
/** "3/0a000001": a device and an address on its link. */
export type NeighbourKey = Text<'neighbour'>
/** Addresses joined with '+'; '': none. */
export type AddressList = Text<'addresses'>

export interface Link {
  ifindex: number
  name: string
  /** IFLA_INFO_KIND: 'veth', 'netkit', 'vlan', 'bond', 'bridge', ...; null for physical devices. */
  kind: string | null
  /** ARPHRD_*: 1 Ethernet, 772 loopback, 65534 none (tun). */
  type: number
  mac: Mac | null
  mtu: number
  /** IFF_UP */
  up: boolean
  /** IFF_LOWER_UP: carrier */
  carrier: boolean
  /** IFLA_LINK: ifindex of the peer (veth) or parent (vlan); 0 none. */
  link: number
  /** IFLA_LINK_NETNSID: set when `link` is in another namespace. */
  linkNamespace: number | null
  /** IFLA_MASTER: bridge, bond or VRF above; 0 none. */
  master: number
  /** netkit: 'l2' or 'l3'. */
  netkitMode: 'l2' | 'l3' | null
  /** netkit: the primary device, where programs for the peer are attached. */
  netkitPrimary: boolean
  /** bridge: it hands its frames to iptables by a switch of its own, whatever the sysctls say. */
  bridgeNetfilter: boolean
}

export interface InterfaceAddress {
  ifindex: number
  family: Family
  address: Address
  /** IFA_LOCAL if it differs from address (point to point), else the same. */
  local: Address
  prefixLength: number
  /** RT_SCOPE_*: 0 universe, 253 link, 254 host. */
  scope: number
  secondary: boolean
  /** Not usable yet or any more: tentative, deprecated, dadfailed. */
  usable: boolean
}

export interface RouteNexthop {
  ifindex: number
  /** null: on-link. May be IPv6 under an IPv4 route (RTA_VIA). */
  gateway: Address | null
  /** 1..256 */
  weight: number
  /** RTNH_F_DEAD or RTNH_F_LINKDOWN: not to be used. */
  dead: boolean
  onlink: boolean
  /** RTA_ENCAP_TYPE is present: not expressible. */
  encap: boolean
}

/** RTN_*: 1 unicast, 2 local, 3 broadcast, 4 anycast, 5 multicast, 6 blackhole, 7 unreachable, 8 prohibit, 9 throw. */
export type RouteType = number

export interface Route {
  family: Family
  destination: Address
  prefixLength: number
  table: number
  type: RouteType
  /** RTA_PRIORITY; lower wins. */
  metric: number
  tos: number
  protocol: number
  scope: number
  nexthops: RouteNexthop[]
  /** RTA_NH_ID, 0 none: then nexthops comes from the nexthop object. */
  nexthopId: number
  preferredSource: Address | null
  /** RTAX_MTU, 0 none. */
  mtu: number
  /** Attributes present that the maps cannot express (RTA_ENCAP, RTA_IIF, source prefix, ...), for status. */
  unsupported: string[]
}

export interface NexthopObject {
  id: number
  family: Family
  nexthop: RouteNexthop | null
  blackhole: boolean
  /** Group members: id and weight (1..256). */
  group: { id: number; weight: number }[]
  unsupported: string[]
}

export interface Rule {
  family: Family
  priority: number
  /** FR_ACT_TO_TBL is 1. */
  action: number
  table: number
  source: Address | null
  sourceLength: number
  destination: Address | null
  destinationLength: number
  iif: string | null
  oif: string | null
  mark: number
  markMask: number
  /** 'not' */
  invert: boolean
  tos: number
  /** -1 none. */
  suppressPrefixLength: number
  /** Group of devices, -1 none. */
  suppressGroup: number
  l3mdev: boolean
  /** FR_ACT_GOTO (2): priority of the rule that is asked next; 0 none. */
  goto: number
  /** Inclusive. */
  uidRange: { first: number; last: number } | null
  /** Decimal; of packets out of a tunnel device that keeps the tunnel's key. */
  tunnelId: string | null
  /** Selectors by what a route lookup of the maps does not see (protocol, ports, ...), as `ip rule` prints them. */
  unsupported: string[]
}

/** NUD_* bits. */
export const NeighbourState = {
  incomplete: 0x01,
  reachable: 0x02,
  stale: 0x04,
  delay: 0x08,
  probe: 0x10,
  failed: 0x20,
  noarp: 0x40,
  permanent: 0x80
} as const

export interface Neighbour {
  ifindex: number
  family: Family
  address: Address
  mac: Mac | null
  /** NUD_* */
  state: number
  /** NTF_*: 0x02 self, 0x08 proxy, 0x10 externally learned, 0x80 router. */
  flags: number
  /** NTF_EXT_MANAGED: the kernel keeps it fresh. */
  managed: boolean
}

/** Prefixes of both families, by what their routes depend on. The sets are for now: not to be kept. */
export interface RouteUsers {
  /** By next hops of their own; see byObject. Some may come twice. */
  throughDevice(ifindex: number): Iterable<Prefix>
  /** gateway null: routes without. */
  throughGateway(ifindex: number, gateway: Address | null): ReadonlySet<Prefix>
  /** Gateways of those. */
  gatewaysOn(ifindex: number): Iterable<Address>
  byObject(id: number): ReadonlySet<Prefix>
  /** Of routes with this preferred source. */
  preferring(source: Address): ReadonlySet<Prefix>
  /** Of any table but main. */
  inTable(table: number): ReadonlySet<Prefix>
  /**
   * The route of a prefix that has one, without its destination: the same object for
   * all routes that differ in nothing else. null: there are several routes, or none.
   */
  kindOf(prefix: Prefix): Route | null
}

/** Whole view of the node, as src/plan reads it. Maps are live: do not keep them. */
export interface NodeState {
  readonly links: ReadonlyMap<number, Link>
  /** By ifindex. */
  readonly addresses: ReadonlyMap<number, readonly InterfaceAddress[]>
  /** By prefix; each list sorted: table, metric, tos. */
  readonly routes4: ReadonlyMap<Prefix, readonly Route[]>
  readonly routes6: ReadonlyMap<Prefix, readonly Route[]>
  readonly routeUsers: RouteUsers
  readonly rules: readonly Rule[]
  readonly nexthopObjects: ReadonlyMap<number, NexthopObject>
  readonly neighbours: ReadonlyMap<NeighbourKey, Neighbour>
}

/** What changed since the last plan: plan and writer do no more work than this asks for. */
export interface Changes {
  /** Everything may differ (first dump). */
  all: boolean
  /** IPv4 and IPv6. */
  prefixes: Set<Prefix>
  neighbours: Set<NeighbourKey>
  /** Devices that came, went or are another in any way. */
  links: Set<number>
  /** Devices whose addresses are others. */
  addresses: Set<number>
  /** Nexthop objects. */
  objects: Set<number>
  rules: boolean
}
