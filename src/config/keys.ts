// Every key of config.yaml: its kind, default and meaning, in one place. The
// type Config, the defaults, the checks and the printed reference all come from
// this table; a key that is not here does not exist.

import * as kind from './schema.js'

export interface Key<T> extends kind.Kind<T> {
  /** As it would stand in the file. */
  standard: string
  about: string
}

function key<T>(valueKind: kind.Kind<T>, standard: string, about: string): Key<T> {
  return { ...valueKind, standard, about }
}

const second = 1000
const minute = 60 * second
const hour = 60 * minute

export const reference = {
  enabled: key(
    kind.flag(),
    'true',
    'Attach the programs when the daemon starts. false: wait for `hostroute enable`. A `hostroute enable` or `disable` counts from then on, also after a reboot, until this key is changed.'
  ),
  checks: key(
    kind.word('refuse', 'report', 'off'),
    'refuse',
    'The checks of `hostroute check` before the programs are attached. refuse: what they refuse stays off. report: logged, and attached all the same. off: not made.'
  ),
  ipv4: key(kind.flag(), 'true', 'Serve IPv4. false: all IPv4 is left to the kernel.'),
  ipv6: key(kind.flag(), 'true', 'Serve IPv6. false: all IPv6 is left to the kernel.'),
  pods: {
    devices: key(
      kind.devices(),
      'auto',
      'Host-side devices of pods. auto: veth and netkit devices whose peer is in another network namespace and to which host routes point.'
    ),
    sources: key(
      kind.podSources(),
      '[]',
      'Addresses that pods may send with besides their own, by device and prefix: answers with the address of a Service (DSR), a pod that is a gateway for others. All other sources are dropped (drop-spoof). What is sent with them is routed and masqueraded like the rest, unless the entry has masquerade: false; a TCP connection whose first packet here is a SYN-ACK keeps its source in any case. Where the route to such an address leads back to the pod, what is not masqueraded is left to the kernel, so that conntrack sees both directions; strict rp_filter of the device counts there only.'
    )
  },
  uplink: {
    devices: key(kind.devices(), 'auto', 'Devices towards the network. auto: those that next hops use.'),
    xdp: key(
      kind.word('off', 'native', 'generic'),
      'off',
      'XDP program before the TC program of uplinks. native needs a driver that supports XDP; generic works everywhere and is slower.'
    )
  },
  stackPrefixes: key(
    kind.prefixes(),
    '[]',
    "Prefixes whose traffic always uses the kernel stack, as destination and as source. Addresses that the node's own rules translate (Services, load balancers, DNAT) are found without this; it is for ranges whose addresses do not exist yet."
  ),
  snat: {
    enabled: key(
      kind.flag(),
      'true',
      'Masquerade traffic of pods that leaves the cluster. false: sources are never changed.'
    ),
    masqueradeFiles: key(
      kind.pathsOrAuto(),
      'auto',
      "ip-masq-agent's configuration, which says what is masqueraded. auto: /etc/config/ip-masq-agent, and the agent's pod's own in its volume below snat.agent.kubeletDirectory, followed when the pod is replaced. The flags that the agent runs with are followed, too, by the keys that are auto. Several files are merged; no file: the agent's defaults. A path in a pod's volume means that volume of whichever pod has it now."
    ),
    agent: {
      namespaces: key(
        kind.names(),
        '[kube-system]',
        "Namespaces whose pods may be ip-masq-agent's. Volumes of other pods are never read, whatever they are called."
      ),
      kubeletDirectory: key(kind.directory(), '/var/lib/kubelet', "kubelet's root directory (its --root-dir)."),
      podLogsDirectory: key(
        kind.directory(),
        '/var/log/pods',
        "kubelet's directory of pods' logs (podLogsDir), which tells the namespace of a pod. Where it does not exist, any pod with the agent's volume counts."
      )
    },
    semantics: key(
      kind.word('ip-masq-agent', 'cilium'),
      'ip-masq-agent',
      'How the files are read. ip-masq-agent: as the agent does. cilium: as Cilium does with its ipMasqAgent: 11 default ranges instead of 3, for a missing or empty file only; a file without nonMasqueradeCIDRs masquerades everything; host bits are cleared; cidrLimit does not count.'
    ),
    allReservedRanges: key(
      kind.flagOrAuto(),
      'auto',
      "Where no file lists nonMasqueradeCIDRs, all ranges that are reserved by an RFC keep the pod's address, not only the private ones: 8 more, like 100.64.0.0/10 and 240.0.0.0/4. auto: as the agent's pod runs (--nomasq-all-reserved-ranges), else false. No effect with snat.semantics: cilium, which has them by default."
    ),
    masqueradeIPv6: key(
      kind.flagOrAuto(),
      'auto',
      "Masquerade IPv6. auto: if a file names an IPv6 prefix, which ip-masq-agent accepts only with --enable-ipv6, or if the agent's pod runs with that flag; then, as by the agent, only what a file names keeps the pod's address. true: also without; then fc00::/7 keeps the pod's address like the default ranges of IPv4, unless a file names an IPv6 prefix or excludes nothing at all. false: never."
    ),
    addresses: key(
      kind.snatAddresses(),
      'auto',
      "Source addresses for SNAT. auto: the route's preferred source, else the primary address of the next hop's device, as the kernel's MASQUERADE chooses. A list: those of the node's addresses that it names, by address, by prefix, or by device (all of its addresses of both families), and no others. Of several each pod has one and keeps it; where some are on the next hop's own device only these are used. What the node does not have is told by status; while it has none of a family that the list names, what is due for SNAT over that family is dropped (drop-source). A change is for new flows."
    ),
    ports: key(
      kind.portsOrAuto(),
      'auto',
      "Source ports for SNAT. auto: as the agent's pod runs (--to-ports), else 1024-65535 without ip_local_port_range, ip_local_reserved_ports and nodePorts."
    ),
    nodePorts: key(kind.portsOrNone(), '"30000-32767"', 'Ports of services of type NodePort: never taken for SNAT.'),
    otherProtocols: key(
      kind.word('stack', 'drop'),
      'drop',
      "Packets for which SNAT is due and that it cannot translate: protocols without ports (SCTP, GRE, ESP, ...), and IP options or extension headers that a router has to read. drop: dropped and counted (drop-protocol, drop-options). stack: left to the kernel, for nodes whose own rules masquerade the pods; without such a rule they leave with the pod's address."
    ),
    timeouts: {
      tcpOpening: key(kind.duration(second, hour), '60s', 'TCP: no answer yet.'),
      tcpEstablished: key(
        kind.duration(minute, 240 * hour),
        '24h',
        'TCP: idle connection. Without SNAT five minutes are enough: it is decided again.'
      ),
      tcpClosing: key(
        kind.duration(second, hour),
        '120s',
        'TCP: after FIN from both sides, or RST. At most 10 s without SNAT, or with more than a quarter of limits.flows in use.'
      ),
      udpOneWay: key(
        kind.duration(second, hour),
        '30s',
        'UDP: no answer yet, or none of its packets came more than 2 s after the first.'
      ),
      udpReplied: key(kind.duration(second, 24 * hour), '180s', 'UDP: answered, and in use for more than 2 s.'),
      icmp: key(kind.duration(second, hour), '30s', 'ICMP and ICMPv6 echo.')
    }
  },
  guard: {
    mode: key(
      kind.word('enforce', 'audit', 'off'),
      'enforce',
      'What becomes of iptables and nf_tables writes in the network namespace of this node. enforce: refused with EPERM and reported. audit: let through and reported. off: not looked at.'
    ),
    backend: key(
      kind.word('auto', 'lsm', 'fmod_ret', 'cgroup'),
      'auto',
      'How writes are refused. auto: the strongest way that is seen to refuse on this kernel.'
    ),
    remove: key(
      kind.flag(),
      'false',
      'Backend cgroup: delete again what could not be refused, and only a whole new table of one transaction, with base chains on forwarding hooks alone, that nobody else has touched. false: it is reported.'
    ),
    allow: {
      defaults: key(
        kind.flag(),
        'true',
        'Let the node itself write: kubelet, container runtimes (and CNI plugins, which run in their cgroups) and pods on the host network, such as kube-proxy. `hostroute guard status` lists them.'
      ),
      units: key(kind.names(), '[]', 'Systemd units that may write as well, like [firewalld.service].'),
      cgroups: key(
        kind.cgroups(),
        '[]',
        'Cgroups that may write as well, by path, with all cgroups below them. They need not exist yet.'
      ),
      executables: key(
        kind.plainPaths(),
        '[]',
        'Programs that may write, by path. They are known by device and inode: a link or a copy is another one. A program in a container image is not recognised.'
      )
    }
  },
  onStop: key(
    kind.word('detach', 'keep'),
    'keep',
    'When the daemon stops. keep: the pinned programs go on forwarding until the next start, for as long as the lease allows. detach: back to kernel routing.'
  ),
  onDisable: key(
    kind.word('nothing', 'masquerade'),
    'nothing',
    'When hostroute is disabled, or refused at the start. masquerade: an nft table (inet hostroute_egress) masquerades what leaves by the uplinks, until it is enabled again or hostrouted --remove takes it away. nothing: pods lose their egress unless other rules masquerade them.'
  ),
  lease: key(
    kind.durationOrOff(30 * second, 168 * hour),
    '10m',
    'How long the programs go on without the daemon before they leave everything to the kernel. off: for ever.'
  ),
  verifyInterval: key(
    kind.duration(second, 24 * hour),
    '60s',
    'How often maps are compared with what they should hold, and repaired.'
  ),
  expireInterval: key(kind.duration(500, minute), '5s', 'How often idle flows are looked for.'),
  log: {
    level: key(kind.word('error', 'warn', 'info', 'debug', 'trace'), 'info', 'Least severity that is logged.')
  },
  limits: {
    routes4: key(
      kind.integer(1024, 16777216),
      '1048576',
      'Rows of the IPv4 route map. What does not fit is left to the kernel. Limits change with a reload, under traffic; one that is too small for what is in use is refused.'
    ),
    routes6: key(kind.integer(1024, 16777216), '1048576', 'Rows of the IPv6 route map.'),
    flows: key(
      kind.integerOrAuto(1024, 16777216),
      'auto',
      "Flows per family. auto: by the machine's memory, 65,536 to 1,048,576. Memory is used as flows come. Below what is in use no pod gets a new flow until enough have ended."
    ),
    neighbours: key(kind.integer(1024, 1048576), '65536', 'Rows of the neighbour map.'),
    masquerade: key(
      kind.integer(256, 262144),
      '16384',
      'Prefixes of the masquerade policy. A policy with more is refused as a whole: the one before stays in force.'
    ),
    devices: key(kind.integer(16, 16384), '1024', 'Devices served: pods and uplinks together.')
  }
}

