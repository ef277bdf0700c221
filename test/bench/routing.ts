// scripts/bench --routing: what the daemon costs while it follows the kernel's
// tables. CPU time of the whole process, so other work on the machine matters
// little; times from event to map are wall time.

import { readdirSync, readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import type { Status } from '../../src/control/api.js'
import { controlClient } from '../../src/control/client.js'
import { routerAddress } from '../lab/addresses.js'
import { compile } from '../lab/compile.js'
import { Lab } from '../lab/lab.js'
import { median } from '../lab/measure.js'
import type { LabNode, LabPod } from '../lab/node.js'
import { sleep } from '../lab/process.js'

const { values: flags } = parseArgs({
  options: {
    routes: { type: 'string', default: '0,1000,100000,1000000' },
    quick: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false }
  }
})

/** The periodic comparison is in it. */
const idleTime = flags.quick ? 20_000 : 70_000
const turns = flags.quick ? 3 : 10
const secondsOfEvents = flags.quick ? 3 : 6

interface Figures {
  routes: number
  /** Milliseconds of CPU that `ip` needs to read and print them, the kernel's part included: what nobody can go below by much. */
  bare: number
  /** Milliseconds of CPU; mebibytes. */
  start: number
  peak: number
  resident: number
  /** Percent of a CPU. */
  idle: number
  veth: number
  vethGone: number
  pod: number
  podGone: number
  rule: number
  address: number
  firstRow: number
  /** Milliseconds from the event to the map, by events a second. */
  event1000: { p50: number; p99: number }
  event10000: { p50: number; p99: number }
  /** While all routes are dumped again and again. */
  eventInDumps: { p50: number; p99: number }
  /** Longest time that the event loop was held up, milliseconds, wall time: by the start, and until the end. */
  longestAtStart: number
  longest: number
}

/** Milliseconds that the process has run. */
function cpu(pid: number): number {
  let sum = 0
  for (const task of readdirSync(`/proc/${pid}/task`))
    sum += Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'utf8').split(' ')[0])
  return sum / 1e6
}

function mebibytes(pid: number, name: string): number {
  return Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024
}

/** CPU of one action: the median of several, less that of as much time without. */
async function costOf(pid: number, times: number, action: (turn: number) => Promise<unknown>): Promise<number> {
  const window = async (what: () => Promise<unknown>): Promise<number> => {
    const from = cpu(pid)
    await what()
    await sleep(700)
    return cpu(pid) - from
  }
  const [idle, busy]: [number[], number[]] = [[], []]
  for (let turn = 0; turn < times; turn++) {
    idle.push(await window(() => sleep(20)))
    busy.push(await window(() => action(turn)))
  }
  return Math.max(0, median(busy) - median(idle))
}

function percentile(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
}

async function eventToMap(node: LabNode, rate: number): Promise<{ p50: number; p99: number }> {
  const words = [`${node.daemon.pinDirectory}/routes4`, `${rate}`, `${secondsOfEvents}`, routerAddress(1).v4, 'up1']
  const text = await node.run([compile('test/bench/events.c'), ...words], { timeout: 60_000 })
  const times = text
    .trim()
    .split('\n')
    .map((line) => (Number(line) < 0 ? Number.POSITIVE_INFINITY : Number(line) / 1000))
    .sort((a, b) => a - b)
  return { p50: percentile(times, 0.5), p99: percentile(times, 0.99) }
}

/** The same, while a preferred source goes again and again, which makes the daemon read all routes. */
async function eventInDumps(node: LabNode): Promise<{ p50: number; p99: number }> {
  let over = false
  const disturb = async (): Promise<void> => {
    while (!over) {
      await node.ip('addr add 172.31.9.8/32 dev up1')
      await node.ip(`route add 10.200.0.0/16 via ${routerAddress(1).v4} src 172.31.9.8`)
      await node.ip('addr del 172.31.9.8/32 dev up1')
      await sleep(300)
    }
  }
  const disturbing = disturb()
  const figures = await eventToMap(node, 1000)
  over = true
  await disturbing
  return figures
}

/** Milliseconds of CPU. */
async function bareDump(node: LabNode): Promise<number> {
  const text = await node.run(['bash', '-c', "TIMEFORMAT='%U %S'; { time ip route show table all >/dev/null; } 2>&1"])
  const [user = 0, system = 0] = text.trim().split(' ').map(Number)
  return (user + system) * 1000
}

