// The exact benchmark's part inside the machine whose clock counts
// instructions. Prints JSON: { traffic: Figures of one round, programs }.
//
//   node build/js/test/bench/guest.js [WORD …]   only ways whose name has one
//   of the words, and the programs alone if one of them is "programs"

import { execFileSync, spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { bareLine, createLine, DESTINATIONS, FORWARDERS, type Line } from './line.js'
import type { ProgramCost } from './programs.js'
import { Traffic } from './traffic.js'

const words = process.argv.slice(2)
const wanted = (name: string) => words.length === 0 || words.some((word) => name.includes(word))
const PROGRAMS = fileURLToPath(new URL('./programs.js', import.meta.url))
/** Everything repeats exactly; what a few rounds more would show is the timer's tick. */
const COUNTS = { tcp: 300, udp: 300, connect: 60 } as const
/** The emulated machine is slow in its own time, too. */
const PATIENCE = 120_000

export interface ExactFigures {
  /** Way → kind → instructions. */
  traffic: Record<string, Record<string, number>>
  programs: ProgramCost[]
}

/**
 * When the machine idles its clock jumps to the next timer, and a wait for the
 * host's files would let time-outs pass: this keeps it from idling. It never
 * runs while anything else can.
 */
const busy = spawn('chrt', ['--idle', '0', 'sh', '-c', 'while :; do :; done'], { stdio: 'ignore' })

async function measureLine(line: Line, figures: ExactFigures['traffic']): Promise<void> {
  // The daemon's own work must not fall into a measurement; its lease outlives this.
  if (line.node) process.kill(line.node.daemon.pid, 'SIGSTOP')
  for (const way of line.ways) {
    if (way.name !== 'bare' && !wanted(way.name)) continue
    const traffic = await Traffic.open(way, PATIENCE)
    const row: Record<string, number> = {}
    for (const kind of Object.keys(COUNTS) as (keyof typeof COUNTS)[]) {
      row[kind] = await traffic.measure(kind, COUNTS[kind])
    }
    figures[way.name] = row
    await traffic.close()
  }
  if (line.node) process.kill(line.node.daemon.pid, 'SIGCONT')
  await line.close()
}

const figures: ExactFigures = { traffic: {}, programs: [] }
await measureLine(await bareLine(), figures.traffic)
for (const forwarder of ['floor', ...FORWARDERS] as const) {
  if ([...DESTINATIONS, 'uplink'].some((destination) => wanted(`${forwarder} ${destination}`)))
    await measureLine(await createLine(forwarder, PATIENCE), figures.traffic)
}
if (wanted('programs')) {
  // a small machine has room for fewer entries than are measured
  execFileSync('modprobe', ['nf_conntrack'])
  writeFileSync('/proc/sys/net/netfilter/nf_conntrack_max', '262144')
  figures.programs = JSON.parse(execFileSync(process.execPath, [PROGRAMS, '9'], { encoding: 'utf8' })) as ProgramCost[]
}
busy.kill('SIGKILL')
console.log(JSON.stringify(figures))
