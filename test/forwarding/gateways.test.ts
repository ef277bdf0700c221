// Routes with something special about their next hop, and neighbour entries of
// every kind. The same node with hostroute switched off is the oracle.
// Mostly waits: for neighbours that do not answer.

import t from 'tap'
import type { RouteAnswer } from '../../src/control/api.js'
import type { LabNode, LabPod } from '../lab/node.js'
import { until } from '../lab/process.js'
import { asTheKernelDoes, control, counted, servedLab } from './served.js'

const families = ['v4', 'v6'] as const

/** What a ping of this size is told: how many answers with which TTL, and every complaint once. */
async function outcome(pod: LabPod, address: string, bytes: number, wait: number): Promise<string> {
  const options = { count: 2, interval: 200, wait, arguments: ['-M', 'do', '-s', `${bytes}`] }
  const { received, ttl, output } = await pod.ping(address, options)
  const complaints = output.match(/(From|local error|ping:).*/g) ?? []
  const words = complaints.map((line) => line.replace(/icmp_seq=\d+ /, ''))
  return [`${received} answers, ttl ${ttl}`, ...new Set(words)].join('; ')
}

/** What the pod has learned of path MTUs. */
async function flushCaches(pod: LabPod): Promise<void> {
  for (const family of ['-4', '-6']) await pod.run(['ip', family, 'route', 'flush', 'cache'])
}

async function verdict(node: LabNode, address: string): Promise<string> {
  const { value } = await control(node).get<RouteAnswer>('/v1/routes/get', { address })
  return `${value.verdict}: ${value.why}`
}

t.test('[F12] own MTU, encapsulation, IPv4 via IPv6, onlink, a gateway that is not there', async (t) => {
  const lab = await servedLab(t, { pods: 1 }, { config: { snat: { enabled: false } } })
  const node = lab.node(0)
  const pod = node.pod(0)
  const { router } = node.uplinks[0] ?? { router: { v4: '', v6: '' } }
  await node.sysctl({ 'net.ipv4.icmp_ratelimit': 0, 'net.ipv6.icmp.ratelimit': 0 })
  const there = { v4: (net: number) => `198.18.${net}.9`, v6: (net: number) => `2001:db8:${net}::9` }
  await lab.router.ip(
    `route add 10.244.1.0/24 via ${node.address.v4}`,
    `route add fd00:244:1::/64 via ${node.address.v6}`,
    ...[1, 3, 4].map((net) => `addr add ${there.v4(net)}/32 dev lo`),
    ...[1, 4].map((net) => `addr add ${there.v6(net)}/128 dev lo`),
    'addr add 172.31.0.1/32 dev br0',
    'addr add 2001:db8:31::1/128 dev br0 nodad'
  )
  await node.ip(
    `route add 198.18.1.0/24 via ${router.v4} mtu 1300`,
    `route add 2001:db8:1::/64 via ${router.v6} mtu 1300`,
    `route add 198.18.2.0/24 encap seg6 mode encap segs ${router.v6} dev up0`,
    `route add 2001:db8:2::/64 encap seg6 mode encap segs ${router.v6} dev up0`,
    `route add 198.18.3.0/24 via inet6 ${router.v6} dev up0`,
    'route add 198.18.4.0/24 via 172.31.0.1 dev up0 onlink',
    'route add 2001:db8:4::/64 via 2001:db8:31::1 dev up0 onlink',
    'route add 198.18.5.0/24 via 192.168.100.77',
    'route add 2001:db8:5::/64 via fd00:168:100::77'
  )
  const cases: [name: string, net: number, bytes: number, verdict: RegExp, families?: readonly ('v4' | 'v6')[]][] = [
    ['its MTU kept', 1, 1200, /^uplink/],
    ['larger than its MTU', 1, 1400, /^uplink/],
    ['encapsulation', 2, 100, /^stack: .*encap/],
    ['IPv4 via IPv6', 3, 1400, /^uplink/, ['v4']],
    ['onlink', 4, 1400, /^uplink/],
    ['a gateway that is not there', 5, 100, /^stack: \S+ has no MAC yet/]
  ]
  const asked = cases.flatMap(([name, net, bytes, wanted, only]) =>
    (only ?? families).map((family) => ({
      name: `${family}: ${name}`,
      address: there[family](net),
      net,
      bytes,
      wanted
    }))
  )
  for (const { name, address, wanted } of asked)
    await until(`${name}: in the maps`, async () => wanted.test(await verdict(node, address)))
  // Till a neighbour has failed takes the kernel three seconds.
  const ask = async () => {
    const wire = await lab.router.capture('n1u0', 'ip6 proto 43')
    await flushCaches(pod)
    const answers = await Promise.all(
      asked.map(({ address, bytes, net }) => outcome(pod, address, bytes, net === 5 ? 4_000 : 1_000))
    )
    return { answers, encapsulated: (await wire.stop()).length }
  }
  const kernel = await asTheKernelDoes(node, ask)
  const hostroute = await ask()
  t.equal(hostroute.encapsulated, kernel.encapsulated, `${kernel.encapsulated} packets encapsulated`)
  t.equal(kernel.encapsulated, 4, 'each of those')
  for (const [index, { name, net, bytes }] of asked.entries()) {
    const wanted = kernel.answers[index] ?? ''
    t.equal(hostroute.answers[index], wanted, `${name}: ${wanted}`)
    if (bytes === 1400 && net === 1) t.match(wanted, /mtu ?= ?1300/i, 'told the MTU of the route')
    else if (net !== 2 && net !== 5) t.match(wanted, /^2 answers/, 'answered')
  }
  const before = await node.readCounters()
  await pod.ping(there.v4(3), { count: 3 })
  await pod.ping(there.v6(4), { count: 3 })
  t.equal((await node.readCounters()).forward, before.forward, 'IPv4 via IPv6 and onlink by the fast path')
})

