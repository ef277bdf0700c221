// IPVS: its virtual services, and whether conntrack sees what it translates.

import { readFileSync } from 'node:fs'
import { hexAddress, hostPrefix } from '../address.js'
import type { Prefix } from '../state/types.js'
import { prefixOf } from './iptables-save.js'
import { type Finding, finding } from './report.js'
import { type ReadSysctl, readSysctl } from './sysctls.js'

export interface IpvsService {
  protocol: string
  /** null: by firewall mark, so for any destination. */
  destination: Prefix | null
  /** Real servers, by how packets are sent there. */
  servers: { translated: number; other: number }
}

/** From the text of /proc/net/ip_vs: addresses and ports in hexadecimal. */
export function parseIpvs(text: string): IpvsService[] {
  const services: IpvsService[] = []
  for (const line of text.split('\n')) {
    const service = /^(TCP|UDP|SCTP|FWM) +(\S+)/.exec(line)
    if (service) {
      const destination = service[1] === 'FWM' ? null : destinationOf(service[2] ?? '')
      services.push({ protocol: service[1] ?? '', destination, servers: { translated: 0, other: 0 } })
      continue
    }
    const server = /^ +-> +\S+ +(Masq|Local|Tunnel|Route|Bypass)/.exec(line)
    const servers = services.at(-1)?.servers
    if (server && servers) servers[server[1] === 'Masq' ? 'translated' : 'other']++
  }
  return services
}

/** "0A60000B:0050", "[fd00:0096:0000:0000:0000:0000:0000:000b]:0050" */
function destinationOf(text: string): Prefix | null {
  const six = /^\[([0-9a-fA-F:]+)\]/.exec(text)
  if (six) return prefixOf(six[1] ?? '')
  const four = /^([0-9A-Fa-f]{8}):/.exec(text)
  return four?.[1] ? hostPrefix(hexAddress(four[1].toLowerCase())) : null
}

/** Empty where the kernel has no IPVS. */
export function readIpvs(path = '/proc/self/net/ip_vs'): IpvsService[] {
  try {
    return parseIpvs(readFileSync(path, 'utf8'))
  } catch {
    return []
  }
}

/** Of all virtual services. */
export function ipvsDestinations(services: readonly IpvsService[]): Set<Prefix> {
  return new Set(services.map(({ destination }) => destination).filter((each) => each !== null))
}

/** `owner`: whose services they are. */
export function judgeIpvs(services: readonly IpvsService[], owner: string, read: ReadSysctl = readSysctl): Finding[] {
  if (services.length === 0) return []
  const count = (which: 'translated' | 'other') => services.reduce((sum, { servers }) => sum + servers[which], 0)
  const destinations = ipvsDestinations(services).size
  const seen = read('ipv4/vs/conntrack') === '1'
  if (seen || (count('translated') === 0 && count('other') > 0)) {
    return [
      finding(
        'pass',
        'rules',
        'rules-ipvs',
        `Service addresses of ${owner}: ${destinations} ${destinations === 1 ? 'destination' : 'destinations'}, left to the stack.`
      )
    ]
  }
  const there = read('ipv4/vs/conntrack') !== null
  return [
    finding(
      count('translated') > 0 ? 'refuse' : 'warning',
      'rules',
      'ipvs-conntrack',
      there
        ? `IPVS translates for ${services.length} services, and net.ipv4.vs.conntrack is 0.`
        : `IPVS translates for ${services.length} services, and this kernel cannot tell conntrack of it.`,
      {
        why: "conntrack then does not know which connections IPVS translates; the fast path would send pods' answers on with the pod's own address",
        remedy: there
          ? 'sysctl -w net.ipv4.vs.conntrack=1, and the same in /etc/sysctl.d. Connections that are open now have to be opened again.'
          : "A kernel with CONFIG_IP_VS_NFCT, or kube-proxy's mode iptables or nftables."
      }
    )
  ]
}
