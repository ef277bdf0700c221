// What is known of the node, and the plan that follows from it: the kernel's
// tables, the destinations that rules translate, the kernel's settings, the
// configuration. Who makes something of it is told of each change.
//
// Invariants
// - Whoever changes the plan, or goes through all of it, does so in steps when it
//   is his turn. Meanwhile the kernel's tables, as State has them, stand still.
// - What follows from a change (`onPlan`) belongs to the same turn: nobody meets a
//   plan that the maps are not about to hold.

import { isDeepStrictEqual } from 'node:util'
import { createTranslatedLog, type TranslatedLog, unboundedText } from '../answers/translated-view.js'
import type { Config } from '../config/config.js'
import { readCheckedSettings, readKernelSettings } from '../config/kernel-settings.js'
import type { Logger } from '../log.js'
import { subsystem } from '../log.js'
import { type Sync, startSync } from '../netlink/sync.js'
import type { PlanChange } from '../plan/change.js'
import type { PlanOptions } from '../plan/options.js'
import { createPlanner, type Planner } from '../plan/planner.js'
import type { Plan } from '../plan/types.js'
import { noChanges } from '../state/changes.js'
import type { Changes, NodeState, Prefix } from '../state/types.js'
import { Ending, unlessAborted } from '../steps.js'
import { startTranslated, type Translated } from '../translated/translated.js'
import { Turns } from '../turns.js'

export interface NodePlanOptions {
  config(): Config
  log: Logger
  /** Aborted with an Ending: nothing more is planned. */
  signal: AbortSignal
  /** `plan` is another one. null: it is the first. In steps. */
  onPlan(change: PlanChange | null): Generator<void>
  /** A sentence, for people. */
  onProblem(area: string, text: string): void
  /** What the log has been told of already. */
  onError(area: string, text: string): void
}

export class NodePlan {
  /** The first plan is made of all that the kernel's tables held. */
  synced = false
  sync!: Sync
  translated!: Translated
  /** Resolves when `synced`. */
  readonly firstSync: Promise<void>
  private readonly planner: Planner
  private translatedLog: TranslatedLog | null = null
  private settings = readKernelSettings([])
  private checked = readCheckedSettings()
  /** ifindex of each device that has been a pod's. */
  private readonly podDevices = new Set<number>()
  private haveSynced!: () => void
  private readonly turns = new Turns()

  constructor(private readonly options: NodePlanOptions) {
    this.planner = createPlanner(this.planOptions())
    this.firstSync = new Promise((resolve) => {
      this.haveSynced = resolve
    })
  }

  get plan(): Plan {
    return this.planner.plan
  }

  get state(): NodeState {
    return this.sync.state
  }

  /** The destinations that are in the plan. */
  get translatedPrefixes(): ReadonlySet<Prefix> {
    return this.planner.translated
  }

  /** Resolves when the destinations that rules translate have been read; from then on they are followed. */
  followTranslated(): Promise<void> {
    const { onProblem } = this.options
    const log = createTranslatedLog(subsystem(this.options.log, 'services'))
    this.translatedLog = log
    this.translated = startTranslated({
      onChange: (diff) => {
        this.planner.translate(diff)
        log.note(diff, this.translated.size)
        if (this.synced) this.follow(noChanges()).catch((error: Error) => onProblem('services', error.message))
      },
      onProblem: (text) => onProblem('services', text),
      onUnbounded: (rules) => {
        for (const rule of rules)
          onProblem('services', `a rule translates without naming the destination: ${unboundedText(rule)}`)
      }
    })
    return this.translated.ready
  }

  /** Follows the kernel's tables. Throws NativeError. */
  followTables(): void {
    const log = subsystem(this.options.log, 'sync')
    this.sync = startSync({
      onChanges: (changes) => this.follow(changes),
      readers: this.turns,
      log: (level, message) => {
        if (level === 'error') this.options.onError('sync', message)
        log[level === 'warning' ? 'warn' : level](message)
      }
    })
  }

  /** Takes steps when nobody else works with the plan; short ones at once, where nobody does. */
  inTurn<Result>(steps: () => Generator<void, Result>): Promise<Result> {
    return this.turns.run(steps)
  }

  /** Resolves when nobody works with the plan. */
  async idle(): Promise<void> {
    while (this.turns.busy) await this.turns.idle()
  }

  /** Rejects where it could not be planned; not because the daemon ends. */
  private async follow(changes: Changes, options?: () => PlanOptions): Promise<void> {
    try {
      await this.turns.run(() => this.following(changes, options))
    } catch (error) {
      if (!(error instanceof Ending)) throw error
    }
  }

  private *following(changes: Changes, options?: () => PlanOptions): Generator<void> {
    if (options) this.planner.setOptions(options())
    if (options && !this.synced) return
    const change = yield* unlessAborted(this.options.signal, this.planner.updating(this.sync.state, changes))
    this.noteRoles(change)
    const first = !this.synced
    this.synced = true
    yield* this.options.onPlan(first ? null : change)
    if (first) this.haveSynced()
  }

  /** Devices of pods, for the time that they have them; they are compared when devices change. */
  private noteRoles({ devices }: PlanChange): void {
    for (const ifindex of devices) {
      const device = this.plan.devices.get(ifindex)
      if (device?.role === 'pod') this.podDevices.add(ifindex)
      else if (!this.sync.state.links.has(ifindex)) this.podDevices.delete(ifindex)
    }
  }

  /** Names of devices. */
  podsThatBecameUplinks(): string[] {
    return [...this.podDevices].flatMap((ifindex) => {
      const device = this.plan.devices.get(ifindex)
      return device?.role === 'uplink' ? [device.name] : []
    })
  }

  /** "device 7" for one that is not there any more. */
  deviceName(ifindex: number): string {
    return (
      (this.sync as Sync | undefined)?.state.links.get(ifindex)?.name ??
      this.plan.devices.get(ifindex)?.name ??
      `device ${ifindex}`
    )
  }

  /** After a change of configuration: everything is planned anew, and in the maps. */
  replan(): Promise<void> {
    return this.follow({ ...noChanges(), all: true }, () => this.planOptions())
  }

  /** The kernel's settings, once more. true: they are others, and where that matters for it everything has been planned anew. */
  async lookAtSettings(): Promise<boolean> {
    const checked = readCheckedSettings()
    const settings = readKernelSettings(this.uplinkNames())
    const { checked: before } = this
    this.checked = checked
    if (isDeepStrictEqual(settings, this.settings)) return checked !== before
    this.settings = settings
    await this.replan()
    return true
  }

  private *uplinkNames(): Iterable<string> {
    for (const { role, name } of this.plan.devices.values()) if (role === 'uplink') yield name
  }

  planOptions(): PlanOptions {
    const { pods, uplink, ipv4, ipv6, snat, stackPrefixes } = this.options.config()
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

  /** Also of one that follows nothing yet. */
  async close(): Promise<void> {
    await (this.sync as Sync | undefined)?.close()
    this.translatedLog?.close()
    await (this.translated as Translated | undefined)?.close()
  }
}