t.test('[N4] permanent, NOARP, proxied, learned elsewhere and managed entries', async (t) => {
  const lab = await servedLab(t, { pods: 1 })
  const node = lab.node(0)
  const pod = node.pod(0)
  const mac = '02:04:00:00:00:00'
  const mask = { v4: 24, v6: 64 }
  const host = { v4: (last: number) => `192.168.100.${last}`, v6: (last: number) => `fd00:168:100::${last}` }
  await lab.router.ip(
    `route add 10.244.1.0/24 via ${node.address.v4}`,
    `route add fd00:244:1::/64 via ${node.address.v6}`
  )
  const entries: [name: string, last: number, words: string][] = [
    ['permanent', 51, `lladdr ${mac} nud permanent`],
    ['NOARP', 52, `lladdr ${mac} nud noarp`],
    ['learned elsewhere', 53, `lladdr ${mac} nud reachable extern_learn`],
    ['managed by somebody', 54, 'managed'],
    ['permanent, and wrong', 55, 'lladdr 02:00:00:00:00:99 nud permanent']
  ]
  const asked = families.flatMap((family) =>
    entries.map(([name, last, words]) => ({ name: `${family}: ${name}`, address: host[family](last), words, family }))
  )
  await lab.router.ip(
    ...asked.map(
      ({ address, family }) => `addr add ${address}/${mask[family]} dev br0${family === 'v6' ? ' nodad' : ''}`
    )
  )
  await node.ip(...asked.map(({ address, words }) => `neigh replace ${address} dev up0 ${words}`))
  // an entry of the proxy kind says for whom the node answers, nothing about where that is
  const proxied = families.map((family) => host[family](60))
  await node.ip(...proxied.map((address) => `neigh add proxy ${address} dev up0`))
  const ask = async () => {
    await flushCaches(pod)
    return Promise.all([
      ...asked.map(({ address }) => outcome(pod, address, 100, 1_000)),
      // nobody is there: the kernel takes three seconds to say so, or what is left of them
      ...proxied.map((address) => outcome(pod, address, 100, 4_000))
    ])
  }
  const kernel = await asTheKernelDoes(node, ask)
  t.strictSame(await ask(), kernel, 'as by the kernel')
  for (const [index, { name, address, family }] of asked.entries()) {
    const wrong = name.endsWith('wrong')
    t.match(kernel[index], wrong ? /^0 answers/ : /^2 answers, ttl 63/, name)
    await until(`${name}: by its MAC`, async () => {
      const sent = await counted(node, 'to-uplink')
      await pod.ping(address, { count: 1, wait: 200 })
      return (await counted(node, 'to-uplink')) > sent
    })
    const { forward } = await node.readCounters()
    await pod.ping(address, { count: 1, wait: 200 })
    t.equal((await node.readCounters()).forward, forward, `${name}: not by the kernel`)
    await node.ip(`neigh del ${address} dev up0`)
    if (wrong)
      await until(`${family}: reached without it`, async () => (await pod.ping(address, { count: 1 })).received === 1)
  }
  t.equal((await node.hostroute(['verify'])).status, 0, 'verify finds nothing')
})
