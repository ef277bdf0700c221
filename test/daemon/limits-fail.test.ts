// `limits` change, and a step fails or the daemon dies; and with many flows.

import { existsSync, mkdirSync } from 'node:fs'
import t from 'tap'
import { decodeControl } from '../../src/maps/codec.js'
import { type BpfMap, native } from '../../src/native.js'
import { control, plain, servedLab, status } from '../forwarding/served.js'
import type { LabNode } from '../lab/node.js'
import { run, until } from '../lab/process.js'
import { fillTables, manyFlows } from './flow-table.js'
import { consistent, large, nothingLeft, nothingLost, reload, sizeOf, small } from './limits.js'

t.setTimeout(400_000)

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
