// Somebody removes pins while no daemon runs.

import { existsSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { VerifyReport } from '../../src/control/api.js'
import type { FlowList } from '../../src/control/flow-api.js'
import { control, plain, servedLab, status } from '../forwarding/served.js'
import type { LabNode } from '../lab/node.js'
import { flowOf, goesOn } from './dead.js'

t.setTimeout(200_000)

const config = { ...plain, onStop: 'keep' }

async function isRight(t: Test, node: LabNode): Promise<void> {
  t.equal((await control(node).get<VerifyReport>('/v1/verify')).value.total, 0, 'the maps hold what they should')
  t.match(await status(node), { mode: 'enabled', problems: [] })
}

async function snatFlows(node: LabNode): Promise<number> {
  const query = { limit: '100000', verdict: 'snat' }
  return (await control(node).get<FlowList>('/v1/flows', query)).value.flows.length
}

t.test('maps that the attached programs hold are pinned again, and flows go on', async (t) => {
  const node = (await servedLab(t, { pods: 1 }, { config })).node(0)
  const { pinDirectory } = node.daemon
  const names = () => readdirSync(pinDirectory).sort()
  const pinned = names()
  for (const lost of [
    ['flows4'],
    ['reverse4', 'accounts', 'routes4'],
    pinned.filter((name) => !/^(control|links)$|scratch/.test(name))
  ]) {
    const flow = await flowOf(node)
    await node.daemon.kill('SIGKILL')
    for (const name of lost) rmSync(join(pinDirectory, name))
    await node.startDaemon({ config })
    t.match(node.daemon.log, /somebody removed the pins of \d+ maps .* pinned again/)
    t.strictSame(names(), pinned)
    await isRight(t, node)
    t.ok((await snatFlows(node)) >= 1)
    await goesOn(t, flow, `without the pins of ${lost.join(', ')}`)
  }
})

t.test('maps that nobody has any more: flows begin anew, and nothing is charged for those that were', async (t) => {
  const node = (await servedLab(t, { pods: 1 }, { config })).node(0)
  const { pinDirectory } = node.daemon
  const flow = await flowOf(node)
  t.ok((await status(node)).counts.flows4.used > 0)
  await node.daemon.kill('SIGKILL')
  rmSync(join(pinDirectory, 'flows4'))
  for (const name of readdirSync(join(pinDirectory, 'links'))) rmSync(join(pinDirectory, 'links', name))
  await node.startDaemon({ config })
  t.match(node.daemon.log, /the pins of flows4 are gone, and no attached program has these maps: flows begin anew/)
  t.ok(existsSync(join(pinDirectory, 'flows4')))
  await isRight(t, node)
  await flow.finish()
  const { flows4 } = (await status(node)).counts
  const entries = (await control(node).get<FlowList>('/v1/flows', { limit: '100000' })).value.flows
  t.ok(flows4.used <= entries.length + 1, `${flows4.used} flows are charged for, ${entries.length} are there`)
})
