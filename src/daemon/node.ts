// The node: wires what the folders hold. Facts come from src/netlink, become a
// plan in src/plan and go into the maps through the datapath; this file decides
// when, and answers the control socket.
//
// Invariants
// - The last good state stays: a wrong configuration, file or request changes
//   nothing, also across restarts.
// - Enabling is a list of steps: one that fails undoes those before it.
// - While disabled nothing is attached or pinned; netlink is followed all the
//   same, so that enabling is quick and `status` tells the truth.

import { join } from 'node:path'
import { Answers } from '../answers/answers.js'
import { EventStream } from '../answers/event-stream.js'
import type { NodeCommands, NodeView } from '../answers/node-view.js'
import { foreignFacts } from '../check/foreign-facts.js'
import type { Config } from '../config/config.js'
import { masqueradesLinkLocal } from '../config/masquerade.js'
import type { HandedBack, ReloadResult } from '../control/api.js'
import { handedBackLines } from '../control/handed-back.js'
import { type ControlServer, startControlServer } from '../control/server.js'
import { ConntrackClaims } from '../datapath/conntrack-claims.js'
import { Datapath } from '../datapath/datapath.js'
import { giveBack } from '../datapath/hand-back.js'
import { pinned } from '../datapath/leftovers.js'
import { ManagedNeighbours } from '../datapath/managed-neighbours.js'
import { preparePinDirectory } from '../datapath/pins.js'
import { refusalUnlessTransient } from '../datapath/refusal.js'
import { noteDirectories } from '../directories.js'
import { Configuration } from '../life/configuration.js'
import { DatapathKeeper } from '../life/datapath-keeper.js'
import { ForeignWatch, type Look } from '../life/foreign-watch.js'
import { GuardKeeper } from '../life/guard-keeper.js'
import { KernelEgress } from '../life/kernel-egress.js'
import { lackingSources } from '../life/lacking-sources.js'
import { LeftoverKeeper } from '../life/leftover-keeper.js'
import { keptMasquerade, Masquerade } from '../life/masquerade-policy.js'
import { releaseMemory } from '../life/memory.js'
import { Periodic } from '../life/periodic.js'
import { checkCapabilities, type Lock, lockRunDirectory } from '../life/preflight.js'
import type { ProblemCode } from '../life/problem-kinds.js'
import { Problems } from '../life/problems.js'
import { RecentErrors } from '../life/recent-errors.js'
import { lookForProblems } from '../life/standing.js'
import { Switching } from '../life/switching.js'
import { type Logger, rateLimit, setLevel, subsystem } from '../log.js'
import { native } from '../native.js'
import type { PlanChange } from '../plan/change.js'
import { Ending, Steps, unlessAborted } from '../steps.js'
import { lookApart } from './look.js'
import { NodeEgress } from './node-egress.js'
import { NodePlan } from './node-plan.js'
import { prove } from './proof.js'
import { removePinned } from './remove.js'

export interface NodeOptions {
  config: string
  runDirectory: string
  pinDirectory: string
  /** What outlives a reboot: the switch, the last good configuration. */
  stateDirectory: string
  log: Logger
  /** Aborted with an Ending: the daemon is to end, also in the middle of its start, or of enabling. */
  signal: AbortSignal
}

/** Milliseconds: what is done every 5 s has been done once, and has left what it needed only for that. */
const afterFirstTurns = 5500

export class Node {
  private readonly started = Date.now()
  private readonly errors = new RecentErrors()
  private readonly events: EventStream
  private readonly log: Logger
  private datapath: Datapath | null = null
  private readonly facts: NodePlan
  private masquerade!: Masquerade
  private managed: ManagedNeighbours | null = null
  private readonly lock: Lock
  private sourcesTold: string[] = []
  private server: ControlServer | null = null
  private readonly view: NodeView
  private readonly periodic: Periodic
  private readonly problems: Problems
  private readonly configuration: Configuration
  private readonly switching: Switching
  private readonly guardKeeper: GuardKeeper
  private readonly claims: ConntrackClaims
  private readonly egress: NodeEgress
  private readonly foreign: ForeignWatch
  private readonly keeper: DatapathKeeper
  private readonly leftovers: LeftoverKeeper
  private readonly steps: Steps
  private readonly limitedLog: ReturnType<typeof rateLimit>

