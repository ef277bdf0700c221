// One enabled life of the datapath: the loaded object, its maps and hooks.
//
// Invariants
// - Maps are complete before the first program is attached, and a program is
//   detached before what it needs is removed.
// - What an earlier daemon pinned goes on forwarding until this one has brought
//   the maps up to date; then its programs are replaced in place.
// - close(keep) leaves pins and programs as they are; remove() leaves nothing.
// - What writes a plan does so in steps (src/slice.ts). One such piece of work at a
//   time, and the plan does not change meanwhile: the caller sees to that.

import { join } from 'node:path'
import type { Config } from '../config/config.js'
import { flowLimit } from '../config/flow-limit.js'
import { type PortRange, readKernelPorts, snatPorts } from '../config/ports.js'
import { mayTranslate } from '../conntrack/nat.js'
import { isLoaded } from '../conntrack/table.js'
import type { Logger } from '../log.js'
import { MAX_PORTS } from '../maps/layout.js'
import { encodePorts } from '../maps/snat-ports.js'
import { type ApplyResult, createWriter, type Writer } from '../maps/writer.js'
import { type BpfObject, native } from '../native.js'
import { removeOwnPins } from '../own-pins.js'
import type { PlanChange } from '../plan/change.js'
import type { Plan, WantedDevice } from '../plan/types.js'
import { unlessAborted } from '../steps.js'
import { isTransient, together } from '../transient.js'
import { Accounts } from './accounts.js'
import { measureJiffies, readClock } from './clock.js'
import { journalOf } from './clsact-journal.js'
import { ControlBlock } from './control-block.js'
import { Detour } from './detour.js'
import { Finishing } from './finishing.js'
import { Hooks } from './hooks.js'
import { pinned } from './leftovers.js'
import { capacities, planResizing, sizesOf } from './limits.js'
import { LiveObject } from './live-object.js'
import { pinLost } from './lost-pins.js'
import { migrate } from './migration.js'
import { MapPins, preparePinDirectory } from './pins.js'
import { Refusal, refusalUnlessTransient } from './refusal.js'
import { goOn, upgrade } from './upgrade.js'

export interface DatapathOptions {
  config: Config
  pinDirectory: string
  runDirectory: string
  log: Logger
  onEvents(records: Buffer[]): void
  /** Of snat.ports, or of the agent where that is auto. */
  ports(): 'auto' | PortRange[]
  /** Takes steps when nobody else is in the middle of writing the plan. */
  inTurn(steps: () => Generator<void>): Promise<void>
}

export class Datapath {
  /** Families left to the kernel for lack of room. */
  left: ApplyResult['alarms'] = []
  /** Names of pods' devices that have no room in the maps. */
  leftOut: string[] = []
  /** What the last write complained of. */
  alarms: string[] = []
  readonly accounts: Accounts
  private started = false
  private portsInUse = ''
  private portTotal = 0
  /** The last that was written. */
  private plan: Plan | null = null
  /** Enabling, or taking over, has come to its end: switched on, and proved. */
  isServing = false
  /** What the maps have room for, whatever is configured. */
  capacities: ReturnType<typeof capacities>
  /** Why limits are not in force as configured; null: they are. */
  limitsProblem: string | null = null
  /** nf_conntrack was there when the programs were loaded: what came later they cannot ask. */
  private asksConntrack: boolean
  private resizing = false
  private readonly leaving = new AbortController()
  private readonly mapPins: MapPins

  private constructor(
    private readonly options: DatapathOptions,
    readonly object: LiveObject,
    readonly writer: Writer,
    readonly control: ControlBlock,
    readonly hooks: Hooks,
    readonly detour: Detour,
    /** Of changes of maps. */
    readonly finishing: Finishing,
    private readonly ring: { close(): void },
    /** Maps of an earlier daemon were taken over. */
    readonly takenOver: boolean,
    /** Devices of pods whose connections conntrack has not been asked for (take-over.ts). */
    readonly unread: Set<number>,
    asksConntrack: boolean
  ) {
    this.accounts = new Accounts(object)
    this.mapPins = new MapPins(options.pinDirectory, object)
    this.capacities = capacities(object)
    this.asksConntrack = asksConntrack
  }

