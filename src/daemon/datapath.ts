// One enabled life of the datapath: the loaded object, its maps and hooks.
//
// Invariants
// - Maps are complete before the first program is attached, and a program is
//   detached before what it needs is removed.
// - What an earlier daemon pinned goes on forwarding until this one has brought
//   the maps up to date; then its programs are replaced in place.
// - close(keep) leaves pins and programs as they are; remove() leaves nothing.

import { rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Config } from '../config/config.js'
import { flowLimit } from '../config/flow-limit.js'
import { readKernelPorts, snatPorts } from '../config/ports.js'
import { mayTranslate } from '../conntrack/nat.js'
import { isLoaded } from '../conntrack/table.js'
import type { Logger } from '../log.js'
import { MAX_PORTS } from '../maps/layout.js'
import { REASON_MAX } from '../maps/reasons.js'
import { encodePorts } from '../maps/snat-ports.js'
import { type ApplyResult, createWriter, type Writer } from '../maps/writer.js'
import { type BpfObject, native } from '../native.js'
import type { PlanChange } from '../plan/change.js'
import type { Plan, WantedDevice } from '../plan/types.js'
import { Accounts } from './accounts.js'
import { measureJiffies } from './clock.js'
import { ControlBlock } from './control-block.js'
import { Hooks } from './hooks.js'
import { Refusal } from './refusal.js'

export interface DatapathOptions {
  config: Config
  pinDirectory: string
  runDirectory: string
  log: Logger
  onEvents(records: Buffer[]): void
}

export class Datapath {
  /** Families left to the kernel for lack of room. */
  left: ApplyResult['alarms'] = []
  /** What the last write complained of. */
  alarms: string[] = []
  readonly accounts: Accounts
  /** What flows4 and flows6 were made for. */
  private readonly mostFlows: number
  private started = false
  private portsInUse = ''
  private portTotal = 0
  /** What is attached: `object`, or what was loaded later with the same maps. */
  private current: BpfObject
  /** nf_conntrack was there when the programs were loaded: what came later they cannot ask. */
  private asksConntrack: boolean

  private constructor(
    private readonly options: DatapathOptions,
    readonly object: BpfObject,
    readonly writer: Writer,
    readonly control: ControlBlock,
    readonly hooks: Hooks,
    private readonly ring: { close(): void },
    /** Maps of an earlier daemon were taken over. */
    readonly takenOver: boolean,
    /** Devices of pods whose connections conntrack has not been asked for (take-over.ts). */
    readonly unread: Set<number>,
    asksConntrack: boolean
  ) {
    this.current = object
    this.accounts = new Accounts(object)
    this.mostFlows = object.map('flows4').info.maxEntries
    this.asksConntrack = asksConntrack
  }

  /** Loads the programs and takes over what is pinned. Throws Refusal; then nothing of an earlier daemon has changed. */
  static async open(options: DatapathOptions): Promise<Datapath> {
    const { config, pinDirectory, runDirectory, log } = options
    const asksConntrack = isLoaded()
    const object = load(config, pinDirectory)
    const takenOver = object.reused.includes('flows4')
    const control = new ControlBlock(object, await measureJiffies(object), (text) => log.warn(text))
    control.configure(config)
    control.monitor(false)
    const writer = createWriter(object)
    const unread = new Set<number>()
    let opened: Datapath | null = null
    const hooks = new Hooks({
      object,
      pinDirectory,
      journalPath: join(runDirectory, 'clsact.json'),
      xdp: config.uplink.xdp,
      log,
      onNew: ({ ifindex, role }) => {
        control.clearShared(ifindex)
        if (role !== 'pod') return
        control.setTranslating('presumed', true)
        control.presumeShared(ifindex, opened?.started ? 'new' : 'older')
        unread.add(ifindex)
      }
    })
    const ring = native().readRing(object.map('events'), options.onEvents)
    const datapath = new Datapath(options, object, writer, control, hooks, ring, takenOver, unread, asksConntrack)
    opened = datapath
    datapath.limitFlows(config)
    datapath.writePorts(config)
    return datapath
  }

  /** The first plan: maps, then the programs. Those of an earlier daemon go on, new ones wait for switchOn(). Throws NativeError. */
  start(plan: Plan): void {
    // also of a running datapath: there may be more pods than it had, or its lease was over
    this.control.setTranslating('presumed', true)
    this.write(plan, 'all')
    this.control.renewLease(this.options.config.lease)
    if (mayTranslate()) this.hooks.watchDelivered()
    this.hooks.sweep(this.served(plan))
    this.hooks.apply(this.served(plan))
    this.started = true
  }

  /** The object whose programs are attached. */
  get programs(): BpfObject {
    return this.current
  }

  /**
   * nf_conntrack was loaded after the programs: they are loaded again, so that
   * they can ask it, and take the place of the others. true: the caller has
   * conntrack read once more. Throws NativeError and Refusal; then the earlier
   * ones go on.
   */
  followConntrack(): boolean {
    if (this.asksConntrack || !isLoaded()) return false
    const next = load(this.options.config, this.options.pinDirectory)
    this.presumeAll()
    const failed = this.hooks.replacePrograms(next)
    if (this.current !== this.object) this.current.close()
    this.current = next
    if (failed.length > 0) throw new Error(failed.join('; '))
    this.asksConntrack = true
    this.options.log.info('nf_conntrack has been loaded: the programs ask it from now on')
    return true
  }