type ValuesOf<T> = { [K in keyof T]: T[K] extends Key<infer V> ? V : ValuesOf<T[K]> }

/** config.yaml as the daemon works with it: durations in milliseconds, prefixes as keys like "0a000000/8". */
export interface Config extends ValuesOf<typeof reference> {}

export type Section = { [name: string]: Key<unknown> | Section }

export function isKey(entry: Key<unknown> | Section): entry is Key<unknown> {
  return typeof entry['standard'] === 'string'
}

/** The reference as a config.yaml with every key at its default and its meaning above it. */
export function configReference(): string {
  const lines = [
    '# Configuration of hostroute: every key with its default. A key that is left',
    '# out has the default; a file that is missing has them all. An unknown key or',
    '# a value that is not allowed is an error. Names are in camelCase.'
  ]
  printSection(reference as Section, '', lines)
  return `${lines.join('\n')}\n`
}

function printSection(section: Section, indent: string, lines: string[]): void {
  for (const [name, entry] of Object.entries(section)) {
    if (!lines.at(-1)?.endsWith(':')) lines.push('')
    if (isKey(entry)) {
      for (const line of wrap(entry.about, 78 - indent.length)) lines.push(`${indent}# ${line}`)
      for (const line of wrap(`Allowed: ${entry.allowed}.`, 78 - indent.length)) lines.push(`${indent}# ${line}`)
      lines.push(`${indent}${name}: ${entry.standard}`)
    } else {
      lines.push(`${indent}${name}:`)
      printSection(entry, `${indent}  `, lines)
    }
  }
}

function wrap(text: string, width: number): string[] {
  const lines: string[] = []
  let line = ''
  for (const part of text.split(' ')) {
    if (line !== '' && line.length + 1 + part.length > width) {
      lines.push(line)
      line = part
    } else {
      line = line === '' ? part : `${line} ${part}`
    }
  }
  return [...lines, line]
}
