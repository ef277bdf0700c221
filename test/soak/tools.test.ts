// Short parts of the long runs of scripts/soak: tools, and changes of the node.
// Traceroute and tracepath are in test/forwarding/hops.test.ts.

import t from 'tap'
import { failover } from './failover.js'
import { iperf3 } from './iperf3.js'
import { reportTo } from './report.js'
import { stun } from './stun.js'

t.setTimeout(300_000)

t.test('[S2] STUN: mapping is independent of the endpoint, ports are kept', async (t) => {
  const [behaviour] = await stun(reportTo(t), { server: 'own', lifetimes: [], ways: ['hostroute'] })
  t.equal(behaviour?.filtering, 'address- and port-dependent', 'nobody else comes in')
  t.equal(behaviour?.hairpinning, false)
})

t.test('[S1] [S2] iperf3 both ways, TCP and UDP', (t) =>
  iperf3(reportTo(t), { seconds: 1, megabits: 20, families: ['v4'] })
)

t.test(
  '[S14] address, default route and uplink change under traffic: UDP goes on, TCP begins anew and ends fast',
  (t) => failover(reportTo(t), ['hostroute'])
)
