// `limits` change, and a step fails or the daemon dies; and with many flows.

import { existsSync, mkdirSync } from 'node:fs'
import t from 'tap'
import { decodeControl } from '../../src/maps/codec.js'
import { type BpfMap, native } from '../../src/native.js'
import { control, plain, servedLab, status } from '../forwarding/served.js'
import { OUTSIDE } from '../lab/addresses.js'
import { faultsIn, type Orders } from '../lab/fault-orders.js'
import type { LabNode } from '../lab/node.js'
import { stalePins } from '../lab/pins.js'
import { run, until } from '../lab/process.js'
import { fillTables, manyFlows } from './flow-table.js'
import { consistent, large, nothingLeft, nothingLost, reload, sizeOf, small } from './limits.js'

t.setTimeout(400_000)

/** The second time the old flows are read: when the programs of the new ones are attached. */
const cannotFinish: Orders = { fail: { label: 'openPinnedMap flows4', from: 2, once: false, code: 'ENOMEM' } }

t.test('a step fails: the old programs and maps stay, the reload names it', async (t) => {
  const lab = await servedLab(t, {}, { config: { limits: small } })
  const node = lab.node(0)
  const { pinDirectory } = node.daemon
  // what cannot be removed: a directory where the finished maps are to be
  mkdirSync(`${pinDirectory}/next`)
  await run(['mount', '-t', 'tmpfs', 'tmpfs', `${pinDirectory}/next`])
  await nothingLost(t, lab, async () => {
    const { ok, problems } = await reload(node, large)
    t.equal(ok, false)
    t.match(problems.join(), /could not be brought into force.*next/)
  })
  await run(['umount', `${pinDirectory}/next`])
  t.equal(await sizeOf(node, 'flows4'), 2 * small.flows)
  t.match((await status(node)).counts.flowLimit.inForce, small.flows)
  t.notOk(existsSync(`${pinDirectory}/next-part`))
  await nothingLost(t, lab, async () => {
    t.match(await reload(node, large), { ok: true, problems: [] }, 'and the next time it works')
  })
  nothingLeft(t, node)
})

t.test('a step fails when the new maps have taken over: they stay, and the rest is tried again', async (t) => {
  const { order, environment } = faultsIn(t.testdir({}))
  const lab = await servedLab(t, {}, { config: { limits: small }, environment })
  const node = lab.node(0)
  const problem = async () => (await status(node)).problems.find(({ code }) => code === 'maps-not-finished')
  const open = () => node.pod(0).flow({ protocol: 'tcp', address: OUTSIDE.v4, port: 7 })
  const flows = [await open()]
  order(cannotFinish)
  const { ok, problems } = await reload(node, large)
  t.ok(ok, 'no failure of the reload')
  t.match(problems.join(), /not pinned in the place of the earlier ones yet: .*ENOMEM/)
  await until('it is a problem', async () => typeof (await problem())?.nextTry === 'string')
  t.match(await problem(), { affects: 'observation', text: /ENOMEM/ })
  t.not((await stalePins(node)).length, 0, 'what is pinned is not in use yet')
  flows.push(await open())
  const other = await reload(node, { ...large, devices: 32 })
  t.notOk(other.ok, 'nothing else is replaced meanwhile')
  t.match(other.problems.join(), /ENOMEM/)
  node.daemon.writeConfig({ ...plain, limits: large })
  order({})
  await until('it is over', async () => (await status(node)).problems.length === 0, 20_000)
  t.strictSame(await stalePins(node), [])
  t.equal(await sizeOf(node, 'flows4'), 2 * large.flows)
  for (const flow of flows) {
    const { received, sent, error } = await flow.finish()
    t.match({ received, error }, { received: sent, error: null }, 'a flow goes on')
  }
  await consistent(t, node)
  nothingLeft(t, node)
})

t.test('a start that finds new maps half in their place, and no memory: the next one goes on with them', async (t) => {
  const { order, environment } = faultsIn(t.testdir({}))
  const lab = await servedLab(t, {}, { config: { limits: small }, environment })
  const node = lab.node(0)
  const { daemon } = node
  const config = { ...plain, limits: large }
  order(cannotFinish)
  t.ok((await reload(node, large)).ok)
  const flow = await node.pod(0).flow({ protocol: 'tcp', address: OUTSIDE.v4, port: 7 })
  await daemon.kill('SIGKILL')
  order({ fail: { label: 'loadObjectLater hostroute', from: 1, once: true, code: 'ENOMEM' } })
  await daemon.start({ config, environment, waitReady: false })
  await until('it ends', () => !daemon.running, 20_000)
  t.equal(daemon.exitStatus, 1, 'systemd starts it again')
  t.ok(existsSync(`${daemon.pinDirectory}/next`))
  await node.startDaemon({ config, environment })
  t.strictSame(await stalePins(node), [])
  const { received, sent, error } = await flow.finish()
  t.match({ received, error }, { received: sent, error: null }, 'a flow that began with them goes on')
  await consistent(t, node)
  nothingLeft(t, node)
})

