// Switched off and on, confirmed or not: what is attached, what is left behind,
// and what a ping notices.

import { existsSync } from 'node:fs'
import t from 'tap'
import type { EnableResult } from '../../src/control/api.js'
import { attached, counted, plain, servedLab } from '../forwarding/served.js'
import { readPing } from '../lab/host.js'
import { sleep, until } from '../lab/process.js'

t.test('[L5] disable leaves nothing behind and the kernel routes at once; enable takes over again', async (t) => {
  const lab = await servedLab(t)
  const node = lab.node(0)
  const daemon = node.daemon
  const [one, two] = [node.pod(0), node.pod(1)]
  await one.ping(two.address.v4, { count: 2 })
  t.equal((await attached(lab.node(0))).length, 3)
  const monitor = daemon.follow('monitor', '--all', '--json')
  const shown = () => monitor.stdout.split('\n').length
  const ping = one.startPing(two.address.v4, { interval: 2 })
  await until('monitor shows packets', () => shown() > 10)
  t.match(await daemon.json<EnableResult>('disable', '--force'), { done: true, mode: 'disabled' })
  t.equal((await attached(lab.node(0))).length, 0)
  t.notOk(existsSync(`${daemon.pinDirectory}/flows4`), 'no pinned maps')
  const managed = await node.run(['ip', '-d', 'neigh', 'show'])
  t.notMatch(managed, /managed/, 'no neighbour is kept by us')
  await sleep(100)
  t.match(await daemon.json<EnableResult>('enable'), { done: true, mode: 'enabled' })
  const before = shown()
  await until('monitor shows packets again, without having been started anew', () => shown() > before + 10)
  await monitor.stop('SIGINT')
  await ping.stop('SIGINT')
  t.strictSame(readPing(ping.stdout).lost, [], 'no ping between pods was lost at either switch')
  const forwarded = await counted(node, 'forwarded')
  await one.ping(two.address.v4, { count: 5 })
  t.ok((await counted(node, 'forwarded')) >= forwarded + 10, 'the fast path forwards again')
})

t.test('[L5] disabled outlives a restart, and onStop: detach leaves nothing behind', async (t) => {
  const lab = await servedLab(t, {}, { config: { onStop: 'detach' } })
  const node = lab.node(0)
  const daemon = node.daemon
  await daemon.json('disable', '--force')
  await daemon.stop()
  await daemon.start({ config: { ...plain, onStop: 'detach' }, waitReady: false })
  await until(
    'an answer',
    async () => (await daemon.command(['status', '--json'])).stdout.includes('hostroute disable'),
    10_000
  )
  t.equal((await attached(lab.node(0))).length, 0)
  await daemon.json('enable')
  t.equal((await attached(lab.node(0))).length, 3)
  await daemon.stop()
  t.equal((await attached(lab.node(0))).length, 0)
  t.notOk(existsSync(daemon.pinDirectory), 'no pins')
  t.equal((await node.pod(0).ping(node.pod(1).address.v4, { count: 2 })).received, 2, 'the kernel routes')
})

t.test('[L8] enable --confirm-within is undone unless confirmed', async (t) => {
  const lab = await servedLab(t)
  const daemon = lab.node(0).daemon
  await daemon.json('disable', '--force')
  const result = await daemon.json<EnableResult>('enable', '--confirm-within', '5s')
  t.match(result, { done: true, mode: 'enabled', confirmBefore: String })
  t.equal((await attached(lab.node(0))).length, 3)
  await until('rolled back', async () => (await attached(lab.node(0))).length === 0, 10_000)
  t.match((await daemon.command(['status', '--json'])).stdout, /not confirmed in time/)
  await daemon.json('enable', '--confirm-within', '5s')
  t.match(await daemon.json<EnableResult>('confirm'), { done: true, mode: 'enabled', confirmBefore: null })
  await sleep(5_500)
  t.equal((await attached(lab.node(0))).length, 3, 'stays')
})
