// The node: wires what the folders hold. Facts come from src/netlink, become a
// plan in src/plan and go into the maps through the datapath; this file decides
// when, and answers the control socket.
//
// Invariants
// - The last good state stays: a wrong configuration, file or request changes
//   nothing.
// - While disabled nothing is attached or pinned; netlink is followed all the
//   same, so that enabling is quick and `status` tells the truth.

import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { type Config, ConfigError, formatProblem, loadConfig } from '../config/config.js'
import { readKernelSettings } from '../config/kernel-settings.js'
import { masqueradesLinkLocal } from '../config/masquerade.js'
import type { EnableOptions, EnableResult, HandedBack, ReloadResult } from '../control/api.js'
import { handedBackLines } from '../control/handed-back.js'
import { type ControlServer, startControlServer } from '../control/server.js'
import { Guard } from '../guard/guard.js'
import { type Logger, rateLimit, setLevel, subsystem } from '../log.js'
import { native } from '../native.js'
import { type Sync, startSync } from '../netlink/sync.js'
import type { PlanOptions } from '../plan/options.js'
import { createPlanner, type Planner } from '../plan/planner.js'
import type { Changes } from '../state/types.js'
import { startTranslated, type Translated } from '../translated/translated.js'
import { admit } from './admission.js'
import { Answers } from './answers.js'
import { Datapath } from './datapath.js'
import { EventStream } from './event-stream.js'
import { giveBack } from './hand-back.js'
import { isPinned, removeLeftovers } from './leftovers.js'
import { ManagedNeighbours } from './managed.js'
import { keptMasquerade, Masquerade } from './masquerade.js'
import { lackingSources } from './masquerade-view.js'
import { releaseMemory } from './memory.js'
import { checkCapabilities, type Lock, lockRunDirectory, preparePinDirectory } from './preflight.js'
import { RecentErrors } from './recent-errors.js'
import { Refusal } from './refusal.js'
import { Routine } from './routine.js'
import { disabledFile, wasDisabled } from './switch-file.js'
import { type Claim, claimTranslated, forgetStale } from './take-over.js'
import { createTranslatedLog, type TranslatedLog, unboundedText } from './translated-view.js'

export interface NodeOptions {
  config: string
  runDirectory: string
  pinDirectory: string
  log: Logger
}

const switchedOff = 'switched off by `hostroute disable`; `hostroute enable` starts it'

export class Node {
  readonly started = Date.now()
  readonly errors = new RecentErrors()
  readonly events: EventStream
  readonly log: Logger
  config: Config
  configuration: { present: boolean; error: string | null; loaded: string }
  datapath: Datapath | null = null
  guard: Guard | null = null
  /** Why it is not enabled, or not fully. */
  why: string | null = null
  confirmBefore: number | null = null
  synced = false
  sync!: Sync
  planner!: Planner
  masquerade!: Masquerade
  translated!: Translated
  private translatedLog!: TranslatedLog
  private managed!: ManagedNeighbours
  private settings = readKernelSettings()
  private sourcesTold: string[] = []
  private server: ControlServer | null = null
  private confirmTimer: NodeJS.Timeout | undefined
  readonly routine: Routine
  private readonly problems: ReturnType<typeof rateLimit>
  private readonly firstSync: Promise<void>
  private haveSynced!: () => void
  /** Enabling and disabling, one after the other. */
  private switching: Promise<unknown> = Promise.resolve()

  private constructor(
    readonly options: NodeOptions,
    private readonly lock: Lock,
    loaded: { config: Config; present: boolean }
  ) {
    this.log = subsystem(options.log, 'node')
    this.problems = rateLimit(this.log)
    this.config = loaded.config
    this.configuration = { present: loaded.present, error: null, loaded: new Date().toISOString() }
    this.events = new EventStream(subsystem(options.log, 'datapath'), (ifindex) => this.deviceName(ifindex))
    this.firstSync = new Promise((resolve) => {
      this.haveSynced = resolve
    })
    this.routine = new Routine(this)
  }

