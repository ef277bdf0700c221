// What the control socket asks, answered from the node.

import { hostname, release } from 'node:os'
import { flowLimit } from '../config/flow-limit.js'
import {
  apiVersion,
  type Counts,
  type DropRow,
  type EnableOptions,
  type EnableResult,
  type EventRow,
  type FlowFilter,
  type HookRow,
  type MasqueradeAnswer,
  type MasqueradeStatus,
  type Mode,
  type NeighbourRow,
  type NexthopRow,
  type NodeControl,
  type PodRow,
  type ReloadResult,
  type RouteAnswer,
  type RouteFilter,
  type RouteList,
  type Status,
  type VerifyReport
} from '../control/api.js'
import type { ExplainRequest, Explanation } from '../control/explain-api.js'
import { NotInForce } from '../control/failure.js'
import type { Caller, FlowDeletion, FlowSelection, FlowStream, FlowTop } from '../control/flow-api.js'
import type { GuardControl } from '../control/guard-api.js'
import { renderMetrics } from '../control/metrics.js'
import { CLASS_ROUTES, MAX_NEXTHOPS, POD_SLOTS } from '../maps/layout.js'
import { native } from '../native.js'
import type { Address } from '../state/types.js'
import { packageVersion } from '../version.js'
import { Counters, total } from './counters.js'
import type { Datapath } from './datapath.js'
import { deleteSelected } from './deletion.js'
import { explain, explainRoute } from './explain.js'
import { topFlows } from './flow-top.js'
import { listFlows, type Now } from './flow-view.js'
import { leftRows } from './left-view.js'
import { masqueradeAnswer, masqueradeStatus, noSourceOf } from './masquerade-view.js'
import { releaseMemory } from './memory.js'
import type { Node } from './node.js'
import { translatedStatus } from './translated-view.js'
import { verifyNode } from './verify.js'
import { neighbourRows, nexthopRows, podRows, routeList } from './views.js'

/** Of the masquerade policy; all of them: /v1/masquerade. */
const statusRows = 256
/** Pods with most flows. */
const podsTold = 5

export class Answers implements NodeControl {
  private counters: { of: object; counters: Counters } | null = null

  constructor(private readonly node: Node) {
    node.events.onInterest = (interested) => node.datapath?.control.monitor(interested)
  }

  async status(): Promise<Status> {
    const { node } = this
    const drops = await this.drops()
    const [mode, why] = this.mode()
    return {
      api: apiVersion,
      version: packageVersion(),
      pid: process.pid,
      uptime: Math.round((Date.now() - node.started) / 1000),
      mode,
      why,
      confirmBefore: isoTime(node.confirmBefore),
      kernel: release(),
      namespace: native().networkNamespace(),
      libbpf: native().libbpfVersion(),
      node: hostname(),
      hooks: this.hooks(),
      stack: leftRows(node.planner.plan, node.datapath?.left ?? []),
      sync: this.syncStatus(),
      counts: this.counts(),
      packets: { forwarded: total(drops, 'forwarded'), stack: total(drops, 'stack'), dropped: total(drops, 'drop') },
      lease: this.lease(),
      masquerade: masqueradeStatus(node, statusRows),
      translated: translatedStatus(node),
      configuration: { path: node.options.config, ...node.configuration },
      guard: this.guardSummary(),
      errors: node.errors.list()
    }
  }

  /** What is wrong first is said. */
  private mode(): [Mode, string | null] {
    const { node } = this
    if (!node.synced) return ['disabled', 'starting: the routing tables are being read']
    if (!node.datapath) return ['disabled', node.why]
    const [alarm] = node.datapath.left
    if (alarm) return ['degraded', `IPv${alarm.family} is left to the kernel: ${alarm.why}`]
    const failed = [...node.datapath.hooks.attached.values()].find((hooked) => hooked.error)
    if (failed) return ['degraded', `${failed.device} is not served: ${failed.error}`]
    if (node.config.snat.enabled && node.datapath.ports === 0) return ['degraded', 'snat.ports leaves no port for SNAT']
    if (!node.datapath.control.isOn) return ['degraded', 'the programs are switched off in the maps']
    if (node.config.snat.enabled) {
      const { refused, watch } = node.masquerade
      if (refused !== null) return ['degraded', refused]
      const noSource = noSourceOf(node.planner.plan.lackingSources.families, node.masquerade.policy.ipv6.masqueraded)
      if (noSource !== null) return ['degraded', noSource]
      if (watch.defaultsOnly?.doubtful) return ['degraded', watch.defaultsOnly.text]
    }
    return ['enabled', null]
  }

  private hooks(): HookRow[] {
    const { planner, datapath, sync } = this.node
    const rows: HookRow[] = [...planner.plan.devices.values()].map((device) => {
      const hooked = datapath?.hooks.attached.get(device.ifindex)
      const served = hooked !== undefined && hooked.error === null
      const why = served ? null : datapath ? (hooked?.error ?? 'no row in the maps was free') : 'hostroute is disabled'
      return {
        device: device.name,
        ifindex: device.ifindex,
        role: device.role,
        kind: device.kind,
        served,
        why,
        programs: hooked?.programs ?? []
      }
    })
    for (const { ifindex, name, why } of planner.plan.unserved) {
      rows.push({
        device: name,
        ifindex,
        role: 'uplink',
        kind: sync.state.links.get(ifindex)?.kind ?? null,
        served: false,
        why,
        programs: []
      })
    }
    return rows.sort((a, b) => (a.role === b.role ? a.ifindex - b.ifindex : a.role === 'uplink' ? -1 : 1))
  }

