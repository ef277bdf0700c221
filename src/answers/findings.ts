// What a program has found out about a traced packet, in words, stage by stage.

import { formatAddress, formatMac, formatPrefix, longestPrefix, neighbourKey } from '../address.js'
import type { ExplainedStage, Explanation } from '../control/explain-api.js'
import type { Datapath } from '../datapath/datapath.js'
import type { Probe } from '../datapath/test-packet.js'
import {
  decodeDevice,
  decodeNexthop,
  decodeRoute,
  encodeClassRouteKey,
  encodeRouteKey,
  type FlowRow,
  type NexthopRow
} from '../maps/codec.js'
import { classRow } from '../maps/keys.js'
import { CODES, DEVICE_SLOTS } from '../maps/layout.js'
import type { TraceRow } from '../maps/trace.js'
import { classRouteKey } from '../plan/keys.js'
import type { WantedDevice, WantedRoute } from '../plan/types.js'
import type { ReasonKind } from '../reasons.js'
import { explainReason } from '../reasons.js'
import { type Address, NeighbourState, type Prefix } from '../state/types.js'
import type { NodeView } from './node-view.js'

/** The stage at which a packet ended; what is not here is its own stage. */
const stageOf: Readonly<Record<string, string>> = {
  off: 'device',
  'unknown-device': 'device',
  'drop-spoof': 'source',
  'no-route': 'route',
  local: 'route',
  'pod-not-ready': 'neighbour',
  unresolved: 'neighbour',
  'same-pod': 'pod',
  'translated-flow': 'owner',
  'unknown-owner': 'owner',
  'translated-destination': 'route',
  'drop-flows': 'flow',
  'no-source': 'SNAT',
  'drop-source': 'SNAT',
  'drop-ports': 'SNAT',
  node: 'node',
  policy: 'policy',
  ttl: 'TTL',
  mtu: 'MTU',
  malformed: 'headers',
  'link-local': 'headers'
}

const unknownAnswer = 'the map answers in a way that the plan does not know; see: hostroute verify'

function translatedFlow(how: string): string {
  return `conntrack translates this flow${how}; it uses the kernel stack`
}

interface Planned {
  prefix: Prefix
  wanted: WantedRoute
  /** The tables that ip rules name for this device; null: the node's own routes. */
  rules: string | null
}

export class Findings {
  readonly out: Explanation['out']
  readonly nat: Explanation['nat']
  readonly masquerade: Explanation['masquerade']
  /** The prefix of the routes that answered. */
  readonly prefix: string | null
  readonly toPod: boolean
  private readonly nexthop: NexthopRow | null
  private readonly rows: ExplainedStage[] = []

  constructor(
    private readonly node: NodeView,
    private readonly datapath: Datapath,
    private readonly trace: TraceRow,
    private readonly probe: Probe,
    private readonly device: WantedDevice
  ) {
    this.toPod = trace.pod !== null
    this.nexthop = trace.nexthop === null || !this.fromPod ? null : this.readNexthop(trace.nexthop)
    const prefix = trace.route ? this.answeringPrefix() : null
    this.prefix = prefix === null ? null : formatPrefix(prefix)
    this.masquerade = this.policy()
    this.nat = this.rewriting()
    this.out = this.way()
  }

  private get fromPod(): boolean {
    return this.device.role === 'pod'
  }

  /** In the order in which the program went. */
  stages(reason: string, verdict: ReasonKind): ExplainedStage[] {
    const { trace, device } = this
    const program = this.fromPod ? 'from_pod' : 'from_uplink'
    this.add('device', `${device.name} is ${this.fromPod ? "a pod's" : 'an uplink'}: ${program} decides`)
    const beyond = (
      ['TRACE_FLOW', 'TRACE_FLOW_OUTDATED', 'TRACE_FLOW_NEW', 'TRACE_ASKED_REVERSE', 'TRACE_ASKED_ROUTE'] as const
    ).some((stage) => trace.has(stage))
    if (this.fromPod && (beyond || this.toPod || trace.has('TRACE_SOURCE')))
      this.add('source', sourceWords(this.probe.source, device))
    if (trace.has('TRACE_ASKED_REVERSE') || (beyond && !this.toPod))
      this.add(
        'pod',
        this.node.plan.pods.has(this.probe.destination)
          ? `${this.target} is a pod of this node, but ip rules send this pod's packets another way`
          : `${this.target} is no pod of this node`
      )
    else if (this.toPod) this.add('pod', `${this.target} is a pod of this node, on ${this.podDevice}`)
    this.flowStage()
    this.ownerStage()
    this.answerStage()
    if (this.fromPod && !this.toPod) this.routeStages()
    this.snatStage()
    if (verdict === 'forwarded') this.sendStages()
    else this.add(this.endOf(reason), this.endText(reason))
    return this.rows
  }

