// What fails while the daemon runs stands in the list of problems, with the moment
// of the next try, until that has worked.

import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import type { EnableResult, ReloadResult } from '../../src/control/api.js'
import type { ProblemRow } from '../../src/control/problem-api.js'
import { attached, control, plain, status } from '../forwarding/served.js'
import { OUTSIDE } from '../lab/addresses.js'
import type { Orders } from '../lab/fault-orders.js'
import { Lab } from '../lab/lab.js'
import type { LabNode } from '../lab/node.js'
import { until } from '../lab/process.js'

t.setTimeout(240_000)
const patience = 60_000
const preload = fileURLToPath(new URL('../lab/faults.js', import.meta.url))

/** A node whose daemon fails as ordered; `order` gives it other orders. */
async function failing(t: Test, first: Orders, more: Record<string, unknown> = {}) {
  const lab = await Lab.create({ nodes: 1, pods: 1 })
  t.teardown(() => lab.close())
  const node = lab.node(0)
  const file = `${node.daemon.runDirectory}-faults`
  t.teardown(() => rmSync(file, { force: true }))
  const order = (orders: Orders) => writeFileSync(file, JSON.stringify(orders))
  order(first)
  const environment = { NODE_OPTIONS: `--import=${preload}`, HOSTROUTE_FAULTS: file }
  await node.daemon.start({ config: { ...plain, ...more }, environment, waitReady: false })
  return { node, order }
}

const always = (label: string, code: string): Orders => ({ fail: { label, from: 1, once: false, code } })
const problem = async (node: LabNode, code: string): Promise<ProblemRow | undefined> =>
  (await status(node).catch(() => null))?.problems.find((row) => row.code === code)

/** It is there, and the next try is to come: within so many seconds. */
async function isToBeTried(t: Test, node: LabNode, code: string, seconds: number): Promise<ProblemRow> {
  await until(`${code}, with the next try`, async () => Boolean((await problem(node, code))?.nextTry), patience)
  const row = (await problem(node, code)) as ProblemRow
  const wait = Date.parse(row.nextTry ?? '') - Date.now()
  t.ok(wait > -2_000 && wait < seconds * 1000, `${code}: the next try is ${wait} ms away`)
  return row
}

const isOver = (node: LabNode, code: string) =>
  until(`${code} is over`, async () => (await status(node)) && !(await problem(node, code)), patience)

t.test('a detour that cannot be opened', async (t) => {
  const { node, order } = await failing(t, always('openTap hostroute0', 'EMFILE'))
  t.match(await isToBeTried(t, node, 'no-detour', 6), { affects: 'observation', text: /no detour: .*EMFILE/ })
  t.match(await status(node), { mode: 'enabled', detour: { device: null } })
  t.match(await control(node).text('/v1/metrics'), /hostroute_problem\{code="no-detour",affects="observation"\} 1/)
  order({})
  await isOver(node, 'no-detour')
  t.match(await status(node), { mode: 'enabled', problems: [], detour: { device: 'hostroute0' } })
})

t.test('a reload for which there are no descriptors', async (t) => {
  const { node, order } = await failing(t, {})
  const { daemon } = node
  const limits = (routes4: number) => ({ ...plain, limits: { routes4 } })
  await daemon.waitReady(patience)
  const inForce = async () => (await status(node)).counts.routes4.capacity
  const before = await inForce()

  order(always('loadObjectLater hostroute', 'EMFILE'))
  daemon.writeConfig(limits(3000))
  const refused = (await control(node).post<ReloadResult>('/v1/reload')).value
  t.match(refused, { ok: false, problems: [/could not be brought into force: .*EMFILE/] })
  const text = /configuration is not in force: .*EMFILE/
  t.match(await isToBeTried(t, node, 'configuration-not-in-force', 60), { affects: 'observation', text })
  t.match(await status(node), { mode: 'enabled', configuration: { error: /EMFILE/ } })
  t.equal(await inForce(), before)
  order({})
  await isOver(node, 'configuration-not-in-force')
  t.equal(await inForce(), 3000, 'it is in force by itself')
  t.match(await status(node), { problems: [], configuration: { error: null } })

  order(always('loadObjectLater hostroute', 'EMFILE'))
  daemon.writeConfig(limits(4000))
  await control(node).post('/v1/reload')
  await isToBeTried(t, node, 'configuration-not-in-force', 60)
  daemon.writeConfig(limits(5000))
  order({})
  await isOver(node, 'configuration-not-in-force')
  t.equal(await inForce(), 3000, 'a file that was changed meanwhile waits for the next reload')
  t.match(await daemon.json<ReloadResult>('reload'), { ok: true })
  t.equal(await inForce(), 5000)
})

