// The daemon is killed or restarted, alone or beside another: what the pods'
// traffic notices of it.

import t from 'tap'
import type { Status } from '../../src/control/api.js'
import { plain, servedLab } from '../forwarding/served.js'
import { OUTSIDE } from '../lab/addresses.js'
import { readPing } from '../lab/host.js'
import { Lab } from '../lab/lab.js'
import { sleep } from '../lab/process.js'

t.test('[L1] SIGKILL and a new start: pings at 1 ms and long-lived SNATed flows lose nothing', async (t) => {
  const lab = await servedLab(t)
  const node = lab.node(0)
  const daemon = node.daemon
  const [one, two] = [node.pod(0), node.pod(1)]
  for (const address of [two.address.v4, two.address.v6, OUTSIDE.v4, OUTSIDE.v6]) await one.ping(address, { count: 2 })
  const pings = [two.address.v4, two.address.v6, OUTSIDE.v4, OUTSIDE.v6].map((address) =>
    one.startPing(address, { interval: 1 })
  )
  const flows = await Promise.all([
    one.flow({ protocol: 'tcp', address: OUTSIDE.v4, port: 7 }),
    one.flow({ protocol: 'udp', address: OUTSIDE.v6, port: 7 })
  ])
  await sleep(300)
  await daemon.kill('SIGKILL')
  await sleep(500)
  await node.startDaemon({ config: plain })
  t.match(daemon.log, /took over the running datapath/)
  await sleep(500)
  for (const ping of pings) {
    await ping.stop('SIGINT')
    const report = readPing(ping.stdout)
    t.ok(report.sent > 500, `${report.sent} pings`)
    t.strictSame(report.lost, [], 'none lost')
  }
  for (const flow of flows) {
    const report = await flow.finish()
    t.equal(
      report.received,
      report.sent,
      `${report.sent} messages of a flow all came back, longest gap ${report.longestGap} ms`
    )
    t.equal(report.error, null)
  }
})

t.test('two daemons side by side do not disturb each other', async (t) => {
  const lab = await Lab.create({ nodes: 2, pods: 1 })
  t.teardown(() => lab.close())
  await Promise.all(lab.nodes.map((node) => node.startDaemon({ config: plain })))
  await lab.outside.echo(7)
  const [one, two] = [lab.node(0), lab.node(1)]
  t.equal((await one.pod(0).ping(two.pod(0).address.v4, { count: 5 })).received, 5)
  const flow = await two.pod(0).flow({ protocol: 'tcp', address: OUTSIDE.v4, port: 7 })
  const before = await two.daemon.json<Status>('status')
  await one.daemon.json('disable', '--force')
  await one.daemon.stop()
  await one.startDaemon({ config: plain, waitReady: false })
  await sleep(300)
  const report = await flow.finish()
  t.equal(report.received, report.sent, 'the other node’s flow never noticed')
  const after = await two.daemon.json<Status>('status')
  t.strictSame(after?.hooks, before?.hooks)
  t.equal(after?.sync.overruns, 0)
})
