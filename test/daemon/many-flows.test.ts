// A million flows: listed, counted, expired and deleted in bounded memory, and
// the event loop turns all the while.

import { monitorEventLoopDelay } from 'node:perf_hooks'
import t from 'tap'
import { deleteFlows } from '../../src/answers/deletion.js'
import { topFlows } from '../../src/answers/flow-top.js'
import { listFlows } from '../../src/answers/flow-view.js'
import type { FlowRow, FlowStream } from '../../src/control/flow-api.js'
import { measureJiffies, readClock } from '../../src/datapath/clock.js'
import { expireFlows } from '../../src/datapath/expiry.js'
import { STRUCTS } from '../../src/maps/layout.js'
import { native } from '../../src/native.js'
import { hex } from '../plan/node.js'
import { fillTables, manyFlows } from './flow-table.js'

t.setTimeout(300_000)

const million = 1_000_000
/** Milliseconds: of 10, and the rest for other work of this machine. */
const patience = 100

const size = 1 << 20
const object = native().loadObject({ programs: ['expire', 'delete_flows'], sizes: { flows4: size, reverse4: size } })
t.teardown(() => object.close())
const perSecond = await measureJiffies(object)
const now = () => ({ jiffies: readClock(object).jiffies, perSecond })
const jiffies = () => Number(now().jiffies & 0xffffffffn)
object.writeControl(STRUCTS.control.offset.timeout, Buffer.alloc(32, 0x7f))
fillTables(object.map('flows4'), object.map('reverse4'), manyFlows(million, jiffies(), perSecond, 5000), million)

/** Runs it; the longest that the event loop was away, and how much memory it took on its way. */
async function watched<T>(work: () => Promise<T>): Promise<{ result: T; away: number; megabytes: number }> {
  const delay = monitorEventLoopDelay({ resolution: 1 })
  const before = process.memoryUsage().rss
  let most = before
  const timer = setInterval(() => {
    most = Math.max(most, process.memoryUsage().rss)
  }, 20)
  delay.enable()
  const result = await work()
  delay.disable()
  clearInterval(timer)
  return { result, away: delay.percentile(99) / 1e6, megabytes: (most - before) / 2 ** 20 }
}

async function read(stream: FlowStream, onRows: (rows: FlowRow[]) => void): Promise<number> {
  for (;;) {
    const { done, value } = await stream.next()
    if (done) return value.total
    onRows(value)
  }
}

t.test('every flow is listed once', async (t) => {
  const ports = new Set<string>()
  let rows = 0
  const everything = () =>
    read(listFlows(object, now, {}, null), (part) => {
      rows += part.length
      if (part.length > 256) t.fail(`a part of ${part.length} rows`)
      for (const row of part) if (row.remote === '203.0.113.7') ports.add(`${row.natPort}`)
    })
  const { result, away, megabytes } = await watched(everything)
  t.equal(result, million)
  t.equal(rows, million)
  t.equal(ports.size, million / 64)
  t.ok(away < patience, `the event loop was away for ${away.toFixed(1)} ms`)
  t.ok(megabytes < 100, `${megabytes.toFixed(0)} MB more`)
})

t.test('with a limit the most recently used come first, and filters hold', async (t) => {
  const rows: FlowRow[] = []
  const some = () =>
    read(listFlows(object, now, { pod: '10.1.7.2', verdict: 'snat' }, 300), (part) => void rows.push(...part))
  const { result, away } = await watched(some)
  t.equal(result, million / 250)
  t.equal(rows.length, 300)
  t.ok(rows.every(({ pod, state }) => pod === '10.1.7.2' && state === 'opening'))
  t.same(
    rows.map(({ age }) => age),
    rows.map(({ age }) => age).sort((a, b) => (a ?? 0) - (b ?? 0)),
    'of the same idleness the youngest first'
  )
  t.equal(rows.filter(({ age }) => (age ?? 0) < 60).length, 20, 'all of the young ones')
  t.ok(away < patience, `the event loop was away for ${away.toFixed(1)} ms`)
  t.equal(await read(listFlows(object, now, { verdict: 'direct' }, null), () => t.fail('none is direct')), 0)
})

t.test('top counts remotes and pods in one walk', async (t) => {
  const created = jiffies()
  const busy = { pod: '10.2.0.1', remote: '203.0.113.99', remotePort: 53, protocol: 17, created, seen: created }
  const fresh = Array.from({ length: 100 }, (_, at) => ({ ...busy, podPort: 1 + at }))
  fillTables(object.map('flows4'), object.map('reverse4'), fresh, fresh.length)
  const count = () => topFlows({ maps: object, now, ports: 33_512, deviceOf: () => null }, 3)
  const { result, away, megabytes } = await watched(count)
  t.match(result, { flows: million + 100, ports: 33_512, uncertainty: 0 })
  t.equal(result.remotes.length, 3)
  t.match(result.remotes[0], { source: '192.0.2.10', remotePort: 443, flows: million / 64, share: 0.4663 })
  t.match(result.podsByFlows[0], { flows: million / 250, snat: million / 250 })
  t.match(result.podsByNewFlows[0], { pod: '10.2.0.1', flows: 100, snat: 0, newPerSecond: 10 })
  const podAddress = hex(busy.pod)
  t.equal((await deleteFlows(object, 4, { podAddress, started: jiffies(), dryRun: false })).deleted, 100)
  t.ok(away < patience, `the event loop was away for ${away.toFixed(1)} ms`)
  t.ok(megabytes < 100, `${megabytes.toFixed(0)} MB more`)
})

t.test('a round of expiry holds nothing up', async (t) => {
  const { result, away, megabytes } = await watched(() => expireFlows(object, 4, false))
  t.same(result, { live: million, liveSnat: million, dying: 0, deleted: 0 })
  t.ok(away < patience, `the event loop was away for ${away.toFixed(1)} ms`)
  t.ok(megabytes < 50, `${megabytes.toFixed(0)} MB more`)
})

t.test('a quarter is deleted, and a round of expiry beside it harms nothing', async (t) => {
  const remote = { address: hex('203.0.113.16'), length: 28 }
  const both = () =>
    Promise.all([deleteFlows(object, 4, { started: jiffies(), remote, dryRun: false }), expireFlows(object, 4, false)])
  const { result, away } = await watched(both)
  t.same(result[0], { chosen: million / 4, deleted: million / 4 })
  t.equal(result[1].live, (million * 3) / 4)
  t.equal(object.map('reverse4').dump().count, (million * 3) / 4)
  t.ok(away < patience, `the event loop was away for ${away.toFixed(1)} ms`)
})