t.test('a program that cannot be attached to a device, from the start or again', async (t) => {
  const { node, order } = await failing(t, always('object.attachTcx from_pod', 'ENOMEM'))
  t.match(await isToBeTried(t, node, 'device-not-served', 60), { affects: 'traffic', text: /is not served: .*ENOMEM/ })
  t.equal((await status(node)).mode, 'degraded')
  order({})
  await isOver(node, 'device-not-served')
  t.match(await status(node), { mode: 'enabled', problems: [] })
  t.ok((await attached(node)).includes('from_pod'))

  // comparing is what finds that somebody has detached it
  node.daemon.writeConfig({ ...plain, verifyInterval: '1s' })
  order(always('object.attachTcx from_pod', 'ENOMEM'))
  t.match(await node.daemon.json<ReloadResult>('reload'), { ok: true })
  await isToBeTried(t, node, 'device-not-served', 60)
  order({})
  await isOver(node, 'device-not-served')
})

t.test('what is done by the clock and fails', async (t) => {
  const { node, order } = await failing(t, always('object.attachXdp uplink_filter', 'EOPNOTSUPP'), {
    ...{ uplink: { xdp: 'native' }, verifyInterval: '1s', expireInterval: '1s' }
  })
  await until('no XDP', async () => Boolean(await problem(node, 'no-xdp')), patience)
  t.match(await problem(node, 'no-xdp'), { text: /no XDP on up0: .*EOPNOTSUPP/, nextTry: null })
  t.equal((await status(node)).mode, 'enabled')
  for (const [label, code, text] of [
    ['openNetfilter', 'conntrack-not-followed', /cannot follow conntrack: .*ENOMEM/],
    ['map.readBatch flows6', 'flows-not-ended', /flows cannot be ended: .*ENOMEM/],
    ['map.dumpPresent devices', 'maps-not-compared', /cannot be compared: .*ENOMEM/]
  ] as const) {
    order(always(label, 'ENOMEM'))
    t.match(await isToBeTried(t, node, code, 60), { text })
    order({})
    await isOver(node, code)
  }
})

t.test('answers to what leaves through SNAT that would not come back: not enabled', async (t) => {
  const { node, order } = await failing(t, {})
  await node.daemon.waitReady(patience)
  // of pods whose neighbour entries the node has packets are tried
  for (const to of [OUTSIDE.v4, OUTSIDE.v6]) await node.pod(0).exec(['ping', '-c', '1', '-W', '2', to])
  await control(node).post('/v1/disable', { force: true })
  const enable = async () => (await control(node).post<EnableResult>('/v1/enable')).value

  order(always('object.attachTcx from_uplink', 'ENOMEM'))
  const notServed = /a packet from \S+ to 192\.0\.2\.1 leaves as \S+, and its answer is not recognised \(not-served\)/
  t.match(await enable(), { done: false, why: notServed })
  t.strictSame(await attached(node), [], 'nothing is attached')
  order(always('map.update reverse6', 'EEXIST'))
  t.match(await enable(), { done: false, why: /2001:db8::1 leaves by port .* another flow has/ }, 'of both families')
  const record = `${node.daemon.runDirectory}-calls`
  order({ record })
  t.match(await enable(), { done: true })
  t.match(await status(node), { mode: 'enabled', problems: [] })
  const calls = readFileSync(record, 'utf8')
  for (const map of ['reverse4', 'reverse6']) {
    const ran = new RegExp(`map.update ${map}\n(.*\n)*?object.testRun from_uplink\n(.*\n)*?map.delete ${map}\n`)
    t.ok(ran.test(calls), `an answer was run while ${map} had its entry`)
    const left = await node.run(['bpftool', '-j', 'map', 'dump', 'pinned', `${node.daemon.pinDirectory}/${map}`])
    t.strictSame(JSON.parse(left), [], map)
  }
  t.match((await status(node)).counts, { flows4: { used: 0 }, flows6: { used: 0 } })
  t.equal((await status(node)).packets.forwarded.packets, 0, 'nor is it counted')
})
