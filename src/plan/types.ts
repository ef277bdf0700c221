// What the maps shall hold, in logical terms: no indexes, no bytes. src/plan
// computes it, src/maps gives indexes, encodes, compares and writes.

import type { Address, AddressList, Family, Mac, NeighbourKey, Prefix } from '../state/types.js'
import type { ClassKey, ClassRouteKey, NexthopKey } from './keys.js'

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
  prefix: Prefix
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
  class4: ClassKey | null
  class6: ClassKey | null
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
  key: ClassKey
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
  key: NexthopKey
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
  sources: AddressList
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
  | { action: 'nexthop'; nexthop: NexthopKey }
  | { action: 'group'; legs: { nexthop: NexthopKey; weight: number }[] }

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
  nexthops: Map<NexthopKey, WantedNexthop>
  /** of the planner's own plans a RouteMap */
  routes: Map<Prefix, WantedRoute>
  /** by key */
  classes: Map<ClassKey, WantedClass>
  /** Each class has its /0. */
  classRoutes: Map<ClassRouteKey, WantedClassRoute>
  neighbours: Map<NeighbourKey, WantedNeighbour>
  /** Some ip rule asks for a mark: packets that have one are the kernel's. */
  marks: boolean
  /** (device, address) pairs the kernel shall keep fresh: gateways in use and pods. */
  managed: Map<NeighbourKey, { ifindex: number; address: Address }>
  lackingSources: LackingSources
}