  private add(stage: string, found: string): void {
    this.rows.push({ stage, found })
  }

  private get target(): string {
    return formatAddress(this.probe.destination)
  }

  private get podDevice(): string {
    return this.trace.pod === null ? '' : this.node.deviceName(this.trace.pod)
  }

  private flowStage(): void {
    const { trace } = this
    if (trace.has('TRACE_FLOW_OUTDATED'))
      this.add('flow', "one with these ports is over, or another pod's: it is replaced")
    const { flow } = trace
    if (!flow) return
    if (trace.has('TRACE_FLOW_NEW')) this.add('flow', `not known yet; this packet opens one: ${verdictWords(flow)}`)
    else this.add('flow', `known: ${verdictWords(flow)}; ${this.ages(flow)}`)
  }

  private ownerStage(): void {
    const { trace } = this
    if (trace.has('TRACE_ASKED_OWNER') && !trace.conntrack && trace.reason !== 'unknown-owner')
      this.add('owner', 'the fast path: conntrack does not translate this flow')
  }

  /** "10.96.0.10:53 → 10.244.2.7:53", of what differs: destination, source, or both. */
  private translation(): string {
    const { conntrack } = this.trace
    if (!conntrack) return ''
    const { original, reply } = conntrack
    const change = (before: Address, port: number, after: Address, to: number) =>
      before === after && port === to
        ? []
        : [`${withPort(formatAddress(before), port)} → ${withPort(formatAddress(after), to)}`]
    const changes = [
      ...change(original.destination, original.destinationPort, reply.source, reply.sourcePort),
      ...change(original.source, original.sourcePort, reply.destination, reply.destinationPort)
    ]
    return ` (${changes.join(', ')})`
  }

  private ages(flow: FlowRow): string {
    const { control } = this.datapath
    const now = Number(control.now() & 0xffff_ffffn)
    const seconds = (then: number) => Math.floor(((now - then) >>> 0) / control.jiffiesPerSecond)
    return `opened ${seconds(flow.created)} s ago, the pod's last packet ${seconds(flow.seen)} s ago`
  }

  private answerStage(): void {
    const { trace, nat } = this
    if (!trace.has('TRACE_ASKED_REVERSE')) return
    if (!trace.has('TRACE_REVERSE')) return
    const whose = nat ? ` of ${withPort(nat.address, nat.port)}` : ''
    this.add('answer', `to the SNATed flow${whose}, on ${this.podDevice}`)
  }

  private routeStages(): void {
    const { trace, nexthop } = this
    const ends = !trace.route || trace.route.action === CODES.ROUTE_STACK
    if (trace.has('TRACE_ASKED_ROUTE') && !ends) this.add('route', this.routeWords())
    else if (trace.has('TRACE_FLOW') && nexthop)
      this.add('route', 'the one that the flow was given; none has changed since')
    if (nexthop) {
      const name = this.node.deviceName(nexthop.ifindex)
      const where = nexthop.gateway === null ? `${this.target} itself, on-link` : formatAddress(nexthop.gateway)
      this.add('next hop', `${where} on ${name}, MTU ${nexthop.mtu}`)
    }
    if (!trace.has('TRACE_ASKED_MASQUERADE')) return
    const by = this.masquerade ? ` by ${this.masquerade.prefix} of the policy${this.policySource()}` : ''
    this.add('masquerade', trace.has('TRACE_MASQUERADE') ? `due${by}` : `not due${by || ': masquerading is off'}`)
  }

  private routeWords(): string {
    const { route } = this.trace
    if (this.prefix === null) return unknownAnswer
    return route?.action === CODES.ROUTE_GROUP
      ? `${this.prefix}, one of several next hops by the flow's hash`
      : this.prefix
  }

  private snatStage(): void {
    const { flow } = this.trace
    if (!this.fromPod || flow?.verdict !== CODES.FLOW_SNAT || !flow.natAddress) return
    const address = withPort(formatAddress(flow.natAddress), flow.natPort)
    if (!this.trace.has('TRACE_FLOW_NEW')) this.add('SNAT', `${address}, the flow's own`)
    else this.add('SNAT', `${address} is free; a real packet gets it, or another of ${this.datapath.ports} ports`)
  }

