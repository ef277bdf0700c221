// Switched on and off: at the start, by command, on probation, and again after a
// refusal that may have passed.
//
// Invariants
// - Enabling is a list of steps; one that fails undoes those before it, and is named.
// - The switch on disk says what is wanted before a command is answered; on
//   probation before anything is attached.
// - A refusal at the start is tried again until it passes or somebody disables.

import type { Config } from '../config/config.js'
import type { DisableOptions, EnableOptions, EnableResult, HandedBack } from '../control/api.js'
import type { Datapath } from '../datapath/datapath.js'
import { pinned } from '../datapath/leftovers.js'
import type { Logger } from '../log.js'
import type { Address } from '../state/types.js'
import { Ending } from '../steps.js'
import { admit } from './admission.js'
import { losesEgress } from './egress.js'
import type { Problems } from './problems.js'
import { Retry } from './retry.js'
import { readSwitch, type Wanted, writeSwitch } from './switch.js'

/** What refused at the start may change: k3s and CNIs set ip_forward later. */
const startTimes = { first: 3_000, most: 60_000 }
const keepTimes = { first: 2_000, most: 60_000 }
/** The most that can be asked for, milliseconds. */
const longestProbation = 3_600_000
const byCommand = 'switched off by `hostroute disable`; `hostroute enable` starts it'
const byConfiguration = 'configured with enabled: false; `hostroute enable` starts it'
const notConfirmed = 'enabled, but not confirmed in time; `hostroute enable` tries again'
const refused = 'refused: '

/** What switching does to the node. */
export interface Switched {
  readonly stateDirectory: string
  readonly pinDirectory: string
  readonly log: Logger
  /** Their addresses. */
  pods(): Iterable<Address>
  readonly problems: Problems
  config(): Config
  /** null: disabled. */
  datapath(): Datapath | null
  /** Resolves once the kernel's tables have been read. */
  readonly synced: Promise<void>
  /** Between two steps. Rejects with an Ending when the daemon is to end. */
  step(): Promise<void>
  /** Loads the programs and takes over what is pinned; nothing is attached. Throws. */
  open(): Promise<Datapath>
  /** Writes the maps and attaches the programs, which are off. Rejects. */
  fill(datapath: Datapath): Promise<void>
  /** Switches the programs on, with all that belongs to it. */
  begin(takenOver: boolean): Promise<void>
  /** Rejects when the programs do not do what they should. */
  prove(datapath: Datapath): Promise<void>
  /** Has the kernel masquerade as `onDisable` says, or no longer. Rejects. */
  leaveEgress(): Promise<void>
  releaseEgress(): Promise<void>
  /** Disabling was refused after leaveEgress(): what that has stopped runs again. Never rejects. */
  stay(): Promise<void>
  /** When what could not be done of it is done again. */
  nextEgress(): number | null
  /** Hands back, detaches and removes. What stays all the same is a problem, and tried again. */
  drop(): Promise<HandedBack | null>
  /** Takes away what an earlier daemon left; its flows go to the stack. */
  removeAll(): Promise<void>
  renewLease(): void
}

export class Switching {
  /** Why it is not enabled. */
  why: string | null = null
  /** performance.now() at which it is undone unless confirmed, whatever becomes of the wall clock; null: not on probation. */
  private deadline: number | null = null
  private wanted: Wanted = { enabled: false, by: 'configuration', confirmUntil: null }
  private confirmTimer: NodeJS.Timeout | undefined
  private readonly retry = new Retry(startTimes, () =>
    this.inTurn(() => this.startAgain()).catch((error: unknown) => this.afterEnd(error))
  )
  /** What could not be written to the disk. */
  private readonly keeping = new Retry(keepTimes, () => this.keep())
  private ended = false
  private started!: () => void
  /** The start, enabling, disabling and reloading, one after the other. */
  private turn: Promise<unknown> = new Promise<void>((resolve) => {
    this.started = resolve
  })

  constructor(private readonly node: Switched) {}

  /** Milliseconds after which it is undone unless confirmed; null: not on probation. */
  get probationLeft(): number | null {
    return this.deadline === null ? null : Math.max(0, this.deadline - performance.now())
  }

