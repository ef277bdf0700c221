// `hostroute explain`: what becomes of a packet, and why. The loaded programs
// say it themselves (bpf/trace.h): here the packet is made, run, and what they
// found is put into words. What the programs do not know, such as the prefix
// behind a route, is looked up in the plan and compared with their answer.

import { randomInt } from 'node:crypto'
import { familyOf, formatAddress, formatPrefix, hexMac, longestPrefix, parseAddress } from '../address.js'
import type { RouteAnswer } from '../control/api.js'
import type { ExplainedPacket, ExplainedStage, ExplainRequest, Explanation } from '../control/explain-api.js'
import { Failure } from '../control/failure.js'
import type { Datapath } from '../datapath/datapath.js'
import { headerSize, isTooLong, type Probe, probeFrame, runTrace } from '../datapath/test-packet.js'
import type { TraceRow } from '../maps/trace.js'
import type { WantedDevice } from '../plan/types.js'
import { REASONS, type ReasonKind } from '../reasons.js'
import type { Address, Family, Prefix } from '../state/types.js'
import { Findings } from './findings.js'
import type { NodeView } from './node-view.js'
import { routeAnswer } from './views.js'

/** Where a packet comes in. */
interface Entry {
  ifindex: number
  name: string
  /** null: no program is there. */
  device: WantedDevice | null
  /** Why there is none. */
  unserved: string
  source: Address
  /** How the device was found, if it had to be. */
  why: string | null
}

const kinds = new Map(REASONS.map(({ name, kind }) => [name, kind]))
const someMac = hexMac('020000000000')
/** Of rtnetlink. */
const MAIN = 254
const UNICAST = 1

/** Throws Failure for what cannot be asked, and while hostroute is disabled. */
export function explain(node: NodeView, request: ExplainRequest): Explanation {
  const { datapath } = node
  if (!datapath)
    throw new Failure(
      'disabled',
      `hostroute is disabled${node.why ? ` (${node.why})` : ''}: every packet takes the kernel's own way; see: hostroute enable`
    )
  const destination = parseAddress(request.to)
  if (destination === null) throw new Failure('bad-request', `to: ${request.to} is not an IPv4 or IPv6 address`)
  const entry = entryOf(node, request, familyOf(destination))
  const probe = probeOf(node, request, entry, destination)
  const packet = describe(probe)
  const { device } = entry
  const where = { device: entry.name, role: device?.role ?? null, why: entry.why }
  if (!device) return unserved(packet, { ...where, program: null }, entry)
  const program = device.role === 'pod' ? 'from_pod' : 'from_uplink'
  const trace = run(datapath, program, probe, device)
  const findings = new Findings(node, datapath, trace, probe, device)
  const reason = trace.reason ?? 'unknown-device'
  const verdict = kinds.get(reason) ?? 'stack'
  const found = findings.stages(reason, verdict)
  return {
    packet,
    in: { ...where, program },
    verdict,
    reason,
    summary: summaryOf(verdict, findings, found),
    out: findings.out,
    nat: findings.nat,
    route: findings.prefix,
    masquerade: findings.masquerade,
    stages: found
  }
}

/** null: masquerading is off. */
function policyAnswer({ config, masquerade }: NodeView, address: Address): RouteAnswer['masquerade'] {
  if (!config.snat.enabled) return null
  const entry = masquerade.entryFor(address)
  return { masquerade: entry.masquerade, prefix: formatPrefix(entry.prefix) }
}

/**
 * `hostroute routes get`: an echo request from a pod. `from` null: from any pod
 * but the destination; without one only the tables can be asked.
 */
export function explainRoute(node: NodeView, destination: Address, from: string | null): RouteAnswer {
  const { plan } = node
  const tables = routeAnswer(plan, destination, (address) => policyAnswer(node, address))
  const source = from ?? anyPod(node, destination)
  if (source === null && node.datapath) return tables
  const asked = explain(node, { from: source ?? '', to: tables.address, protocol: 'icmp' })
  const { verdict, reason, out, nat } = asked
  const stage = asked.stages.at(-1)
  return {
    ...tables,
    from: asked.packet.source,
    verdict: verdict === 'forwarded' ? (tables.pod ? 'pod' : 'uplink') : verdict,
    reason,
    why: verdict === 'forwarded' ? asked.summary : (stage?.found ?? asked.summary),
    // another prefix may answer for a pod that ip rules send elsewhere
    route: asked.route !== null && asked.route === tables.route?.prefix ? tables.route : null,
    masquerade: asked.masquerade,
    out,
    source: nat?.address ?? null
  }
}

