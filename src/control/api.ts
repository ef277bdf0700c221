// What the control socket answers, and what it needs from the daemon.
//
// Every type here is JSON as it crosses the socket: addresses, prefixes and
// MACs are text ("10.1.0.2", "10.0.0.0/8", "02:00:00:00:00:01"), times are ISO
// 8601 in UTC, durations are seconds, devices are names. `null` means "not
// known" or "none"; a key is never left out. Lists are sorted as a person would
// want them; the command prints them as they come.

import type { Family } from '../state/types.js'
import type { ExplainRequest, Explanation } from './explain-api.js'
import type { FailureCode } from './failure.js'
import type { Caller, FlowDeletion, FlowFilter, FlowSelection, FlowStream, FlowTop } from './flow-api.js'
import type { GuardBackendName, GuardControl, GuardMode, GuardRefuses } from './guard-api.js'
import type { DropRow, EventRow } from './packet-api.js'
import type { ProblemRow } from './problem-api.js'

/** Raised when an answer's meaning changes; keys may be added without. */
export const apiVersion = 1

/** Prometheus text. */
export const metricsPath = '/v1/metrics'
/** The stream of EventRow, one JSON object a line; empty lines between are signs of life. */
export const eventsPath = '/v1/events'
/** Of the stream: milliseconds between two signs of life. */
export const beatHeader = 'hostroute-beat'

/** disabled: nothing is forwarded by hostroute. degraded: enabled, but something is left to the kernel that should not be, or not masqueraded as the files say. */
export type Mode = 'enabled' | 'disabled' | 'degraded'

/** How programs hang on a device. */
export type AttachedHow = 'tcx' | 'clsact' | 'xdp-native' | 'xdp-generic'

export interface HookRow {
  device: string
  ifindex: number
  role: 'pod' | 'uplink'
  /** 'veth', 'netkit', 'vlan', ...; null for physical devices. */
  kind: string | null
  /** false: left to the kernel's own routing; `why` says the reason. */
  served: boolean
  why: string | null
  programs: { name: string; how: AttachedHow }[]
}

/** Traffic of a family that is left to the kernel, by where it comes from and where it goes. */
export interface StackRow {
  family: Family
  /** null: of all. With destinations null traffic to the devices is meant as well. */
  devices: string[] | null
  /** Prefixes, text; null: whatever the destination. */
  destinations: string[] | null
  /** The ip rule because of which, as `ip rule` prints it; null: not because of a rule. */
  rule: string | null
  why: string
}

/** Devices whose packets ip rules send through other tables than local and main. */
export interface RouteClassRow {
  /** As in RouteRow.class. */
  class: string
  family: Family
  /** The tables in the order in which they are asked, for people. */
  tables: string
  devices: string[]
}

export interface SyncStatus {
  /** synced: the tables follow rtnetlink. */
  state: 'starting' | 'synced' | 'resyncing'
  /** End of the last whole dump. */
  lastSync: string | null
  events: number
  dumps: number
  /** Times the kernel dropped events because the socket was full; each leads to a dump. */
  overruns: number
  /** Dumps repeated because the tables changed meanwhile. */
  interrupted: number
  malformed: number
  unknown: number
}

/** Rows used and rows there are. */
export interface Fill {
  used: number
  capacity: number
}

export interface Counts {
  pods: Fill
  devices: Fill
  routes4: Fill
  routes6: Fill
  classRoutes4: Fill
  classRoutes6: Fill
  nexthops: Fill
  neighbours: Fill
  flows4: Fill
  flows6: Fill
  /** limits.flows of each family. problem: why it is not in force as configured, and the remedy; null: it is. */
  flowLimit: { configured: number; inForce: number; problem: string | null }
  /** Pods with most flows, IPv4 and IPv6 together, by their device; at most five. */
  mostFlows: { device: string; flows: number }[]
  /** Flows through SNAT decided again since their address or uplink was gone; starts anew with the maps. */
  movedFlows: number
  /** SNAT ports a remote may be reached with. */
  snatPorts: number
  /** Prefixes in the masquerade policy. */
  masquerade: number
}

export interface PacketCounts {
  packets: number
  bytes: number
  /** Mean over the last few seconds. */
  packetsPerSecond: number
  bytesPerSecond: number
}

