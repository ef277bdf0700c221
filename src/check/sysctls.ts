// Settings of the kernel that the fast path or what it leaves to the stack
// depends on.

import { readFileSync } from 'node:fs'
import { familyOfPrefix } from '../address.js'
import type { Config } from '../config/config.js'
import { formatPortRanges, type KernelPorts, type PortRange, readKernelPorts, snatPorts } from '../config/ports.js'
import type { NodeFacts } from './node.js'
import { shorten } from './node.js'
import { type Finding, finding } from './report.js'

/** Value of a key below /proc/sys/net, e.g. 'ipv4/ip_forward'; null if there is none. */
export type ReadSysctl = (key: string) => string | null

export function readSysctl(key: string): string | null {
  try {
    return readFileSync(`/proc/sys/net/${key}`, 'utf8').trim()
  } catch {
    return null
  }
}

const fewPorts = 4096

/** snatRanges: ports for SNAT in force, those of the agent where snat.ports is auto. */
export function judgeSysctls(
  node: NodeFacts,
  config: Config,
  snatRanges: 'auto' | PortRange[] = config.snat.ports,
  read: ReadSysctl = readSysctl
): Finding[] {
  const findings = [
    ...forwarding(node, config, read),
    ...reversePath(node, config, read),
    ...reversePathOfPods(node, config, read),
    ...looseTcp(read),
    ...ports(config, snatRanges)
  ]
  if (!findings.some(({ outcome }) => outcome !== 'pass')) {
    findings.push(finding('pass', 'sysctl', 'sysctl-fine', 'Forwarding is on and no setting stands in the way.'))
  }
  return findings
}

function forwarding({ plan }: NodeFacts, config: Config, read: ReadSysctl): Finding[] {
  const findings: Finding[] = []
  const six = [...plan.pods.keys()].some((address) => address.length === 32)
  const families = [
    { on: config.ipv4, key: 'ipv4', all: 'ipv4/ip_forward', text: 'net.ipv4.ip_forward', needed: true },
    { on: config.ipv6, key: 'ipv6', all: 'ipv6/conf/all/forwarding', text: 'net.ipv6.conf.all.forwarding', needed: six }
  ]
  for (const { on, key, all, text, needed } of families) {
    const value = read(all)
    if (!on || value === null) continue
    if (value === '0') {
      const family = key === 'ipv4' ? 'IPv4' : 'IPv6'
      findings.push(
        finding(
          needed ? 'refuse' : 'info',
          'sysctl',
          'sysctl-forwarding',
          `The node does not forward ${family} (${text} is 0).`,
          {
            why: needed
              ? 'hostroute would forward packets although the node is set not to, and what it passes to the stack would be dropped'
              : `no pod has an ${family} address; once one has, hostroute would forward what the kernel does not`,
            remedy: `sysctl -w ${text}=1, and the same in /etc/sysctl.d; or ${key}: false in config.yaml.`
          }
        )
      )
      continue
    }
    if (key === 'ipv6') continue // IPv6 forwards by the setting of all devices
    const off = [...plan.devices.values()]
      .filter(({ name }) => read(`${key}/conf/${name}/forwarding`) === '0')
      .map(({ name }) => name)
    if (off.length > 0) {
      findings.push(
        finding(
          'warning',
          'sysctl',
          'sysctl-device-forwarding',
          `Forwarding is off for packets that come in by ${shorten(off)}.`,
          {
            why: 'hostroute forwards what the kernel would drop there; what it passes to the stack is lost',
            remedy: `sysctl -w net.ipv4.conf.${off[0]}.forwarding=1 for each of them.`
          }
        )
      )
    }
  }
  return findings
}

/** Strict reverse path filtering drops, on the stack, what comes back another way than it left. */
function reversePath({ plan }: NodeFacts, config: Config, read: ReadSysctl): Finding[] {
  if (!config.ipv4) return []
  const uplinks = [...plan.devices.values()].filter(({ role }) => role === 'uplink').map(({ name }) => name)
  const strict = uplinks.length < 2 ? [] : uplinks.filter(isStrict(read))
  if (strict.length === 0) return []
  return [
    finding(
      'warning',
      'sysctl',
      'sysctl-rp-filter',
      `Reverse path filtering is strict on ${shorten(strict)}, and there are several uplinks.`,
      {
        why: 'answers may come in by another uplink; hostroute takes them, but those it passes to the stack are dropped there',
        remedy: `sysctl -w net.ipv4.conf.${strict[0]}.rp_filter=2 (loose) for each uplink, and net.ipv4.conf.all.rp_filter no higher than 2.`
      }
    )
  ]
}

