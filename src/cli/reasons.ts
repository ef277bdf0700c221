// Every reason of bpf/types.h in words, and what to do about it.

export interface ReasonWords {
  words: string
  /** '' where nothing needs to be done. */
  remedy: string
}

const reasons: Record<string, ReasonWords> = {
  'to-pod': { words: 'delivered into a pod of this node', remedy: '' },
  'to-uplink': { words: 'sent over an uplink', remedy: '' },
  'to-neighbour': { words: "sent over an uplink through the kernel's neighbour entry", remedy: '' },

  off: {
    words: 'hostroute is disabled, or the daemon has been gone for longer than its lease',
    remedy: 'hostroute status; then hostroute enable, or systemctl start hostrouted'
  },
  'unknown-device': {
    words: 'the device, or an address behind it, is not in the maps yet',
    remedy: 'normal for a moment after a pod starts; if it goes on: hostroute verify --repair'
  },
  'not-for-router': { words: "broadcast, multicast, or addressed to another machine's MAC", remedy: '' },
  'not-ip': { words: 'neither IPv4 nor IPv6 (ARP, LLDP, ...)', remedy: '' },
  vlan: { words: 'tagged frame on the parent of a VLAN device', remedy: '' },
  malformed: {
    words: 'headers are short or contradict each other: the kernel judges them',
    remedy: 'if many: look who sends them with hostroute monitor'
  },
  options: { words: 'IP options or extension headers', remedy: '' },
  fragment: {
    words: 'fragment for the node that belongs to no answer for a pod, as far as is known',
    remedy: "the node's own, or its datagram's first fragment was lost or came late; if many: lower the sender's MTU"
  },
  ttl: {
    words: 'TTL or hop limit used up: the kernel answers (traceroute)',
    remedy: 'if many: look for a routing loop'
  },
  mtu: {
    words: 'larger than the next hop takes: the kernel fragments or answers',
    remedy: "if many: compare the pods' MTU with the uplink's"
  },
  'link-local': { words: 'link-local, multicast, loopback or unspecified address', remedy: '' },
  policy: {
    words: 'ip rules, or stackPrefixes, ipv4 or ipv6 in the configuration, leave it to the kernel',
    remedy: 'hostroute status says which rule under "Left to the kernel"'
  },
  'no-route': { words: 'no route covers the destination: the kernel answers', remedy: 'compare: ip route get ADDRESS' },
  local: { words: 'for an address of the node itself', remedy: '' },
  route: {
    words: 'the route is of a kind that the maps cannot express',
    remedy: 'hostroute routes shows why, route by route'
  },
  'pod-not-ready': {
    words: "the pod's MAC address is not known yet",
    remedy: 'normal for the first packet; if it goes on: ip neigh show'
  },
  'same-pod': { words: 'a pod that sends to itself', remedy: '' },
  protocol: {
    words: 'SNAT is due but the protocol has no ports (SCTP, GRE, ESP, ...)',
    remedy: 'snat.otherProtocols decides: stack or drop'
  },
  'translated-flow': {
    words: 'conntrack translates this flow (Service, hostPort, DNAT or SNAT on this node); it uses the kernel stack',
    remedy: ''
  },
  'translated-destination': {
    words: "the node's own rules translate this address (Service, load balancer, DNAT); it uses the kernel stack",
    remedy: ''
  },
  'unknown-owner': {
    words:
      'conntrack may translate it and cannot be asked: an echo reply whose request used the stack, or a protocol without ports on a node that translates',
    remedy: ''
  },
  'no-source': {
    words: 'SNAT is due, but the uplink has no address of this family',
    remedy: 'give the uplink an address: ip address show'
  },
  node: { words: 'from an uplink, for the node or beyond it', remedy: '' },
  unresolved: {
    words: "the next hop's MAC is not known: the kernel asks for it, or says that the host is unreachable",
    remedy: 'normal for first packets; if it goes on the host is not there: ip neigh show ADDRESS'
  },
  rewritten: {
    words: 'answer for a pod, larger than its device takes: translated, then fragmented by the kernel stack',
    remedy: "if many: compare the pods' MTU with the uplink's"
  },

  'drop-spoof': {
    words: "the source address is not the pod's own, nor allowed for its device by pods.sources",
    remedy:
      'find the pod with hostroute monitor --drops; it forges sources, or forwards or answers for others (VPN, nested containers, DSR): then allow these in pods.sources'
  },
  'drop-ports': {
    words: 'no free SNAT port towards this remote',
    remedy:
      'widen snat.ports, shorten snat.timeouts, or have the pods reuse connections; hostroute snat --remote ADDRESS'
  },
  'drop-flows': {
    words: 'no room for another flow of this pod',
    remedy:
      'the pod has its share of the flow table: hostroute snat --pod ADDRESS shows its flows; limits.flows can be raised, in force after hostroute reload'
  },
  'drop-protocol': {
    words: 'SNAT is due, the protocol has no ports, and snat.otherProtocols says drop',
    remedy: 'set snat.otherProtocols: stack, or exclude the destination in ip-masq-agent'
  },
  'drop-malformed': {
    words: 'a header that no network stack would take',
    remedy: 'if many: look who sends them with hostroute monitor --drops'
  },
  'drop-martian': {
    words: 'a source address that cannot be on the wire',
    remedy: 'if many: look who sends them with hostroute monitor --drops'
  },
  'drop-fragment': {
    words: 'SNAT is due, and the first fragment of the datagram, which has the ports, has not been seen',
    remedy: 'if many: a pod sends its fragments out of order, or too many at once; lower its datagrams or raise the MTU'
  },
  'drop-ttl': {
    words: 'TTL or hop limit of an answer for a pod is used up; its sender is told',
    remedy: 'if many: look for a routing loop'
  },
  'drop-mtu': {
    words: 'answer for a pod, larger than its device takes and not to be fragmented; its sender is told',
    remedy: "if many: compare the pods' MTU with the uplink's"
  },
  'drop-source': {
    words: 'SNAT is due, and the node has none of the addresses in snat.addresses',
    remedy: 'give the node one of them (ip address add), or change snat.addresses and run hostroute reload'
  }
}

/** Words for a reason; one that is not known stands for itself. */
export function explainReason(reason: string): ReasonWords {
  return Object.hasOwn(reasons, reason) ? (reasons[reason] as ReasonWords) : { words: reason, remedy: '' }
}

export function knownReasons(): string[] {
  return Object.keys(reasons)
}