  /** The same as a moment of the wall clock, milliseconds since 1970. */
  get confirmBefore(): number | null {
    const { probationLeft } = this
    return probationLeft === null ? null : Math.round(Date.now() + probationLeft)
  }

  /** One after the other: what changes the node as a whole. */
  inTurn<T>(action: () => Promise<T>): Promise<T> {
    const turn = this.turn.then(() => {
      if (this.ended) throw new Ending()
      return action()
    })
    this.turn = turn.catch(() => {})
    return turn
  }

  /** Before the kernel's tables are read: opens the datapath, if it is wanted and may be. What runs already was admitted when it was enabled. */
  async openAtStart(): Promise<void> {
    if (!this.isWanted()) {
      await this.node.removeAll()
      this.why ??= this.wanted.by === 'command' ? byCommand : byConfiguration
      return
    }
    const { pinDirectory, log } = this.node
    const left = pinned(pinDirectory)
    if (left !== 'works') {
      // nothing was admitted or proved of what a daemon left that ended on its way
      if (left === 'unfinished') await this.node.removeAll()
      await this.node.step()
      const { refusal } = await admit(this.node.config(), pinDirectory, log)
      await this.node.step()
      if (refusal !== null) {
        await this.node.removeAll()
        return this.refusedAtStart(refusal)
      }
    }
    await this.node.open()
  }

  /** After they have been read. What an earlier daemon left goes on in any case; what is new is enabled whole, or not at all. */
  async serveFromStart(): Promise<void> {
    const datapath = this.node.datapath()
    if (datapath?.takenOver) {
      await this.node.begin(true)
      datapath.isServing = true
      await this.releaseEgress()
    } else if (datapath) {
      const why = await this.complete(datapath)
      await this.node.step()
      if (why !== null) this.refusedAtStart(why)
    } else await this.leaveEgress()
    this.started()
  }

  /** Something that the checks look at has changed. */
  reconsider(): void {
    this.retry.now()
  }

  /** What masquerades while hostroute is disabled follows the policy and the uplinks; what could not be done of it is done again. Never rejects. */
  async keepEgress(): Promise<void> {
    await this.inTurn(async () => {
      if (!this.node.datapath()) await this.leaveEgress()
      else if (this.node.problems.text('egress-not-taken-back') !== null) await this.releaseEgress()
    }).catch((error: unknown) => this.afterEnd(error))
  }

  enable({ confirmWithin }: EnableOptions): Promise<EnableResult> {
    return this.inTurn(async () => {
      await this.node.synced
      const probation = () => (confirmWithin === undefined ? null : Date.now() + confirmWithin * 1000)
      let report: object | null = null
      const { wanted } = this
      const lacking = this.node.problems.text('switch-not-kept')
      // before anything is attached: a daemon that dies meanwhile comes back on probation
      if (confirmWithin !== undefined && !this.set(true, probation())) {
        const why = `it could not be undone after a crash, since ${this.node.problems.text('switch-not-kept')}`
        this.wanted = wanted
        this.lack(lacking)
        return this.result(false, `not ${this.node.datapath() ? 'on probation' : 'enabled'}: ${why}`)
      }
      if (!this.node.datapath()) {
        const outcome = await this.turnOn()
        report = outcome.report
        if (outcome.why !== null) {
          if (confirmWithin !== undefined) this.set(wanted.enabled)
          this.node.log.error(`not enabled: ${outcome.why}; hostroute enable tries again`)
          return this.result(false, outcome.why, report)
        }
      }
      this.set(true, probation())
      this.forgetRefusal()
      this.endProbation()
      if (confirmWithin !== undefined) this.beginProbation(confirmWithin * 1000)
      this.renewLease()
      const { problems } = this.node
      return this.result(true, together(problems.list()[0]?.text, problems.text('switch-not-kept')), report)
    })
  }

  confirm(): Promise<EnableResult> {
    return this.inTurn(async () => {
      if (this.deadline === null)
        return this.result(
          false,
          `there is nothing to confirm: hostroute is ${this.node.datapath() ? 'enabled' : 'disabled'}`
        )
      this.endProbation()
      this.set(true)
      this.renewLease()
      this.node.log.info('confirmed')
      return this.result(true, this.node.problems.text('switch-not-kept'))
    })
  }