function isStrict(read: ReadSysctl): (device: string) => boolean {
  const all = Number(read('ipv4/conf/all/rp_filter') ?? 0)
  return (device) => Math.max(all, Number(read(`ipv4/conf/${device}/rp_filter`) ?? 0)) === 1
}

/** The same on devices of pods that may send with other addresses. */
function reversePathOfPods({ plan }: NodeFacts, config: Config, read: ReadSysctl): Finding[] {
  if (!config.ipv4) return []
  const strict = [...plan.devices.values()]
    .filter(({ sources }) => sources.some(({ prefix }) => familyOfPrefix(prefix) === 4))
    .map(({ name }) => name)
    .filter(isStrict(read))
  if (strict.length === 0) return []
  return [
    finding(
      'warning',
      'sysctl',
      'sysctl-rp-filter-pods',
      `Reverse path filtering is strict on ${shorten(strict)}, where pods.sources allows other addresses.`,
      {
        why: 'hostroute takes packets from these addresses; those it leaves to the stack are dropped there',
        remedy: `sysctl -w net.ipv4.conf.${strict[0]}.rp_filter=2 (loose) for each of these, and net.ipv4.conf.all.rp_filter no higher than 2.`
      }
    )
  ]
}

/** Connections that conntrack has not seen begin: with tcp_loose it takes them as they come. */
function looseTcp(read: ReadSysctl): Finding[] {
  if (read('netfilter/nf_conntrack_tcp_loose') !== '0') return []
  return [
    finding('warning', 'sysctl', 'sysctl-tcp-loose', 'net.netfilter.nf_conntrack_tcp_loose is 0.', {
      why: 'connections between pods of this node that were opened while hostroute was enabled may be classed INVALID after disable, and a rule that drops INVALID then ends them',
      remedy: 'sysctl -w net.netfilter.nf_conntrack_tcp_loose=1, and the same in /etc/sysctl.d.'
    })
  ]
}

function ports(config: Config, snatRanges: 'auto' | PortRange[]): Finding[] {
  if (!config.snat.enabled) return []
  const kernel = readKernelPorts()
  const free = snatPorts(snatRanges, config.snat.nodePorts, kernel)
  const findings: Finding[] = []
  if (free.length < fewPorts) {
    findings.push(
      finding(
        free.length === 0 ? 'refuse' : 'warning',
        'sysctl',
        'sysctl-ports',
        `Only ${free.length} ports are left for SNAT towards each remote.`,
        {
          why: `net.ipv4.ip_local_port_range (${formatPortRanges(kernel.local)}), reserved and node ports are left out`,
          remedy: 'Narrow net.ipv4.ip_local_port_range, or name ranges in snat.ports.'
        }
      )
    )
  }
  const overlap = snatRanges === 'auto' ? [] : sharedPorts(snatRanges, kernel)
  const origin = config.snat.ports === 'auto' ? "The agent's --to-ports" : 'snat.ports'
  if (overlap.length > 0) {
    findings.push(
      finding(
        'warning',
        'sysctl',
        'sysctl-ports-shared',
        `${origin} has ports that the kernel hands out to processes: ${formatPortRanges(overlap)}.`,
        {
          why: 'a connection of the node and one of a pod to the same remote may get the same port; one of them then fails',
          remedy: `Reserve them: sysctl -w net.ipv4.ip_local_reserved_ports=${formatPortRanges(overlap)}; or choose others in snat.ports.`
        }
      )
    )
  }
  return findings
}

type Ranges = PortRange[]

/** Ports among these that the kernel hands out to processes. */
export function sharedPorts(ports: Ranges, kernel: KernelPorts): Ranges {
  return without(common(ports, kernel.local), kernel.reserved)
}

function common(a: Ranges, b: Ranges): Ranges {
  return a.flatMap((one) =>
    b
      .map((other) => ({ first: Math.max(one.first, other.first), last: Math.min(one.last, other.last) }))
      .filter(({ first, last }) => first <= last)
  )
}

function without(ranges: Ranges, holes: Ranges): Ranges {
  return holes.reduce<Ranges>(
    (left, hole) =>
      left.flatMap(({ first, last }) =>
        [
          { first, last: Math.min(last, hole.first - 1) },
          { first: Math.max(first, hole.last + 1), last }
        ].filter((each) => each.first <= each.last)
      ),
    ranges
  )
}
