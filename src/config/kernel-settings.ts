// Settings of the kernel (/proc/sys/net of this namespace) that decide what is
// planned. No event tells of them: who needs them reads them again.

import { readFileSync } from 'node:fs'

export interface KernelSettings {
  /** Netfilter sees the frames of bridges (br_netfilter), as Kubernetes' own installers ask for. */
  bridgeNetfilter: boolean
  /** net.ipv4.fib_multipath_use_neigh: multipath routes pass over a leg whose gateway is not there. */
  multipathUseNeigh: boolean
}

const bridgeSwitches = ['bridge/bridge-nf-call-iptables', 'bridge/bridge-nf-call-ip6tables']

/** A setting that is not there (a module that is not loaded) is off. */
export function readKernelSettings(): KernelSettings {
  return { bridgeNetfilter: bridgeSwitches.some(isOn), multipathUseNeigh: isOn('ipv4/fib_multipath_use_neigh') }
}

function isOn(name: string): boolean {
  try {
    return readFileSync(`/proc/sys/net/${name}`, 'utf8').trim() !== '0'
  } catch {
    return false
  }
}