export interface LeaseStatus {
  /** Seconds; null: programs go on for ever without the daemon. */
  duration: number | null
  renewed: string | null
  /** Until when programs go on if the daemon stops now. */
  until: string | null
}

export interface MasqueradeFileStatus {
  path: string
  /** The agent's pod in whose volume it is: "kube-system/ip-masq-agent-x7k2p". */
  pod: string | null
  present: boolean
  /** Its pod is gone; its contents stay in force until the next one is there. */
  kept: boolean
  /** When the contents in force were read. */
  read: string | null
  /** Of the file as it is now; the last good contents stay in force. */
  error: string | null
  warnings: string[]
}

/** One prefix of the policy and which files asked for it ('default': nobody did; 'snat.KEY': the configuration; '--FLAG of POD': the agent's command line). */
export interface MasqueradeRow {
  prefix: string
  masquerade: boolean
  from: string[]
}

/** ip-masq-agent in a pod of the node, and the flags that it runs with. */
export interface AgentStatus {
  pod: string
  /** Its process is gone; what it ran with counts until the next one is there. */
  kept: boolean
  flags: {
    /** "--to-ports=1024-29999" */
    flag: string
    /** overridden: hostroute does something else than the agent. none: there is nothing that it could change. */
    effect: 'followed' | 'overridden' | 'none'
    /** By what, or why; null: it is followed. */
    why: string | null
  }[]
}

export interface MasqueradeStatus {
  enabled: boolean
  semantics: 'ip-masq-agent' | 'cilium'
  /** IPv6 is masqueraded at all, and because of what. */
  ipv6: { masqueraded: boolean; why: string }
  files: MasqueradeFileStatus[]
  /** Only where snat.masqueradeFiles has auto. */
  agents: AgentStatus[]
  /** Why the policy that the files make is not in force; null: it is. */
  refused: string | null
  /** Only the defaults apply, because no file was found, but an agent runs on the node: a sentence. */
  defaultsOnly: string | null
  /** About where the files are, what they and the agent's flags contradict, and about snat.addresses; those of a file stand there. */
  warnings: string[]
  /** Prefixes of the policy in force, and those of them that keep the pod's address. */
  prefixes: number
  excluded: number
  /** In force. Status lists a few hundred at most, /v1/masquerade all. */
  policy: MasqueradeRow[]
}

/** What the policy in force says about one address. */
export interface MasqueradeAnswer {
  address: string
  /** false: the pod's address is kept. */
  masquerade: boolean
  /** The entry that decides: the longest prefix that covers the address. */
  prefix: string
  /** The files that have it. */
  entries: { path: string; pod: string | null; line: number | null; key: 'nonMasqueradeCIDRs' | 'masqueradeCIDRs' }[]
  /** Where it is from if no file has it. */
  origin: string | null
  /** Why packets to it are not decided by the policy; null: they are. */
  instead: string | null
  /** As in MasqueradeStatus. */
  refused: string | null
}

export interface ErrorRow {
  time: string
  subsystem: string
  text: string
}

/** Destinations that one program's rules translate in one way; they use the stack. */
export interface TranslatedRow {
  /** "kube-proxy", "table ip nat", "virtual services". */
  who: string
  kind: 'nftables' | 'iptables-nft' | 'iptables-legacy' | 'ipvs'
  /** Single addresses. */
  addresses: number
  /** Shorter prefixes. */
  prefixes: number
}

export interface TranslatedStatus {
  rows: TranslatedRow[]
  /** Rules that translate without naming the destination: packets of the fast path do not meet them. "ip nat PREROUTING, handle 7: tcp dport 80 redirect" */
  unbounded: string[]
}

/** Packets of the detour, by what became of them. */
export interface DetourPackets {
  /** Into fragments, which were written back. */
  cut: number
  held: number
  /** Not sent there by a program. */
  ignored: number
  'dropped-malformed': number
  /** No room to hold them. */
  'dropped-full': number
  /** They had come back too often. */
  'dropped-tries': number
  /** The device did not take them, each fragment by itself. */
  'dropped-unwritten': number
}

/** The device where programs send what they cannot finish in one go. */
export interface DetourStatus {
  /** null: there is none, because of `why`. */
  device: string | null
  why: string | null
  /** Packets held at this moment. */
  waiting: number
  /** Since hostroute was enabled, or the daemon started. */
  packets: DetourPackets
}

