// hostrouted in a node of the lab, with a run directory, a pin directory and a
// configuration file of its own.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { stringify } from 'yaml'
import type { Status } from '../../src/control/api.js'
import { controlClient } from '../../src/control/client.js'
import { realDirectory } from '../../src/directories.js'
import { STRUCTS } from '../../src/maps/layout.js'
import type { LabHost } from './host.js'
import { NOT_MASQUERADED } from './netfilter.js'
import { type Background, exec, type Outcome, run, until } from './process.js'

const DAEMON = fileURLToPath(new URL('../../src/daemon/main.js', import.meta.url))
/** As its first line says. */
const RUN = (/^#!(.*)/.exec(readFileSync(DAEMON, 'utf8'))?.[1] ?? '')
  .split(' ')
  .map((word) => (word === 'node' ? process.execPath : word))
const COMMAND = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url))

export interface DaemonOptions {
  /** Keys that replace the lab's defaults (in `snat` one by one), or the whole file as text. */
  config?: Record<string, unknown> | string
  /** Contents of the ip-masq-agent file. */
  masquerade?: Record<string, unknown>
  environment?: Record<string, string>
  /** false: resolves as soon as the process exists. */
  waitReady?: boolean
  /** The daemon's main file, of another build. */
  main?: string
  /** Milliseconds to become ready, 15000 when absent. */
  timeout?: number
}

export class Daemon {
  readonly configFile: string
  readonly masqueradeFile: string
  readonly socket: string
  /** The switch and the last good configuration. */
  readonly stateDirectory: string
  #process: Background | null = null

  constructor(
    readonly node: LabHost,
    readonly runDirectory: string,
    readonly pinDirectory: string
  ) {
    this.configFile = `${runDirectory}/config.yaml`
    this.masqueradeFile = `${runDirectory}/ip-masq-agent`
    this.socket = `${runDirectory}/control.sock`
    this.stateDirectory = `${runDirectory}/state`
  }

  get running(): boolean {
    return this.#process?.running ?? false
  }

  /** Of the last process, when it has ended by itself. */
  get exitStatus(): number | null {
    return this.#process?.child.exitCode ?? null
  }

  get pid(): number {
    return this.#process?.pid ?? 0
  }

  /** What the last process has logged. */
  get log(): string {
    return this.#process ? this.#process.stdout + this.#process.stderr : ''
  }

  /**
   * Writes the configuration and starts the process. Rejects, with the log,
   * when it ends or does not become ready in time; it is stopped then.
   */
  async start(options: DaemonOptions = {}): Promise<this> {
    if (this.running) throw new Error(`hostrouted already runs in ${this.node.name}`)
    mkdirSync(this.runDirectory, { recursive: true })
    mkdirSync(realDirectory(this.pinDirectory), { recursive: true })
    this.writeMasquerade(options.masquerade ?? { nonMasqueradeCIDRs: NOT_MASQUERADED })
    this.writeConfig(options.config ?? {})
    const files = [
      '--config',
      this.configFile,
      '--run-directory',
      this.runDirectory,
      '--pin-directory',
      this.pinDirectory,
      '--state-directory',
      this.stateDirectory
    ]
    this.#process = this.node.start([...RUN, options.main ?? DAEMON, ...files], options.environment)
    if (options.waitReady !== false) await this.waitReady(options.timeout)
    return this
  }

  /** Waits until status says enabled and synced. */
  async waitReady(timeout = 15_000): Promise<void> {
    let last = ''
    const client = controlClient(this.socket)
    const ready = async () => {
      if (!this.running) throw new Error('it ended')
      try {
        const { value, text } = await client.get<Status>('/v1/status')
        last = text
        return value.mode === 'enabled' && value.sync.state === 'synced'
      } catch (error) {
        last = (error as Error).message
        return false
      }
    }
    try {
      await until('enabled and synced', ready, timeout, 50)
    } catch (cause) {
      const log = this.log
      await this.kill('SIGKILL')
      const words = `hostrouted in ${this.node.name} did not become ready (${(cause as Error).message})`
      throw new Error(`${words}\nits log:\n${log}\nits last status:\n${last}`, { cause })
    }
  }

  /** SIGTERM; resolves when it has ended. */
  async stop(): Promise<void> {
    await this.#process?.stop('SIGTERM', 15_000)
  }

  async kill(signal: NodeJS.Signals): Promise<void> {
    await this.#process?.stop(signal)
  }

  /** SIGKILL, then `hostrouted --remove`; what that has logged. */
  async removeAfterKill(): Promise<string> {
    await this.kill('SIGKILL')
    const outcome = await this.remove('--force')
    if (outcome.status !== 0) throw new Error(`hostrouted --remove: ${outcome.stderr || outcome.stdout}`)
    return outcome.stdout + outcome.stderr
  }

  /** `hostrouted --remove` with these words. */
  remove(...words: string[]): Promise<Outcome> {
    const files = [
      ...['--config', this.configFile, '--state-directory', this.stateDirectory],
      ...['--run-directory', this.runDirectory, '--pin-directory', this.pinDirectory]
    ]
    return this.node.exec([process.execPath, DAEMON, '--remove', ...words, ...files])
  }

  /** As its clock and its timer would: it cannot be made shorter than 30 s. */
  async endLease(): Promise<void> {
    const control = ['map', 'lookup', 'pinned', `${this.pinDirectory}/control`, 'key', '0', '0', '0', '0']
    const { value } = JSON.parse(await run(['bpftool', '-j', ...control])) as { value: string[] }
    const { lease, straight } = STRUCTS.control.offset
    const ended = value.map((byte, at) =>
      (at >= lease && at < lease + 8) || (at >= straight && at < straight + 4) ? '0x00' : byte
    )
    await run(['bpftool', ...control.map((word) => (word === 'lookup' ? 'update' : word)), 'value', ...ended])
  }

  /** A command that goes on, as `monitor` does. */
  follow(...words: string[]): Background {
    return this.node.start([process.execPath, COMMAND, '--socket', this.socket, ...words])
  }

  /** The hostroute command with these words, against this daemon. */
  command(words: readonly string[], timeout = 20_000): Promise<Outcome> {
    return exec([process.execPath, COMMAND, '--socket', this.socket, ...words], { timeout })
  }

  /** A command that has to succeed; its JSON. */
  async json<Result>(...words: string[]): Promise<Result> {
    const outcome = await this.node.exec([process.execPath, COMMAND, '--socket', this.socket, ...words, '--json'])
    if (outcome.status !== 0) throw new Error(`hostroute ${words.join(' ')}: ${outcome.stderr || outcome.stdout}`)
    return JSON.parse(outcome.stdout) as Result
  }

  /** Replaces the ip-masq-agent file. */
  writeMasquerade(content: Record<string, unknown>): void {
    writeFileSync(this.masqueradeFile, stringify(content))
  }

  /** Replaces the configuration file; a running daemon reads it at its next start or reload. */
  writeConfig(config: Record<string, unknown> | string): void {
    // checks and guard look at the whole machine: tests that are about them say so
    const defaults = { checks: 'off', guard: { mode: 'off' } }
    if (typeof config === 'string') return writeFileSync(this.configFile, config)
    const snat = { masqueradeFiles: [this.masqueradeFile], ...(config['snat'] as Record<string, unknown> | undefined) }
    writeFileSync(this.configFile, stringify({ ...defaults, ...config, snat }))
  }
}
