// `hostroute snat` against a daemon under traffic: flows are listed, counted and
// deleted, and what becomes of the connections whose flows are gone.

import { readFileSync } from 'node:fs'
import t from 'tap'
import type { FlowDeletion, FlowList, FlowRow, FlowTop } from '../../src/control/flow-api.js'
import { readClock } from '../../src/datapath/clock.js'
import { native } from '../../src/native.js'
import { control, servedLab } from '../forwarding/served.js'
import { OUTSIDE } from '../lab/addresses.js'
import type { LabNode } from '../lab/node.js'
import { sleep, until } from '../lab/process.js'
import { fillTables, manyFlows } from './flow-table.js'

t.setTimeout(300_000)

async function flowsOf(node: LabNode, ...words: string[]): Promise<FlowRow[]> {
  return (await node.daemon.json<FlowList>('snat', ...words)).flows
}

t.test('snat delete: by pod, remote and age; a UDP socket goes on with its port, a TCP connection ends', async (t) => {
  const lab = await servedLab(t, { pods: 2 })
  const node = lab.node(0)
  const [one, two] = [node.pod(0), node.pod(1)]
  const udp = await one.flow({ protocol: 'udp', address: OUTSIDE.v4, port: 7, interval: 50 })
  const six = await one.flow({ protocol: 'udp', address: OUTSIDE.v6, port: 7, interval: 50 })
  const other = await two.flow({ protocol: 'tcp', address: OUTSIDE.v4, port: 7, interval: 50 })
  await one.ask({ protocol: 'tcp', address: OUTSIDE.v4, port: 7, localPort: 38_000 })
  await sleep(1000)
  const [before] = await flowsOf(node, '--pod', one.address.v4, '--protocol', 'udp')
  t.ok(before?.natPort, 'a flow through SNAT')

  const dry = await node.daemon.json<FlowDeletion>('snat', 'delete', '--pod', one.address.v4, '--dry-run')
  t.match(dry, { deleted: 0, matching: 2 })
  t.equal((await flowsOf(node, '--pod', one.address.v4)).length, 2, 'nothing was deleted')
  t.match(
    await node.daemon.json<FlowDeletion>('snat', 'delete', '--pod', one.address.v4, '--older-than', '1h'),
    { deleted: 0, matching: 0 },
    'none is so old'
  )
  const done = await node.daemon.command(['snat', 'delete', '--pod', one.hostDevice])
  t.match(done, { status: 0, stdout: /^3 flows deleted in / }, 'of both families')
  await until('the sender has a flow again', async () => (await flowsOf(node, '--pod', one.address.v4)).length === 1)
  const [after] = await flowsOf(node, '--pod', one.address.v4)
  t.match(after, { protocol: 'udp', natPort: before?.natPort, podPort: before?.podPort }, 'with its port')
  t.ok((after?.age ?? 99) < (before?.age ?? 0) + 1, 'a new one')
  for (const flow of [udp, six]) {
    const report = await flow.finish()
    t.ok(report.sent - report.received <= 2, `${report.received} of ${report.sent} messages were answered`)
  }
  t.match(node.daemon.log, /uid 0, pid \d+ \(node\), has deleted 3 flows: pod pod1 \(snat\)/)

  t.match(
    await node.daemon.json<FlowDeletion>('snat', 'delete', '--remote', '203.0.113.0/24:8'),
    { deleted: 0 },
    'another port'
  )
  const [connection] = await flowsOf(node, '--pod', two.address.v4)
  t.match(
    await node.daemon.json<FlowDeletion>('snat', 'delete', '--remote', `${OUTSIDE.v4}:7`, '--pod', two.address.v4),
    { deleted: 1 }
  )
  await sleep(300)
  const [reset] = await flowsOf(node, '--pod', two.address.v4)
  t.not(reset?.natPort, connection?.natPort, 'the connection has lost its port')
  t.ok((await other.finish()).error, 'and ended')
  t.equal((await two.ask({ protocol: 'tcp', address: OUTSIDE.v4, port: 7 })).error, null, 'new ones work')

  const wrong = await node.daemon.command(['snat', 'delete', '--pod', 'eth77'])
  t.match(wrong, { status: 1, stderr: /eth77 is neither an address nor the device of a pod/ })
  const unprivileged = await node.exec([
    'setpriv',
    '--reuid=65534',
    '--clear-groups',
    'curl',
    '-sS',
    '--unix-socket',
    node.daemon.socket,
    '-X',
    'POST',
    '-d',
    '{"all":true}',
    'http://localhost/v1/flows/delete'
  ])
  t.match(unprivileged.stdout + unprivileged.stderr, /needs root|Couldn't connect|Could not connect|[Pp]ermission/)

  await one.ask({ protocol: 'tcp', address: OUTSIDE.v4, port: 7 })
  const top = await node.daemon.json<FlowTop>('snat', 'top', '--count', '2')
  t.match(top.remotes[0], { protocol: 'tcp', remote: OUTSIDE.v4, remotePort: 7, source: node.address.v4 })
  t.ok(top.podsByFlows.some(({ pod, device }) => pod === one.address.v4 && device === one.hostDevice))
  t.ok(top.podsByNewFlows.length > 0)
  t.match((await node.daemon.command(['snat', 'top'])).stdout, /^Remotes by flows through SNAT/)

  t.ok((await node.daemon.json<FlowDeletion>('snat', 'delete', '--all', '--verdict', 'any')).deleted > 0)
  await control(node).post('/v1/disable', { force: true })
  t.match(await node.daemon.command(['snat', 'delete', '--all']), { status: 2, stderr: /hostroute is disabled/ })
  t.match(await node.daemon.command(['snat', 'top']), { status: 2 })
  t.match(await node.daemon.command(['snat', '--json']), { status: 0, stdout: '{"flows":[\n\n],"total":0}\n' })
})

t.test('a million flows are printed in bounded memory of daemon and command', async (t) => {
  const count = 1_000_000
  const timeouts = { tcpOpening: '1h', tcpClosing: '1h' }
  const config = { limits: { flows: 1 << 20 }, snat: { timeouts }, expireInterval: '1s' }
  const lab = await servedLab(t, { pods: 1 }, { config, timeout: 30_000 })
  const node = lab.node(0)
  const { daemon } = node
  const flows = native().openPinnedMap(`${daemon.pinDirectory}/flows4`)
  const reverses = native().openPinnedMap(`${daemon.pinDirectory}/reverse4`)
  const object = native().loadObject({
    programs: ['expire'],
    sizes: { flows4: 1, flows6: 1, reverse4: 1, reverse6: 1 }
  })
  const now = Number(readClock(object).jiffies & 0xffffffffn)
  object.close()
  fillTables(flows, reverses, manyFlows(count, now, 100), count)
  const before = memoryOf(daemon.pid)

  const slow = daemon.follow('snat', '--json')
  slow.child.stdout?.removeAllListeners('data')
  slow.child.stdout?.pause()
  await sleep(1000)

  const reader = daemon.follow('snat', '--json')
  let [lines, bytes, rest, most] = [0, 0, '', 0]
  reader.child.stdout?.removeAllListeners('data')
  reader.child.stdout?.on('data', (chunk: Buffer) => {
    bytes += chunk.length
    const text = rest + chunk.toString()
    const parts = text.split('\n')
    rest = parts.pop() ?? ''
    lines += parts.filter((line) => line.startsWith('{"family"')).length
    if (text.includes('"total"')) rest = text.slice(-40)
    most = Math.max(most, memoryOf(reader.pid))
  })
  const waits: number[] = []
  let peak = 0
  while (reader.running) {
    const began = performance.now()
    await control(node).get('/v1/pods')
    waits.push(performance.now() - began)
    peak = Math.max(peak, memoryOf(daemon.pid))
    await sleep(20)
  }
  t.equal((await reader.finished()).status, 0)
  t.equal(lines, count, `${count} rows in ${Math.round(bytes / 2 ** 20)} MB`)
  t.match(rest, new RegExp(`"total":${count}}`))
  t.ok(most < 160, `the command took ${most.toFixed(0)} MB`)
  t.ok(peak - before < 100, `the daemon took ${(peak - before).toFixed(0)} MB more`)
  waits.sort((a, b) => a - b)
  const median = waits[Math.floor(waits.length / 2)] ?? 0
  t.ok(median < 50, `others waited ${median.toFixed(1)} ms (median of ${waits.length})`)

  t.ok(slow.running, 'a reader that does not read holds nobody up')
  await slow.stop('SIGKILL')
  const text = daemon.follow('snat', '--limit', 'all', '--pod', '10.1.7.2')
  text.child.stdout?.removeAllListeners('data')
  let printed = 0
  text.child.stdout?.on('data', (chunk: Buffer) => {
    for (const byte of chunk) if (byte === 10) printed++
  })
  await text.finished(120_000)
  t.equal(printed, count / 250 + 1, 'the titles and a line each')

  const some = ['--remote', '203.0.113.0/29', '--idle', '0s']
  const { deleted, duration } = await daemon.json<FlowDeletion>('snat', 'delete', ...some)
  t.equal(deleted, count / 8, `deleted in ${duration} s`)
  t.match(await daemon.json<FlowDeletion>('snat', 'delete', ...some, '--dry-run'), { matching: 0 })
  for (const map of [flows, reverses]) map.close()
})

/** Megabytes that a process holds. */
function memoryOf(pid: number): number {
  try {
    const match = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
    return Number(match?.[1] ?? 0) / 1024
  } catch {
    return 0
  }
}
