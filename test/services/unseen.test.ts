// Connections through Services that began where no program of hostroute looked:
// they are the stack's all the same when the programs look.

import t from 'tap'
import { LongFlows, TRANSLATED } from './flows.js'
import { ServiceLab } from './service-lab.js'

const kinds = TRANSLATED.filter(({ from }) => from === 'p11' || from === 'p12')

const partly: Record<string, Record<string, unknown>> = {
  'no uplink is served': { uplink: { devices: ['nothing*'] } },
  'IPv4 is left to the kernel': { ipv4: false },
  'their pods are not served': { pods: { devices: ['pod3'] } }
}

t.test('[K6] connections that began while a part of the node was not served', { timeout: 0 }, async (t) => {
  const cluster = await ServiceLab.create({ mode: 'nftables' })
  t.teardown(() => cluster.close())
  const [n1] = cluster.nodes
  if (!n1) throw new Error('the lab has no node')
  const reload = async (config: Record<string, unknown>) => {
    n1.daemon.writeConfig(config)
    const { status, stderr } = await n1.hostroute(['reload'], 60_000)
    t.equal(status, 0, stderr)
  }
  await n1.startDaemon({ timeout: 60_000 })
  for (const [when, config] of Object.entries(partly)) {
    await reload(config)
    const flows = await LongFlows.open(cluster, `while ${when}`, kinds)
    t.same(await flows.silent(), [], `${flows.count} connections while ${when}`)
    await reload({})
    t.same(await flows.silent(), [], 'they go on')
    t.same(await flows.close(), [], 'and lost nothing')
  }

  await n1.daemon.kill('SIGKILL')
  await n1.daemon.endLease()
  const flows = await LongFlows.open(cluster, 'after the lease', kinds)
  t.same(await flows.silent(), [], `${flows.count} connections after the lease of a daemon that is gone`)
  await n1.startDaemon({ timeout: 60_000 })
  t.same(await flows.silent(), [], 'they go on with the next one')
  t.same(await flows.close(), [], 'and lost nothing')
})
