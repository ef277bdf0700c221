// scripts/bench: all figures of this machine, and of the one whose clock
// counts instructions.

import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { cpus, loadavg, release } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { median } from '../lab/measure.js'
import { fetchKernel } from '../vm/kernels.js'
import { runInVm } from '../vm/machine.js'
import { formatReport, type Measured, type Report, type TrafficFigures } from './figures.js'
import { bareLine, createLine, FORWARDERS, type Line } from './line.js'
import { drawPicture } from './picture.js'
import type { ProgramCost } from './programs.js'
import { buildTraffic, KINDS, type Kind, Traffic } from './traffic.js'

const usage = `usage: scripts/bench [options]
Latency, packet rate, connections and throughput over a bare veth pair, the
kernel's forwarding, the kernel with conntrack, MASQUERADE and 100 iptables
rules, and hostroute; and what the BPF programs cost alone.

  --quick          3 rounds instead of 25: ten seconds instead of a minute
  --exact          also in a virtual machine (Linux 6.12) whose clock counts
                   instructions: the same on any machine; a minute more
  --only-exact     only there
  --only WORD      of the exact figures only the ways whose name has the word,
                   "programs" for the programs alone; may be repeated
  --json           the figures as JSON
  --picture FILE   also draw them as SVG

scripts/bench --routing [--routes 0,1000,100000,1000000] [--quick] [--json]
What the daemon costs while it follows the kernel's tables: CPU time and memory
of a start, CPU time of events of each kind and while nothing happens, and the
time from an event to the map. A quarter of an hour; --quick takes a third.
`

/** Units of one slice: some 20 to 60 ms each. */
const COUNTS: Record<Kind, number> = { tcp: 2_000, udp: 2_000, packets: 8_000, connect: 300, stream: 60 }
const EXACT_KERNEL = '6.12'

const { values: flags } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    exact: { type: 'boolean', default: false },
    'only-exact': { type: 'boolean', default: false },
    only: { type: 'string', multiple: true, default: [] },
    json: { type: 'boolean', default: false },
    picture: { type: 'string' },
    help: { type: 'boolean', default: false }
  }
})

function progress(words: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${words}`)
}

/** Slices of all ways by turns, so that a slow moment of the machine meets all of them. */
async function byTurns(lines: readonly Line[], rounds: number): Promise<TrafficFigures> {
  const open = await Promise.all(lines.flatMap(({ ways }) => ways.map((way) => Traffic.open(way))))
  const figures: TrafficFigures = {}
  for (const kind of KINDS) {
    const slices = open.map((): number[] => [])
    for (let round = 1; round <= rounds; round++) {
      progress(`${kind}, round ${round} of ${rounds}`)
      for (const [index, traffic] of open.entries()) slices[index]?.push(await traffic.measure(kind, COUNTS[kind]))
    }
    for (const [index, { way }] of open.entries()) {
      figures[way.name] = { ...figures[way.name], [kind]: median(slices[index] ?? []) }
    }
  }
  progress('')
  await Promise.all(open.map((traffic) => traffic.close()))
  return figures
}

async function measureHere(rounds: number): Promise<Measured> {
  const lines: Line[] = []
  try {
    lines.push(await bareLine())
    for (const forwarder of FORWARDERS) lines.push(await createLine(forwarder))
    const traffic = await byTurns(lines, rounds)
    const program = fileURLToPath(new URL('./programs.js', import.meta.url))
    const argv = ['-c', '0', process.execPath, program, flags.quick ? '100' : '500']
    const programs = JSON.parse(execFileSync('taskset', argv, { encoding: 'utf8' })) as ProgramCost[]
    return { traffic, programs }
  } finally {
    for (const line of lines) await line.close()
  }
}

async function measureExactly(): Promise<Measured & { kernel: string }> {
  const kernel = fetchKernel(EXACT_KERNEL)
  progress(`in a machine with Linux ${kernel.release} …`)
  const script = fileURLToPath(new URL('./guest.js', import.meta.url))
  const result = await runInVm({
    kernel: EXACT_KERNEL,
    icount: true,
    command: [process.execPath, '--enable-source-maps', script, ...flags.only],
    timeoutSeconds: 900
  })
  progress('')
  if (result.status !== 0) throw new Error(`the exact benchmark failed: ${result.stderr.trim()}`)
  return { ...(JSON.parse(result.stdout) as Measured), kernel: kernel.release }
}

async function main(): Promise<void> {
  if (flags.help) return void process.stdout.write(usage)
  const begin = performance.now()
  buildTraffic()
  const rounds = flags.quick ? 3 : 25
  const wall = flags['only-exact'] ? null : await measureHere(rounds)
  const load = loadavg()[0] ?? 0
  const exact = flags.exact || flags['only-exact'] ? await measureExactly() : null
  const about = {
    date: new Date().toISOString(),
    kernel: release(),
    processor: cpus()[0]?.model ?? 'unknown',
    load,
    rounds,
    seconds: Math.round((performance.now() - begin) / 1_000)
  }
  const report: Report = { about, wall, exact }
  if (flags.picture !== undefined) writeFileSync(flags.picture, drawPicture(report))
  process.stdout.write(flags.json ? `${JSON.stringify(report, null, 2)}\n` : formatReport(report))
}

await main()
process.exit(0)
