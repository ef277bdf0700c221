// 30,000 routes: what is planned and written as a whole goes on beside events,
// commands and signals.

import t, { type Test } from 'tap'
import type { EnableResult, ReloadResult, VerifyReport } from '../../src/control/api.js'
import { attached, control, plain, servedLab, status, undisturbed } from '../forwarding/served.js'
import { routerAddress } from '../lab/addresses.js'
import { Lab } from '../lab/lab.js'
import type { LabNode } from '../lab/node.js'
import { sleep, until } from '../lab/process.js'

t.setTimeout(400_000)

const count = 30_000
const prefixOf = (i: number) => `20.${i >> 8}.${i & 255}.0/24`

async function addRoutes(node: LabNode, from: number, to: number): Promise<void> {
  const lines: string[] = []
  for (let i = from; i < to; i++) lines.push(`route replace ${prefixOf(i)} via ${routerAddress(i % 2).v4}`)
  await node.run(['ip', '-batch', '-'], { input: `${lines.join('\n')}\n`, timeout: 60_000 })
}

/** Routes come and go until stop(). */
function disturb(node: LabNode): { stop(): Promise<void> } {
  let over = false
  const turning = (async () => {
    for (let turn = 0; !over; turn++) {
      const at = turn % 200
      await node.ip(`route replace 30.0.${at}.0/24 via ${routerAddress(turn % 2).v4}`, `route del ${prefixOf(at)}`)
      await node.ip(`route replace ${prefixOf(at)} via ${routerAddress(turn % 2).v4}`)
    }
  })()
  return {
    async stop() {
      over = true
      await turning
    }
  }
}

async function reload(node: LabNode, stackPrefixes: string[], limits = {}): Promise<ReloadResult> {
  node.daemon.writeConfig({ ...plain, stackPrefixes, limits })
  return (await control(node).post<ReloadResult>('/v1/reload')).value
}

async function isRight(t: Test, node: LabNode): Promise<void> {
  const { value } = await control(node).get<VerifyReport>('/v1/verify')
  t.match(value, { total: 0, differences: [] }, `${value.checked} rows hold what they should`)
}

t.test('other stackPrefixes while routes change and pods talk: nothing is lost, and all is right', async (t) => {
  const lab = await servedLab(t, { uplinks: 2 })
  const node = lab.node(0)
  await addRoutes(node, 0, count)
  await undisturbed(t, node, async () => {
    const disturbing = disturb(node)
    for (const prefixes of [['20.0.0.0/10'], [], ['20.64.0.0/10', '30.0.0.0/16'], []])
      t.match(await reload(node, prefixes), { ok: true, problems: [] })
    const both = await Promise.all([reload(node, ['20.0.0.0/8']), reload(node, ['20.0.0.0/9'])])
    t.match(both, [{ ok: true }, { ok: true }], 'two at once')
    await disturbing.stop()
  })
  await sleep(500)
  await isRight(t, node)
  const { eventLoop } = await status(node)
  t.comment(`the event loop was held up for ${eventLoop.longest.toFixed(1)} ms at most`)
})

t.test(
  'other limits while routes change and pods talk: they are copied beside the rest, and all is right',
  async (t) => {
    const lab = await servedLab(t, { uplinks: 2 })
    const node = lab.node(0)
    await addRoutes(node, 0, count)
    await until('all are planned', async () => (await status(node)).counts.routes4.used >= count, 30_000)
    const capacity = async () => (await status(node)).counts.routes4.capacity
    const before = await capacity()
    await undisturbed(t, node, async () => {
      const disturbing = disturb(node)
      for (const routes of [2 * before, before + 7])
        t.match(await reload(node, [], { routes4: routes }), { ok: true, problems: [], restartNeeded: [] })
      const reloading = reload(node, [], { routes4: 2 * before })
      // in the middle of it
      t.match(await status(node), { mode: 'enabled' })
      t.match(await Promise.all([reloading, reload(node, ['20.0.0.0/9'], { routes4: before })]), [
        { ok: true },
        { ok: true }
      ])
      await disturbing.stop()
    })
    await sleep(500)
    await isRight(t, node)
    t.equal(await capacity(), before)
    const { eventLoop } = await status(node)
    t.comment(`the event loop was held up for ${eventLoop.longest.toFixed(1)} ms at most`)

    const reloading = reload(node, [], { routes4: 2 * before })
    t.match((await control(node).post<EnableResult>('/v1/disable', { force: true })).value, { mode: 'disabled' })
    t.match(await reloading, { ok: true })
    t.strictSame(await attached(node), [], 'nothing is left attached')
    for (const pause of [100, 300, 500]) {
      await control(node).post('/v1/enable')
      reload(node, [], { routes4: before + pause }).catch(() => {})
      await sleep(pause)
      await node.daemon.stop()
      await node.startDaemon({ config: plain })
      await isRight(t, node)
      t.equal(await capacity(), before, `ended after ${pause} ms of a change, and changed back by the start`)
    }
  }
)

t.test('SIGTERM, SIGKILL and disable half-way', async (t) => {
  const lab = await servedLab(t, { uplinks: 2 })
  const node = lab.node(0)
  await addRoutes(node, 0, count)
  await until('all are planned', async () => (await status(node)).counts.routes4.used >= count, 30_000)

  const reloading = reload(node, ['20.0.0.0/10'])
  const { value } = await control(node).post<EnableResult>('/v1/disable', { force: true })
  t.match(value, { done: true, mode: 'disabled' })
  t.match(await reloading, { ok: true })
  t.strictSame(await attached(node), [], 'nothing is left attached')
  t.notMatch(node.daemon.log, /could not be written/)
  t.match((await control(node).post<EnableResult>('/v1/enable')).value, { done: true, mode: 'enabled' })
  await isRight(t, node)

  for (const [turn, signal] of (['SIGTERM', 'SIGKILL', 'SIGTERM', 'SIGKILL'] as const).entries()) {
    const config = { ...plain, stackPrefixes: turn % 2 ? [] : ['20.64.0.0/10'] }
    await undisturbed(t, node, async () => {
      reload(node, turn % 2 ? ['20.0.0.0/9'] : []).catch(() => {})
      await sleep(30 + 60 * turn)
      await node.daemon.kill(signal)
      // and once more in the middle of taking over
      await node.startDaemon({ config, waitReady: false })
      await sleep(300 + 100 * turn)
      await node.daemon.kill(signal)
      await node.startDaemon({ config })
    })
    await isRight(t, node)
  }
})

t.test('a start that is ended while it plans or writes leaves nothing', async (t) => {
  const lab = await Lab.create({ nodes: 1, uplinks: 2 })
  t.teardown(() => lab.close())
  const node = lab.node(0)
  await addRoutes(node, 0, count)
  for (let pause = 200; pause <= 1_100; pause += 150) {
    await node.startDaemon({ config: plain, waitReady: false })
    await sleep(pause)
    await node.daemon.stop()
    if (!/READY|routing by eBPF/.test(node.daemon.log))
      t.strictSame(await attached(node), [], `ended after ${pause} ms`)
    else await node.daemon.remove('--force')
    t.notMatch(node.daemon.log, /Ending|could not be processed/)
  }
  await node.startDaemon({ config: plain })
  await isRight(t, node)
})
