// The node that a run goes through: with hostroute, or with the kernel's own
// forwarding and MASQUERADE, which is what it is compared with.

import type { DropRow } from '../../src/control/packet-api.js'
import { control, plain, servedLab, status } from '../forwarding/served.js'
import { OUTSIDE } from '../lab/addresses.js'
import { compile } from '../lab/compile.js'
import type { LabHost } from '../lab/host.js'
import { Lab, type LabOptions } from '../lab/lab.js'
import type { LabNode } from '../lab/node.js'
import { type Background, sleep, until } from '../lab/process.js'
import type { Report } from './report.js'

export type Way = 'hostroute' | 'kernel'

export const wayName: Record<Way, string> = { hostroute: 'hostroute', kernel: 'kernel, MASQUERADE' }

/** One node, with an echo server outside (port 7); gone when the run ends. */
export async function openLab(
  report: Report,
  way: Way = 'hostroute',
  options: LabOptions = {},
  config: Record<string, unknown> = {}
): Promise<Lab> {
  if (way === 'hostroute') return servedLab(report, options, { config: { ...plain, ...config }, timeout: 60_000 })
  const lab = await Lab.create({ nodes: 1, ...options, legacy: 1 })
  report.teardown(() => lab.close())
  await lab.outside.echo(7)
  return lab
}

/** The pods have no other way to the outside than through hostroute: what it dropped, and what the kernel forwarded. */
export async function onlyByHostroute(report: Report, node: LabNode, except: readonly string[] = []): Promise<void> {
  const all = (await control(node).get<DropRow[]>('/v1/drops')).value
  const rows = all.filter((row) => row.class === 'drop' && !except.includes(row.reason))
  report.check(
    rows.length === 0,
    `dropped: ${rows.map((row) => `${row.packets} ${row.reason} ${row.device}`).join(', ')}`
  )
  const { packets } = await status(node)
  const { forward } = await node.readCounters()
  // opening neighbours, and answers to what has ended
  report.check(forward <= 100, `${forward} packets forwarded by the kernel, ${packets.forwarded.packets} by hostroute`)
}

/** One of the C programs of this folder, in a namespace. */
export function startProgram(report: Report, host: LabHost, name: string, ...words: (string | number)[]): Background {
  const program = host.start([compile(`test/soak/${name}.c`), ...words.map(String)])
  report.teardown(() => program.stop('SIGKILL'))
  return program
}

export const SERVER_PORT = 5300

/** The server of the runs outside, TCP and UDP. */
export async function startServer(report: Report, host: LabHost, address = OUTSIDE.v4): Promise<Background> {
  const server = startProgram(report, host, 'server', address, SERVER_PORT)
  await server.waitFor('ready')
  return server
}

/** What a client says in its last whole line. */
export interface Tally {
  done: number
  failed: number
  errors: string
  late: number
  slowest: number
  waited: number
  seconds: number
}

const NOTHING: Tally = { done: 0, failed: 0, errors: '', late: 0, slowest: 0, waited: 0, seconds: 0 }

export function lines(program: Background): string[] {
  return program.stdout.split('\n').slice(0, -1)
}

export function tally(program: Background): Tally {
  return { ...NOTHING, ...(JSON.parse(lines(program).at(-1) ?? '{}') as Partial<Tally>) }
}

/** "3 x Connection reset by peer, …" of several clients as one. */
function merged(errors: readonly string[]): string {
  const counts = new Map<string, number>()
  for (const each of errors.flatMap((text) => text.split(', ').filter(Boolean))) {
    const [, number, name = ''] = /^(\d+) x (.*)$/.exec(each) ?? []
    counts.set(name, (counts.get(name) ?? 0) + Number(number))
  }
  return [...counts].map(([name, number]) => `${number} x ${name}`).join(', ')
}

export function sum(tallies: readonly Tally[]): Tally {
  return tallies.reduce(
    (all, each) => ({
      done: all.done + each.done,
      failed: all.failed + each.failed,
      errors: merged([all.errors, each.errors]),
      late: all.late + each.late,
      slowest: Math.max(all.slowest, each.slowest),
      waited: all.waited + each.waited,
      seconds: Math.max(all.seconds, each.seconds)
    }),
    NOTHING
  )
}

/** Waits until all have ended; their sum. */
export async function finish(
  programs: readonly Background[],
  onProgress: (until: Tally) => void,
  patience: number
): Promise<Tally> {
  const end = performance.now() + patience
  while (programs.some(({ running }) => running)) {
    if (performance.now() > end) throw new Error(`the clients have not ended after ${patience / 1_000} s`)
    onProgress(sum(programs.map(tally)))
    await sleep(200)
  }
  const broken = programs.find((each) => each.stderr)
  if (broken) throw new Error(broken.stderr.trim())
  return sum(programs.map(tally))
}

/** Asks a client that waits for lines; what it answers. */
export async function ask(program: Background, patience: number): Promise<Tally> {
  const before = lines(program).length
  program.child.stdin?.write('go\n')
  const answered = () => {
    if (!program.running) throw new Error(`it ended: ${program.stderr.trim()}`)
    return lines(program).length > before
  }
  await until('an answer of the client', answered, patience, 50)
  return tally(program)
}
