// Every native call of start, enable, reload, disable, and a reload with other limits
// fails, once and for good: each time all or nothing, told, and right again afterwards;
// after other limits by a new start, since what is pinned must be what is in use.

import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { Status, VerifyReport } from '../../src/control/api.js'
import { controlClient } from '../../src/control/client.js'
import { OUTSIDE } from '../lab/addresses.js'
import { HELPER, type Orders } from '../lab/fault-orders.js'
import type { Flow } from '../lab/host.js'
import { Lab } from '../lab/lab.js'
import type { LabNode } from '../lab/node.js'
import { stalePins } from '../lab/pins.js'
import { sleep, until } from '../lab/process.js'
import type { Report } from './report.js'

const PRELOAD = fileURLToPath(new URL('../lab/faults.js', import.meta.url))
const patience = 60_000

export const PHASES = ['start', 'enable', 'reload', 'limits', 'disable'] as const
export type Phase = (typeof PHASES)[number]

export interface FaultOptions {
  phases: readonly Phase[]
  code: string
  guard: 'enforce' | 'off'
  ways: readonly ('once' | 'for good')[]
  /** Which calls: all first, second and last ones when absent. */
  only?: RegExp
  /** Of these, each so-manieth. */
  every?: number
}

interface Case {
  label: string
  from: number
  once: boolean
}

interface Outcome {
  /** What broke a promise. */
  broken: string[]
  /** What became of it, in a few words. */
  became: string
}

/** A node whose daemon's calls can be made to fail. */
export class Faulty {
  private readonly orders: string
  private readonly record: string
  private changes = 0
  private limits: Record<string, number> = {}

  private constructor(
    readonly lab: Lab,
    private readonly options: FaultOptions
  ) {
    this.orders = `${lab.directory}/faults`
    this.record = `${lab.directory}/calls`
    this.order({})
  }

  static async create(report: Report, options: FaultOptions): Promise<Faulty> {
    const lab = await Lab.create({ nodes: 1, pods: 2 })
    report.teardown(() => lab.close())
    await lab.outside.echo(7)
    return new Faulty(lab, options)
  }

  private get node(): LabNode {
    return this.lab.node(0)
  }

  private order(orders: Orders): void {
    writeFileSync(this.orders, JSON.stringify(orders))
  }

  private async start(waitReady: boolean): Promise<void> {
    await this.node.daemon.start({
      config: this.config(),
      environment: { NODE_OPTIONS: `--import=${PRELOAD}`, HOSTROUTE_FAULTS: this.orders },
      waitReady,
      timeout: patience
    })
  }

  /** Each reload has something to do: maps are written, and planned anew. */
  private config(): Record<string, unknown> {
    const more = this.changes++
    return {
      checks: 'off',
      guard: { mode: this.options.guard },
      limits: this.limits,
      stackPrefixes: [`198.18.${more % 250}.0/24`],
      snat: { ports: [`${20_000 + (more % 250)}-30000`] }
    }
  }

  /** Each in turn, so that each time all maps are others. */
  private changeLimits(): void {
    const [factor, devices] = this.limits['devices'] === 32 ? [2, 64] : [1, 32]
    const routes = { routes4: 2048 * factor, routes6: 2048 * factor }
    this.limits = {
      ...routes,
      neighbours: 1024 * factor,
      masquerade: 256 * factor,
      devices,
      flows: factor === 1 ? 16_384 : 262_144
    }
  }

  private status(): Promise<Status> {
    return controlClient(this.node.daemon.socket)
      .get<Status>('/v1/status')
      .then(({ value }) => value)
  }

  /** Back to where a phase begins. */
  private async prepare(phase: Phase): Promise<void> {
    const { daemon } = this.node
    this.order({})
    if (phase === 'start') {
      await daemon.removeAfterKill()
      return
    }
    if (!daemon.running) {
      await daemon.removeAfterKill()
      await this.start(false)
      await until(
        'it answers',
        () =>
          !this.node.daemon.running ||
          this.status().then(
            () => true,
            () => false
          ),
        patience,
        50
      )
    }
    if ((await this.status()).mode !== 'enabled') await this.command('enable')
    if (phase === 'enable') await this.command('disable')
  }