  /** Resolves when the node is served, or known to be disabled. Throws ConfigError and Refusal. */
  static async start(options: NodeOptions): Promise<Node> {
    const loaded = loadConfig(options.config)
    setLevel(options.log, loaded.config.log.level)
    checkCapabilities()
    const lock = lockRunDirectory(options.runDirectory)
    const node = new Node(options, lock, loaded)
    await node.run()
    return node
  }

  private async run(): Promise<void> {
    const enable = this.config.enabled && !wasDisabled(this.options.runDirectory)
    preparePinDirectory(this.options.pinDirectory)
    this.masquerade = new Masquerade(this.config, {
      log: subsystem(this.options.log, 'masquerade'),
      keptFile: keptMasquerade(this.options.runDirectory),
      onProblem: (text) => this.problem('configuration', text),
      onPolicy: (policy) => this.datapath?.control.routeLinkLocal(masqueradesLinkLocal(policy)),
      onFailure: (error) => this.mapsFailed(error)
    })
    this.planner = createPlanner(this.planOptions())
    this.startTranslated()
    if (enable) await this.openAtStart()
    else this.removeAll()
    // The first plan has them all: the programs meet no Service address that the maps do not know.
    await this.translated.ready
    this.startSync()
    this.server = await startControlServer({
      path: join(this.options.runDirectory, 'control.sock'),
      control: new Answers(this),
      onError: (text, error) => this.problem('control', `${text}: ${(error as Error).message}`)
    }).catch((error: Error) => {
      throw new Refusal(error.message, error)
    })
    await this.firstSync
    if (this.datapath) await this.switchedOn(this.datapath.takenOver)
    else if (!enable)
      this.why = this.config.enabled ? switchedOff : 'configured with enabled: false; `hostroute enable` starts it'
    this.routine.start()
    native().notify('READY=1')
    setTimeout(releaseMemory, 3000).unref()
  }

  /** What runs already was admitted when it was enabled; anything else is checked first. */
  private async openAtStart(): Promise<void> {
    if (!isPinned(this.options.pinDirectory)) {
      const { refusal } = await admit(this.config, this.options.pinDirectory, this.log)
      if (refusal) {
        this.why = `refused: ${refusal}`
        this.problem('check', `not enabled: ${refusal}`)
        this.removeAll()
        return
      }
    }
    this.datapath = await this.openDatapath()
  }

  private startTranslated(): void {
    const log = subsystem(this.options.log, 'services')
    this.translatedLog = createTranslatedLog(log)
    this.translated = startTranslated({
      onChange: (diff) => {
        this.planner.translate(diff)
        this.translatedLog.note(diff, this.translated.size)
        if (this.synced) this.onChanges({ all: false, prefixes: new Set(), neighbours: new Set() })
      },
      onProblem: (text) => this.problem('services', text),
      onUnbounded: (rules) => {
        for (const rule of rules)
          this.problem('services', `a rule translates without naming the destination: ${unboundedText(rule)}`)
      }
    })
  }

  /** Before packets are steered by maps that leave destinations to the stack. */
  private noteDestinations(): void {
    const any = this.translated.size > 0 || this.config.stackPrefixes.length > 0
    const { datapath } = this
    if (!datapath) return
    datapath.control.setTranslating('configured', any)
    if (any && datapath.followTranslation()) void this.claimForNewPods()
  }

  private startSync(): void {
    const log = subsystem(this.options.log, 'sync')
    this.sync = startSync({
      onChanges: (changes) => this.onChanges(changes),
      log: (level, message) => {
        if (level === 'error') this.errors.add('sync', message)
        log[level === 'warning' ? 'warn' : level](message)
      }
    })
    this.managed = new ManagedNeighbours(this.sync.state, subsystem(this.options.log, 'neighbours'))
  }

  private onChanges(changes: Changes): void {
    const change = this.planner.update(this.sync.state, changes)
    const first = !this.synced
    this.synced = true
    this.noteSources()
    if (this.datapath) {
      try {
        this.noteDestinations()
        if (first) this.datapath.start(this.planner.plan)
        else this.datapath.apply(this.planner.plan, change)
      } catch (error) {
        this.mapsFailed(error as Error)
      }
      this.keepNeighbours()
    }
    if (first) this.haveSynced()
  }

