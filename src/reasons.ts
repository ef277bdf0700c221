// Why a packet went where it went: enum reason of bpf/types.h, in its order, with
// what each means and what to do about it. Log, control socket and command say the
// same about one reason.

export type ReasonKind = 'forwarded' | 'stack' | 'drop'

export interface Reason {
  /** Row within a device's counters. */
  code: number
  name: string
  kind: ReasonKind
  /** For people. */
  text: string
  /** '' where nothing needs to be done. */
  remedy: string
}

/** REASON_MAX: counters a device has. */
export const REASON_MAX = 64

type Entry = [name: string, text: string, remedy?: string]

function list(kind: ReasonKind, first: number, entries: Entry[]): Reason[] {
  return entries.map(([name, text, remedy = ''], index) => ({ code: first + index, name, kind, text, remedy }))
}

const forwarded = list('forwarded', 0, [
  ['to-pod', 'delivered into a pod of this node'],
  ['to-uplink', 'sent over an uplink'],
  ['to-neighbour', "sent over an uplink through the kernel's neighbour entry"]
])

const stack = list('stack', forwarded.length, [
  [
    'off',
    'hostroute is disabled, or the daemon has been gone for longer than its lease',
    'hostroute status; then hostroute enable, or systemctl start hostrouted'
  ],
  [
    'unknown-device',
    'the device, or an address behind it, is not in the maps yet',
    'normal for a moment after a pod starts; if it goes on: hostroute verify --repair'
  ],
  ['not-for-router', "broadcast, multicast, or addressed to another machine's MAC"],
  ['not-ip', 'neither IPv4 nor IPv6 (ARP, LLDP, ...)'],
  ['vlan', 'tagged frame on the parent of a VLAN device'],
  [
    'malformed',
    'headers are short or contradict each other: the kernel judges them',
    'if many: look who sends them with hostroute monitor'
  ],
  ['options', 'IP options or extension headers'],
  [
    'fragment',
    'fragment for the node that belongs to no answer for a pod, as far as is known',
    "the node's own, or its datagram's first fragment was lost or came late; if many: lower the sender's MTU"
  ],
  ['ttl', 'TTL or hop limit used up: the kernel answers (traceroute)', 'if many: look for a routing loop'],
  [
    'mtu',
    'larger than the next hop takes: the kernel fragments or answers',
    "if many: compare the pods' MTU with the uplink's"
  ],
  ['link-local', 'link-local, multicast, loopback or unspecified address'],
  [
    'policy',
    'ip rules, or stackPrefixes, ipv4 or ipv6 in the configuration, leave it to the kernel',
    'hostroute status says which rule under "Left to the kernel"'
  ],
  ['no-route', 'no route covers the destination: the kernel answers', 'compare: ip route get ADDRESS'],
  ['local', 'for an address of the node itself'],
  ['route', 'the route is of a kind that the maps cannot express', 'hostroute routes shows why, route by route'],
  [
    'pod-not-ready',
    "the pod's MAC address is not known yet",
    'normal for the first packet; if it goes on: ip neigh show'
  ],
  ['same-pod', 'a pod that sends to itself'],
  [
    'protocol',
    'SNAT is due but the protocol has no ports (SCTP, GRE, ESP, ...)',
    'snat.otherProtocols: stack asks for this; without a MASQUERADE rule they leave with the address of the pod'
  ],
  ['translated-flow', 'conntrack translates this flow (Service, hostPort, DNAT or SNAT on this node)'],
  [
    'translated-destination',
    "the node's own rules translate this address (Service, load balancer, DNAT); it uses the kernel stack"
  ],
  [
    'unknown-owner',
    'conntrack may translate it and cannot be asked: an echo reply whose request used the stack, or a protocol without ports on a node that translates'
  ],
  [
    'no-source',
    'SNAT is due, but the uplink has no address of this family',
    'give the uplink an address: ip address show'
  ],
  ['node', 'from an uplink, for the node or beyond it'],
  [
    'unresolved',
    "the next hop's MAC is not known: the kernel asks for it, or says that the host is unreachable",
    'normal for first packets; if it goes on the host is not there: ip neigh show ADDRESS'
  ],
  [
    'rewritten',
    'answer for a pod, larger than its device takes: translated, then fragmented by the kernel stack',
    "if many: compare the pods' MTU with the uplink's"
  ]
])

const drop = list('drop', forwarded.length + stack.length, [
  [
    'drop-spoof',
    "the source address is not the pod's own, nor allowed for its device by pods.sources",
    'find the pod with hostroute monitor --drops; it forges sources, or forwards or answers for others (VPN, nested containers, DSR): then allow these in pods.sources'
  ],
  [
    'drop-ports',
    'no free SNAT port towards this remote',
    'widen snat.ports, shorten snat.timeouts, or have the pods reuse connections; hostroute snat --remote ADDRESS'
  ],
  [
    'drop-flows',
    'no room for another flow of this pod',
    'the pod has its share of the flow table: hostroute snat --pod ADDRESS shows its flows; limits.flows can be raised, in force after hostroute reload'
  ],
  [
    'drop-protocol',
    'SNAT is due, the protocol has no ports, and snat.otherProtocols says drop',
    'exclude the destination in ip-masq-agent, or set snat.otherProtocols: stack where the node has its own MASQUERADE rule'
  ],
  [
    'drop-malformed',
    'a header that no network stack would take',
    'if many: look who sends them with hostroute monitor --drops'
  ],
  [
    'drop-martian',
    'a source address that cannot be on the wire, or not at this device, whose rp_filter is strict',
    'if many: look who sends them with hostroute monitor --drops; where answers come by another uplink than the route to them: sysctl -w net.ipv4.conf.DEVICE.rp_filter=2'
  ],
  [
    'drop-fragment',
    'SNAT is due, and the first fragment of the datagram, which has the ports, has not been seen',
    'if many: a pod sends its fragments out of order, or too many at once; lower its datagrams or raise the MTU'
  ],
  [
    'drop-ttl',
    'TTL or hop limit of an answer for a pod is used up; its sender is told',
    'if many: look for a routing loop'
  ],
  [
    'drop-mtu',
    'answer for a pod, larger than its device takes and not to be fragmented, or IPv6 fragment of a pod, larger than the next hop takes; its sender is told',
    "if many: compare the pods' MTU with the uplink's"
  ],
  [
    'drop-source',
    'SNAT is due, and the node has none of the addresses in snat.addresses',
    'give the node one of them (ip address add), or change snat.addresses and run hostroute reload'
  ],
  [
    'drop-options',
    'SNAT is due, and the packet has IP options or extension headers that a router has to read or write',
    'have the pod send without them (record route, timestamps, source routes, router alert; hop-by-hop options), exclude the destination in ip-masq-agent, or set snat.otherProtocols: stack where the node has its own MASQUERADE rule'
  ]
])

/** By code. */
export const REASONS: readonly Reason[] = [...forwarded, ...stack, ...drop]

const byName = new Map(REASONS.map((reason) => [reason.name, reason]))

/** Code of a reason by name. Throws for a name that is none: names come from the program, not from outside. */
export function reasonCode(name: string): number {
  const reason = byName.get(name)
  if (!reason) throw new Error(`there is no reason "${name}"`)
  return reason.code
}

/** 'reason 31' for a code without a name. */
export function reasonName(code: number): string {
  return REASONS[code]?.name ?? `reason ${code}`
}

/** What it means and what to do; a name that is not known (of another version) stands for itself. */
export function explainReason(name: string): Pick<Reason, 'text' | 'remedy'> {
  return byName.get(name) ?? { text: name, remedy: '' }
}
