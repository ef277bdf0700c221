// The configuration in force: read, brought into force as a whole or not at all,
// and kept on disk for a start at which the file is wrong.

import { type Config, ConfigError, formatProblem, loadConfig, type Problem } from '../config/config.js'
import type { ReloadResult, Status } from '../control/api.js'
import { keepConfig, loadLastGood } from './last-good.js'
import type { Problems } from './problems.js'

export interface ConfigurationOptions {
  path: string
  stateDirectory: string
  problems: Problems
}

export class Configuration {
  /** In force. */
  config: Config
  private present: boolean
  private error: string | null = null
  private loaded = new Date().toISOString()

  /** Throws ConfigError when the file is wrong and none was ever in force. */
  constructor(private readonly options: ConfigurationOptions) {
    const { config, present, problems } = loadLastGood(options.path, options.stateDirectory)
    this.config = config
    this.present = present
    if (problems.length > 0) this.refuse(problems.map(formatProblem), 'the last good configuration is in force')
    else this.keep()
  }

  status(): Status['configuration'] {
    const { present, error, loaded } = this
    return { path: this.options.path, present, error, loaded }
  }

  /** Reads the file again. `use` brings a configuration into force; where it throws, the one before is brought back. */
  async reload(use: (config: Config, before: Config) => Promise<void>): Promise<ReloadResult> {
    let next: ReturnType<typeof loadConfig>
    try {
      next = loadConfig(this.options.path)
    } catch (error) {
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
      await use(before, next.config).catch((again: Error) => problems.push(`nor the one before: ${again.message}`))
      return this.refuse(problems)
    }
    this.present = next.present
    this.error = null
    this.loaded = new Date().toISOString()
    this.options.problems.set('configuration-not-valid', null)
    this.keep()
    return { ok: true, problems: [], restartNeeded: needRestart(before, next.config) }
  }

  private refuse(problems: string[], instead = 'the configuration in force stays'): ReloadResult {
    this.error = problems.join('; ')
    this.options.problems.set('configuration-not-valid', `${this.error}; ${instead}`)
    return { ok: false, problems, restartNeeded: [] }
  }

  /** For the next start, should the file be wrong then. */
  private keep(): void {
    const { path, stateDirectory, problems } = this.options
    try {
      keepConfig(path, stateDirectory)
      problems.set('configuration-not-kept', null)
    } catch (error) {
      problems.set(
        'configuration-not-kept',
        `the configuration in force could not be kept for the next start: ${(error as Error).message}`
      )
    }
  }
}

/** Keys that are read only when the datapath or the guard is made. */
function needRestart(before: Config, after: Config): string[] {
  const keys: string[] = []
  if (before.uplink.xdp !== after.uplink.xdp) keys.push('uplink.xdp')
  if (before.guard.backend !== after.guard.backend) keys.push('guard.backend')
  if (before.guard.remove !== after.guard.remove) keys.push('guard.remove')
  if (JSON.stringify(before.guard.allow) !== JSON.stringify(after.guard.allow)) keys.push('guard.allow')
  return keys
}