  /** Throws ConfigError and Refusal. */
  private constructor(private readonly options: NodeOptions) {
    this.log = subsystem(options.log, 'node')
    this.steps = new Steps(options.signal)
    this.limitedLog = rateLimit(this.log)
    this.problems = new Problems({
      error: (text) => this.problem('node', text),
      info: (text) => this.log.info(text)
    })
    const { config: path, stateDirectory, pinDirectory, runDirectory } = options
    this.configuration = new Configuration({
      path,
      stateDirectory,
      problems: this.problems,
      again: () => this.reload()
    })
    setLevel(options.log, this.config.log.level)
    checkCapabilities()
    this.lock = lockRunDirectory(runDirectory)
    preparePinDirectory(pinDirectory)
    noteDirectories(runDirectory, {
      config: path,
      pinDirectory,
      stateDirectory,
      namespace: native().networkNamespace()
    })
    this.guardKeeper = new GuardKeeper({
      pinDirectory,
      runDirectory,
      stateDirectory,
      log: options.log,
      problems: this.problems,
      config: () => this.config
    })
    this.facts = new NodePlan({
      config: () => this.config,
      log: options.log,
      signal: options.signal,
      onPlan: (change) => this.onPlan(change),
      onProblem: (area, text) => this.problem(area, text),
      onError: (area, text) => this.errors.add(area, text)
    })
    this.events = new EventStream(subsystem(options.log, 'datapath'), (ifindex) => this.facts.deviceName(ifindex))
    this.claims = new ConntrackClaims({
      datapath: () => this.datapath,
      log: subsystem(options.log, 'conntrack'),
      onProblem: (text) => this.problem('conntrack', text)
    })
    this.keeper = new DatapathKeeper({
      datapath: () => this.datapath,
      plan: () => this.facts.plan,
      inTurn: (steps) => this.facts.inTurn(steps),
      masquerade: () => this.masquerade,
      problems: this.problems,
      onProblem: (text) => this.problem('hooks', text),
      afterSwitching: (action) => this.switching.inTurn(action)
    })
    this.egress = new NodeEgress({
      kernel: new KernelEgress({
        config: () => this.config,
        policy: () => this.masquerade.policy,
        plan: () => this.facts.plan
      }),
      guard: this.guardKeeper,
      switching: () => this.switching,
      problems: this.problems,
      log: this.log,
      datapath: () => this.datapath,
      synced: () => this.facts.synced
    })
    this.foreign = new ForeignWatch({
      problems: this.problems,
      served: () => this.facts.plan.devices.keys(),
      look: () => this.lookAtForeign()
    })
    this.view = this.createView()
    this.periodic = new Periodic(this.view, {
      claimForNewPods: () => this.claims.claimForNewPods(),
      forgetStale: (idle) => this.claims.forgetStale(idle),
      keepNeighbours: () => this.keepNeighbours(),
      keepDevices: () => this.keeper.look(),
      keepEgress: () => this.egress.keep(),
      lookAtSettings: () => this.lookAtSettings(),
      lookAtGuard: () => this.guardKeeper.look(),
      lookAtForeign: () => this.foreign.poll()
    })
    this.leftovers = new LeftoverKeeper({
      problems: this.problems,
      remove: () =>
        this.switching.inTurn(async () => {
          if (this.datapath) return []
          return (await removePinned({ pinDirectory, runDirectory, log: this.log })).stays
        })
    })
    this.switching = new Switching({
      stateDirectory,
      pinDirectory,
      log: this.log,
      problems: this.problems,
      config: () => this.config,
      pods: () => this.facts.plan.pods.keys(),
      datapath: () => this.datapath,
      synced: this.facts.firstSync,
      step: () => this.steps.next(),
      open: () => this.openDatapath(),
      fill: (datapath) => this.fill(datapath),
      begin: (takenOver) => this.switchedOn(takenOver),
      prove: (datapath) => prove(this.view, datapath),
      leaveEgress: () => this.egress.leave(),
      releaseEgress: () => this.egress.release(),
      stay: () => this.guardKeeper.start(),
      nextEgress: () => this.periodic.nextEgress,
      drop: () => this.dropDatapath(),
      removeAll: () => this.removeAll(),
      renewLease: () => this.periodic.renewLease()
    })
  }

  private get config(): Config {
    return this.configuration.config
  }

