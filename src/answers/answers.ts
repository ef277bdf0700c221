// What the control socket asks, answered from the node.

import { hostname, release } from 'node:os'
import { parseAddress } from '../address.js'
import { flowLimit } from '../config/flow-limit.js'
import {
  apiVersion,
  type Counts,
  type DisableOptions,
  type EnableOptions,
  type EnableResult,
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
  type Status,
  type VerifyReport
} from '../control/api.js'
import type { ExplainRequest, Explanation } from '../control/explain-api.js'
import { Failure } from '../control/failure.js'
import type { Caller, FlowDeletion, FlowFilter, FlowSelection, FlowStream, FlowTop } from '../control/flow-api.js'
import type { GuardControl } from '../control/guard-api.js'
import { renderMetrics } from '../control/metrics.js'
import type { DropRow, EventRow } from '../control/packet-api.js'
import type { Datapath } from '../datapath/datapath.js'
import { eventLoopDelay } from '../event-loop.js'
import { releaseMemory } from '../life/memory.js'
import { lookForProblems } from '../life/standing.js'
import { CLASS_ROUTES, MAX_NEXTHOPS, POD_SLOTS } from '../maps/layout.js'
import { native } from '../native.js'
import type { Address } from '../state/types.js'
import { startedVersion } from '../version.js'
import { Counters, total } from './counters.js'
import { deleteSelected } from './deletion.js'
import { explain, explainRoute } from './explain.js'
import { topFlows } from './flow-top.js'
import { listFlows, type Now } from './flow-view.js'
import { leftRows } from './left-view.js'
import { masqueradeAnswer, masqueradeStatus } from './masquerade-view.js'
import type { NodeCommands, NodeView } from './node-view.js'
import { translatedStatus } from './translated-view.js'
import { verifyNode } from './verify.js'
import { neighbourRows, nexthopRows, podRows, routeList } from './views.js'

/** Of the masquerade policy; all of them: /v1/masquerade. */
const statusRows = 256
/** Pods with most flows. */
const podsTold = 5

export class Answers implements NodeControl {
  private verifying: Promise<VerifyReport> | null = null
  private counters: { of: object; counters: Counters } | null = null

  constructor(
    private readonly node: NodeView,
    private readonly commands: NodeCommands
  ) {
    node.events.onInterest = (wanted) => node.datapath?.control.monitor(wanted)
  }

  async status(): Promise<Status> {
    const { node } = this
    // a map that cannot be read costs figures, not the answer
    let unread: string | null = null
    const missing = (error: unknown) => {
      unread = `figures are missing: ${(error as Error).message}`
    }
    const drops = await this.drops().catch((error: unknown) => {
      missing(error)
      return []
    })
    const counts = this.counts(missing)
    lookForProblems(node)
    node.problems.set('maps-not-read', unread)
    const [mode, why] = this.mode()
    return {
      api: apiVersion,
      version: startedVersion,
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
      stack: leftRows(node.plan, node.datapath?.left ?? []),
      sync: this.syncStatus(),
      counts,
      packets: { forwarded: total(drops, 'forwarded'), stack: total(drops, 'stack'), dropped: total(drops, 'drop') },
      lease: this.lease(),
      masquerade: masqueradeStatus(node, statusRows),
      translated: translatedStatus(node),
      configuration: node.configuration.status(),
      guard: this.guardSummary(),
      detour: node.datapath?.detour.status() ?? null,
      eventLoop: eventLoopDelay(),
      problems: node.problems.list(),
      errors: node.errors.list()
    }
  }

  /** What is gravest is said. */
  private mode(): [Mode, string | null] {
    const { node } = this
    if (!node.synced) return ['disabled', 'starting: the routing tables are being read']
    if (!node.datapath) return ['disabled', node.why]
    const { isServing, takenOver } = node.datapath
    if (!isServing)
      return [takenOver ? 'degraded' : 'disabled', 'starting: what was switched on has not been proved yet']
    const [problem] = node.problems.list().filter(({ affects }) => affects !== 'observation')
    return problem ? ['degraded', problem.text] : ['enabled', null]
  }

