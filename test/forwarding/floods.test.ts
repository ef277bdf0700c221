// Floods against the flow table, with real packets: whoever floods, or is
// flooded, the other pods' connections live and begin as before.

import t, { type Test } from 'tap'
import type { ReloadResult } from '../../src/control/api.js'
import { OUTSIDE } from '../lab/addresses.js'
import type { LabHost } from '../lab/host.js'
import type { Lab } from '../lab/lab.js'
import { control, counted, plain, servedLab, status } from './served.js'

const LIMIT = 2048
const families = ['v4', 'v6'] as const

/** A datagram from one socket to each of `count` ports from 1,024 on. */
async function datagrams(from: LabHost, address: string, count: number): Promise<void> {
  const text = `
    import { createSocket } from 'node:dgram'
    const socket = createSocket('udp${address.includes(':') ? 6 : 4}')
    const send = (port) => new Promise((done) => socket.send('x', port, '${address}', done))
    for (let port = 1024; port < 1024 + ${count}; port++) await send(port)
    socket.close()`
  await from.run([process.execPath, '--input-type=module', '-e', text], { timeout: 60_000 })
}

t.test('[S10] floods from a pod and from outside', async (t) => {
  const lab = await servedLab(t, { pods: 2 }, { config: { ...plain, limits: { flows: LIMIT } } })
  const node = lab.node(0)
  const [flooding, other] = [node.pod(0), node.pod(1)]
  await lab.router.ip(
    `route add 10.244.1.0/24 via ${node.address.v4}`,
    `route add fd00:244:1::/64 via ${node.address.v6}`
  )
  await lab.outside.ip('route add 10.244.1.0/24 via 203.0.113.1', 'route add fd00:244:1::/64 via 2001:db8:99::1')
  const idle = await Promise.all(
    families.map((family) => other.flow({ protocol: 'tcp', address: OUTSIDE[family], port: 7 }))
  )
  for (const family of families) {
    const direct = family === 'v4' ? '10.200.0.1' : 'fd00:200::1'
    const used = async () => (await status(node)).counts[family === 'v4' ? 'flows4' : 'flows6'].used
    await datagrams(flooding, direct, LIMIT)
    await othersWork(t, lab, `${family}: flows that are not masqueraded`)
    t.ok((await used()) <= LIMIT / 4, 'a pod has a quarter of what is left, at most, for flows that need no entry')
    await datagrams(flooding, OUTSIDE[family], 2 * LIMIT)
    await othersWork(t, lab, `${family}: flows through SNAT`)
    await datagrams(lab.outside, flooding.address[family], 2 * LIMIT)
    await othersWork(t, lab, `${family}: datagrams from outside`)
    t.ok((await used()) < 0.6 * LIMIT, `${await used()} of ${LIMIT}`)
  }
  t.ok((await counted(node, 'drop-flows', flooding.hostDevice)) > 0, 'who floods is told')
  t.equal(await counted(node, 'drop-flows', other.hostDevice), 0)
  t.equal((await status(node)).counts.mostFlows[0]?.device, flooding.hostDevice)
  t.match((await node.hostroute(['status'])).stdout, new RegExp(`Most flows: ${flooding.hostDevice} `))
  t.match(await Promise.all(idle.map((flow) => flow.finish())), [{}, {}], 'idle connections from before go on')

  node.daemon.writeConfig({ ...plain, limits: { flows: 2 * LIMIT } })
  const { value } = await control(node).post<ReloadResult>('/v1/reload')
  t.match(value, { ok: true, restartNeeded: [] }, 'the limit is raised at run time')
  t.equal((await status(node)).counts.flows4.capacity, 2 * LIMIT)
  t.match((await status(node)).counts.flowLimit, { configured: 2 * LIMIT, inForce: 2 * LIMIT, problem: null })

  node.daemon.writeConfig({ ...plain, limits: { flows: 64 * LIMIT } })
  t.match(
    (await control(node).post<ReloadResult>('/v1/reload')).value,
    { ok: true, problems: [] },
    'beyond the tables, too'
  )
  t.match((await status(node)).counts.flowLimit, { configured: 64 * LIMIT, inForce: 64 * LIMIT, problem: null })
  const answer = await flooding.ask({ protocol: 'tcp', address: OUTSIDE.v4, port: 7 })
  t.match(answer, { error: null, peer: node.address.v4 }, 'and the flooding pod has room again')

  await datagrams(flooding, OUTSIDE.v4, 2 * LIMIT)
  node.daemon.writeConfig({ ...plain, limits: { flows: 1024 } })
  const lower = /limits\.flows is 1024, but \d{4,5} flows are in use: no pod gets a new one/
  t.match((await node.hostroute(['reload'])).stdout, lower, 'below what is in use: said at once')
  t.match((await status(node)).counts.flowLimit, { inForce: 1024, problem: lower })
  t.match((await node.hostroute(['status'])).stdout, lower, 'and in status')
})

async function othersWork(t: Test, lab: Lab, what: string): Promise<void> {
  const node = lab.node(0)
  const other = node.pod(1)
  for (const family of families) {
    const address = OUTSIDE[family]
    const answers = await other.askAll([
      { protocol: 'tcp', address, port: 7 },
      { protocol: 'udp', address, port: 7 }
    ])
    for (const answer of answers)
      t.match(answer, { error: null, peer: node.address[family] }, `${what}: a new ${family} connection of another pod`)
  }
}