  private createView(): NodeView {
    const node = this
    return {
      started: this.started,
      log: this.log,
      errors: this.errors,
      events: this.events,
      problems: this.problems,
      configuration: this.configuration,
      get config() {
        return node.config
      },
      get synced() {
        return node.facts.synced
      },
      get sync() {
        return node.facts.sync
      },
      get state() {
        return node.facts.state
      },
      get plan() {
        return node.facts.plan
      },
      get translated() {
        return node.facts.translated
      },
      get masquerade() {
        return node.masquerade
      },
      get datapath() {
        return node.datapath
      },
      get guard() {
        return node.guardKeeper.guard
      },
      get probationLeft() {
        return node.switching.probationLeft
      },
      get confirmBefore() {
        return node.switching.confirmBefore
      },
      get why() {
        return node.switching.why
      },
      get lease() {
        const { leaseRenewed: renewed, leaseEnds: ends } = node.periodic
        return node.datapath ? { renewed, ends } : { renewed: null, ends: null }
      },
      podsThatBecameUplinks: () => this.facts.podsThatBecameUplinks(),
      nextTry: (code) => this.nextTry(code),
      deviceName: (ifindex) => this.facts.deviceName(ifindex),
      problem: (area, text) => this.problem(area, text)
    }
  }

  private commands(): NodeCommands {
    return {
      enable: (options) => this.switching.enable(options),
      confirm: () => this.switching.confirm(),
      disable: (options) => this.switching.disable(options),
      reload: () => this.reload(),
      planSource: {
        options: () => this.facts.planOptions(),
        translated: this.facts.translatedPrefixes,
        inTurn: (steps) => this.facts.inTurn(steps),
        replan: () => this.facts.replan(),
        resync: () => this.facts.sync.resync()
      }
    }
  }

  /** Resolves when the node is served, or known to be disabled. Throws ConfigError and Refusal, and the Ending if it is told to end; then nothing new is pinned. */
  static async start(options: NodeOptions): Promise<Node> {
    const node = new Node(options)
    await node.run().catch(async (error: unknown) => {
      if (error instanceof Ending) await node.abandon()
      else if (pinned(options.pinDirectory) !== 'works') await node.removeAll()
      throw error
    })
    return node
  }

  private async run(): Promise<void> {
    this.masquerade = new Masquerade(this.config, {
      log: subsystem(this.options.log, 'masquerade'),
      keptFile: keptMasquerade(this.options.stateDirectory),
      onProblem: (text) => this.problem('configuration', text),
      onPorts: () => this.datapath?.writePorts(),
      onPolicy: (policy) => this.datapath?.control.routeLinkLocal(masqueradesLinkLocal(policy)),
      onFailure: (error) => this.keeper.mapsFailed(error)
    })
    const translated = this.facts.followTranslated()
    await this.switching.openAtStart()
    // The first plan has them all: the programs meet no Service address that the maps do not know.
    await this.steps.done(translated)
    await this.steps.next()
    this.facts.followTables()
    this.managed = new ManagedNeighbours(this.facts.state, subsystem(this.options.log, 'neighbours'))
    this.server = await startControlServer({
      path: join(this.options.runDirectory, 'control.sock'),
      control: new Answers(this.view, this.commands()),
      onError: (text, error) => this.problem('control', `${text}: ${(error as Error).message}`)
    }).catch((error: Error) => {
      throw refusalUnlessTransient(error.message, error)
    })
    await this.steps.done(this.facts.firstSync)
    await this.steps.next()
    if (this.datapath) await this.fillAtStart(this.datapath)
    await this.steps.next()
    await this.switching.serveFromStart()
    this.periodic.start()
    native().notify('READY=1')
    setTimeout(releaseMemory, afterFirstTurns).unref()
  }

  /** Before packets are steered by maps that leave destinations to the stack. */
  private noteDestinations(): void {
    const any = this.facts.translated.size > 0 || this.config.stackPrefixes.length > 0
    const { datapath } = this
    if (!datapath) return
    datapath.control.setTranslating('configured', any)
    if (any && datapath.followTranslation()) void this.claims.claimForNewPods()
  }

  private *onPlan(change: PlanChange | null): Generator<void> {
    this.noteSources()
    const { datapath } = this
    if (!datapath || change === null) return
    try {
      this.noteDestinations()
      yield* datapath.apply(this.facts.plan, change)
    } catch (error) {
      this.mapsFailed(datapath, error as Error)
    }
    this.keeper.look()
    this.keepNeighbours()
  }

  /** What an earlier daemon left gets its maps whole also when the daemon is to end: half of them would be worse. */
  private fill(datapath: Datapath): Promise<void> {
    const { facts, options } = this
    const begin = (): Generator<void> => {
      this.noteDestinations()
      return datapath.start(facts.plan)
    }
    return facts.inTurn(() => (datapath.takenOver ? begin() : unlessAborted(options.signal, begin())))
  }