  /** Tells once what the node lacks of snat.addresses. */
  private noteSources(): void {
    const texts = lackingSources(this.planner.plan, this.masquerade.policy.ipv6.masqueraded)
    for (const text of texts) if (!this.sourcesTold.includes(text)) this.problem('snat', text)
    if (texts.length === 0 && this.sourcesTold.length > 0) this.log.info('the node has all of snat.addresses again')
    this.sourcesTold = texts
  }

  private mapsFailed(error: Error): void {
    this.problem('maps', `the maps could not be written: ${error.message}; everything is compared again in a moment`)
    this.routine.repairSoon()
  }

  /** After a change of configuration: everything is planned anew. */
  replan(): void {
    this.planner.setOptions(this.planOptions())
    if (this.synced) this.onChanges({ all: true, prefixes: new Set(), neighbours: new Set() })
  }

  lookAtSettings(): void {
    const settings = readKernelSettings()
    if (isDeepStrictEqual(settings, this.settings)) return
    this.settings = settings
    this.replan()
  }

  keepNeighbours(): void {
    if (this.datapath) this.managed.update(this.planner.plan.managed)
  }

  planOptions(): PlanOptions {
    const { pods, uplink, ipv4, ipv6, snat, stackPrefixes } = this.config
    return {
      podDevices: pods.devices,
      podSources: pods.sources,
      uplinkDevices: uplink.devices,
      ipv4,
      ipv6,
      snat: snat.enabled,
      snatAddresses: snat.addresses,
      stackPrefixes,
      ...this.settings
    }
  }

  private async openDatapath(): Promise<Datapath> {
    preparePinDirectory(this.options.pinDirectory)
    const datapath = await Datapath.open({
      config: this.config,
      pinDirectory: this.options.pinDirectory,
      runDirectory: this.options.runDirectory,
      log: subsystem(this.options.log, 'datapath'),
      onEvents: (records) => this.events.push(records)
    })
    try {
      this.masquerade.use(datapath.writer.masquerade)
      datapath.control.routeLinkLocal(masqueradesLinkLocal(this.masquerade.policy))
    } catch (error) {
      datapath.close()
      throw error
    }
    return datapath
  }

  private async switchedOn(takenOver: boolean): Promise<void> {
    const { pods, devices, routes } = this.planner.plan
    const start = takenOver ? 'took over the running datapath' : 'routing by eBPF'
    this.why = null
    await this.begin(takenOver)
    this.datapath?.control.monitor(this.events.isWanted)
    this.log.info(`${start}: ${pods.size} pod addresses, ${devices.size} devices, ${routes.size} routes`)
    await this.startGuard()
  }

  /** What conntrack translates stays with the stack; a running datapath knows it. */
  private async begin(takenOver: boolean): Promise<void> {
    const { datapath } = this
    if (!datapath) return
    this.noteDestinations()
    if (!takenOver) await this.claimTranslated({ forwarding: false, tell: true })
    datapath.switchOn()
    await this.claimTranslated({ forwarding: true, tell: takenOver })
    await this.forgetStale()
  }

  private async claimTranslated(claim: Claim): Promise<void> {
    const { datapath } = this
    if (!datapath) return
    try {
      await claimTranslated(datapath, claim, subsystem(this.options.log, 'conntrack'))
    } catch (error) {
      // it may have been switched off meanwhile
      if (this.datapath === datapath)
        this.problem('conntrack', `translated connections may break: ${(error as Error).message}`)
    }
  }

  /** A pod that is new here may have connections from before. */
  async claimForNewPods(): Promise<void> {
    if (this.datapath && this.datapath.unread.size > 0) await this.claimTranslated({ forwarding: true, tell: true })
  }

  /** Entries of conntrack about connections that the fast path carries; `idle`: seconds without a packet that it saw. */
  async forgetStale(idle?: number): Promise<void> {
    if (!this.datapath) return
    const log = subsystem(this.options.log, 'conntrack')
    await forgetStale(this.datapath.object, log, idle)
  }

