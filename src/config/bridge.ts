// Whether netfilter sees the frames of this namespace's bridges (br_netfilter),
// as Kubernetes' own installers ask for.

import { readFileSync } from 'node:fs'

const switches = ['bridge-nf-call-iptables', 'bridge-nf-call-ip6tables']

/** false where br_netfilter is not loaded. */
export function readBridgeNetfilter(): boolean {
  return switches.some((name) => {
    try {
      return readFileSync(`/proc/sys/net/bridge/${name}`, 'utf8').trim() !== '0'
    } catch {
      return false
    }
  })
}
