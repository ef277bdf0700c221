// What the guard's tests share: a node in a network namespace of its own with
// a guard in a process of its own, and the tools run in it.

import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import type { GuardBackendName, GuardEventRow, GuardMode, GuardStatus } from '../../src/control/guard-api.js'
import type { GuardOptions } from '../../src/guard/guard.js'
import { native } from '../../src/native.js'
import type { Operation } from './writer.js'

const compiled = (file: string) => fileURLToPath(new URL(file, import.meta.url))

/** What this kernel can do at most. */
export function strongestBackend(): GuardBackendName {
  if (!process.env['HOSTROUTE_VM']) return 'cgroup'
  mountSecurityfs()
  return readFileSync('/sys/kernel/security/lsm', 'utf8').trim().split(',').includes('bpf') ? 'lsm' : 'fmod_ret'
}

function mountSecurityfs(): void {
  if (!existsSync('/sys/kernel/security/lsm'))
    execFileSync('mount', ['-t', 'securityfs', 'securityfs', '/sys/kernel/security'])
}

export interface ToolResult {
  status: number | null
  output: string
}

let number = 0

/** A namespace, its guard and its directories; all of it goes at the end of the test. */
export class GuardedNode {
  readonly name = `hr-guard-${process.pid}-${number++}`
  readonly directory = `/run/${this.name}`
  readonly events: GuardEventRow[] = []
  #child: ChildProcess | null = null
  /** A guard that ended without removing its traces. */
  #leftBehind = false
  #status: ((status: GuardStatus) => void) | null = null
  log = ''

  constructor(t: Test) {
    mkdirSync(`${this.directory}/bpf`, { recursive: true })
    mkdirSync(`${this.directory}/run`)
    native().mountBpffs(`${this.directory}/bpf`)
    execFileSync('ip', ['netns', 'add', this.name])
    t.teardown(() => this.#remove())
  }

  async start(options: Partial<GuardOptions> = {}): Promise<GuardStatus> {
    const given = {
      pinDirectory: `${this.directory}/bpf`,
      runDirectory: `${this.directory}/run`,
      mode: 'enforce',
      backend: 'auto',
      remove: false,
      allow: { defaults: false, units: [], cgroups: [], executables: [] },
      ...options
    }
    const serve = [`--net=/run/netns/${this.name}`, process.execPath, compiled('serve.js'), JSON.stringify(given)]
    const child = spawn('nsenter', serve, { stdio: ['pipe', 'pipe', 'pipe'] })
    this.#child = child
    child.stderr.on('data', (chunk: Buffer) => (this.log += chunk.toString()))
    createInterface({ input: child.stdout }).on('line', (line) => {
      const said = JSON.parse(line) as { event?: GuardEventRow; status?: GuardStatus; error?: string }
      if (said.event) this.events.push(said.event)
      if (said.status) this.#status?.(said.status)
      if (said.error) throw new Error(said.error)
    })
    return this.#answer(`the guard did not start: ${this.log}`)
  }

  /** Runs a tool in the namespace. */
  run(command: string, ...args: string[]): ToolResult {
    return this.runWith('', command, ...args)
  }

  runWith(input: string, command: string, ...args: string[]): ToolResult {
    const result = spawnSync('nsenter', [`--net=/run/netns/${this.name}`, command, ...args], {
      input,
      encoding: 'utf8'
    })
    return { status: result.status, output: result.stdout + result.stderr }
  }

  /** One line of a shell, in the namespace. */
  shell(line: string): ToolResult {
    return this.run('sh', '-c', line)
  }

  write(...operations: Operation[]): string[] {
    const { output } = this.run(process.execPath, compiled('writer.js'), JSON.stringify(operations))
    return JSON.parse(output) as string[]
  }

  tell(command: object): Promise<GuardStatus> {
    const answer = this.#answer('no answer')
    this.#child?.stdin?.write(`${JSON.stringify(command)}\n`)
    return answer
  }

  status(): Promise<GuardStatus> {
    return this.tell({ status: true })
  }

  mode(mode: GuardMode): Promise<GuardStatus> {
    return this.tell({ mode })
  }

  async stop(remove: boolean): Promise<void> {
    const child = this.#child
    if (!child) return
    const ended = new Promise((resolve) => child.once('exit', resolve))
    child.stdin?.write(`${JSON.stringify({ stop: { remove } })}\n`)
    await ended
    this.#leftBehind = !remove
    this.#child = null
  }

  async kill(): Promise<void> {
    const child = this.#child
    if (!child) return
    const ended = new Promise((resolve) => child.once('exit', resolve))
    this.#leftBehind = true
    child.kill('SIGKILL')
    await ended
    this.#child = null
  }

  /** The first event that matches, waiting for it. */
  async event(matches: (event: GuardEventRow) => boolean, seconds = 5): Promise<GuardEventRow | undefined> {
    const end = Date.now() + seconds * 1000
    for (;;) {
      const found = this.events.find(matches)
      if (found || Date.now() > end) return found
      await sleep(20)
    }
  }

  #answer(failure: string): Promise<GuardStatus> {
    return new Promise((resolve, reject) => {
      const child = this.#child
      const fail = () => reject(new Error(failure + this.log))
      // an emulated machine beside another one takes its time
      const timer = setTimeout(fail, process.env['HOSTROUTE_VM'] ? 300_000 : 60_000)
      child?.once('exit', fail)
      this.#status = (status) => {
        clearTimeout(timer)
        child?.off('exit', fail)
        resolve(status)
      }
    })
  }

  async #remove(): Promise<void> {
    if (this.#child) await this.stop(true)
    if (this.#leftBehind) this.#removeGuard()
    execFileSync('ip', ['netns', 'del', this.name])
    execFileSync('umount', ['-l', `${this.directory}/bpf`])
    rmSync(this.directory, { recursive: true })
  }

  #removeGuard(): void {
    const left = `import(${JSON.stringify(compiled('../../src/guard/guard.js'))}).then(({ Guard }) => Guard.remove(${JSON.stringify({ pinDirectory: `${this.directory}/bpf`, runDirectory: `${this.directory}/run` })}))`
    execFileSync(process.execPath, ['-e', left])
  }
}

export function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds))
}