async function measure(routes: number): Promise<Figures> {
  const lab = await Lab.create({ nodes: 1, uplinks: 2 })
  try {
    const node = lab.node(0)
    const gateways = [routerAddress(0).v4, routerAddress(1).v4]
    const commands = Array.from(
      { length: routes },
      (_, i) => `route add ${20 + (i >> 16)}.${(i >> 8) & 255}.${i & 255}.0/24 via ${gateways[i % 2]}`
    )
    // one process reads them all
    if (routes > 0) await node.run(['ip', '-batch', '-'], { input: `${commands.join('\n')}\n`, timeout: 600_000 })
    const bare = await bareDump(node)
    await node.startDaemon({ config: { checks: 'off', guard: { mode: 'off' } }, timeout: 120_000 })
    const { pid, socket } = node.daemon
    await sleep(1000)
    const start = cpu(pid)
    const heldUp = async () => (await controlClient(socket).get<Status>('/v1/status')).value.eventLoop.longest
    const longestAtStart = await heldUp()
    const peak = mebibytes(pid, 'VmHWM')
    const idleFrom = cpu(pid)
    await sleep(idleTime)
    const idle = (cpu(pid) - idleFrom) / (idleTime / 100)
    const veth = await costOf(pid, turns, async (turn) => {
      await node.ip(`link add x${turn} type veth peer name y${turn}`, `link set x${turn} up`, `link set y${turn} up`)
    })
    const vethGone = await costOf(pid, turns, (turn) => node.ip(`link del x${turn}`))
    const pods: LabPod[] = []
    const pod = await costOf(pid, turns, async () => pods.push(await node.addPod()))
    const podGone = await costOf(pid, turns, async () => node.removePod(pods.pop() as LabPod))
    const rule = await costOf(pid, 2 * Math.ceil(turns / 3), (turn) =>
      node.ip(`rule ${turn % 2 ? 'del' : 'add'} from 10.250.0.0/16 lookup 77 priority 777`)
    )
    const address = await costOf(pid, 2 * Math.ceil(turns / 3), (turn) =>
      node.ip(`addr ${turn % 2 ? 'del' : 'add'} 172.31.9.9/32 dev up1`)
    )
    const firstRow = await costOf(pid, Math.ceil(turns / 2), async () => {
      await controlClient(socket).get('/v1/routes?limit=1')
    })
    const event1000 = await eventToMap(node, 1000)
    await sleep(2000)
    const event10000 = await eventToMap(node, 10_000)
    await sleep(2000)
    const inDumps = await eventInDumps(node)
    const resident = mebibytes(pid, 'RssAnon')
    return {
      routes,
      bare,
      start,
      peak,
      resident,
      idle,
      veth,
      vethGone,
      pod,
      podGone,
      rule,
      address,
      firstRow,
      event1000,
      event10000,
      eventInDumps: inDumps,
      longestAtStart,
      longest: await heldUp()
    }
  } finally {
    await lab.close()
  }
}

/** Resident and own memory of an idle daemon with its guard, mebibytes. */
async function measureGuarded(): Promise<{ resident: number; own: number }> {
  const lab = await Lab.create({ nodes: 1, uplinks: 1 })
  try {
    const node = lab.node(0)
    await node.startDaemon({ config: { checks: 'off', guard: { mode: 'audit' } } })
    await sleep(15_000)
    const { pid } = node.daemon
    return { resident: mebibytes(pid, 'VmRSS'), own: mebibytes(pid, 'RssAnon') }
  } finally {
    await lab.close()
  }
}

function table(all: readonly Figures[]): string {
  const number = (value: number): string => value.toFixed(value < 10 ? 1 : 0)
  const pair = ({ p50, p99 }: Figures['event1000']): string => `${number(p50)} · ${number(p99)}`
  const rows: [string, (figures: Figures) => string][] = [
    ['for comparison: ip route show, CPU ms', ({ bare }) => number(bare)],
    ['start, CPU ms', ({ start }) => number(start)],
    ['peak RSS, MiB', ({ peak }) => number(peak)],
    ['idle, % of a CPU', ({ idle }) => idle.toFixed(2)],
    ['a veth appears, CPU ms', ({ veth }) => number(veth)],
    ['it goes, CPU ms', ({ vethGone }) => number(vethGone)],
    ['a pod appears, CPU ms', ({ pod }) => number(pod)],
    ['it goes, CPU ms', ({ podGone }) => number(podGone)],
    ['a rule comes or goes, CPU ms', ({ rule }) => number(rule)],
    ['an address comes or goes, CPU ms', ({ address }) => number(address)],
    ['first row of /v1/routes, CPU ms', ({ firstRow }) => number(firstRow)],
    ['event to map at 1,000/s, ms p50 · p99', ({ event1000 }) => pair(event1000)],
    ['event to map at 10,000/s, ms p50 · p99', ({ event10000 }) => pair(event10000)],
    ['event to map at 1,000/s and dumps, ms p50 · p99', (figures) => pair(figures.eventInDumps)],
    ['longest time the event loop was held up, ms: by the start', ({ longestAtStart }) => number(longestAtStart)],
    ['and until the end', ({ longest }) => number(longest)]
  ]
  const cells = [
    ['', ...all.map(({ routes }) => `${routes.toLocaleString('en')} routes`)],
    ...rows.map(([name, cell]) => [name, ...all.map(cell)])
  ]
  const widths = (cells[0] ?? []).map((_, column) => Math.max(...cells.map((row) => row[column]?.length ?? 0)))
  return cells
    .map((row) =>
      row
        .map((cell, at) => (at === 0 ? cell.padEnd(widths[at] ?? 0) : cell.padStart(widths[at] ?? 0)))
        .join('   ')
        .trimEnd()
    )
    .join('\n')
}

const all: Figures[] = []
for (const routes of flags.routes.split(',')) all.push(await measure(Number(routes)))
const guarded = await measureGuarded()
const lines = `${table(all)}\n\nidle with the guard: ${guarded.resident.toFixed(0)} MiB resident, ${guarded.own.toFixed(0)} MiB of its own\n`
process.stdout.write(flags.json ? `${JSON.stringify({ all, guarded }, null, 2)}\n` : lines)
