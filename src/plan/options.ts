// What the configuration says to the planner. src/config maps its file to this.

import type { Family, Prefix } from '../state/types.js'
import type { PodSource } from './types.js'

/** A prefix (one address: of a host), or a name or pattern of devices. */
export type SnatAddress = { prefix: Prefix } | { device: string }

export interface PlanOptions {
  /** 'auto': every device that is a pod's by its facts; patterns narrow that to the names they match. */
  podDevices: 'auto' | string[]
  /** 'auto': every device that next hops use; patterns narrow that, and name devices that no route uses. */
  uplinkDevices: 'auto' | string[]
  /** What pods may send with besides their own addresses; device: a name or pattern. Of two for one prefix the first counts. */
  podSources: (PodSource & { device: string })[]
  ipv4: boolean
  ipv6: boolean
  /** SNAT is ours: next hops get a source address. */
  snat: boolean
  /** 'auto': as the kernel's MASQUERADE chooses; else these, as far as the node has them. */
  snatAddresses: 'auto' | SnatAddress[]
  /**
   * Always left to the kernel, e.g. a Service range.
   * Such a prefix and every more specific route inside it stay on the stack,
   * also the way to pods inside it; routes that are shorter answer as before
   * for the addresses outside.
   */
  stackPrefixes: Prefix[]
  /** The sysctls hand all bridges' frames to iptables. */
  bridgeNetfilter: boolean
  /** The sysctl by which IPv4 multipath routes pass over a leg whose gateway is not there. */
  multipathUseNeigh: boolean
  /** Uplinks with strict reverse path filtering. */
  strictReversePath: readonly string[]
}

export const defaultPlanOptions: PlanOptions = {
  podDevices: 'auto',
  uplinkDevices: 'auto',
  podSources: [],
  ipv4: true,
  ipv6: true,
  snat: true,
  snatAddresses: 'auto',
  stackPrefixes: [],
  bridgeNetfilter: false,
  multipathUseNeigh: false,
  strictReversePath: []
}

export function familyEnabled(options: PlanOptions, family: Family): boolean {
  return family === 4 ? options.ipv4 : options.ipv6
}
