// The daemon is dead, and what it has pinned is another version's, or that of two.

import { existsSync } from 'node:fs'
import t from 'tap'
import type { FlowList } from '../../src/control/flow-api.js'
import type { PinnedPodRow } from '../../src/control/pinned-api.js'
import { attached, control, plain, servedLab } from '../forwarding/served.js'
import { faultsIn } from '../lab/fault-orders.js'
import { otherLayout } from '../lab/other-layout.js'
import { ask, flowOf, goesOn, masquerade } from './dead.js'

t.setTimeout(400_000)

t.test('what another version has pinned is read, and handed back, field by field', async (t) => {
  const main = await otherLayout()
  const node = (await servedLab(t, { pods: 1 }, { main, timeout: 30_000 })).node(0)
  const { daemon } = node
  await node.run(['nft', '-f', '-'], { input: masquerade })
  const flow = await flowOf(node)
  const live = (await control(node).get<FlowList>('/v1/flows', { verdict: 'snat' })).value.flows
  await daemon.kill('SIGKILL')
  const { flows } = JSON.parse((await ask(node, 'snat', '--json')).stdout) as FlowList
  for (const { podPort, natPort, natAddress } of live)
    t.ok(
      flows.some((row) => row.podPort === podPort && row.natPort === natPort && row.natAddress === natAddress),
      'a flow with its port'
    )
  const rows = JSON.parse((await ask(node, 'pods', '--json')).stdout) as PinnedPodRow[]
  t.match(rows, [{ address: '10.244.1.2', device: 'pod1', ready: true, forwarding: true, until: /Z$/ }])
  t.ok((rows[0]?.flows ?? 0) > 0)
  const done = await ask(node, 'disable')
  t.equal(done.status, 0, done.stdout + done.stderr)
  t.match(done.stdout, /1 connection through SNAT continues through the stack; 0 cannot/)
  await goesOn(t, flow, 'a connection through SNAT')
})

t.test('an upgrade that was not finished: both versions are in the pins, and both are read', async (t) => {
  const main = await otherLayout()
  const { order, environment } = faultsIn(t.testdir({}))
  const config = { ...plain, onStop: 'keep' }
  const node = (await servedLab(t, { pods: 1 }, { config })).node(0)
  const { daemon } = node
  await node.run(['nft', '-f', '-'], { input: masquerade })
  const older = await flowOf(node)
  await daemon.stop()
  // copied, its layout compared, and once more what has changed
  order({ fail: { label: 'openPinnedMap flows4', from: 3, once: false, code: 'ENOMEM' } })
  await node.startDaemon({ config, main, environment, timeout: 60_000 })
  t.ok(existsSync(`${daemon.pinDirectory}/next`))
  const younger = await flowOf(node)
  await daemon.kill('SIGKILL')
  const { flows } = JSON.parse((await ask(node, 'snat', '--json')).stdout) as FlowList
  t.equal(flows.filter(({ remotePort }) => remotePort === 7).length, 2, 'the flows of both')
  const removed = await daemon.remove()
  t.equal(removed.status, 0, removed.stdout + removed.stderr)
  t.match(removed.stdout, /2 connections through SNAT continue through the stack; 0 cannot/)
  t.equal((await attached(node)).length, 0)
  await goesOn(t, older, 'a flow from before')
  await goesOn(t, younger, 'a flow that only the new maps have')
})