  /** After the datapath: only then are the kernel's rules without effect. A guard that cannot start is told, and traffic goes on. */
  private async startGuard(): Promise<void> {
    const { mode, backend, remove, allow } = this.config.guard
    const { pinDirectory, runDirectory } = this.options
    if (mode === 'off') return Guard.remove({ pinDirectory, runDirectory })
    try {
      this.guard = await Guard.start({
        pinDirectory,
        runDirectory,
        mode,
        backend,
        remove,
        allow,
        log: subsystem(this.options.log, 'guard')
      })
    } catch (error) {
      this.problem('guard', `the guard does not run: ${(error as Error).message}`)
    }
  }

  private async stopGuard(remove: boolean): Promise<void> {
    const { guard } = this
    this.guard = null
    await guard?.stop({ remove })
  }

  private removeAll(): void {
    Guard.remove({ pinDirectory: this.options.pinDirectory, runDirectory: this.options.runDirectory })
    removeLeftovers(this.options.pinDirectory, this.options.runDirectory)
  }

  enable({ confirmWithin }: EnableOptions): Promise<EnableResult> {
    return this.inTurn(async () => {
      await this.firstSync
      let report: object | null = null
      if (!this.datapath) {
        const admission = await admit(this.config, this.options.pinDirectory, this.log)
        report = admission.report
        if (admission.refusal) return this.result(false, admission.refusal, report)
        try {
          const datapath = await this.openDatapath()
          this.datapath = datapath
          this.noteDestinations()
          datapath.start(this.planner.plan)
        } catch (error) {
          this.removeAll()
          return this.result(false, (error as Error).message, report)
        }
        await this.switchedOn(false)
        this.keepNeighbours()
      }
      rmSync(disabledFile(this.options.runDirectory), { force: true })
      clearTimeout(this.confirmTimer)
      this.confirmBefore = null
      if (confirmWithin !== undefined) this.armRollback(confirmWithin)
      return this.result(true, this.masquerade.refused, report)
    })
  }

  private armRollback(seconds: number): void {
    this.confirmBefore = Date.now() + seconds * 1000
    this.log.warn(`enabled until confirmed: without "hostroute confirm" within ${seconds} s it is undone`)
    this.confirmTimer = setTimeout(() => {
      this.log.warn('not confirmed in time: going back to kernel routing')
      void this.disable().then(() => {
        this.why = 'enabled, but not confirmed in time; `hostroute enable` tries again'
      })
    }, seconds * 1000)
  }

  confirm(): Promise<EnableResult> {
    return this.inTurn(async () => {
      if (this.confirmBefore === null)
        return this.result(this.datapath !== null, this.datapath ? 'there was nothing to confirm' : this.why)
      clearTimeout(this.confirmTimer)
      this.confirmBefore = null
      this.log.info('confirmed')
      return this.result(true, null)
    })
  }

  disable(): Promise<EnableResult> {
    return this.inTurn(async () => {
      clearTimeout(this.confirmTimer)
      this.confirmBefore = null
      writeFileSync(disabledFile(this.options.runDirectory), 'by hostroute disable\n')
      const handedBack = await this.dropDatapath()
      this.why = switchedOff
      return this.result(true, null, null, handedBack)
    })
  }

  private async dropDatapath(): Promise<HandedBack | null> {
    const { datapath } = this
    if (!datapath) return null
    await this.stopGuard(true)
    const handedBack = await giveBack({
      maps: datapath.object,
      control: datapath.control
    })
    const words = handedBackLines(handedBack)
    if (words.length > 0) this.log[handedBack.reasons.length > 0 ? 'warn' : 'info'](words.join(' '))
    this.datapath = null
    this.masquerade.use(null)
    datapath.remove()
    await this.managed.release()
    this.log.info('detached; the kernel routes and nothing is left behind')
    return handedBack
  }

