// Uplinks of the kinds that every kernel has; test/vm/uplinks.ts has the others.
// Mostly waits: for devices to be served.

import { existsSync } from 'node:fs'
import t from 'tap'
import { OUTSIDE } from '../lab/addresses.js'
import { until } from '../lab/process.js'
import { noBridgeNetfilter, testKinds } from './kinds.js'
import { servedLab, status } from './served.js'

testKinds(['a bridge'])

const skip = existsSync('/proc/sys/net/bridge') ? false : 'br_netfilter is a module that is not loaded here'

t.test('[F14] a bridge whose frames netfilter sees is left to the kernel, and said so', { skip }, async (t) => {
  const lab = await servedLab(t, { pods: 1, legacy: 1, counters: true })
  const node = lab.node(0)
  const { router, mac = '' } = node.uplinks[0] ?? { router: { v4: '', v6: '' } }
  const hook = async (device: string) => (await status(node)).hooks.find((row) => row.device === device)
  await node.ip(
    `link add wan address ${mac} type bridge forward_delay 0 stp_state 0 mcast_snooping 0`,
    'link set wan up',
    'link set up0 master wan',
    'addr flush dev up0',
    `addr add ${node.address.v4}/24 dev wan`,
    `addr add ${node.address.v6}/64 dev wan nodad`,
    `route replace default via ${router.v4} dev wan`,
    `route replace ::/0 via ${router.v6} dev wan`
  )
  await until('left to the kernel', async () => (await hook('wan'))?.served === false)
  t.match((await hook('wan'))?.why, /bridge-nf-call-iptables/, 'the bridge')
  t.match((await hook('up0'))?.why, /port of bridge wan/, 'its port')
  for (const family of ['v4', 'v6'] as const) {
    const ask = (protocol: 'tcp' | 'udp') =>
      node.pod(0).ask({ protocol, address: OUTSIDE[family], port: 7, timeout: 2_000 })
    await until('reached', async () => (await ask('tcp')).error === null)
    t.match(
      [await ask('tcp'), await ask('udp')],
      [{ peer: node.address[family] }, { peer: node.address[family] }],
      family
    )
    t.equal((await node.pod(0).ping(OUTSIDE[family], { count: 5 })).received, 5, `echo ${family}`)
  }
  t.ok((await node.readCounters()).forward >= 40, 'through the forward hook')

  const flow = await node.pod(0).flow({ protocol: 'tcp', address: OUTSIDE.v4, port: 7 })
  await node.run(['sh', '-c', noBridgeNetfilter])
  await until('served once netfilter is out of the way', async () => (await hook('wan'))?.served === true, 15_000)
  const { sent, received, error } = await flow.finish()
  t.match({ received, error }, { received: sent, error: null }, 'a connection from before goes on')
  t.equal((await node.pod(0).ping(OUTSIDE.v6, { count: 3 })).received, 3)
})