  private syncStatus(): Status['sync'] {
    const { lastSync, ...rest } = this.node.sync.status()
    return { ...rest, lastSync: lastSync > 0 ? isoTime(lastSync) : null }
  }

  private counts(): Counts {
    const { planner, datapath, config, masquerade } = this.node
    const fill = datapath?.writer.fill()
    const usage = datapath?.accounts.usage
    const capacity = datapath?.flowLimit ?? flowLimit(config)
    const { limits } = config
    return {
      pods: { used: planner.plan.pods.size, capacity: POD_SLOTS },
      devices: { used: planner.plan.devices.size, capacity: limits.devices },
      routes4: { used: fill?.routes4 ?? 0, capacity: limits.routes4 },
      routes6: { used: fill?.routes6 ?? 0, capacity: limits.routes6 },
      classRoutes4: { used: fill?.classRoutes4 ?? 0, capacity: CLASS_ROUTES },
      classRoutes6: { used: fill?.classRoutes6 ?? 0, capacity: CLASS_ROUTES },
      nexthops: { used: fill?.nexthops ?? 0, capacity: MAX_NEXTHOPS },
      neighbours: { used: fill?.neighbours ?? 0, capacity: limits.neighbours },
      flows4: { used: usage?.flows[4] ?? 0, capacity },
      flows6: { used: usage?.flows[6] ?? 0, capacity },
      mostFlows: datapath
        ? datapath.accounts.largest(podsTold).map(({ ifindex, flows }) => ({
            device: this.node.deviceName(ifindex),
            flows
          }))
        : [],
      movedFlows: usage?.moved ?? 0,
      snatPorts: datapath?.ports ?? 0,
      masquerade: masquerade.policy.wanted.length
    }
  }

  private guardSummary(): Status['guard'] {
    if (!this.node.guard) return null
    const { mode, backend, refuses, why, counts } = this.node.guard.status()
    return { mode, backend, refuses, refused: counts.refused, why }
  }

  private lease(): Status['lease'] {
    const { config, routine, datapath } = this.node
    const renewed = datapath ? routine.leaseRenewed : null
    return {
      duration: config.lease === null ? null : config.lease / 1000,
      renewed: isoTime(renewed),
      until: renewed === null || config.lease === null ? null : isoTime(renewed + config.lease)
    }
  }

  masquerade(): MasqueradeStatus {
    return masqueradeStatus(this.node, Number.POSITIVE_INFINITY)
  }

  masqueradeTest(address: string): MasqueradeAnswer {
    return masqueradeAnswer(this.node, address)
  }

  pods(): PodRow[] {
    return podRows(this.node.planner.plan)
  }

  routes(filter: RouteFilter): RouteList {
    return routeList(this.node.planner.plan, filter)
  }

  routeGet(address: string, from: string | null): RouteAnswer {
    return explainRoute(this.node, address, from)
  }

  explain(request: ExplainRequest): Explanation {
    return explain(this.node, request)
  }

  nexthops(): NexthopRow[] {
    return nexthopRows(this.node.planner.plan, (key) => this.node.datapath?.writer.nexthopIndex(key) ?? 0)
  }

  neighbours(): NeighbourRow[] {
    return neighbourRows(this.node.planner.plan, (ifindex) => this.node.deviceName(ifindex))
  }

  async *flows(filter: FlowFilter, limit: number | null): FlowStream {
    const { datapath } = this.node
    if (!datapath) return { total: 0 }
    return yield* listFlows(datapath.object, clockOf(datapath), filter, limit)
  }

  async flowTop(count: number): Promise<FlowTop> {
    const { datapath, planner } = this.node
    if (!datapath) throw new NotInForce('hostroute is disabled: it has no flows; see: hostroute enable')
    const deviceOf = (pod: Address) => planner.plan.pods.get(pod)?.device ?? null
    return topFlows({ maps: datapath.object, now: clockOf(datapath), ports: datapath.ports, deviceOf }, count)
  }

  deleteFlows(selection: FlowSelection, dryRun: boolean, caller: Caller | null): Promise<FlowDeletion> {
    return deleteSelected(this.node, selection, dryRun, caller)
  }

  async drops(): Promise<DropRow[]> {
    const { datapath } = this.node
    if (!datapath) return []
    if (this.counters?.of !== datapath) {
      const rowsOf = () =>
        [...datapath.writer.counterRows].map(([ifindex, row]) => ({
          name: this.node.deviceName(ifindex),
          ifindex,
          row
        }))
      this.counters = { of: datapath, counters: new Counters(datapath.object.map('counters'), rowsOf) }
    }
    return this.counters.counters.rows()
  }

  async verify(repair: boolean): Promise<VerifyReport> {
    const report = await verifyNode(this.node, repair)
    // it has read as much as the daemon holds
    setTimeout(releaseMemory, 100).unref()
    return report
  }

  async metrics(): Promise<string> {
    const guard = this.node.guard?.status() ?? null
    return renderMetrics({ status: await this.status(), drops: await this.drops(), guard })
  }

  enable(options: EnableOptions): Promise<EnableResult> {
    return this.node.enable(options)
  }

  confirm(): Promise<EnableResult> {
    return this.node.confirm()
  }

  disable(): Promise<EnableResult> {
    return this.node.disable()
  }

  get guard(): GuardControl | null {
    return this.node.guard
  }

  events(listener: (event: EventRow) => void): () => void {
    return this.node.events.listen(listener)
  }

  reload(): Promise<ReloadResult> {
    return this.node.reload()
  }
}

function clockOf({ control }: Datapath): () => Now {
  return () => ({ jiffies: control.now(), perSecond: control.jiffiesPerSecond })
}

function isoTime(milliseconds: number | null): string | null {
  return milliseconds === null ? null : new Date(milliseconds).toISOString()
}