/** A served pod with an address of the same IP version. */
function anyPod(node: NodeView, address: Address): string | null {
  for (const pod of node.plan.pods.values()) {
    if (familyOf(pod.address) !== familyOf(address) || pod.address === address) continue
    if (node.datapath?.hooks.attached.get(pod.ifindex)?.error === null) return formatAddress(pod.address)
  }
  return null
}

function run(datapath: Datapath, program: 'from_pod' | 'from_uplink', probe: Probe, device: WantedDevice): TraceRow {
  const frame = probeFrame(probe, { source: someMac, destination: device.mac })
  try {
    return runTrace(datapath.programs, datapath.control, program, frame, device.ifindex)
  } catch (error) {
    if (isTooLong(error, frame))
      throw new Failure(
        'bad-request',
        `size: this kernel runs its programs on no test packet of ${probe.size} bytes; try 3500`
      )
    throw new Error(`${program} could not be asked on ${device.name}: ${(error as Error).message}`, { cause: error })
  }
}

function entryOf(node: NodeView, { from, device }: ExplainRequest, family: Family): Entry {
  const { plan } = node
  const address = parseAddress(from)
  if (address === null) return entryOfPod(node, from, device, family)
  if (familyOf(address) !== family)
    throw new Failure('bad-request', `${from} and the destination are not of the same IP version`)
  if (device !== undefined) return entryAt(node, ifindexOf(node, device), address, null)
  const pod = plan.pods.get(address)
  if (pod) return entryAt(node, pod.ifindex, address, null)
  if (isOwn(node, address))
    throw new Failure(
      'bad-request',
      `${from} is this node's own: what the node itself sends never comes through hostroute`
    )
  const way = wayBack(node, address)
  if (way === null)
    throw new Failure(
      'bad-request',
      `${from} is no pod of this node (hostroute pods lists them), and no route leads to it; where does it come in? --device NAME`
    )
  const name = node.deviceName(way)
  return entryAt(node, way, address, `no pod of this node has ${from}; the way back to it leads over ${name}`)
}

function entryOfPod(node: NodeView, name: string, device: string | undefined, family: Family): Entry {
  const ifindex = findLink(node, name)
  const pod = ifindex === null ? undefined : node.plan.devices.get(ifindex)
  if (ifindex === null)
    throw new Failure('bad-request', `there is no pod ${name}: hostroute pods lists addresses and devices`)
  if (pod?.role !== 'pod')
    throw new Failure(
      'bad-request',
      `${name} is not the device of a pod: name the source's address, and --device ${name}`
    )
  const source = pod.addresses.find((address) => familyOf(address) === family)
  if (source === undefined) throw new Failure('bad-request', `the pod on ${name} has no IPv${family} address`)
  return entryAt(node, device === undefined ? ifindex : ifindexOf(node, device), source, null)
}

function entryAt(node: NodeView, ifindex: number, source: Address, why: string | null): Entry {
  const { plan } = node
  const device = plan.devices.get(ifindex)
  const hooked = node.datapath?.hooks.attached.get(ifindex)
  const unserved = device
    ? (hooked?.error ?? (hooked ? null : 'no program is attached to it'))
    : (plan.unserved.find((row) => row.ifindex === ifindex)?.why ?? 'it is neither a pod nor an uplink')
  const served = unserved === null ? (device ?? null) : null
  return { ifindex, name: node.deviceName(ifindex), device: served, unserved: unserved ?? '', source, why }
}