  private async fillAtStart(datapath: Datapath): Promise<void> {
    await this.fill(datapath).catch((error: Error) => this.mapsFailed(datapath, error))
    this.keeper.look()
    this.keepNeighbours()
  }

  /** Tried again, unless the datapath has gone meanwhile, or is to go. */
  private mapsFailed(datapath: Datapath, error: Error): void {
    if (error instanceof Ending) throw error
    if (this.datapath === datapath) this.keeper.mapsFailed(error)
  }

  /** Tells once what the node lacks of snat.addresses. */
  private noteSources(): void {
    const texts = lackingSources(this.facts.plan, this.masquerade.policy.ipv6.masqueraded)
    for (const text of texts) if (!this.sourcesTold.includes(text)) this.problem('snat', text)
    if (texts.length === 0 && this.sourcesTold.length > 0) this.log.info('the node has all of snat.addresses again')
    this.sourcesTold = texts
  }

  private async lookAtSettings(): Promise<void> {
    if (await this.facts.lookAtSettings()) this.switching.reconsider()
  }

  /** Of what is looked for; who sets a problem says it there. */
  private nextTry(code: ProblemCode): number | null {
    if (code === 'device-not-served') return this.keeper.nextDevices
    if (code === 'maps-not-finished') return this.keeper.nextFinish
    if (code === 'limits-not-in-force') return this.keeper.nextLimits
    return code === 'no-detour' ? this.periodic.nextDetour : null
  }

  private keepNeighbours(): void {
    if (this.datapath) this.managed?.update(this.facts.plan.managed)
  }

  private async openDatapath(): Promise<Datapath> {
    preparePinDirectory(this.options.pinDirectory)
    const datapath = await Datapath.open({
      config: this.config,
      pinDirectory: this.options.pinDirectory,
      runDirectory: this.options.runDirectory,
      log: subsystem(this.options.log, 'datapath'),
      onEvents: (records) => this.events.push(records),
      ports: () => this.masquerade.ports,
      inTurn: (steps) => this.facts.inTurn(steps)
    })
    try {
      this.masquerade.use(datapath.writer.masquerade)
      datapath.control.routeLinkLocal(masqueradesLinkLocal(this.masquerade.policy))
    } catch (error) {
      datapath.close()
      throw error
    }
    this.leftovers.stop()
    this.datapath = datapath
    return datapath
  }

  private async switchedOn(takenOver: boolean): Promise<void> {
    const { pods, devices, routes } = this.facts.plan
    const start = takenOver ? 'took over the running datapath' : 'routing by eBPF'
    await this.begin(takenOver)
    if (takenOver) await this.keeper.fitLimits()
    this.datapath?.control.monitor(this.events.wanted)
    this.log.info(`${start}: ${pods.size} pod addresses, ${devices.size} devices, ${routes.size} routes`)
    await this.guardKeeper.start()
    this.watchForeign(!takenOver)
  }

  /** looked: the checks have just been made. */
  private watchForeign(looked: boolean): void {
    if (this.config.checks === 'off') this.foreign.stop()
    else if (this.datapath) this.foreign.start(looked)
  }

  private async lookAtForeign(): Promise<Look> {
    const { facts, config, masquerade } = this
    const { state, plan, translated } = facts
    return lookApart(await foreignFacts({ state, plan }, config, masquerade.policy, translated.destinations()))
  }

  /** What conntrack translates stays with the stack; a running datapath knows it. */
  private async begin(takenOver: boolean): Promise<void> {
    const { datapath } = this
    if (!datapath) return
    this.noteDestinations()
    if (!takenOver) await this.claims.claim({ forwarding: false, tell: true })
    await this.steps.next()
    datapath.switchOn()
    await this.claims.claim({ forwarding: true, tell: takenOver })
    await this.steps.next()
    await this.claims.forgetStale()
    await this.steps.next()
  }

  private async removeAll(): Promise<void> {
    const { pinDirectory, runDirectory } = this.options
    const { stays } = await removePinned({ pinDirectory, runDirectory, log: this.log })
    this.leftovers.found(stays)
  }