export interface Status {
  api: number
  version: string
  pid: number
  /** Seconds. */
  uptime: number
  mode: Mode
  /** One sentence; null when enabled and all is well. */
  why: string | null
  /** Enabled with confirmWithin and not confirmed yet: when it is undone. */
  confirmBefore: string | null
  kernel: string
  /** "dev:inode" of the network namespace. */
  namespace: string
  libbpf: string
  node: string
  hooks: HookRow[]
  stack: StackRow[]
  sync: SyncStatus
  counts: Counts
  packets: { forwarded: PacketCounts; stack: PacketCounts; dropped: PacketCounts }
  lease: LeaseStatus
  masquerade: MasqueradeStatus
  translated: TranslatedStatus
  configuration: { path: string; present: boolean; error: string | null; loaded: string | null }
  /** null: iptables writes are not guarded. More: GET /v1/guard. */
  guard: {
    mode: GuardMode
    backend: GuardBackendName | null
    refuses: GuardRefuses
    refused: number
    why: string | null
  } | null
  /** null: hostroute is disabled. */
  detour: DetourStatus | null
  eventLoop: EventLoopDelay
  /** What is wrong now, the gravest first. */
  problems: ProblemRow[]
  /** Newest first, few. */
  errors: ErrorRow[]
}

/** How late the event loop came to a timer, looked at 20 times a second; milliseconds. */
export interface EventLoopDelay {
  /** Times that it was looked. */
  count: number
  sum: number
  longest: number
  /** The delay of so large a share of the looks was no longer. */
  quantiles: { share: number; delay: number }[]
}

export interface PodRow {
  address: string
  device: string
  ifindex: number
  mac: string | null
  hostMac: string
  mtu: number
  /** false: its MAC is not known yet, or hostroute is disabled: traffic goes through the stack. */
  ready: boolean
  /** netkit in L3 mode. */
  l3: boolean
}

export interface RouteLeg {
  device: string
  /** null: on-link. */
  gateway: string | null
  weight: number
  /** Source that SNAT would use here, of the route's family; several, joined with ', ', share the pods. */
  snat: string | null
}

export interface RouteRow {
  prefix: string
  family: Family
  /** Whose packets it is for: a RouteClassRow; null: of all that have no class. */
  class: string | null
  /** main: the routes without class answer. */
  action: 'stack' | 'nexthop' | 'group' | 'main'
  /** action stack: 'blackhole', 'table 100', ... else null. */
  why: string | null
  /** action nexthop: one; group: several; stack: none. */
  legs: RouteLeg[]
}

export interface RouteFilter {
  family?: Family
  /** Only prefixes inside this one, text. */
  within?: string
  /** Only routes over this device. */
  device?: string
  limit?: number
}

export interface RouteList {
  /** Those without class first. */
  routes: RouteRow[]
  classes: RouteClassRow[]
  /** How many match; more than routes.length when the limit cut them off. */
  total: number
}

/** What becomes of a packet from a pod to this address: the program's own answer. More: Explanation. */
export interface RouteAnswer {
  address: string
  /** The pod that was taken for the question; null: there is none, only the tables answer. */
  from: string | null
  verdict: 'pod' | 'uplink' | 'stack' | 'drop'
  /** As in DropRow; null without a pod. */
  reason: string | null
  /** One sentence. */
  why: string
  /** verdict pod. */
  pod: PodRow | null
  /** The prefix that answers; null: none or a pod. */
  route: RouteRow | null
  /** Source would be masqueraded, and the prefix of the policy that says so. */
  masquerade: { masquerade: boolean; prefix: string } | null
  /** verdict pod or uplink. */
  out: Explanation['out']
  /** Address that the source becomes; null: it stays. */
  source: string | null
}

export interface NexthopRow {
  index: number
  device: string
  /** null: on-link. */
  gateway: string | null
  mac: string | null
  /** false: the packet goes through the kernel's neighbour entry. */
  macKnown: boolean
  sourceMac: string
  mtu: number
  /** As RouteLeg.snat. */
  snat4: string | null
  snat6: string | null
  /** Routes that lead here. */
  routes: number
}

