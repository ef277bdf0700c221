// `limits` change under traffic: maps of other sizes take over, and nothing is lost.

import t from 'tap'
import type { VerifyReport } from '../../src/control/api.js'
import type { DropRow } from '../../src/control/packet-api.js'
import { control, counted, plain, servedLab, status } from '../forwarding/served.js'
import { readPing } from '../lab/host.js'
import { sleep, until } from '../lab/process.js'
import { consistent, large, nothingLeft, nothingLost, reload, sizeOf, small } from './limits.js'

t.setTimeout(400_000)

t.test('[L2] limits go up and down by reload, under traffic', async (t) => {
  const lab = await servedLab(t, {}, { config: { limits: small } })
  const node = lab.node(0)
  const before = await counted(node, 'forwarded')
  for (const [name, limits] of Object.entries({ up: large, down: small }))
    await t.test(name, async (t) => {
      await nothingLost(t, lab, async () => {
        const earlier = await counted(node, 'forwarded')
        t.match(await reload(node, limits), { ok: true, problems: [], restartNeeded: [] })
        t.ok((await counted(node, 'forwarded')) >= earlier, 'counters go on')
      })
      t.equal(await sizeOf(node, 'routes4'), limits.routes4)
      t.equal(await sizeOf(node, 'flows6'), 2 * limits.flows)
      t.equal(await sizeOf(node, 'reverse4'), 2 * limits.flows)
      const { counts } = await status(node)
      for (const key of ['routes4', 'routes6', 'neighbours', 'devices'] as const)
        t.equal(counts[key].capacity, limits[key], key)
      t.match(counts.flowLimit, { configured: limits.flows, inForce: limits.flows, problem: null })
      await consistent(t, node)
      nothingLeft(t, node)
    })
  t.ok((await counted(node, 'forwarded')) > before)
  t.match(node.daemon.log, /maps of new sizes took over within \d+ ms/)
  t.notMatch(node.daemon.log, /the flow tables were made for/, 'no limit that is not in force')
  t.comment(node.daemon.log.match(/maps of new sizes.*/g)?.join('\n') ?? '')
})

t.test('counters are exact', async (t) => {
  const lab = await servedLab(t, {}, { config: { limits: small } })
  const node = lab.node(0)
  const [one, two] = [node.pod(0), node.pod(1)]
  await one.ping(two.address.v4, { count: 1 })
  const packets = async () => counted(node, 'to-pod', one.hostDevice)
  const before = await packets()
  const ping = one.startPing(two.address.v4, { interval: 1, count: 1500 })
  for (const devices of [32, 64, 16]) {
    await sleep(200)
    t.match(await reload(node, { ...small, devices }), { ok: true })
  }
  t.equal(readPing((await ping.finished()).stdout).received, 1500)
  t.equal((await packets()) - before, 1500)
})

t.test('what is in use does not fit: refused, and the last good state stays', async (t) => {
  const lab = await servedLab(t, {}, { config: { limits: large } })
  const node = lab.node(0)
  const routes = Array.from({ length: 1500 }, (_, at) => `route add blackhole 10.99.${at >> 8}.${at & 255}/32`)
  await node.run(['ip', '-batch', '-'], { input: routes.join('\n') })
  await sleep(500)
  const { problems, ok } = await reload(node, { ...large, routes4: 1024 })
  t.equal(ok, false)
  t.match(problems.join(), /limits\.routes4 is 1024, but 15\d\d IPv4 routes are in use/)
  t.equal(await sizeOf(node, 'routes4'), large.routes4)
  t.equal((await status(node)).counts.routes4.capacity, large.routes4)
  await nothingLost(t, lab, async () => {
    t.match(await reload(node, { ...large, routes4: 2048 }), { ok: true })
  })
  await consistent(t, node)
  nothingLeft(t, node)
})

t.test('a family that was left for lack of room is served when the limit is raised', async (t) => {
  const lab = await servedLab(t, {}, { config: { limits: { ...small, routes4: 1024 } } })
  const node = lab.node(0)
  const routes = Array.from({ length: 1500 }, (_, at) => `route add blackhole 10.99.${at >> 8}.${at & 255}/32`)
  await node.run(['ip', '-batch', '-'], { input: routes.join('\n') })
  await sleep(500)
  t.match((await status(node)).mode, 'degraded')
  t.match(await reload(node, small), { ok: true })
  t.match(await status(node), { mode: 'enabled', counts: { routes4: { capacity: 2048 } } })
  t.equal((await control(node).get<VerifyReport>('/v1/verify')).value.total, 0)
})

t.test('[L1] a restart with onStop: keep and other limits', async (t) => {
  const lab = await servedLab(t, {}, { config: { limits: small, onStop: 'keep' } })
  const node = lab.node(0)
  const before = (await control(node).get<DropRow[]>('/v1/drops')).value
  await nothingLost(t, lab, async () => {
    await node.daemon.stop()
    await node.startDaemon({ config: { ...plain, onStop: 'keep', limits: large } })
  })
  await until('the limits are in force', async () => (await sizeOf(node, 'flows4')) === 2 * large.flows)
  t.match((await status(node)).counts.routes4.capacity, large.routes4)
  for (const { device, reason, packets } of before)
    t.ok((await counted(node, reason, device)) >= packets, `${device} ${reason} goes on`)
  await consistent(t, node)
  nothingLeft(t, node)
})

t.test('a start with limits that are too small keeps what is there, and says so', async (t) => {
  const lab = await servedLab(t, {}, { config: { limits: large, onStop: 'keep' } })
  const node = lab.node(0)
  const routes = Array.from({ length: 1500 }, (_, at) => `route add blackhole 10.99.${at >> 8}.${at & 255}/32`)
  await node.run(['ip', '-batch', '-'], { input: routes.join('\n') })
  await sleep(500)
  await node.daemon.stop()
  await node.startDaemon({ config: { ...plain, limits: { ...large, routes4: 1024 } } })
  await until('it is told', async () => (await status(node)).problems.length > 0)
  const { counts, problems } = await status(node)
  t.equal(counts.routes4.capacity, large.routes4, 'status shows what the maps have')
  t.match(problems.map(({ text }) => text).join(), /limits\.routes4 is 1024, but 15\d\d IPv4 routes are in use/)
})
