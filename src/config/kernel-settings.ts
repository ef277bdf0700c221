// Settings of the kernel (/proc/sys/net of this namespace) that decide what is
// planned. No event tells of them: who needs them reads them again.

import { readFileSync } from 'node:fs'

export interface KernelSettings {
  /** Netfilter sees the frames of bridges (br_netfilter), as Kubernetes' own installers ask for. */
  bridgeNetfilter: boolean
  /** net.ipv4.fib_multipath_use_neigh: multipath routes pass over a leg whose gateway is not there. */
  multipathUseNeigh: boolean
  /** Of the uplinks asked about those on which reverse path filtering is strict, sorted (the higher of all and the device's counts, ip-sysctl.rst). */
  strictReversePath: string[]
}

const checked = [
  'ipv4/ip_forward',
  'ipv6/conf/all/forwarding',
  'ipv4/conf/all/rp_filter',
  'ipv4/ip_local_port_range',
  'ipv4/ip_local_reserved_ports',
  'netfilter/nf_conntrack_tcp_loose'
]
const bridgeSwitches = ['bridge/bridge-nf-call-iptables', 'bridge/bridge-nf-call-ip6tables']

/** A setting that is not there (a module that is not loaded) is off. */
export function readKernelSettings(uplinks: Iterable<string>): KernelSettings {
  const all = read('ipv4/conf/all/rp_filter')
  return {
    bridgeNetfilter: bridgeSwitches.some(isOn),
    multipathUseNeigh: isOn('ipv4/fib_multipath_use_neigh'),
    strictReversePath: [...uplinks].filter((name) => Math.max(all, read(`ipv4/conf/${name}/rp_filter`)) === 1).sort()
  }
}

/** What else of them decides whether hostroute may serve (src/check/sysctls.ts), as one text to compare. */
export function readCheckedSettings(): string {
  return checked.map((name) => `${name}=${readText(name)}`).join('\n')
}

const isOn = (name: string): boolean => read(name) !== 0

function read(name: string): number {
  return Number(readText(name) ?? 0)
}

/** null: it is not there. */
function readText(name: string): string | null {
  try {
    return readFileSync(`/proc/sys/net/${name}`, 'utf8').trim()
  } catch {
    return null
  }
}