  private sendStages(): void {
    const { out, probe } = this
    if (!out) return
    const state = this.neighbourState()
    if (out.mac === null) this.add('neighbour', `${out.nextHop} is ${state}: through the kernel's entry, which asks`)
    else this.add('neighbour', `${out.nextHop} has ${out.mac}${state === '' ? '' : `, ${state}`}`)
    this.add('send', `over ${out.device}, TTL ${probe.ttl - 1}`)
  }

  private endOf(reason: string): string {
    if (reason === 'node' && this.trace.conntrack) return 'owner'
    if (reason === 'node' && this.trace.has('TRACE_ASKED_REVERSE')) return 'answer'
    if (reason === 'unknown-device' && this.trace.route) return 'route'
    return stageOf[reason] ?? reason.replace(/^drop-/, '')
  }

  /** What it was that ended the way, as far as it can be told more closely. */
  private endText(reason: string): string {
    const { probe, device, nexthop } = this
    const text = explainReason(reason).text
    switch (reason) {
      case 'drop-spoof':
        return `${formatAddress(probe.source)} is not an address of the pod on ${device.name}, and pods.sources does not allow it there`
      case 'ttl':
        return `TTL ${probe.ttl} ends at this node: the kernel answers time exceeded`
      case 'mtu': {
        const mtu = this.toPod ? this.podMtu : nexthop?.mtu
        return `${probe.size} bytes are more than the ${mtu ?? 'next hop'}${mtu ? ' that fit' : ' takes'}: the kernel fragments or answers`
      }
      case 'policy': {
        const row = device.stack.find(({ family }) => family === probe.family)
        if (row) return `${text}: ${row.why}`
        return this.trace.route ? this.stackRoute(text) : text
      }
      case 'translated-flow':
        return translatedFlow(this.translation())
      case 'node':
        if (this.trace.conntrack) return translatedFlow(this.translation())
        return this.trace.has('TRACE_ASKED_REVERSE') ? `no SNATed flow has this address and port: ${text}` : text
      case 'unknown-device':
        return this.trace.route ? `the kernel has a way to ${this.target} that the maps do not have (yet)` : text
      case 'no-route':
        return `no prefix in the maps covers ${this.target}: the kernel answers`
      case 'unresolved':
        return `${nexthop?.gateway ? formatAddress(nexthop.gateway) : this.target} has no MAC yet: the kernel asks for it, or says that the host is unreachable`
      default:
        return this.trace.route?.action === CODES.ROUTE_STACK ? this.stackRoute(text) : text
    }
  }

  private stackRoute(text: string): string {
    if (this.prefix === null) return `${text}; ${unknownAnswer}`
    const why = this.wantedRoute()
    return `${this.prefix} is the kernel's: ${why === null || why === 'local' ? text : why}`
  }

  private way(): Explanation['out'] {
    const { trace, nexthop, probe } = this
    if (!trace.has('TRACE_SENT')) return null
    const device = this.node.deviceName(trace.out)
    const mac = trace.to === null ? null : formatMac(trace.to)
    if (this.toPod) {
      const pod = this.fromPod || !this.nat ? this.target : this.nat.address
      return { device, nextHop: pod, mac, mtu: this.podMtu }
    }
    const nextHop = formatAddress(nexthop?.gateway ?? probe.destination)
    return { device, nextHop, mac, mtu: nexthop?.mtu ?? null }
  }

  private rewriting(): Explanation['nat'] {
    const { trace } = this
    if (trace.natAddress === null) return null
    return {
      what: this.fromPod ? 'source' : 'destination',
      address: formatAddress(trace.natAddress),
      port: trace.natPort,
      drawn: trace.has('TRACE_FLOW_NEW')
    }
  }

  private get podMtu(): number | null {
    return this.trace.pod === null ? null : (this.node.state.links.get(this.trace.pod)?.mtu ?? null)
  }

  /** The row as the program read it. */
  private readNexthop(index: number): NexthopRow | null {
    const key = Buffer.alloc(4)
    key.writeUInt32LE(index)
    const bytes = this.look('nexthops', key)
    return bytes ? decodeNexthop(bytes) : null
  }

  private look(name: string, key: Buffer): Buffer | null {
    const map = this.datapath.object.map(name)
    try {
      return map.lookup(key)
    } finally {
      map.close()
    }
  }