  /** Exit status and words of what the phase does; null: the process has not ended, or no command was given. */
  private async act(phase: Phase): Promise<{ status: number | null; words: string } | null> {
    const { daemon } = this.node
    if (phase === 'start') {
      await this.start(false)
      const answers = () =>
        this.status().then(
          ({ sync, mode, why }) =>
            sync.state === 'synced' && (mode !== 'disabled' || (this.refused && !why?.startsWith('starting'))),
          () => false
        )
      await until('it answers or ends', async () => !daemon.running || (await answers()), patience, 50)
      return null
    }
    if (phase === 'limits') this.changeLimits()
    if (phase === 'enable') return this.command(phase)
    daemon.writeConfig(this.config())
    return this.command('reload')
  }

  /** As the command does, which takes its exit status from this; straight to the socket, since a process takes longer. */
  private async command(word: 'enable' | 'disable' | 'reload'): Promise<{ status: number; words: string }> {
    try {
      const { value, text } = await controlClient(this.node.daemon.socket).post<{ done?: boolean; ok?: boolean }>(
        `/v1/${word}`,
        word === 'disable' ? { force: true } : {}
      )
      return { status: (value.done ?? value.ok) ? 0 : 2, words: text }
    } catch (error) {
      return { status: 1, words: (error as Error).message }
    }
  }

  private get refused(): boolean {
    return this.node.daemon.log.includes(HELPER)
  }

  /** The calls of a phase that goes well, in their order. */
  async calls(phase: Phase): Promise<string[]> {
    await this.prepare(phase)
    rmSync(this.record, { force: true })
    this.order({ record: this.record })
    await this.act(phase)
    const mode = phase === 'disable' ? 'disabled' : 'enabled'
    await until(mode, async () => (await this.status()).mode === mode, patience, 50)
    this.order({})
    return readFileSync(this.record, 'utf8').trim().split('\n')
  }

  cases(calls: readonly string[]): Case[] {
    const counts = new Map<string, number>()
    for (const label of calls) counts.set(label, (counts.get(label) ?? 0) + 1)
    const { only, ways, every = 1 } = this.options
    return [...counts]
      .filter(([label]) => only?.test(label) ?? true)
      .flatMap(([label, last]) =>
        ways.flatMap((way) => {
          const positions = way === 'once' ? [...new Set([1, 2, last])].filter((each) => each <= last) : [1]
          return positions.map((from) => ({ label, from, once: way === 'once' }))
        })
      )
      .filter((_, at) => at % every === 0)
  }

  private get fired(): boolean {
    const { fired } = JSON.parse(readFileSync(this.orders, 'utf8')) as Orders
    return fired !== undefined || existsSync(`${this.orders}.fired`)
  }

  async one(phase: Phase, { label, from, once }: Case): Promise<Outcome> {
    const { daemon } = this.node
    await this.prepare(phase)
    rmSync(`${this.orders}.fired`, { force: true })
    const flows = phase === 'limits' ? [await this.flow()] : []
    const logged = phase === 'start' ? 0 : daemon.log.length
    this.order({ fail: { label, from, once, code: this.options.code } })
    const broken: string[] = []
    const command = await this.act(phase)
    const { fired } = this
    let became = await this.look(phase, command, fired, broken)
    const told = daemon.log
      .slice(logged)
      .split('\n')
      .filter((line) => line.includes(HELPER)).length
    if (fired && told === 0) became += ', not logged'
    if (told > 4) broken.push(`${told} lines in the log`)
    if (phase === 'limits') {
      flows.push(await this.flow())
      await daemon.kill('SIGKILL')
    }
    this.order({})
    const ended = await this.rightAgain(phase, broken)
    if (phase === 'limits' && daemon.running) await this.wentOn(flows, broken)
    return { broken, became: `${became}; ${ended}` }
  }