export interface NeighbourRow {
  device: string
  address: string
  mac: string
  known: boolean
}

export interface VerifyDifference {
  map: string
  /** For people: "10.0.0.0/8". */
  key: string
  kind: 'missing' | 'unexpected' | 'different'
  wanted: string | null
  found: string | null
}

export interface VerifyReport {
  time: string
  /** No difference, or all of them repaired. */
  ok: boolean
  /** Entries compared, all maps. */
  checked: number
  /** At most a few hundred; `total` counts all. */
  differences: VerifyDifference[]
  total: number
  repaired: boolean
  /** Seconds it took. */
  duration: number
}

export interface EnableOptions {
  /** Seconds after which it is undone unless confirmed. */
  confirmWithin?: number
}

export interface DisableOptions {
  /** Also where pods lose their way out with it. */
  force?: boolean
}

export interface EnableResult {
  /** false: refused; `why` says the reason and the remedy. */
  done: boolean
  mode: Mode
  why: string | null
  confirmBefore: string | null
  /** The report of the checks (CheckReport of src/check), when they were made. */
  report: object | null
  /** What became of the connections of the fast path; null: nothing was switched off. */
  handedBack: HandedBack | null
}

/** Connections through SNAT at the moment when the fast path ended. */
export interface HandedBack {
  /** The stack goes on with them. */
  continues: number
  cannot: number
  /** Why not, and what else went wrong: one sentence each. */
  reasons: string[]
}

export interface ReloadResult {
  /** false: the last good configuration stays in force. */
  ok: boolean
  /** One sentence each: file:line:column, key, what is wrong, what is allowed. With ok: what of it is not in force. */
  problems: string[]
  /** Keys that take effect only after a restart. */
  restartNeeded: string[]
}

/** What the control server needs from the daemon. Whatever it throws becomes answer 500 with the message. */
export interface NodeControl {
  status(): Status | Promise<Status>
  pods(): PodRow[] | Promise<PodRow[]>
  /** Parts of RouteList.routes; returns the rest of it. */
  routes(filter: RouteFilter): AsyncGenerator<RouteRow[], Omit<RouteList, 'routes'>>
  /** address is valid text of either family; from: a pod's address or device, null: any pod. */
  routeGet(address: string, from: string | null): RouteAnswer | Promise<RouteAnswer>
  explain(request: ExplainRequest): Explanation | Promise<Explanation>
  nexthops(): NexthopRow[] | Promise<NexthopRow[]>
  neighbours(): NeighbourRow[] | Promise<NeighbourRow[]>
  /** limit: the most recently used first; null: all, as they come. */
  flows(filter: FlowFilter, limit: number | null): FlowStream
  flowTop(count: number): Promise<FlowTop>
  /** Throws Failure for a pod that is not there, and while hostroute is disabled. */
  deleteFlows(selection: FlowSelection, dryRun: boolean, caller: Caller | null): Promise<FlowDeletion>
  /** Rows with packets > 0; forwarded and stack reasons too, the reader filters by class. */
  drops(): DropRow[] | Promise<DropRow[]>
  masquerade(): MasqueradeStatus | Promise<MasqueradeStatus>
  /** address is valid text of either family. */
  masqueradeTest(address: string): MasqueradeAnswer | Promise<MasqueradeAnswer>
  verify(repair: boolean): Promise<VerifyReport>
  /** Prometheus text; renderMetrics() of control/metrics.ts makes it. */
  metrics(): string | Promise<string>
  enable(options: EnableOptions): Promise<EnableResult>
  confirm(): Promise<EnableResult>
  /** Refused, unless forced, where nobody else would masquerade the pods. */
  disable(options: DisableOptions): Promise<EnableResult>
  /**
   * Calls listener for each event until the returned function is called. Drops, what is left to the kernel, new flows;
   * all: every packet, for which the hot path is off meanwhile.
   */
  events(listener: (event: EventRow) => void, all: boolean): () => void
  reload(): Promise<ReloadResult>
  /** Absent or null: this daemon guards nothing. */
  guard?: GuardControl | null
}

/** Body of every answer that is not 200. */
export interface ErrorAnswer {
  /** For people: what is wrong and what to do. */
  error: string
  code: FailureCode
  /** 404: what there is. */
  paths?: string[]
}