  disable({ force }: DisableOptions): Promise<EnableResult> {
    return this.inTurn(async () => {
      if (this.node.datapath()) {
        const failed = await this.leaveEgress()
        const loses = force ? null : (failed ?? (await losesEgress(this.node.config(), this.node.pods())))
        if (loses !== null) {
          if (failed === null) await this.releaseEgress()
          await this.node.stay()
          return this.result(false, loses)
        }
      }
      const handedBack = await this.turnOff(byCommand)
      const { problems } = this.node
      const why = together(problems.text('left-behind'), problems.text('switch-not-kept'))
      return this.result(true, why, null, handedBack)
    })
  }

  /** It has one; a longer or shorter one comes with the next turn of the clock that renews it. */
  private renewLease(): void {
    try {
      this.node.renewLease()
    } catch (error) {
      this.node.log.error(`the lease could not be renewed: ${(error as Error).message}; it is tried again by itself`)
    }
  }

  /** No timer runs any more, and nothing is being switched; what waits for its turn gets none. */
  async stop(): Promise<void> {
    this.ended = true
    this.started()
    this.retry.stop()
    this.keeping.stop()
    clearTimeout(this.confirmTimer)
    await this.turn
  }

  /** What had no turn any more. */
  private afterEnd(error: unknown): true {
    if (error instanceof Ending) return true
    throw error
  }

  /** The switch as it was left; probation that ended while no daemon ran ends here. */
  private isWanted(): boolean {
    const { stateDirectory, log, problems } = this.node
    const { enabled: configured } = this.node.config()
    try {
      this.wanted = readSwitch(stateDirectory, configured)
    } catch (error) {
      this.wanted = { enabled: configured, by: 'configuration', confirmUntil: null }
      problems.set('switch-not-kept', (error as Error).message)
    }
    const { enabled, confirmUntil } = this.wanted
    if (!enabled || confirmUntil === null) return enabled
    const left = confirmUntil - Date.now()
    if (left > 0) {
      // the clock may have been set back since
      this.beginProbation(Math.min(left, longestProbation))
      return true
    }
    log.warn('not confirmed in time: going back to kernel routing')
    this.set(false)
    this.why = notConfirmed
    return false
  }

  private refusedAtStart(why: string): void {
    void this.node.synced.then(() => this.keepEgress())
    this.why = refused + why
    this.node.problems.set('not-enabled', `not enabled: ${why}`, () => this.retry.next)
    this.retry.again()
  }

  private forgetRefusal(): void {
    this.retry.stop()
    this.node.problems.set('not-enabled', null)
  }

  /** What was refused at the start, once more. true: it is enabled, or not wanted any more. */
  private async startAgain(): Promise<boolean> {
    if (this.node.datapath() || !this.wanted.enabled) return true
    await this.node.synced
    const { why } = await this.turnOn().catch((error: Error) => ({ why: error.message }))
    if (why === null) {
      this.forgetRefusal()
      return true
    }
    this.refusedAtStart(why)
    return false
  }

  /** Everything, or nothing: then `why` names the step that failed. */
  private async turnOn(): Promise<{ report: object | null; why: string | null }> {
    const { report, refusal } = await admit(this.node.config(), this.node.pinDirectory, this.node.log)
    if (refusal !== null) return { report, why: refusal }
    let datapath: Datapath
    try {
      await this.node.step()
      datapath = await this.node.open()
    } catch (error) {
      await this.node.removeAll()
      return { report, why: (error as Error).message }
    }
    try {
      await this.node.fill(datapath)
    } catch (error) {
      await this.undo()
      return { report, why: `the maps could not be written: ${(error as Error).message}; nothing is attached` }
    }
    return { report, why: await this.complete(datapath) }
  }

  /** The steps after the maps. null: enabled; else everything is undone, and this is why. */
  private async complete(datapath: Datapath): Promise<string | null> {
    const unwritten = this.node.problems.text('maps-not-written')
    const failed = unwritten ?? notServed(datapath)
    if (failed !== null) {
      await this.undo()
      return `${failed}; nothing is attached`
    }
    try {
      await this.node.step()
      await this.node.begin(false)
      await this.node.prove(datapath)
      await this.node.step()
    } catch (error) {
      await this.undo()
      const { message } = error as Error
      return `${error instanceof Ending ? message : `the programs do not do what they should: ${message}`}; nothing is attached`
    }
    this.why = null
    datapath.isServing = true
    await this.releaseEgress()
    return null
  }

