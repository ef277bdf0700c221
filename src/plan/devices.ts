// Which devices are pods', which are uplinks, and why others are not served.
//
// A pod's device: Ethernet veth or netkit whose other end lives in another
// namespace, up, no master, with at least one host route pointing to it, and
// with neither a route through a gateway nor a shorter on-link route. The last
// two matter: behind such a device live addresses that no host route names, and
// the source check would drop their packets. It also keeps a veth uplink, and a
// cloud's on-link /32 gateway, from being taken for a pod.
//
// An uplink: a device a unicast next hop uses, Ethernet, of a kind that
// bpf_redirect serves, no master, up. The tables that count: see uses.ts. A
// bridge only with a gateway behind it: what else hangs on one are hosts of its
// own, such as pods of the bridge plugin. And only while netfilter does not see
// its frames: a DNAT or conntrack entry made below the programs would be undone
// by nobody. Devices without Ethernet header (tun, WireGuard, ipip) stay with
// the kernel: the programs rewrite MAC addresses that are not there, and the
// kernel's own encapsulation costs more than its routing.
//
// Of two devices whose ifindex falls on the same row of `devices` the lower one
// is served. All of this is a function of the facts, never of history.

import { matchesGlob } from '../config/glob.js'
import type { Link } from '../state/types.js'
import { isDetourDevice } from './detour-device.js'
import type { PlanOptions } from './options.js'

export type DeviceRole =
  | { role: 'pod' }
  | { role: 'uplink' }
  | { role: 'unserved'; why: string }
  /** Nothing to say about it: no route uses it. */
  | { role: 'none' }

/** How many unicast routes use a device, by what they say about it. */
export interface DeviceUse {
  /** Host routes without gateway. */
  hosts: number
  /** Routes with a gateway. */
  gateways: number
  /** Shorter routes without gateway. */
  onlinks: number
}

export const unused: DeviceUse = { hosts: 0, gateways: 0, onlinks: 0 }

const ETHERNET = 1
const LOOPBACK = 772
/** Rows of the map `devices`: DEVICE_SLOTS of bpf/types.h. */
const deviceSlots = 16384

export const servedKinds = new Set<string | null>([null, 'veth', 'netkit', 'vlan', 'bond', 'team', 'macvlan'])

/** The role by a device's own facts; whether its row is free is decided by assignRole. */
function ownRole(link: Link, use: DeviceUse, links: ReadonlyMap<number, Link>, options: PlanOptions): DeviceRole {
  if (link.type === LOOPBACK || isDetourDevice(link)) return { role: 'none' }
  const used = use.hosts + use.gateways + use.onlinks > 0
  const podKind = link.kind === 'veth' || link.kind === 'netkit'
  const named = options.uplinkDevices !== 'auto' && matchesAny(options.uplinkDevices, link.name)
  const away = podKind && link.linkNamespace !== null
  if (!used && !named && !(link.master !== 0 && (away || link.kind === null))) return { role: 'none' }
  if (link.master !== 0) return { role: 'unserved', why: masterReason(links.get(link.master)) }
  if (!link.up) return unserved('the device is down')
  if (link.type !== ETHERNET || link.mac === null)
    return unserved('it has no Ethernet header: routes through it stay on the stack')
  if (away && use.hosts > 0 && use.gateways === 0 && use.onlinks === 0 && !named) {
    if (options.podDevices === 'auto' || matchesAny(options.podDevices, link.name)) return { role: 'pod' }
    return unserved('it looks like the device of a pod, and the configured pod devices leave it out')
  }
  if (link.kind === 'bridge') {
    const why = refuseBridge(link, use.gateways > 0 || named, options)
    if (why !== null) return unserved(why)
  } else if (!servedKinds.has(link.kind))
    return unserved(`devices of kind ${link.kind} are not served: routes through it stay on the stack`)
  if (link.netkitMode === 'l3') return unserved('a netkit device in L3 mode has no neighbours: it can serve a pod only')
  if (options.uplinkDevices !== 'auto' && !named) return unserved('the configured uplink devices leave it out')
  return { role: 'uplink' }
}

/** Why a bridge is not served; null: it is. */
function refuseBridge(link: Link, uplink: boolean, options: PlanOptions): string | null {
  if (!uplink) return 'no gateway is behind this bridge: what hangs on it stays on the stack'
  if (link.bridgeNetfilter || options.bridgeNetfilter)
    return 'netfilter sees the frames of this bridge (net.bridge.bridge-nf-call-iptables): it stays on the stack'
  return null
}

export interface Classifier {
  /** The role of a device as things stand. */
  roleOf(ifindex: number): DeviceRole
  /** The link came, went or is another. */
  refresh(ifindex: number): void
  /** Devices whose role may depend on this one's: itself, those that share a row with it, those it is the master of. */
  dependents(ifindex: number): Iterable<number>
}

export function createClassifier(
  links: ReadonlyMap<number, Link>,
  useOf: (ifindex: number) => DeviceUse,
  options: PlanOptions
): Classifier {
  const bySlot = new Map<number, number[]>()
  const masters = new Map<number, number>()
  const ports = new Map<number, Set<number>>()
  const refresh = (ifindex: number): void => {
    const link = links.get(ifindex)
    const slot = ifindex % deviceSlots
    const others = (bySlot.get(slot) ?? []).filter((other) => other !== ifindex)
    const list = link ? [...others, ifindex].sort((a, b) => a - b) : others
    if (list.length > 0) bySlot.set(slot, list)
    else bySlot.delete(slot)
    ports.get(masters.get(ifindex) ?? 0)?.delete(ifindex)
    masters.delete(ifindex)
    if (!link || link.master === 0) return
    masters.set(ifindex, link.master)
    ports.set(link.master, (ports.get(link.master) ?? new Set()).add(ifindex))
  }
  for (const ifindex of links.keys()) refresh(ifindex)
  const alone = (ifindex: number): DeviceRole => {
    const link = links.get(ifindex)
    return link ? ownRole(link, useOf(ifindex), links, options) : { role: 'none' }
  }
  const sharing = (ifindex: number): number[] => bySlot.get(ifindex % deviceSlots) ?? []
  return {
    refresh,
    dependents: (ifindex) => new Set([ifindex, ...sharing(ifindex), ...(ports.get(ifindex) ?? [])]),
    roleOf(ifindex) {
      const role = alone(ifindex)
      if (role.role !== 'pod' && role.role !== 'uplink') return role
      for (const other of sharing(ifindex)) {
        if (other >= ifindex) break
        const first = alone(other).role
        if (first === 'pod' || first === 'uplink')
          return unserved(`its index ${ifindex} shares a row with device ${other}`)
      }
      return role
    }
  }
}

function masterReason(master: Link | undefined): string {
  if (!master) return 'it belongs to another device'
  if (master.kind === 'vrf') return `it belongs to VRF ${master.name}, whose routing the maps do not hold`
  return `it is a port of ${master.kind ?? 'device'} ${master.name}: its traffic stays on the stack`
}

function matchesAny(patterns: readonly string[], name: string): boolean {
  return patterns.some((pattern) => matchesGlob(pattern, name))
}

function unserved(why: string): DeviceRole {
  return { role: 'unserved', why }
}

export function sameRole(a: DeviceRole, b: DeviceRole): boolean {
  return a.role === b.role && (a.role !== 'unserved' || (b.role === 'unserved' && a.why === b.why))
}
