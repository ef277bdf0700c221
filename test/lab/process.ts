// Running programs, in this namespace or in a lab's: one-shot (exec, run), at
// exit when nothing may be awaited any more (execSync), and long-lived ones
// (Background). Namespaces are entered with nsenter, not `ip netns exec`: the
// latter mounts a new /sys, and the bpffs below it would be gone.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'

/** Times to wait are so much longer in an emulated machine. */
export const slowness = process.env['HOSTROUTE_VM'] ? 10 : 1
/** How much longer it is waited for what a machine of one's own shows in `timeout` ms: others may be busy on this one. */
const leniency = process.env['HOSTROUTE_VM'] ? 10 : 4

export interface Outcome {
  /** Exit status; null when a signal ended it. */
  status: number | null
  signal: string | null
  stdout: string
  stderr: string
}

export interface ExecOptions {
  input?: string
  /** Milliseconds until SIGKILL; 30 s when absent. */
  timeout?: number
  environment?: Record<string, string>
}

/** The command line that runs `argv` inside a network namespace. */
export function enter(namespace: string | null, argv: readonly string[]): string[] {
  return namespace ? ['nsenter', `--net=/run/netns/${namespace}`, '--', ...argv] : [...argv]
}

/** Runs a program to its end. Rejects only when it cannot be started; look at `status`. */
export function exec(argv: readonly string[], options: ExecOptions = {}): Promise<Outcome> {
  const [file = '', ...rest] = argv
  return new Promise((resolve, reject) => {
    const child = spawn(file, rest, {
      stdio: ['pipe', 'pipe', 'pipe'],
      timeout: (options.timeout ?? 30_000) * leniency,
      killSignal: 'SIGKILL',
      env: { ...process.env, ...options.environment }
    })
    const outcome: Outcome = { status: null, signal: null, stdout: '', stderr: '' }
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      outcome.stdout += text
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      outcome.stderr += text
    })
    child.stdin.on('error', () => {})
    child.stdin.end(options.input ?? '')
    child.on('error', reject)
    child.on('close', (status, signal) => resolve({ ...outcome, status, signal }))
  })
}

/** Runs a program that has to succeed; its standard output. Rejects with its words otherwise. */
export async function run(argv: readonly string[], options: ExecOptions = {}): Promise<string> {
  const outcome = await exec(argv, options)
  if (outcome.status === 0) return outcome.stdout
  const end = outcome.signal ? `was ended by ${outcome.signal}` : `exited with status ${outcome.status}`
  throw new Error(`"${argv.join(' ')}" ${end}: ${(outcome.stderr + outcome.stdout).trim()}`)
}

/** The same without waiting on the event loop, for clean-up at exit. Never throws. */
export function execSync(argv: readonly string[], input = ''): Outcome {
  const [file = '', ...rest] = argv
  const result = spawnSync(file, rest, { input, encoding: 'utf8', timeout: 30_000 })
  return { status: result.status, signal: result.signal, stdout: result.stdout ?? '', stderr: result.stderr ?? '' }
}

/** A program that runs beside the test until it is stopped. */
export class Background {
  readonly child: ChildProcess
  readonly #chunks: Buffer[] = []
  stderr = ''
  readonly #ended: Promise<unknown>

  constructor(argv: readonly string[], environment: Record<string, string> = {}) {
    const [file = '', ...rest] = argv
    this.child = spawn(file, rest, { stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, ...environment } })
    this.child.stdout?.on('data', (chunk: Buffer) => this.#chunks.push(chunk))
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text
    })
    this.child.stdin?.on('error', () => {})
    this.#ended = once(this.child, 'close').catch((error: unknown) => error)
  }

  get pid(): number {
    return this.child.pid ?? 0
  }

  get running(): boolean {
    return this.child.exitCode === null && this.child.signalCode === null
  }

  /** What it has written to standard output until now. */
  get output(): Buffer {
    return Buffer.concat(this.#chunks)
  }

  get stdout(): string {
    return this.output.toString()
  }

  /** Waits until `words` stand in its output; rejects when it ends before or after `timeout` ms. */
  async waitFor(words: string, timeout = 5_000): Promise<void> {
    const end = Date.now() + timeout * leniency
    while (!this.stdout.includes(words) && !this.stderr.includes(words)) {
      if (!this.running || Date.now() > end) {
        const argv = this.child.spawnargs.join(' ')
        const why = this.running ? `did not say "${words}" within ${timeout} ms` : 'ended early'
        throw new Error(`"${argv}" ${why}: ${(this.stderr + this.stdout).trim()}`)
      }
      await sleep(5 * slowness)
    }
  }

  /** Ends it and waits for that; SIGKILL follows after `patience` ms. Harmless when it has ended already. */
  async stop(signal: NodeJS.Signals = 'SIGTERM', patience = 5_000): Promise<void> {
    if (!this.running) return
    this.child.kill(signal)
    const timer = setTimeout(() => this.child.kill('SIGKILL'), patience * slowness)
    await this.#ended
    clearTimeout(timer)
  }

  /** Waits for its own end; SIGKILL after `timeout` ms. */
  async finished(timeout = 30_000): Promise<Outcome> {
    const timer = setTimeout(() => this.child.kill('SIGKILL'), timeout * leniency)
    await this.#ended
    clearTimeout(timer)
    const { exitCode: status, signalCode: signal } = this.child
    return { status, signal, stdout: this.stdout, stderr: this.stderr }
  }
}

export function sleep(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds))
}

/** Asks every few milliseconds until `condition` holds; rejects with `what` after `timeout` ms. Returns how long it took, in ms. */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  timeout = 10_000,
  pause = 20
): Promise<number> {
  const start = performance.now()
  while (!(await condition())) {
    if (performance.now() - start > timeout * leniency) throw new Error(`${what}: not within ${timeout * leniency} ms`)
    await sleep(pause * slowness)
  }
  return performance.now() - start
}