  /** What fails does not keep the rest from going: what stays is tried again. */
  private async dropDatapath(): Promise<HandedBack | null> {
    const { datapath } = this
    if (!datapath) return null
    const stays: string[] = []
    this.foreign.stop()
    await this.guardKeeper.stop(true).catch((error: Error) => stays.push(`the guard stays: ${error.message}`))
    this.keeper.stop()
    for (const code of ['maps-not-written', 'pins-gone'] as const) this.problems.set(code, null)
    const handedBack = await giveBack({
      maps: datapath.object,
      control: datapath.control
    })
    const words = handedBackLines(handedBack)
    if (words.length > 0) this.log[handedBack.reasons.length > 0 ? 'warn' : 'info'](words.join(' '))
    this.datapath = null
    this.masquerade.use(null)
    datapath.leave()
    await this.facts.idle()
    stays.push(...datapath.remove())
    await this.managed?.release()
    if (stays.length === 0) this.log.info('detached; the kernel routes and nothing is left behind')
    this.leftovers.found(stays)
    return handedBack
  }

  /** Never rejects. */
  async reload(): Promise<ReloadResult> {
    native().notify(`RELOADING=1\nMONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`)
    const { ok, problems, restartNeeded } = await this.switching
      .inTurn(() => this.configuration.reload((config, before) => this.use(config, before)))
      .catch((error: Error): ReloadResult => ({ ok: false, problems: [error.message], restartNeeded: [] }))
    native().notify('READY=1')
    if (!ok) return { ok, problems, restartNeeded }
    this.log.info(
      `configuration read again${restartNeeded.length > 0 ? `; only a restart brings ${restartNeeded.join(', ')} into force` : ''}`
    )
    this.noticeNow()
    const also = [
      this.flowLimitProblem(),
      this.problems.text('no-uplink'),
      this.problems.text('no-source'),
      this.problems.text('maps-not-written'),
      this.problems.text('configuration-not-kept'),
      this.datapath?.finishing.problem ?? null
    ]
    return { ok, problems: [...this.masquerade.problems, ...also.filter((text) => text !== null)], restartNeeded }
  }

  /** What the next look would find. One that fails is made again by the clock. */
  private noticeNow(): void {
    try {
      lookForProblems(this.view)
    } catch (error) {
      this.problem('node', `whether there are problems is not known: ${(error as Error).message}`)
    }
  }

  /** The configuration is in force, also where this cannot be read. */
  private flowLimitProblem(): string | null {
    try {
      return this.datapath?.flowLimitProblem ?? null
    } catch (error) {
      return `whether limits.flows can be kept is not known: ${(error as Error).message}`
    }
  }

  /** Brings it into force. Throws; then parts of it are. */
  private async use(config: Config, before: Config): Promise<void> {
    setLevel(this.options.log, config.log.level)
    // half a table would pass for one that fits
    await this.facts.idle()
    if (await this.datapath?.configure(config)) await this.keeper.refit()
    this.masquerade.configure(config)
    await this.facts.replan()
    this.periodic.start()
    await this.guardKeeper.configure(before.guard, config.guard)
    this.watchForeign(false)
    this.switching.reconsider()
  }

  /** As configured: detached, or the pinned datapath left to forward. */
  stop(): Promise<void> {
    return this.end(this.config.onStop === 'detach')
  }

  /** In the middle of the start: what it has begun is undone, what an earlier daemon left is left as by stop(). */
  private abandon(): Promise<void> {
    const earlier = this.datapath?.takenOver ?? pinned(this.options.pinDirectory) === 'works'
    return this.end(this.config.onStop === 'detach' || !earlier)
  }

  private async end(detach: boolean): Promise<void> {
    native().notify('STOPPING=1')
    this.periodic.stop()
    this.keeper.stop()
    this.leftovers.stop()
    this.configuration.stop()
    this.foreign.stop()
    this.masquerade.close()
    const switched = this.switching.stop()
    await this.server?.close()
    await switched
    if (detach) {
      await this.dropDatapath()
      await this.removeAll()
    } else if (this.datapath) {
      await this.guardKeeper.stop(false)
      await this.facts.idle()
      if (this.datapath.isServing) this.periodic.renewLease()
      this.datapath.close()
      this.log.info('the datapath goes on forwarding without the daemon, for as long as its lease allows')
    }
    this.events.close()
    this.managed?.close()
    await this.facts.close()
    this.lock.close()
  }

  /** Logged at a limited rate, and kept for `status`. */
  private problem(area: string, text: string): void {
    this.errors.add(area, text)
    this.limitedLog.log('error', `${area}:${text}`, text)
  }
}