  private result(
    done: boolean,
    why: string | null,
    report: object | null = null,
    handedBack: HandedBack | null = null
  ): EnableResult {
    return {
      done,
      mode: this.datapath ? 'enabled' : 'disabled',
      why,
      confirmBefore: this.confirmBefore === null ? null : new Date(this.confirmBefore).toISOString(),
      report,
      handedBack
    }
  }

  private inTurn<T>(action: () => Promise<T>): Promise<T> {
    const turn = this.switching.then(action)
    this.switching = turn.catch(() => {})
    return turn
  }

  async reload(): Promise<ReloadResult> {
    native().notify(`RELOADING=1\nMONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`)
    const result = this.readConfiguration()
    native().notify('READY=1')
    return result
  }

  private readConfiguration(): ReloadResult {
    let loaded: ReturnType<typeof loadConfig>
    try {
      loaded = loadConfig(this.options.config)
    } catch (error) {
      const problems = error instanceof ConfigError ? error.problems.map(formatProblem) : [(error as Error).message]
      this.configuration.error = problems.join('; ')
      for (const text of problems) this.problem('configuration', `${text}; the configuration in force stays`)
      return { ok: false, problems, restartNeeded: [] }
    }
    const restartNeeded = needRestart(this.config, loaded.config)
    this.config = loaded.config
    this.configuration = { present: loaded.present, error: null, loaded: new Date().toISOString() }
    setLevel(this.options.log, loaded.config.log.level)
    if (loaded.config.guard.mode !== 'off') this.guard?.setMode(loaded.config.guard.mode)
    this.datapath?.configure(loaded.config)
    this.masquerade.configure(loaded.config)
    this.replan()
    this.routine.start()
    this.log.info(
      `configuration read again${restartNeeded.length > 0 ? `; only a restart brings ${restartNeeded.join(', ')} into force` : ''}`
    )
    const flows = this.datapath?.flowLimitProblem ?? null
    const problems = [...this.masquerade.problems, ...(flows === null ? [] : [flows])]
    return { ok: true, problems, restartNeeded }
  }

  /** As configured: detached, or the pinned datapath left to forward. */
  async stop(): Promise<void> {
    native().notify('STOPPING=1')
    this.routine.stop()
    clearTimeout(this.confirmTimer)
    this.masquerade.close()
    await this.server?.close()
    await this.switching
    if (this.config.onStop === 'detach' || this.confirmBefore !== null) {
      await this.dropDatapath()
      this.removeAll()
    } else if (this.datapath) {
      await this.stopGuard(false)
      this.datapath.control.renewLease(this.config.lease)
      this.datapath.close()
      this.log.info('the datapath goes on forwarding without the daemon, for as long as its lease allows')
    }
    this.events.close()
    this.managed.close()
    await this.sync.close()
    this.translatedLog.close()
    await this.translated.close()
    this.lock.close()
  }

  /** Logged at a limited rate, and kept for `status`. */
  problem(area: string, text: string): void {
    this.errors.add(area, text)
    this.problems.log('error', `${area}:${text}`, text)
  }

  deviceName(ifindex: number): string {
    return (
      this.sync.state.links.get(ifindex)?.name ?? this.planner.plan.devices.get(ifindex)?.name ?? `device ${ifindex}`
    )
  }
}

/** Keys that are read only when the datapath is made. */
function needRestart(before: Config, after: Config): string[] {
  const keys: string[] = []
  if (before.uplink.xdp !== after.uplink.xdp) keys.push('uplink.xdp')
  if (before.guard.backend !== after.guard.backend) keys.push('guard.backend')
  if (before.guard.remove !== after.guard.remove) keys.push('guard.remove')
  if (JSON.stringify(before.guard.allow) !== JSON.stringify(after.guard.allow)) keys.push('guard.allow')
  if ((before.guard.mode === 'off') !== (after.guard.mode === 'off')) keys.push('guard.mode')
  for (const name of Object.keys(before.limits) as (keyof Config['limits'])[]) {
    if (name !== 'flows' && before.limits[name] !== after.limits[name]) keys.push(`limits.${name}`)
  }
  return keys
}