  private flow(): Promise<Flow> {
    return this.node.pod(0).flow({ protocol: 'tcp', address: OUTSIDE.v4, port: 7 })
  }

  private async wentOn(flows: readonly Flow[], broken: string[]): Promise<void> {
    for (const flow of flows) {
      const { received, sent, error } = await flow.finish()
      if (error !== null || received !== sent)
        broken.push(`a flow through SNAT: ${received} of ${sent} answers, ${error ?? 'no error'}`)
    }
    broken.push(...(await stalePins(this.node)))
  }

  /** While it fails. */
  private async look(
    phase: Phase,
    command: { status: number | null; words: string } | null,
    fired: boolean,
    broken: string[]
  ): Promise<string> {
    const { daemon } = this.node
    if (!daemon.running) {
      const status = daemon.exitStatus
      if (phase !== 'start') broken.push(`the daemon ended with ${status}: ${lastLine(daemon.log)}`)
      else if (status !== 1)
        broken.push(`exit status ${status}, after which systemd does not try again: ${lastLine(daemon.log)}`)
      if (/uncaught|unhandled| {4}at /.test(daemon.log)) broken.push('a stack trace')
      await this.nothingLeft(broken)
      return `ended with ${status}`
    }
    let status: Status
    try {
      status = await this.status()
    } catch (error) {
      broken.push(`no status: ${(error as Error).message}`)
      return 'hangs'
    }
    const [problem] = status.problems
    const isReload = phase === 'reload' || phase === 'limits'
    if (status.mode === 'disabled') {
      if (command?.status === 0 && phase === 'enable') broken.push('enable: exit status 0, disabled')
      if (isReload) broken.push('a reload has disabled it')
      if (phase === 'disable') return this.lookAtDisabled(command, broken)
      if (!status.why) broken.push('disabled without a reason')
      await this.nothingLeft(broken)
      return `disabled: ${status.why}`
    }
    if (phase === 'disable') broken.push(`disable: ${status.mode}: ${command?.words}`)
    if (phase === 'enable' && command?.status !== 0) {
      broken.push(`enable: exit status ${command?.status}, but ${status.mode}: ${command?.words}`)
    }
    if (isReload && command?.status !== 0 && !problem)
      broken.push(`the reload has failed, and is no problem: ${command?.words}`)
    if (status.mode === 'enabled') await this.served('enabled', broken)
    if (phase === 'limits' && !status.problems.some(({ code }) => code === 'maps-not-finished'))
      broken.push(...(await stalePins(this.node)))
    const reloaded = isReload && command?.status !== 0 ? 'reload refused, ' : ''
    return `${reloaded}${status.mode}${problem ? ` (${problem.code}${problem.nextTry ? ', tried again' : ''})` : ''}${fired ? '' : ', not reached'}`
  }

  /** No program is attached; a pin that stays is a problem. */
  private async lookAtDisabled(
    command: { status: number | null; words: string } | null,
    broken: string[]
  ): Promise<string> {
    if (command?.status !== 0) broken.push(`disable: exit status ${command?.status}, but disabled: ${command?.words}`)
    const [problem] = (await this.status()).problems
    if (problem) return `disabled (${problem.code}, tried again)`
    await this.nothingLeft(broken)
    return 'disabled'
  }

  private async served(when: string, broken: string[]): Promise<void> {
    const { node } = this
    const pod = node.pod(0)
    const addresses = [OUTSIDE.v4, OUTSIDE.v6, node.pod(1).address.v4]
    await Promise.all(
      addresses.map(async (address) => {
        const { received } = await pod.ping(address, { count: 2 })
        if (received !== 2) broken.push(`${when}: ${received} of 2 pings to ${address}`)
      })
    )
    if (when === 'enabled' && (await this.status()).mode !== 'enabled') return // it has noticed meanwhile
    const verify = (await controlClient(node.daemon.socket).get<VerifyReport>('/v1/verify')).value
    if (!verify.ok) broken.push(`${when}: verify: ${JSON.stringify(verify.differences.slice(0, 3))}`)
    const programs = await this.attached()
    if (programs < 3) broken.push(`${when}: only ${programs} programs are attached`)
  }