  /**
   * Something may translate from now on: to_pod is attached. true: the caller has
   * conntrack read, for what began meanwhile.
   */
  followTranslation(): boolean {
    if (this.hooks.watchesDelivered || !mayTranslate()) return false
    this.presumeAll()
    this.hooks.watchDelivered()
    return true
  }

  /** Every flow is looked up until conntrack has been read. */
  private presumeAll(): void {
    this.control.setTranslating('presumed', true)
    for (const { ifindex, role } of this.hooks.attached.values()) {
      if (role !== 'pod') continue
      this.control.presumeShared(ifindex, 'older')
      this.unread.add(ifindex)
    }
  }

  switchOn(): void {
    this.control.handOver(false)
    this.control.switchOn(true)
  }

  /** Brings maps and hooks in step. Throws NativeError; the next call compares everything. */
  apply(plan: Plan, change: PlanChange | 'all'): void {
    if (!this.started) return
    if (change === 'all' || change.devices.size > 0) this.presumeNew(plan)
    this.write(plan, change)
    if (change === 'all' || change.devices.size > 0 || this.hooks.failing) this.hooks.apply(this.served(plan))
  }

  /** Connections of pods that no program has seen so far: before from_uplink may deliver to them. */
  private presumeNew(plan: Plan): void {
    for (const [ifindex, { role }] of plan.devices) {
      if (role !== 'pod' || this.hooks.attached.has(ifindex)) continue
      this.control.setTranslating('presumed', true)
      this.unread.add(ifindex)
    }
  }

  private write(plan: Plan, change: PlanChange | 'all'): void {
    if (plan.marks) this.control.leaveMarks(true)
    const result = this.writer.apply(plan, change)
    if (!plan.marks) this.control.leaveMarks(false)
    const alarms = result.alarms.map(
      ({ family, why }) => `IPv${family} is left to the kernel: ${why}; raise limits in the configuration`
    )
    for (const text of [...alarms, ...result.warnings]) if (!this.alarms.includes(text)) this.options.log.error(text)
    this.left = result.alarms
    this.alarms = [...alarms, ...result.warnings]
  }

  /** Devices with a row in the maps: a program without one would do nothing. */
  private served(plan: Plan): Map<number, WantedDevice> {
    return new Map([...plan.devices].filter(([ifindex]) => this.writer.counterRows.has(ifindex)))
  }

  configure(config: Config): void {
    this.options.config = config
    this.control.configure(config)
    this.limitFlows(config)
    this.control.renewLease(config.lease)
    this.writePorts(config)
  }

  /** Flows that each family may have. */
  get flowLimit(): number {
    return Math.min(flowLimit(this.options.config), this.mostFlows)
  }

  /** What flows4 and flows6 were made for stays until their pins go: their entries would be lost. */
  private limitFlows(config: Config): void {
    const problem = this.flowLimitProblem
    if (problem !== null) this.options.log.warn(problem)
    this.control.limitFlows(Math.min(flowLimit(config), this.mostFlows))
  }

  /** Why limits.flows is not in force as it stands; null: it is. */
  get flowLimitProblem(): string | null {
    const [wanted, most] = [flowLimit(this.options.config), this.mostFlows]
    return wanted > most
      ? `limits.flows is ${wanted}, but the flow tables were made for ${most}: ${most} are in force until hostroute disable and enable make new ones`
      : null
  }

  get ports(): number {
    return this.portTotal
  }

  /** Rows of snat_ports: written before they count, so a program never reads an old row as new. */
  writePorts(config: Config): void {
    const ports = snatPorts(config.snat.ports, config.snat.nodePorts, readKernelPorts())
    const text = ports.join()
    if (text === this.portsInUse) return
    const map = this.object.map('snat_ports')
    const keys = Buffer.alloc(MAX_PORTS * 4)
    for (let row = 0; row < MAX_PORTS; row++) keys.writeUInt32LE(row, row * 4)
    map.updateBatch(keys, encodePorts(ports), MAX_PORTS)
    this.control.setPortCount(ports.length)
    if (ports.length === 0)
      this.options.log.error('snat.ports leaves no port for SNAT: new connections to the outside will be dropped')
    this.portsInUse = text
    this.portTotal = ports.length
  }

  /** Ends this process's part. The pinned programs go on until the lease ends. */
  close(): void {
    this.ring.close()
    if (this.current !== this.object) this.current.close()
    this.object.close()
  }

  /** Detaches everything and removes the pins; flows are gone. */
  remove(): void {
    this.control.switchOn(false)
    this.hooks.detachAll()
    this.close()
    rmSync(this.options.pinDirectory, { recursive: true, force: true })
  }
}

function load(config: Config, pinDirectory: string): BpfObject {
  const { routes4, routes6, neighbours, masquerade, devices } = config.limits
  const flows = 2 * flowLimit(config) // room for a larger limit at run time; only used entries cost memory
  const sizes = {
    routes4,
    routes6,
    neighbours,
    // the old policy and the new one
    masquerade: 2 * masquerade,
    flows4: flows,
    flows6: flows,
    reverse4: flows,
    reverse6: flows,
    counters: devices * REASON_MAX
  }
  try {
    return native().loadObject({ sizes, pinDirectory })
  } catch (error) {
    const { code, message, detail } = error as { code?: string; message: string; detail?: string }
    if (code === 'ELAYOUT') {
      throw new Refusal(
        `${message}. They belong to another version of hostroute: stop it with that version's "hostroute disable", or remove ${pinDirectory} (connections through SNAT are cut then)`,
        error
      )
    }
    throw new Refusal(`this kernel does not take the programs: ${message}${detail ? `\n${detail}` : ''}`, error)
  }
}
