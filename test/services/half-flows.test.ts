// A destination left to the stack is left to it as a source, too: conntrack
// that saw one direction only would call the other INVALID, and kube-proxy's
// rule drops that.

import t from 'tap'
import { counted } from '../forwarding/served.js'
import { podRange } from '../lab/addresses.js'
import { LongFlows, PLAIN } from './flows.js'
import { differences, runCases } from './run-cases.js'
import { ServiceLab } from './service-lab.js'

t.test('[K10] a prefix left to the stack is left to it in both directions', { timeout: 0 }, async (t) => {
  const cluster = await ServiceLab.create({ mode: 'iptables' })
  t.teardown(() => cluster.close())
  const kernel = await runCases(cluster)
  const [n1] = cluster.nodes
  const far = podRange(2)
  await n1?.startDaemon({
    timeout: 60_000,
    config: { stackPrefixes: [far.v4, far.v6, '10.77.0.0/16', 'fd00:77::/64'] }
  })
  t.same(differences(kernel, await runCases(cluster)), [])
  const flows = await LongFlows.open(cluster, 'with hostroute', PLAIN)
  t.same(await flows.silent(), [])
  t.same(await flows.close(), [])
  const saved = await n1?.run(['iptables-nft-save', '-c', '-t', 'filter'])
  t.match(saved, /\[0:0\] -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP/, 'conntrack called nothing INVALID')
  if (n1) t.ok((await counted(n1, 'forwarded')) > 0, 'hostroute forwards the rest')
})
