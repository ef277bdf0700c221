// Pods: the addresses host routes of table main place on pods' devices. Of
// several routes to one address the lowest metric wins, as for any prefix.

import { neighbourKey, noMac } from '../address.js'
import { matchesGlob } from '../config/glob.js'
import type { Address, Link, NodeState, Prefix, Route } from '../state/types.js'
import { resolve } from './neighbours.js'
import type { PlanOptions } from './options.js'
import { legsOf, TABLE_MAIN, UNICAST } from './routes.js'
import type { PodSource, WantedPod } from './types.js'

export interface PodPlace {
  ifindex: number
  /**
   * The way to the pod is fully known. If not, the pod still stands in the
   * maps, without a MAC: the source check must not take its packets for spoofed.
   */
  ready: boolean
}

/** Where a host prefix says its pod is; null: it is no pod's. `routes` are the prefix's, table local has none. */
export function podPlace(
  routes: readonly Route[],
  state: NodeState,
  isPodDevice: (ifindex: number) => boolean
): PodPlace | null {
  let best: Route | null = null
  let ready = true
  for (const route of routes) {
    if (route.table !== TABLE_MAIN) continue
    if (route.tos !== 0 || route.unsupported.length > 0) ready = false
    if (!best || route.metric < best.metric) best = route
  }
  if (best?.type !== UNICAST) return null
  const legs = legsOf(best, state.nexthopObjects)
  if (typeof legs === 'string') return null
  const leg = legs.find((candidate) => candidate.gateway === null && isPodDevice(candidate.ifindex))
  if (!leg) return null
  return { ifindex: leg.ifindex, ready: ready && legs.length === 1 && !leg.dead && !leg.encap }
}

/** `open`: pods may be reached without the stack, as far as rules and configuration go. */
export function buildPod(address: Address, place: PodPlace, link: Link, state: NodeState, open: boolean): WantedPod {
  const usable = place.ready && open
  const { mac } = resolve(state.neighbours.get(neighbourKey(place.ifindex, address)))
  return {
    address,
    ifindex: place.ifindex,
    device: link.name,
    mtu: link.mtu,
    mac: usable ? mac : null,
    hostMac: link.mac ?? noMac,
    l3: usable && link.netkitMode === 'l3'
  }
}

/** What the pod on the device may send with, by configuration; each prefix once. */
export function podSources({ podSources }: PlanOptions, device: string): PodSource[] {
  const found = new Map<Prefix, PodSource>()
  for (const { device: pattern, prefix, masquerade } of podSources)
    if (!found.has(prefix) && matchesGlob(pattern, device)) found.set(prefix, { prefix, masquerade })
  return [...found.values()]
}
