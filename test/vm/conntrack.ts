// Runs inside a test machine, where conntrack is a module: what is read and
// handed back while the module is not there.

import { existsSync } from 'node:fs'
import t from 'tap'
import { act, addressesOf, hex, listed, liveFlows, MASQUERADE, podsOf } from '../conntrack/support.js'
import { OUTSIDE } from '../lab/addresses.js'
import { Lab } from '../lab/lab.js'
import { exec, until } from '../lab/process.js'

if (!process.env['HOSTROUTE_VM']) throw new Error('this test runs inside a test machine only: scripts/vm -- node FILE')

const users = ['nft_masq', 'nft_redir', 'nft_nat', 'nft_chain_nat', 'nft_ct', 'xt_MASQUERADE', 'xt_conntrack', 'xt_nat']
const modules = [...users, 'iptable_nat', 'ip6table_nat', 'nf_nat', 'nf_conntrack_netlink', 'nf_conntrack']
const isLoaded = () => existsSync('/sys/module/nf_conntrack')

t.test('[K8] conntrack that is not loaded tracks nothing, and asking does not load it', async (t) => {
  const lab = await Lab.create({ nodes: 1, pods: 1, counters: false })
  t.teardown(() => lab.close())
  const node = lab.node(0)
  await until('the module is gone', async () => {
    for (const name of modules) await exec(['modprobe', '-r', name])
    return !isLoaded()
  })
  const pods = podsOf(node)
  t.match((await act(node, { verb: 'translated', pods })).result, { read: 0, translated: 0, flows: [] })
  const question = { verb: 'forget', pods, node: addressesOf(node) } as const
  t.match((await act(node, question)).result, { read: 0, deleted: 0, liberal: 0, failed: {} })
  t.notOk(isLoaded(), 'still not loaded')
  const pod = node.pod(0).address.v4
  const flows = liveFlows(pod, OUTSIDE.v4, 6, [{ peer: node.address.v4, port: 30_000, own: 2000 }])
  const { result } = await act(node, { verb: 'handBack', flows })
  t.match(result, { continues: 0, cannot: [{ flow: { pod: hex(pod) }, why: 'not tracked' }] })
  t.notOk(isLoaded(), 'still not')

  await node.run(['nft', '-f', '-'], { input: MASQUERADE })
  t.match(
    (await act(node, { verb: 'handBack', flows })).result,
    { continues: 1, cannot: [] },
    'it can when it is there'
  )
  t.match((await act(node, { verb: 'translated', pods })).result, { translated: 1, flows: [{ podPort: 2000 }] })
  t.equal((await listed(node)).length, 1, 'conntrack(8) agrees')
})
