// The configuration in force: read, brought into force as a whole or not at all,
// and kept on disk for a start at which the file is wrong. What a lack that passes
// has kept from coming into force is tried again, as long as the file is the same.

import { statSync } from 'node:fs'
import { type Config, ConfigError, formatProblem, loadConfig, type Problem } from '../config/config.js'
import type { ReloadResult, Status } from '../control/api.js'
import { isTransient } from '../transient.js'
import { keepConfig, loadLastGood } from './last-good.js'
import type { Problems } from './problems.js'
import { Retry, type RetryTimes } from './retry.js'

export interface ConfigurationOptions {
  path: string
  stateDirectory: string
  problems: Problems
  /** What a lack that passes has refused is to be reloaded once more: calls reload(). Absent: nothing is tried again. */
  again?(): Promise<unknown>
  /** Of those tries; absent: from 3 s to a minute. */
  times?: RetryTimes
}

const retryTimes = { first: 3_000, most: 60_000 }

export class Configuration {
  /** In force. */
  config: Config
  private present: boolean
  private error: string | null = null
  private loaded = new Date().toISOString()
  /** What was refused for want of something, as it was then; null: nothing was. */
  private refused: string | null = null
  private readonly retry: Retry
  /** What is in force could not be written to the disk. */
  private readonly keeping: Retry
  /** As it was read; null: there was no file. */
  private text: string | null = null

  /** Throws ConfigError when the file is wrong and none was ever in force. */
  constructor(private readonly options: ConfigurationOptions) {
    this.retry = new Retry(options.times ?? retryTimes, () => this.tryAgain())
    this.keeping = new Retry(options.times ?? retryTimes, () => this.keepAgain())
    const { config, text, present, problems } = loadLastGood(options.path, options.stateDirectory)
    this.config = config
    this.present = present
    if (problems.length > 0) this.refuse(problems.map(formatProblem), 'the last good configuration is in force')
    else this.keep(text)
  }

  status(): Status['configuration'] {
    const { present, error, loaded } = this
    return { path: this.options.path, present, error, loaded }
  }

  /** Reads the file again. `use` brings a configuration into force; where it throws, the one before is brought back. */
  async reload(use: (config: Config, before: Config) => Promise<void>): Promise<ReloadResult> {
    const file = stampOf(this.options.path)
    let next: ReturnType<typeof loadConfig>
    try {
      next = loadConfig(this.options.path)
    } catch (error) {
      if (isTransient(error)) return this.refuseForNow([(error as Error).message], file)
      const problems: Problem[] =
        error instanceof ConfigError
          ? error.problems
          : [{ file: this.options.path, line: 0, column: 0, key: '', text: (error as Error).message }]
      return this.refuse(problems.map(formatProblem))
    }
    const before = this.config
    this.config = next.config
    try {
      await use(next.config, before)
    } catch (error) {
      this.config = before
      const problems = [`it could not be brought into force: ${(error as Error).message}`]
      let passes = isTransient(error)
      await use(before, next.config).catch((again: Error) => {
        problems.push(`nor the one before: ${again.message}`)
        passes ||= isTransient(again)
      })
      return passes ? this.refuseForNow(problems, file) : this.refuse(problems)
    }
    this.present = next.present
    this.error = null
    this.loaded = new Date().toISOString()
    this.options.problems.set('configuration-not-valid', null)
    this.settle()
    this.keep(next.text)
    return { ok: true, problems: [], restartNeeded: needRestart(before, next.config) }
  }

  /** Nothing is tried again. */
  stop(): void {
    this.retry.stop()
    this.keeping.stop()
  }

  /** For want of something that may be there in a moment. */
  private refuseForNow(problems: string[], file: string): ReloadResult {
    this.error = problems.join('; ')
    this.options.problems.set('configuration-not-valid', null)
    this.options.problems.set(
      'configuration-not-in-force',
      `the configuration is not in force: ${this.error}`,
      () => this.retry.next
    )
    this.refused = file
    if (this.options.again) this.retry.again()
    return { ok: false, problems, restartNeeded: [] }
  }

  /** true: it is in force, or will not be by itself. */
  private async tryAgain(): Promise<boolean> {
    if (this.refused !== stampOf(this.options.path)) {
      // who has written it says when it is to be read
      this.error = null
      this.settle()
      return true
    }
    await this.options.again?.()
    return this.refused === null
  }

  /** What was refused for want of something is in force, or wanted no more. */
  private settle(): void {
    this.refused = null
    this.retry.stop()
    this.options.problems.set('configuration-not-in-force', null)
  }

  private refuse(problems: string[], instead = 'the configuration in force stays'): ReloadResult {
    this.settle()
    this.error = problems.join('; ')
    this.options.problems.set('configuration-not-valid', `${this.error}; ${instead}`)
    return { ok: false, problems, restartNeeded: [] }
  }

  /** For the next start, should the file be wrong then. */
  private keep(text: string | null): void {
    this.text = text
    if (this.keepAgain()) this.keeping.stop()
    else this.keeping.again()
  }

  /** true: it is kept. */
  private keepAgain(): boolean {
    const { path, stateDirectory, problems } = this.options
    try {
      keepConfig(this.text, stateDirectory, path)
      problems.set('configuration-not-kept', null)
      return true
    } catch (error) {
      const why = (error as Error).message
      const text = `the configuration in force could not be kept for the next start: ${why}`
      problems.set('configuration-not-kept', text, () => this.keeping.next)
      return false
    }
  }
}

/** Another one after each change of the file. */
function stampOf(path: string): string {
  try {
    const { ino, size, mtimeMs, ctimeMs } = statSync(path)
    return [ino, size, mtimeMs, ctimeMs].join()
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? ''
  }
}

/** Keys that are read only at a start, or when the datapath or the guard is made. */
function needRestart(before: Config, after: Config): string[] {
  const keys: string[] = []
  if (before.enabled !== after.enabled) keys.push('enabled')
  if (before.uplink.xdp !== after.uplink.xdp) keys.push('uplink.xdp')
  if (before.guard.backend !== after.guard.backend) keys.push('guard.backend')
  if (before.guard.remove !== after.guard.remove) keys.push('guard.remove')
  if (JSON.stringify(before.guard.allow) !== JSON.stringify(after.guard.allow)) keys.push('guard.allow')
  return keys
}
