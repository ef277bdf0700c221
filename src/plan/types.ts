// What the maps shall hold, in logical terms: no indexes, no bytes. src/plan
// computes it, src/maps gives indexes, encodes, compares and writes.

import type { Address, Family, Mac } from '../state/types.js'

/** Reason codes are enum reason of bpf/types.h, by name without REASON_, lowercase, '-' for '_'. */
export type StackReason = 'local' | 'route' | 'policy' | 'no-route' | 'link-local' | 'translated-destination'

export interface WantedPod {
  address: Address
  ifindex: number
  device: string
  mtu: number
  /** null: not resolved yet, traffic goes through the stack. */
  mac: Mac | null
  hostMac: Mac
  /** netkit in L3 mode. */
  l3: boolean
}

/** Addresses that a pod may send with besides its own. */
export interface PodSource {
  /** Prefix key. */
  prefix: string
  /** false: they stay, whatever the masquerade policy says. */
  masquerade: boolean
}

export interface WantedDevice {
  ifindex: number
  name: string
  role: 'pod' | 'uplink'
  kind: string | null
  mtu: number
  mac: Mac
  /** role pod: its addresses, sorted; the first of each family is checked fastest. */
  addresses: Address[]
  /** role pod: each prefix once. */
  sources: PodSource[]
  /** Families whose traffic from and to here is left to the kernel, and why. */
  stack: LeftToKernel[]
  /** Key of the class that routes the pod's packets; null: the node's own routes. */
  class4: string | null
  class6: string | null
  /** role uplink: IPv4 comes in only where its answers would go out (rp_filter). */
  strictReversePath: boolean
}

export interface LeftToKernel {
  family: Family
  why: string
  /** The ip rule because of which, as `ip rule` prints it; null: for another reason. */
  rule: string | null
}

/** Devices whose packets the ip rules treat alike. */
export interface WantedClass {
  /** The same key is the same way through the tables, whatever is in them. */
  key: string
  family: Family
  /** The tables asked, in order, for people. */
  label: string
  /** Names. */
  devices: string[]
}

/** A device that looks like a pod's or an uplink and is not served. */
export interface UnservedDevice {
  ifindex: number
  name: string
  why: string
}

export interface WantedNexthop {
  /** Identity: the same key is the same row whatever its MAC. "ifindex/gateway|onlink/mtu/snat4/snat6"; see parseKey(). */
  key: string
  ifindex: number
  device: string
  gateway: Address | null
  mac: Mac | null
  /** mac may be used without asking the kernel. */
  macKnown: boolean
  sourceMac: Mac
  mtu: number
  /** The first of several. */
  snat4: Address | null
  snat6: Address | null
  /** Several addresses that share the pods, joined with '+'; '': one at most. */
  sources: string
  /** The node has none of the addresses configured for SNAT: what is due is dropped. */
  noSource: boolean
}

/** What the node lacks of the addresses configured for SNAT. */
export interface LackingSources {
  /** Entries of the configuration without any address, for people. */
  entries: string[]
  /** Families that have none at all. */
  families: Family[]
}

export type WantedRoute =
  | {
      action: 'stack'
      reason: StackReason
      /** For people: 'blackhole', ... */
      why: string
      /** As in LeftToKernel. */
      rule: string | null
    }
  | { action: 'nexthop'; nexthop: string }
  | { action: 'group'; legs: { nexthop: string; weight: number }[] }

/** In a class. main: the node's own pods and routes answer. */
export type WantedClassRoute = WantedRoute | { action: 'main' }

export interface WantedNeighbour {
  ifindex: number
  address: Address
  mac: Mac
  known: boolean
}

/** The whole plan. Maps keyed as said; the objects are not changed after they were handed out. */
export interface Plan {
  /** by ifindex */
  devices: Map<number, WantedDevice>
  unserved: UnservedDevice[]
  /** by address */
  pods: Map<Address, WantedPod>
  /** by key */
  nexthops: Map<string, WantedNexthop>
  /** by prefix key; of the planner's own plans a RouteMap */
  routes: Map<string, WantedRoute>
  /** by key */
  classes: Map<string, WantedClass>
  /** By class and prefix key: "4-0123456789ab 0a000000/8". Each class has its /0. */
  classRoutes: Map<string, WantedClassRoute>
  /** by "ifindex/address" */
  neighbours: Map<string, WantedNeighbour>
  /** Some ip rule asks for a mark: packets that have one are the kernel's. */
  marks: boolean
  /** (device, address) pairs the kernel shall keep fresh: gateways in use and pods. */
  managed: Map<string, { ifindex: number; address: Address }>
  lackingSources: LackingSources
}