  private hooks(): HookRow[] {
    const { plan, datapath, state } = this.node
    const rows: HookRow[] = [...plan.devices.values()].map((device) => {
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
    for (const { ifindex, name, why } of plan.unserved) {
      rows.push({
        device: name,
        ifindex,
        role: 'uplink',
        kind: state.links.get(ifindex)?.kind ?? null,
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

  private counts(missing: (error: unknown) => void): Counts {
    const { plan, datapath, config, masquerade } = this.node
    const fill = datapath?.writer.fill()
    const used = datapath ? flowCounts(datapath, missing) : null
    const configured = flowLimit(config)
    const capacity = datapath?.flowLimit ?? configured
    const { limits } = config
    const room = datapath?.capacities ?? limits
    return {
      pods: { used: plan.pods.size, capacity: POD_SLOTS },
      devices: { used: plan.devices.size, capacity: room.devices },
      routes4: { used: fill?.routes4 ?? 0, capacity: room.routes4 },
      routes6: { used: fill?.routes6 ?? 0, capacity: room.routes6 },
      classRoutes4: { used: fill?.classRoutes4 ?? 0, capacity: CLASS_ROUTES },
      classRoutes6: { used: fill?.classRoutes6 ?? 0, capacity: CLASS_ROUTES },
      nexthops: { used: fill?.nexthops ?? 0, capacity: MAX_NEXTHOPS },
      neighbours: { used: fill?.neighbours ?? 0, capacity: room.neighbours },
      flows4: { used: used?.flows[4] ?? 0, capacity },
      flows6: { used: used?.flows[6] ?? 0, capacity },
      flowLimit: { configured, inForce: capacity, problem: used?.problem ?? null },
      mostFlows: (used?.largest ?? []).map(({ ifindex, flows }) => ({ device: this.node.deviceName(ifindex), flows })),
      movedFlows: used?.moved ?? 0,
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
    const { config, lease } = this.node
    return {
      duration: config.lease === null ? null : config.lease / 1000,
      renewed: isoTime(lease.renewed),
      until: isoTime(lease.ends)
    }
  }

  masquerade(): MasqueradeStatus {
    return masqueradeStatus(this.node, Number.POSITIVE_INFINITY)
  }

  masqueradeTest(address: string): MasqueradeAnswer {
    return masqueradeAnswer(this.node, askedAddress(address))
  }

  pods(): PodRow[] {
    return podRows(this.node.plan, this.node.datapath !== null)
  }

  routes(filter: RouteFilter): ReturnType<NodeControl['routes']> {
    return routeList(this.node.plan, filter)
  }

  routeGet(address: string, from: string | null): RouteAnswer {
    return explainRoute(this.node, askedAddress(address), from)
  }

  explain(request: ExplainRequest): Explanation {
    return explain(this.node, request)
  }

  nexthops(): NexthopRow[] {
    return nexthopRows(this.node.plan, (key) => this.node.datapath?.writer.nexthopIndex(key) ?? 0)
  }

  neighbours(): NeighbourRow[] {
    return neighbourRows(this.node.plan, (ifindex) => this.node.deviceName(ifindex))
  }

  async *flows(filter: FlowFilter, limit: number | null): FlowStream {
    const { datapath } = this.node
    if (!datapath) return { total: 0 }
    return yield* listFlows(datapath.object, clockOf(datapath), filter, limit)
  }

  async flowTop(count: number): Promise<FlowTop> {
    const { datapath, plan } = this.node
    if (!datapath) throw new Failure('disabled', 'hostroute is disabled: it has no flows; see: hostroute enable')
    const deviceOf = (pod: Address) => plan.pods.get(pod)?.device ?? null
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
      this.counters = {
        of: datapath,
        counters: new Counters(datapath.object.map('counters'), datapath.object.map('counted_before'), rowsOf)
      }
    }
    return this.counters.counters.rows()
  }

  /** Each costs as much memory as the routes take: one at a time, and who only asks shares the one that runs. */
  verify(repair: boolean): Promise<VerifyReport> {
    if (this.verifying && !repair) return this.verifying
    const after = this.verifying?.catch(() => {}) ?? Promise.resolve()
    const turn = after.then(() => this.verifyNow(repair))
    const running = turn.finally(() => {
      if (this.verifying === running) this.verifying = null
    })
    this.verifying = running
    return running
  }

  private async verifyNow(repair: boolean): Promise<VerifyReport> {
    if (!this.node.datapath)
      throw new Failure('disabled', 'hostroute is disabled: there are no maps to compare; see: hostroute enable')
    const report = await verifyNode(this.node, this.commands.planSource, repair)
    const unwritten = this.node.problems.text('maps-not-written')
    if (unwritten !== null) {
      report.ok = false
      report.total++
      report.differences.unshift({ map: 'all', key: '', kind: 'different', wanted: 'the plan', found: unwritten })
    }
    // it has read as much as the daemon holds
    setTimeout(releaseMemory, 100).unref()
    return report
  }

  async metrics(): Promise<string> {
    const guard = this.node.guard?.status() ?? null
    return renderMetrics({ status: await this.status(), drops: await this.drops(), guard })
  }

  enable(options: EnableOptions): Promise<EnableResult> {
    return this.commands.enable(options)
  }

  confirm(): Promise<EnableResult> {
    return this.commands.confirm()
  }

  disable(options: DisableOptions): Promise<EnableResult> {
    return this.commands.disable(options)
  }

  get guard(): GuardControl | null {
    return this.node.guard
  }

  events(listener: (event: EventRow) => void, all: boolean): () => void {
    return this.node.events.listen(listener, all)
  }

  reload(): Promise<ReloadResult> {
    return this.commands.reload()
  }
}

function clockOf({ control }: Datapath): () => Now {
  return () => ({ jiffies: control.now(), perSecond: control.jiffiesPerSecond })
}

function askedAddress(text: string): Address {
  const address = parseAddress(text)
  if (address === null) throw new Failure('bad-request', `${text} is not an IPv4 or IPv6 address`)
  return address
}

function isoTime(milliseconds: number | null): string | null {
  return milliseconds === null ? null : new Date(milliseconds).toISOString()
}

/** null: the maps could not be read. */
function flowCounts(datapath: Datapath, missing: (error: unknown) => void) {
  try {
    const { accounts, flowLimitProblem: problem } = datapath
    return { ...accounts.usage, largest: accounts.largest(podsTold), problem }
  } catch (error) {
    missing(error)
    return null
  }
}
