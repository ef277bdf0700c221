// The guard of an enabled life: started after the datapath, since only then the
// kernel's rules are without effect; tried again until it runs.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { Config } from '../config/config.js'
import type { GuardMode } from '../control/guard-api.js'
import { Guard } from '../guard/guard.js'
import { type Logger, subsystem } from '../log.js'
import { type GuardWords, readGuardWords, writeGuardWords } from './guard-words.js'
import type { Problems } from './problems.js'
import { Retry } from './retry.js'

const retryTimes = { first: 2_000, most: 60_000 }

export interface GuardKeeperOptions {
  pinDirectory: string
  runDirectory: string
  stateDirectory: string
  log: Logger
  problems: Problems
  config(): Config
}

export class GuardKeeper {
  guard: Guard | null = null
  private wanted = false
  /** Starting and stopping, one after the other. */
  private turn: Promise<unknown> = Promise.resolve()
  private readonly retry = new Retry(retryTimes, () => this.inTurn(() => this.tryIt()))

  constructor(private readonly options: GuardKeeperOptions) {}

  /** Traffic goes on without a guard: one that cannot start is a problem, and tried again. */
  async start(): Promise<void> {
    this.wanted = true
    if (!(await this.inTurn(() => this.tryIt()))) this.retry.again()
  }

  /** remove: nothing of the guard stays; else what is pinned goes on refusing. Rejects when something stays all the same. */
  async stop(remove: boolean): Promise<void> {
    this.wanted = false
    this.retry.stop()
    try {
      await this.inTurn(async () => {
        const { guard } = this
        this.guard = null
        await guard?.stop({ remove })
      })
    } finally {
      this.options.problems.set('guard-not-running', null)
    }
  }

  /** After a reload: a mode that has not changed in the file leaves what `hostroute guard mode` said. */
  async configure(before: Config['guard'], after: Config['guard']): Promise<void> {
    if (!this.wanted || before.mode === after.mode) return
    if (before.mode === 'off' || after.mode === 'off') {
      await this.stop(true)
      await this.start()
    } else this.guard?.setMode(after.mode)
  }

  /** Whether what refuses is still there: somebody may have removed the pins. Never rejects. */
  look(): Promise<void> {
    return this.inTurn(async () => {
      const { guard } = this
      if (!guard || guard.status().backend === null) return
      if (existsSync(join(this.options.pinDirectory, 'guard'))) return
      this.options.log.warn("somebody has removed the guard's pins; it is started anew")
      this.guard = null
      try {
        await guard.stop({ remove: true })
      } catch (error) {
        this.options.log.warn(`what was left of it could not be removed: ${(error as Error).message}`)
      }
      if (!(await this.tryIt())) this.retry.again()
    })
  }

  private async tryIt(): Promise<boolean> {
    if (!this.wanted || this.guard) return true
    const { pinDirectory, runDirectory, problems } = this.options
    const { mode, backend, remove, allow } = this.options.config().guard
    const said = this.said(mode)
    try {
      if (mode === 'off') Guard.remove({ pinDirectory, runDirectory })
      else
        this.guard = await Guard.start({
          pinDirectory,
          runDirectory,
          mode: said.mode ?? mode,
          backend,
          remove,
          allow,
          allowed: said.allowed,
          onCommand: (words) => this.keep(words),
          log: subsystem(this.options.log, 'guard')
        })
    } catch (error) {
      problems.set('guard-not-running', `the guard does not run: ${(error as Error).message}`, () => this.retry.next)
      return false
    }
    problems.set('guard-not-running', null)
    return true
  }

  /** By command, of an earlier daemon or of a guard that was stopped. */
  private said(configured: GuardMode): GuardWords {
    const { stateDirectory, problems } = this.options
    try {
      const words = readGuardWords(stateDirectory, configured)
      // also where the configuration goes back to what it was
      if (words.changed) this.keep({ mode: configured, allowed: words.allowed })
      return words
    } catch (error) {
      problems.set('guard-not-kept', (error as Error).message)
      return { mode: null, allowed: [] }
    }
  }

  private keep({ mode, allowed }: GuardWords): void {
    const { stateDirectory, problems, config } = this.options
    const configured = config().guard.mode
    try {
      writeGuardWords(stateDirectory, configured, { mode: mode === configured ? null : mode, allowed })
      problems.set('guard-not-kept', null)
    } catch (error) {
      problems.set(
        'guard-not-kept',
        `what hostroute guard said does not outlive a restart: ${(error as Error).message}`
      )
    }
  }

  private inTurn<T>(action: () => Promise<T>): Promise<T> {
    const turn = this.turn.then(action)
    this.turn = turn.catch(() => {})
    return turn
  }
}