  /** Loads the programs and takes over what is pinned. Throws Refusal; then nothing of an earlier daemon has changed. */
  static async open(options: DatapathOptions): Promise<Datapath> {
    const { config, pinDirectory, runDirectory, log } = options
    const asksConntrack = isLoaded()
    const steering = { setDetour: (_ifindex: number) => {} }
    const detour = new Detour({ native: native(), control: { setDetour: (to) => steering.setDetour(to) }, log })
    const takenOver = pinned(pinDirectory) !== 'nothing'
    const finishing = new Finishing(log)
    const object = new LiveObject(await loadOver(options, detour, finishing))
    let ring: { close(): void } | null = null
    try {
      const control = new ControlBlock(object, await measureJiffies(object), (text) => log.warn(text))
      control.pause(false)
      steering.setDetour = (ifindex) => control.setDetour(ifindex)
      // an earlier daemon's device went with it
      control.setDetour(detour.ifindex)
      control.configure(config)
      control.monitor('nothing')
      if (takenOver) control.raiseGenerations()
      let opened: Datapath | null = null
      const writer = createWriter(object)
      const unread = new Set<number>()
      const hooks = new Hooks({
        object: object.current,
        pinDirectory,
        journalPath: journalOf(runDirectory),
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
      ring = native().readRing(object.map('events'), options.onEvents)
      const datapath = new Datapath(
        options,
        object,
        writer,
        control,
        hooks,
        detour,
        finishing,
        ring,
        takenOver,
        unread,
        asksConntrack
      )
      opened = datapath
      datapath.limitFlows(config)
      datapath.writePorts()
      // before the maps are: only programs send there, and those of an earlier daemon miss it
      detour.open(object.current)
      return datapath
    } catch (error) {
      // each try would hold flow tables of its own
      steering.setDetour = () => {}
      detour.close()
      ring?.close()
      object.drop()
      throw error
    }
  }

  /** The first plan: maps, then the programs. Those of an earlier daemon go on, new ones wait for switchOn(). Throws NativeError. */
  *start(plan: Plan): Generator<void> {
    // also of a running datapath: there may be more pods than it had, or its lease was over
    this.control.setTranslating('presumed', true)
    yield* this.write(plan, 'all')
    this.control.renewLease(this.options.config.lease)
    if (mayTranslate()) this.watchStack()
    this.hooks.sweep(this.served(plan))
    yield* this.hooks.apply(this.served(plan))
    this.started = true
  }

  /** The object whose programs are attached. */
  get programs(): BpfObject {
    return this.object.current
  }

  /**
   * nf_conntrack was loaded after the programs: they are loaded again, so that
   * they can ask it, and take the place of the others. true: the caller has
   * conntrack read once more. Throws NativeError and Refusal; then the earlier
   * ones go on.
   */
  followConntrack(): boolean {
    if (this.asksConntrack || this.resizing || !isLoaded()) return false
    this.finishing.finish()
    this.mendMaps()
    const next = load(this.options.config, this.options.pinDirectory)
    this.presumeAll()
    const failed = [...this.hooks.replacePrograms(next), ...this.detour.replaceProgram(next)]
    this.object.replace(next, [])
    if (failed.length > 0) throw together(failed)
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
    this.watchStack()
    return true
  }

  /** The stack may translate what it has. */
  private watchStack(): void {
    this.control.noteNatChain()
    this.hooks.watchDelivered()
  }

  /** Programs that somebody has detached are attached again; a sentence for each. */
  restore(): string[] {
    return [...this.hooks.restore(), ...this.detour.attachAgain(this.programs)]
  }

  /**
   * Pins that somebody has removed are made again, and what hung on them is attached again: `tell`
   * gets a sentence for each. What cannot be attached is in `hooks`. Throws when maps cannot be pinned.
   */
  keepPins(tell: (text: string) => void): void {
    // until it is through, pins of two generations take each other's place
    if (this.resizing) return
    try {
      const maps = this.mendMaps()
      if (maps.length > 0) tell(`somebody removed the pins of ${maps.length} maps (${maps.join(', ')}); pinned again`)
    } finally {
      for (const text of this.hooks.restorePins()) tell(text)
    }
  }

  /** Before anything is loaded: it would take a map that is not pinned for one that never was. While a change of maps is not finished the earlier ones are pinned, and stay. */
  private mendMaps(): string[] {
    if (this.finishing.isPending) return []
    preparePinDirectory(this.options.pinDirectory)
    return this.mapPins.mend()
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

  /** Compares everything, also where the first plan could not be written. Throws NativeError. */
  *bring(plan: Plan): Generator<void> {
    if (this.started) yield* this.apply(plan, 'all')
    else yield* this.start(plan)
  }

  /** Brings maps and hooks in step. Throws NativeError; the next call compares everything. */
  *apply(plan: Plan, change: PlanChange | 'all'): Generator<void> {
    if (!this.started) return
    if (change === 'all' || change.devices.size > 0) this.presumeNew(plan)
    yield* this.write(plan, change)
    if (change === 'all' || change.devices.size > 0 || this.hooks.failing) yield* this.hooks.apply(this.served(plan))
  }

  /** Programs where they could not be attached so far. true: they are attached everywhere now. */
  *attachAgain(): Generator<void, boolean> {
    if (this.plan && this.started) yield* this.hooks.apply(this.served(this.plan))
    return !this.hooks.failing
  }

  /** Connections of pods that no program has seen so far: before from_uplink may deliver to them. */
  private presumeNew(plan: Plan): void {
    for (const [ifindex, { role }] of plan.devices) {
      if (role !== 'pod' || this.hooks.attached.has(ifindex)) continue
      this.control.setTranslating('presumed', true)
      this.unread.add(ifindex)
    }
  }

  private *write(plan: Plan, change: PlanChange | 'all'): Generator<void> {
    this.plan = plan
    if (plan.marks) this.control.leaveMarks(true)
    const result = yield* unlessAborted(this.leaving.signal, this.writer.applying(plan, change))
    if (!plan.marks) this.control.leaveMarks(false)
    const alarms = result.alarms.map(
      ({ family, why }) => `IPv${family} is left to the kernel: ${why}; raise limits in the configuration`
    )
    this.left = result.alarms
    this.leftOut = result.leftOut
    const complaints = [
      ...alarms,
      ...result.warnings,
      ...this.leftOut.map((name) => `${name} is not served: ${this.noRoom}`)
    ]
    for (const text of complaints) if (!this.alarms.includes(text)) this.options.log.error(text)
    this.alarms = complaints
  }

  /** Why a device is in leftOut. */
  get noRoom(): string {
    return `limits.devices leaves room for ${this.capacities.devices} devices, its packets take the kernel's way; raise it in the configuration`
  }

  /** Devices with a row in the maps: a program without one would do nothing. */
  private served(plan: Plan): Map<number, WantedDevice> {
    return new Map([...plan.devices].filter(([ifindex]) => this.writer.counterRows.has(ifindex)))
  }

  /**
   * true: maps of other sizes have taken over, see refit(). Throws LimitError where `limits` are too small for what
   * is in use, and what the kernel says where maps cannot be made: then these are as before.
   */
  async configure(config: Config): Promise<boolean> {
    const resized = await this.resize(config)
    this.options.config = config
    this.control.configure(config)
    this.limitFlows(config)
    this.control.renewLease(config.lease)
    this.writePorts()
    return resized
  }

  /** What did not fit may fit now. Throws NativeError; the next call of apply() compares everything. */
  *refit(): Generator<void> {
    if (this.plan) yield* this.apply(this.plan, 'all')
  }

  /** Flows that each family may have. */
  get flowLimit(): number {
    return Math.min(flowLimit(this.options.config), this.capacities.flowRows)
  }

  private limitFlows(config: Config): void {
    const problem = this.flowLimitProblem
    if (problem !== null) this.options.log.warn(problem)
    this.control.limitFlows(Math.min(flowLimit(config), this.capacities.flowRows))
  }

  /** Why limits.flows is not in force as it stands, or what harm it does; null: neither. */
  get flowLimitProblem(): string | null {
    const wanted = flowLimit(this.options.config)
    const { flowRows: most } = this.capacities
    if (wanted > most)
      return `limits.flows is ${wanted}, but the flow tables were made for ${most}: ${most} are in force${this.limitsProblem === null ? '' : `; ${this.limitsProblem}`}`
    const { flows } = this.accounts.usage
    const used = Math.max(flows[4], flows[6])
    // no flood can bring it there: somebody has lowered it
    return used > wanted
      ? `limits.flows is ${wanted}, but ${used} flows are in use: no pod gets a new one through SNAT until enough of these have ended`
      : null
  }

  /** What an earlier daemon pinned may be of other sizes. true: maps of other sizes have taken over, see refit(). Never throws: see limitsProblem. */
  async fitLimits(): Promise<boolean> {
    try {
      const resized = await this.resize(this.options.config)
      if (resized) this.control.limitFlows(this.flowLimit)
      return resized
    } catch (error) {
      const text = `limits are not in force as configured, the maps stay as they were: ${(error as Error).message}`
      if (text !== this.limitsProblem) this.options.log.error(text)
      this.limitsProblem = text
      return false
    }
  }

  /** Maps of other sizes than configured are replaced, under traffic. true: some were. Throws; then all is as before. */
  private async resize(config: Config): Promise<boolean> {
    this.mendMaps()
    this.resizing = true
    try {
      return await this.resizeNow(config)
    } finally {
      this.resizing = false
    }
  }

  private async resizeNow(config: Config): Promise<boolean> {
    const { object, control, hooks, detour, writer } = this
    const { fresh, sizes } = planResizing(config, object, {
      fill: writer.fill(),
      rows: writer.counterRows.values(),
      usage: this.accounts.usage,
      policy: writer.masquerade.inForce().length
    })
    if (fresh.length === 0) {
      this.limitsProblem = null
      return false
    }
    this.finishing.finish()
    const began = performance.now()
    const { pinDirectory, log, inTurn } = this.options
    const put = (loaded: BpfObject) => [...hooks.replacePrograms(loaded), ...detour.replaceProgram(loaded)]
    const asksConntrack = isLoaded()
    const unfinished = await migrate({
      pinDirectory,
      fresh,
      old: (name) => native().openPinnedMap(join(pinDirectory, name)),
      convert: () => null,
      load: (names, freshDirectory) =>
        native().loadObjectLater({ sizes, pinDirectory, fresh: [...names], freshDirectory }),
      inTurn: (steps) => inTurn(() => unlessAborted(this.leaving.signal, steps())),
      // one control section for both
      pause: (on) => control.pause(on && fresh.includes('flows4')),
      jiffies: (loaded) => Number(readClock(loaded).jiffies & 0xffff_ffffn),
      replace: put,
      putBack: () => put(object.current),
      prepare: (next) => {
        const take = object.prepare(next, fresh)
        const have = capacities(next)
        return () => {
          take()
          this.capacities = have
          this.asksConntrack = asksConntrack
        }
      }
    })
    this.limitsProblem = null
    this.finishing.begin(unfinished)
    log.info(
      `maps of new sizes took over within ${took(began)}, new flows waited ${Math.ceil(unfinished.paused)} ms: ${fresh.join(', ')}`
    )
    return true
  }

  get ports(): number {
    return this.portTotal
  }

  /** Rows of snat_ports: written before they count, so a program never reads an old row as new. */
  writePorts(): void {
    const { config, ports: configured } = this.options
    const ports = snatPorts(configured(), config.snat.nodePorts, readKernelPorts())
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

  /** Nothing is to be left: whatever writes a plan throws instead of going on. */
  leave(): void {
    this.leaving.abort(new Error('the datapath is about to go'))
  }

  /** Ends this process's part. The pinned programs go on until the lease ends. */
  close(): void {
    this.detour.close()
    this.ring.close()
    this.object.close()
  }

  /** Detaches everything and removes the pins; flows are gone. Never throws: a sentence for what stays all the same. */
  remove(): string[] {
    const { detour, control, hooks, ring, object, options } = this
    const failed: string[] = []
    const attempt = (what: string, action: () => void) => {
      try {
        action()
      } catch (error) {
        failed.push(`${what}: ${(error as Error).message}`)
      }
    }
    attempt('the detour stays', () => detour.close())
    attempt('the programs cannot be switched off', () => control.switchOn(false))
    const stays = hooks.detachAll()
    attempt('events are still read', () => ring.close())
    attempt('maps stay open', () => object.close())
    stays.push(...removeOwnPins(options.pinDirectory))
    // where all has gone none of it does any harm
    return stays.length > 0 ? [...failed, ...stays] : []
  }
}

const took = (began: number) => `${Math.round(performance.now() - began)} ms`

function load(config: Config, pinDirectory: string): BpfObject {
  try {
    return native().loadObject({ sizes: sizesOf(config), pinDirectory })
  } catch (error) {
    throw asRefusal(error, pinDirectory)
  }
}

/** What another try may mend stays what it is. */
function asRefusal(error: unknown, pinDirectory: string): unknown {
  const { code, message, detail } = error as { code?: string; message: string; detail?: string }
  if (code === 'ELAYOUT') {
    return new Refusal(
      `${message}. They belong to another version of hostroute: stop it with that version's "hostroute disable", or remove ${pinDirectory} (connections through SNAT are cut then)`,
      error
    )
  }
  if (isTransient(error)) return error
  return new Refusal(`this kernel does not take the programs: ${message}${detail ? `\n${detail}` : ''}`, error)
}

/** The programs, with maps of an earlier daemon if there are any, of whatever version. Throws Refusal; then its programs go on. */
async function loadOver(options: DatapathOptions, detour: Detour, finishing: Finishing): Promise<BpfObject> {
  const { config, pinDirectory, runDirectory, log } = options
  const sizes = sizesOf(config)
  // not in the event loop: the verifier takes a second
  const loadAll = () =>
    native()
      .loadObjectLater({ sizes, pinDirectory })
      .catch((error: unknown) => {
        throw asRefusal(error, pinDirectory)
      })
  if (pinned(pinDirectory) === 'nothing') return loadAll()
  const replacing = {
    ...{ pinDirectory, journalPath: journalOf(runDirectory), xdp: config.uplink.xdp, log },
    load: (fresh: readonly string[], freshDirectory: string) =>
      native().loadObjectLater({ sizes, pinDirectory, fresh: [...fresh], freshDirectory }),
    openDetour(next: BpfObject) {
      detour.open(next)
      return detour.ifindex
    }
  }
  try {
    pinLost(pinDirectory, log)
  } catch (error) {
    throw refusalUnlessTransient(`pins that are missing cannot be made again: ${(error as Error).message}`, error)
  }
  try {
    const unfinished = (await goOn(replacing)) ?? (await upgrade(replacing))
    if (unfinished) {
      finishing.begin(unfinished)
      return unfinished.next
    }
  } catch (error) {
    detour.close()
    if (isTransient(error)) throw error
    throw new Refusal(
      `the maps of another version cannot be converted: ${(error as Error).message}. What it pinned goes on until its lease ends; stop it with that version's "hostroute disable", or remove ${pinDirectory} (connections through SNAT are cut then)`,
      error
    )
  }
  return loadAll()
}