t.test('a start that cannot bring limits into force serves all the same, and tries again', async (t) => {
  const { order, environment } = faultsIn(t.testdir({}))
  const lab = await servedLab(t, {}, { config: { limits: small }, environment })
  const node = lab.node(0)
  await node.daemon.kill('SIGKILL')
  const problem = async () => (await status(node)).problems.find(({ code }) => code === 'limits-not-in-force')
  order({ fail: { label: 'loadObjectLater hostroute', from: 2, once: false, code: 'ENOMEM' } })
  await node.startDaemon({ config: { ...plain, limits: large }, environment })
  await until('it is a problem', async () => typeof (await problem())?.nextTry === 'string')
  t.match(await problem(), { affects: 'observation', text: /the maps stay as they were: .*ENOMEM/ })
  t.equal(await sizeOf(node, 'flows4'), 2 * small.flows)
  order({})
  await until('they are in force', async () => (await sizeOf(node, 'flows4')) === 2 * large.flows, 20_000)
  await until('it is no problem', async () => (await problem()) === undefined)
  await consistent(t, node)
  nothingLeft(t, node)
})

for (const [directory, what] of [
  ['next-part', 'before the new maps are whole'],
  ['next', 'when programs of both generations may be attached']
] as const)
  t.test(`[L1] SIGKILL ${what}: the next start has the old or the new, whole`, async (t) => {
    const lab = await servedLab(t, {}, { config: { limits: small } })
    const node = lab.node(0)
    await nothingLost(
      t,
      lab,
      async () => {
        node.daemon.writeConfig({ ...plain, limits: large })
        const answer = control(node)
          .post('/v1/reload')
          .catch(() => {})
        await until(directory, async () => existsSync(`${node.daemon.pinDirectory}/${directory}`), 20_000, 1)
        await node.daemon.kill('SIGKILL')
        await answer
        // as the unit would
        await node.startDaemon({ config: { ...plain, limits: large } })
        await until('the limits are in force', async () => (await sizeOf(node, 'flows4')) === 2 * large.flows, 20_000)
      },
      true
    )
    t.match(node.daemon.log, /took over the running datapath/)
    await consistent(t, node)
    nothingLeft(t, node)
  })

t.test('[L1] flows that began by the old programs while the daemon was dead go on', async (t) => {
  const { order, environment } = faultsIn(t.testdir({}))
  const lab = await servedLab(t, {}, { config: { limits: small }, environment })
  const node = lab.node(0)
  order({ signal: { label: 'object.attachTcx from_pod', name: 'SIGKILL' } })
  await reload(node, large).catch(() => {})
  await until('the daemon is dead', () => !node.daemon.running)
  t.ok(existsSync(`${node.daemon.pinDirectory}/next`), 'when the new maps were whole and no program was replaced')
  order({})
  const questions = (['v4', 'v6'] as const).flatMap((family) =>
    (['tcp', 'udp'] as const).map((protocol) => ({
      ...{ protocol, address: OUTSIDE[family], port: 7 },
      interval: protocol === 'tcp' ? 1 : 5
    }))
  )
  const flows = await Promise.all([...questions, ...questions].map((question) => node.pod(0).flow(question)))
  await node.startDaemon({ config: { ...plain, limits: large }, environment })
  t.equal(await sizeOf(node, 'flows4'), 2 * large.flows)
  for (const flow of flows) {
    const { received, sent, error } = await flow.finish()
    t.match({ received, error }, { received: sent, error: null }, `${sent} questions and answers`)
  }
  await consistent(t, node)
  nothingLeft(t, node)
})

t.test('100,000 flows move within a moment', async (t) => {
  const lab = await servedLab(t, {}, { config: { limits: { ...small, flows: 131_072 } } })
  const node = lab.node(0)
  const [flows, reverses] = ['flows4', 'reverse4'].map((name) =>
    native().openPinnedMap(`${node.daemon.pinDirectory}/${name}`)
  ) as [BpfMap, BpfMap]
  // 30 s by the fastest clock: none of them ends meanwhile
  const { jiffies, jiffiesPerSecond } = await clock(node)
  fillTables(flows, reverses, manyFlows(100_000, jiffies, jiffiesPerSecond), 100_000)
  await nothingLost(
    t,
    lab,
    async () => {
      t.match(await reload(node, { ...small, flows: 524_288 }), { ok: true })
    },
    true
  )
  const [, took, waited] = /took over within (\d+) ms, new flows waited (\d+) ms/.exec(node.daemon.log) ?? []
  t.comment(`100,000 flows: ${took} ms, new flows waited ${waited} ms`)
  t.ok(Number(waited) < 10_000)
  const after = native().openPinnedMap(`${node.daemon.pinDirectory}/flows4`)
  t.equal(after.info.maxEntries, 1_048_576)
  t.ok(after.dump().count >= 100_000, 'all are there')
  nothingLeft(t, node)
})

async function clock(node: LabNode): Promise<{ jiffies: number; jiffiesPerSecond: number }> {
  const map = native().openPinnedMap(`${node.daemon.pinDirectory}/control`)
  const { jiffiesPerSecond } = decodeControl(map.lookup(Buffer.alloc(4)) ?? Buffer.alloc(0))
  map.close()
  // INITIAL_JIFFIES: five minutes before 32 bits are full
  const jiffies = (Number(process.hrtime.bigint() / 1_000_000n) / 1000) * jiffiesPerSecond - 300 * jiffiesPerSecond
  return { jiffies: Math.floor(jiffies) >>> 0, jiffiesPerSecond }
}
