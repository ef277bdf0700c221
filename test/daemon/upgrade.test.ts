// Another version takes over whose maps have another layout, and gives back: flows,
// SNAT and counters survive.

import { readdirSync } from 'node:fs'
import t, { type Test } from 'tap'
import type { VerifyReport } from '../../src/control/api.js'
import type { FlowList } from '../../src/control/flow-api.js'
import type { DropRow } from '../../src/control/packet-api.js'
import { control, counted, plain, servedLab, status } from '../forwarding/served.js'
import { faultsIn } from '../lab/fault-orders.js'
import { otherLayout } from '../lab/other-layout.js'
import { stalePins } from '../lab/pins.js'
import { until } from '../lab/process.js'
import { flowOf, goesOn } from './dead.js'
import { nothingLost } from './limits.js'

t.setTimeout(400_000)

const config = { ...plain, onStop: 'keep' }

t.test('[L2] an upgrade across a changed layout, and the way back', async (t) => {
  const main = await otherLayout()
  const lab = await servedLab(t, {}, { config })
  const node = lab.node(0)
  const names = () => readdirSync(node.daemon.pinDirectory).sort()
  const pinned = names()
  for (const [what, version] of Object.entries({ forwards: main, backwards: undefined }))
    await t.test(what, async (t) => {
      const before = (await control(node).get<DropRow[]>('/v1/drops')).value
      const flows = await snatFlows()
      await nothingLost(t, lab, async () => {
        await node.daemon.stop()
        await node.startDaemon({ config, ...(version ? { main: version } : {}), timeout: 30_000 })
      })
      t.match(node.daemon.log, /maps of another version were converted within \d+ ms, .*flows4/)
      t.match(node.daemon.log, /took over the running datapath/)
      t.comment(node.daemon.log.match(/maps of another version.*/)?.[0] ?? '')
      for (const { device, reason, packets } of before)
        t.ok((await counted(node, reason, device)) >= packets, `${device} ${reason} goes on`)
      const after = await snatFlows()
      t.strictSame(
        [...flows].filter(([key, port]) => after.has(key) && after.get(key) !== port),
        [],
        'flows keep their ports'
      )
      t.equal((await control(node).get<VerifyReport>('/v1/verify')).value.total, 0, 'the maps hold what they should')
      t.match(await status(node), { mode: 'enabled', problems: [] })
      t.strictSame(names(), pinned, 'nothing half done is pinned')
    })

  async function snatFlows(): Promise<Map<string, number | null>> {
    const { flows } = (await control(node).get<FlowList>('/v1/flows', { limit: '100000', verdict: 'snat' })).value
    return new Map(
      flows.map((flow) => [
        [flow.protocol, flow.pod, flow.podPort, flow.remote, flow.remotePort].join(),
        Number(flow.natPort)
      ])
    )
  }
})

/** The other version has taken over, and cannot come to its end; one flow is older than that, one younger. */
async function unfinished(t: Test) {
  const main = await otherLayout()
  const { order, environment } = faultsIn(t.testdir({}))
  const node = (await servedLab(t, {}, { config })).node(0)
  const names = () => readdirSync(node.daemon.pinDirectory).sort()
  const pinned = names()
  const flows = [await flowOf(node)]
  await node.daemon.stop()
  // copied, its layout compared, and once more what has changed
  order({ fail: { label: 'openPinnedMap flows4', from: 3, once: false, code: 'ENOMEM' } })
  await node.startDaemon({ config, main, environment, timeout: 60_000 })
  const problem = async () => (await status(node)).problems.find(({ code }) => code === 'maps-not-finished')
  await until('it is a problem', async () => typeof (await problem())?.nextTry === 'string')
  t.ok(names().includes('next'))
  // only the maps that are in use know it
  flows.push(await flowOf(node))
  const isOver = async () => {
    await until('it is over', async () => (await status(node)).problems.length === 0, 20_000)
    t.strictSame(names(), pinned, 'nothing half done is pinned')
    t.strictSame(await stalePins(node), [])
    for (const flow of flows) await goesOn(t, flow, 'it goes on')
  }
  return { node, order, isOver }
}

t.test(
  'a step of an upgrade fails when the programs have been replaced: it goes on, and the rest is tried again',
  async (t) => {
    const { order, isOver } = await unfinished(t)
    order({})
    await isOver()
  }
)

t.test('an upgrade that has not come to its end, then the version before: no flow is lost', async (t) => {
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    const { node, isOver } = await unfinished(t)
    await node.daemon.kill(signal)
    await node.startDaemon({ config, timeout: 60_000 })
    t.match(node.daemon.log, /another version has replaced the maps and not come to its end: its maps are taken over/)
    t.equal((await control(node).get<VerifyReport>('/v1/verify')).value.total, 0, 'the maps hold what they should')
    await isOver()
  }
})