  /** null: done, or not asked for. */
  private async leaveEgress(): Promise<string | null> {
    const { problems } = this.node
    try {
      await this.node.leaveEgress()
      problems.set('egress-not-left', null)
      return null
    } catch (error) {
      const text = `the kernel could not be told to masquerade (onDisable: masquerade): ${(error as Error).message}`
      problems.set('egress-not-left', text, () => this.node.nextEgress())
      return text
    }
  }

  private async releaseEgress(): Promise<void> {
    const { problems } = this.node
    problems.set('egress-not-left', null)
    try {
      await this.node.releaseEgress()
      problems.set('egress-not-taken-back', null)
    } catch (error) {
      problems.set(
        'egress-not-taken-back',
        `the nft table inet hostroute_egress stays, and masquerades what the stack sends: ${(error as Error).message}`,
        () => this.node.nextEgress()
      )
    }
  }

  private async undo(): Promise<void> {
    try {
      await this.node.drop()
    } catch (error) {
      this.node.log.error(`what was attached could not be taken away in order: ${(error as Error).message}`)
    }
    await this.node.removeAll()
  }

  private async turnOff(why: string): Promise<HandedBack | null> {
    this.why = why
    this.forgetRefusal()
    this.endProbation()
    this.set(false)
    return this.node.drop()
  }

  /** On disk first. What cannot be kept is told, and tried again: until the next start it holds all the same. true: it is kept. */
  private set(enabled: boolean, confirmUntil: number | null = null): boolean {
    this.wanted = { enabled, by: 'command', confirmUntil }
    return this.keep()
  }

  private keep(): boolean {
    const { enabled, confirmUntil } = this.wanted
    try {
      writeSwitch(this.node.stateDirectory, { enabled, configured: this.node.config().enabled, confirmUntil })
      this.lack(null)
      return true
    } catch (error) {
      const what = `that hostroute is switched ${enabled ? 'on' : 'off'}`
      this.lack(`${what} does not outlive a restart: ${(error as Error).message}`)
      return false
    }
  }

  /** Why the switch is not on disk as it is; null: it is. */
  private lack(why: string | null): void {
    this.node.problems.set('switch-not-kept', why, () => this.keeping.next)
    if (why === null) this.keeping.stop()
    else if (this.wanted.by === 'command') this.keeping.again()
  }

  /** left: milliseconds. */
  private beginProbation(left: number): void {
    const deadline = performance.now() + left
    this.deadline = deadline
    this.node.log.warn(
      `enabled until confirmed: without "hostroute confirm" within ${Math.round(left / 1000)} s it is undone`
    )
    this.confirmTimer = setTimeout(
      () => void this.inTurn(() => this.rollBack(deadline)).catch((error: unknown) => this.afterEnd(error)),
      left
    )
  }

  private endProbation(): void {
    clearTimeout(this.confirmTimer)
    this.deadline = null
  }

  private async rollBack(deadline: number): Promise<void> {
    if (this.deadline !== deadline) return
    await this.leaveEgress()
    this.node.log.warn('not confirmed in time: going back to kernel routing')
    await this.turnOff(notConfirmed)
  }

  private result(
    done: boolean,
    why: string | null,
    report: object | null = null,
    handedBack: HandedBack | null = null
  ): EnableResult {
    const { confirmBefore } = this
    return {
      done,
      mode: this.node.datapath() ? 'enabled' : 'disabled',
      why,
      confirmBefore: confirmBefore === null ? null : new Date(confirmBefore).toISOString(),
      report,
      handedBack
    }
  }
}

/** No program could be attached anywhere, though there are devices: a sentence; else null. */
function notServed({ hooks }: Datapath): string | null {
  const all = [...hooks.attached.values()]
  const [first] = all.filter(({ error }) => error !== null)
  if (!first || all.some(({ error }) => error === null)) return null
  return `no program could be attached to any of ${all.length} devices; ${first.device}: ${first.error}`
}

/** What is there, each once; null: nothing is. */
function together(...texts: (string | null | undefined)[]): string | null {
  return [...new Set(texts.filter((text) => text))].join('; ') || null
}