/** The device that the kernel's main table names for an address; of several the first. */
function wayBack(node: NodeView, address: Address): number | null {
  const { routes4, routes6 } = node.state
  const routes = familyOf(address) === 4 ? routes4 : routes6
  const usable = (prefix: Prefix) =>
    routes.get(prefix)?.find(({ table, type, nexthops }) => table === MAIN && type === UNICAST && nexthops.length > 0)
  const key = longestPrefix(address, (prefix) => usable(prefix) !== undefined)
  return (key === null ? undefined : usable(key))?.nexthops[0]?.ifindex ?? null
}

function ifindexOf(node: NodeView, name: string): number {
  const ifindex = findLink(node, name)
  if (ifindex === null) throw new Failure('bad-request', `there is no device ${name}`)
  return ifindex
}

function findLink(node: NodeView, name: string): number | null {
  for (const link of node.state.links.values()) if (link.name === name) return link.ifindex
  return null
}

function isOwn(node: NodeView, address: Address): boolean {
  for (const list of node.state.addresses.values()) if (list.some(({ local }) => local === address)) return true
  return false
}

function probeOf(node: NodeView, request: ExplainRequest, entry: Entry, destination: Address): Probe {
  const family = familyOf(destination)
  const protocol = request.protocol ?? (request.toPort === undefined ? 'icmp' : 'tcp')
  if (protocol !== 'icmp' && request.toPort === undefined)
    throw new Failure(
      'bad-request',
      `${protocol} needs a port: --to ${request.to.includes(':') ? `[${request.to}]` : request.to}:PORT`
    )
  if (protocol === 'icmp' && request.toPort !== undefined) throw new Failure('bad-request', 'icmp has no ports')
  if (request.flags !== undefined && protocol !== 'tcp') throw new Failure('bad-request', `${protocol} has no flags`)
  const least = headerSize(family, protocol)
  const size = request.size ?? least + (protocol === 'icmp' ? 56 : 0)
  if (size < least)
    throw new Failure('bad-request', `size: headers of IPv${family} and ${protocol} take ${least} bytes`)
  // from outside, an echo to an address of the node can concern a pod only as an answer
  const reply = protocol === 'icmp' && entry.device?.role === 'uplink' && !node.plan.pods.has(destination)
  return {
    family,
    protocol,
    source: entry.source,
    destination,
    sourcePort: request.fromPort ?? randomInt(32768, 61000),
    destinationPort: request.toPort ?? 0,
    flags: request.flags ?? 'S',
    reply,
    ttl: request.ttl ?? 64,
    size
  }
}

function describe(probe: Probe): ExplainedPacket {
  const { family, protocol, sourcePort, destinationPort, ttl, size } = probe
  return {
    family,
    protocol,
    source: formatAddress(probe.source),
    sourcePort,
    destination: formatAddress(probe.destination),
    destinationPort: protocol === 'icmp' ? null : destinationPort,
    flags: protocol === 'tcp' ? probe.flags : null,
    echo: protocol === 'icmp' ? (probe.reply ? 'reply' : 'request') : null,
    ttl,
    size
  }
}

function unserved(packet: ExplainedPacket, where: Explanation['in'], { name, unserved }: Entry): Explanation {
  return {
    packet,
    in: where,
    verdict: 'stack',
    reason: 'not-served',
    summary: `Left to the kernel: ${name} is not served by hostroute.`,
    out: null,
    nat: null,
    route: null,
    masquerade: null,
    stages: [{ stage: 'device', found: `no program of hostroute decides on ${name}: ${unserved}` }]
  }
}

function summaryOf(verdict: ReasonKind, { out, nat, toPod }: Findings, stages: ExplainedStage[]): string {
  if (verdict !== 'forwarded' || !out)
    return `${verdict === 'drop' ? 'Dropped' : 'Left to the kernel'}: ${stages.at(-1)?.found ?? ''}.`
  const mac = out.mac === null ? "through the kernel's neighbour entry" : `MAC ${out.mac}`
  const way = toPod
    ? `Delivered into the pod ${out.nextHop} on ${out.device}`
    : `Sent over ${out.device} to ${out.nextHop}`
  const rewritten =
    nat === null ? '' : `, with ${nat.what} ${nat.address.includes(':') ? `[${nat.address}]` : nat.address}:${nat.port}`
  return `${way}, ${mac}${rewritten}.`
}
