// rp_filter of the uplinks: the node with hostroute off and a MASQUERADE rule is
// the oracle for answers that come by another uplink than they went out.

import t from 'tap'
import { OUTSIDE } from '../lab/addresses.js'
import { until } from '../lab/process.js'
import { asTheKernelDoes, counted, servedLab } from './served.js'

t.test('[D6] [C6] answers by another uplink: as the rp_filter of that uplink says', async (t) => {
  const lab = await servedLab(t, { pods: 2, uplinks: 2, legacy: 1 })
  const node = lab.node(0)
  const [pod, other] = [node.pod(0), node.pod(1)]
  const [first, second] = node.uplinks
  if (!first || !second) throw new Error('a lab with two uplinks has two')
  await node.ip(`route replace default via ${first.router.v4} dev up0`)
  // what the router has for the first uplink's address comes in by the second
  await lab.router.ip(`route replace ${first.address.v4}/32 via ${second.address.v4}`)
  await until('one way out', async () => {
    const { stdout } = await node.hostroute(['explain', '--from', pod.address.v4, '--to', `${OUTSIDE.v4}:7`])
    return stdout.includes('up0')
  })
  const set = (all: number, device: number) =>
    node.sysctl({ 'net.ipv4.conf.all.rp_filter': all, 'net.ipv4.conf.up1.rp_filter': device })
  const reaches = async () =>
    (await pod.ask({ protocol: 'udp', address: OUTSIDE.v4, port: 7, timeout: 1_000 })).echoed === 32 &&
    (await pod.ask({ protocol: 'tcp', address: OUTSIDE.v4, port: 7, timeout: 1_500 })).echoed === 32
  for (const [all, device, passes] of [
    [0, 0, true],
    [0, 1, false],
    [1, 0, false],
    [2, 1, true],
    [0, 2, true]
  ] as const) {
    await set(all, device)
    const name = `all ${all}, up1 ${device}`
    t.equal(await asTheKernelDoes(node, reaches), passes, `${name}: by the kernel`)
    const before = await counted(node, 'drop-martian', 'up1')
    // the daemon looks at the settings every five seconds, and says nothing
    await until(`${name}: by hostroute`, async () => (await reaches()) === passes, 20_000)
    if (!passes) t.ok((await counted(node, 'drop-martian', 'up1')) > before, 'counted')
  }

  // the right way round: nothing is dropped
  await set(1, 1)
  await lab.router.ip(`route del ${first.address.v4}/32`)
  await until('by the uplink it went out', reaches, 20_000)
  t.equal((await pod.ping(other.address.v4, { count: 3 })).received, 3, 'between pods nothing has changed')

  // routing sees an answer after SNAT has been undone: rules for the pod's address count, not for the node's
  await lab.router.ip(`route replace ${first.address.v4}/32 via ${second.address.v4}`)
  await node.ip(
    `route add default via ${second.router.v4} dev up1 table 101`,
    `rule add from ${pod.address.v4} lookup 101`
  )
  t.equal(await asTheKernelDoes(node, reaches), true, 'a rule for the pod: by the kernel')
  await until('a rule for the pod: by hostroute', reaches, 20_000)
  await node.ip(
    `route replace default table 101 nexthop via ${first.router.v4} dev up0 nexthop via ${second.router.v4} dev up1`
  )
  await until('several ways out: by hostroute', reaches, 20_000)
  const dropped = await counted(node, 'drop-martian')
  for (let round = 0; round < 10; round++) await reaches()
  t.equal(await counted(node, 'drop-martian'), dropped, 'none is dropped')
})