  private async attached(): Promise<number> {
    const text = await this.node.run(['bpftool', '-j', 'net'])
    return text.match(/from_pod|from_uplink/g)?.length ?? 0
  }

  private async nothingLeft(broken: string[]): Promise<void> {
    const programs = await this.attached()
    if (programs > 0) broken.push(`${programs} programs are attached`)
    const { pinDirectory } = this.node.daemon
    const pins = (existsSync(pinDirectory) ? readdirSync(pinDirectory, { recursive: true }) : [])
      .map(String)
      .filter((name) => name !== 'links')
    if (pins.length > 0)
      broken.push(`pinned: ${pins.slice(0, 5).join(' ')}${pins.length > 5 ? ` and ${pins.length - 5} more` : ''}`)
  }

  /** The fault is over: by itself, by systemd's new start, or with one command. */
  private async rightAgain(phase: Phase, broken: string[]): Promise<string> {
    const { daemon } = this.node
    let how = 'right at once'
    // what nobody tries again waits for the command
    let waits = false
    const right = () =>
      this.status().then(
        ({ mode, problems, sync }) => {
          waits =
            sync.state === 'synced' &&
            (mode !== 'disabled' || phase !== 'start') &&
            !problems.some(({ nextTry }) => nextTry !== null)
          return mode === 'enabled' && problems.length === 0
        },
        () => false
      )
    if (!daemon.running) {
      how = 'right after a new start'
      await this.start(false)
    }
    const asked = performance.now()
    let commanded = false
    try {
      await until(
        'right again',
        async () => {
          if (await right()) return true
          if (!commanded && (waits || performance.now() - asked > 9_000)) {
            commanded = true
            how = 'right after a command'
            await this.command('enable')
            await this.command('reload')
          } else if (!commanded && how === 'right at once') how = 'right by itself'
          return false
        },
        45_000,
        100
      )
      await this.served('afterwards', broken)
    } catch (error) {
      const status = await this.status().catch((why: Error) => why.message)
      broken.push(
        `afterwards: ${(error as Error).message}: ${JSON.stringify(status).slice(0, 500)}: ${lastLine(daemon.log)}`
      )
      await daemon.removeAfterKill().catch(() => {})
      await sleep(100)
    }
    return how
  }
}

const lastLine = (text: string) => text.trim().split('\n').at(-1) ?? ''

/** All of them, with a row for each. */
export async function faults(report: Report, options: FaultOptions): Promise<void> {
  const faulty = await Faulty.create(report, options)
  let total = 0
  let broke = 0
  for (const phase of options.phases) {
    const calls = await faulty.calls(phase)
    const cases = faulty.cases(calls)
    report.figure(`${phase}: ${calls.length} calls, ${new Set(calls).size} kinds, ${cases.length} cases`)
    for (const each of cases) {
      const name = `${phase}: ${each.label} ${each.once ? `#${each.from} once` : 'for good'}`
      const { broken, became } = await faulty
        .one(phase, each)
        .catch((error: Error) => ({ broken: [error.message], became: 'given up' }))
      total++
      if (broken.length > 0) broke++
      report.progress(`${name}: ${became}`)
      if (process.env['HOSTROUTE_FAULTS_VERBOSE'])
        console.log(`${broken.length ? '✗' : '✓'} ${name}: ${became} ${broken.join(' | ')}`)
      report.check(broken.length === 0, `${name}: ${became}: ${broken.join('; ')}`)
    }
  }
  report.figure(`${total - broke} of ${total} cases kept what is promised`)
}