  /** The plan's row that the program should have met: of the device's class if ip rules gave it one, else the node's. */
  private planned(): Planned | null {
    const { plan } = this.node
    const { family, destination } = this.probe
    const routeClass = this.fromPod ? (family === 4 ? this.device.class4 : this.device.class6) : null
    if (routeClass !== null) {
      const keyOf = (each: Prefix) => classRouteKey(routeClass, each)
      const prefix = longestPrefix(destination, (each) => plan.classRoutes.has(keyOf(each)))
      const wanted = prefix === null ? undefined : plan.classRoutes.get(keyOf(prefix))
      if (prefix !== null && wanted && wanted.action !== 'main')
        return { prefix, wanted, rules: plan.classes.get(routeClass)?.label ?? '' }
    }
    const prefix = longestPrefix(destination, (each) => plan.routes.has(each))
    const wanted = prefix === null ? undefined : plan.routes.get(prefix)
    return prefix !== null && wanted ? { prefix, wanted, rules: null } : null
  }

  /** The planned prefix, if the map's row for it is what the program got. */
  private answeringPrefix(): Prefix | null {
    const planned = this.planned()
    const bytes = planned ? this.mapRow(planned) : null
    if (!planned || !bytes) return null
    return JSON.stringify(decodeRoute(bytes)) === JSON.stringify(this.trace.route) ? planned.prefix : null
  }

  private mapRow({ prefix, rules }: Planned): Buffer | null {
    const { family } = this.probe
    if (rules === null) return this.look(`routes${family}`, encodeRouteKey(prefix))
    const slot = Buffer.alloc(4)
    slot.writeUInt32LE(this.device.ifindex & (DEVICE_SLOTS - 1))
    const row = this.look('devices', slot)
    if (!row) return null
    const { class4, class6 } = decodeDevice(row)
    return this.look(`class_routes${family}`, encodeClassRouteKey(classRow(family === 4 ? class4 : class6, prefix)))
  }

  /** Why the plan leaves the route to the kernel. */
  private wantedRoute(): string | null {
    const wanted = this.planned()?.wanted
    return wanted?.action === 'stack' ? wanted.why : null
  }

  /** The prefix that decided, if the plan and the program agree. */
  private policy(): Explanation['masquerade'] {
    if (!this.trace.has('TRACE_ASKED_MASQUERADE') || !this.node.config.snat.enabled) return null
    const due = this.trace.has('TRACE_MASQUERADE')
    const { prefix, masquerade } = this.node.masquerade.entryFor(this.probe.destination)
    return masquerade === due ? { masquerade: due, prefix: formatPrefix(prefix) } : null
  }

  private policySource(): string {
    const { masquerade } = this.node
    const from = masquerade.policy.from.get(masquerade.entryFor(this.probe.destination).prefix) ?? []
    const source = from.length === 0 ? '' : ` (${from.join(', ')})`
    return masquerade.refused === null ? source : `${source}; a newer policy is refused, see: hostroute snat policy`
  }

  /** What the kernel says about whom the packet is sent to; '' if it is not asked. */
  private neighbourState(): string {
    const { trace, nexthop, probe } = this
    const address: Address = this.toPod
      ? (trace.natAddress ?? probe.destination)
      : (nexthop?.gateway ?? probe.destination)
    const neighbour = this.node.state.neighbours.get(neighbourKey(trace.out, address))
    if (!neighbour) return trace.to === null ? 'not known' : ''
    const names = Object.entries(NeighbourState).filter(([, bit]) => (neighbour.state & bit) !== 0)
    const words = names.map(([name]) => name.toUpperCase())
    if (neighbour.managed) words.push('managed')
    return words.join(' ')
  }
}

function verdictWords(flow: FlowRow): string {
  switch (flow.verdict) {
    case CODES.FLOW_SNAT:
      return 'SNAT'
    case CODES.FLOW_INBOUND:
      return "opened from outside, answers keep the pod's address"
    default:
      return 'routed, the source stays'
  }
}

function withPort(address: string, port: number): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`
}

function sourceWords(source: Address, device: WantedDevice): string {
  const text = formatAddress(source)
  if (device.addresses.includes(source)) return `${text} is the pod's own address`
  const prefix = longestPrefix(source, (candidate) => device.sources.some((allowed) => allowed.prefix === candidate))
  if (prefix === null) return `${text} is an address of the pod that the maps do not have yet`
  return `${text} is not the pod's own address: ${formatPrefix(prefix)} is allowed on ${device.name} by pods.sources`
}
