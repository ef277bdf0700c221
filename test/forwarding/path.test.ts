// The ways a packet can take through a node, each with TCP, UDP and echo, and
// each packet compared between where it was sent and where it arrived.

import t, { type Test } from 'tap'
import { OUTSIDE } from '../lab/addresses.js'
import type { LabHost } from '../lab/host.js'
import type { Lab } from '../lab/lab.js'
import type { LabPod } from '../lab/node.js'
import { until } from '../lab/process.js'
import { assertForwarded, captureAt, from, to } from './compare.js'
import { counted, servedLab } from './served.js'

const families = ['v4', 'v6'] as const
const filter = 'port 7 or icmp or (icmp6 and (ip6[40] == 128 or ip6[40] == 129))'

/** TCP and UDP echo and a few pings from `host`; asserts that all came back. */
async function talk(t: Test, name: string, host: LabHost, address: string, ttl: number): Promise<void> {
  const answers = await host.askAll([
    { protocol: 'tcp', address, port: 7, bytes: 3000 },
    { protocol: 'udp', address, port: 7, bytes: 700 }
  ])
  t.match(
    answers,
    [
      { echoed: 3000, error: null },
      { echoed: 700, error: null }
    ],
    `${name}: TCP and UDP`
  )
  t.match(await host.ping(address, { count: 3 }), { received: 3, ttl }, `${name}: echo`)
}

t.test('packets on every way arrive as the kernel would have sent them', async (t) => {
  const lab = await servedLab(t, { nodes: 2, offloads: false })
  const [one, two] = [lab.node(0), lab.node(1)]
  const [pod, near, far] = [one.pod(0), one.pod(1), two.pod(0)]
  await Promise.all([near.echo(7), far.echo(7)])
  const before = await one.readCounters()

  for (const family of families) {
    await t.test(`[F1] pod to pod on the same node, ${family}`, (t) => samePath(t, pod, near, family))
    await t.test(`[F2] [F3] pod to a pod of another node and back, ${family}`, (t) =>
      acrossPath(t, lab, pod, far, family)
    )
    await t.test(`[F3] [S1] [S2] [S3] pod to outside through the gateway and SNAT, ${family}`, (t) =>
      outsidePath(t, lab, pod, family)
    )
  }
  t.strictSame(await one.readCounters(), before, "none of it was seen by the node's netfilter")
  t.equal(await counted(one, 'drop'), 0, 'nothing dropped')
})

async function samePath(t: Test, pod: LabPod, near: LabPod, family: 'v4' | 'v6'): Promise<void> {
  const [ours, theirs] = [pod.address[family], near.address[family]]
  const places: [LabHost, string][] = [
    [pod, 'eth0'],
    [near, 'eth0']
  ]
  const [left = [], right = []] = await captureAt(places, filter, () => talk(t, 'near', pod, theirs, 63))
  const there = { sourceMac: near.hostMac, destinationMac: near.mac }
  const back = { sourceMac: pod.hostMac, destinationMac: pod.mac }
  assertForwarded(t, 'there', from(left, ours), from(right, ours), there, 9)
  assertForwarded(t, 'back', from(right, theirs), from(left, theirs), back, 9)
}

async function acrossPath(t: Test, lab: Lab, pod: LabPod, far: LabPod, family: 'v4' | 'v6'): Promise<void> {
  const [one, two] = [lab.node(0), lab.node(1)]
  const [ours, theirs] = [pod.address[family], far.address[family]]
  const [oneMac = '', twoMac = ''] = [one.uplinks[0]?.mac, two.uplinks[0]?.mac]
  const counters = await far.counters('eth0')
  const places: [LabHost, string][] = [
    [pod, 'eth0'],
    [lab.router, 'n1u0'],
    [far, 'eth0']
  ]
  const [left = [], wire = [], right = []] = await captureAt(places, filter, () => talk(t, 'far', pod, theirs, 62))
  assertForwarded(
    t,
    'onto the wire',
    from(left, ours),
    from(wire, ours),
    { sourceMac: oneMac, destinationMac: twoMac },
    9
  )
  const into = { sourceMac: far.hostMac, destinationMac: far.mac }
  assertForwarded(t, 'into the pod', from(wire, ours), from(right, ours), into, 9)
  const back = { hops: 2, sourceMac: pod.hostMac, destinationMac: pod.mac }
  assertForwarded(t, 'back', from(right, theirs), from(left, theirs), back, 9)
  t.ok((await far.counters('eth0')).rxPackets >= counters.rxPackets + 9, "the pod's RX counter moved")
}

async function outsidePath(t: Test, lab: Lab, pod: LabPod, family: 'v4' | 'v6'): Promise<void> {
  const node = lab.node(0)
  const [ours, theirs, nat] = [pod.address[family], OUTSIDE[family], node.address[family]]
  const places: [LabHost, string][] = [
    [pod, 'eth0'],
    [lab.router, 'n1u0']
  ]
  const [left = [], wire = []] = await captureAt(places, filter, () => talk(t, 'outside', pod, theirs, 62))
  const [uplinkMac = ''] = [node.uplinks[0]?.mac]
  const routerMac = '02:04:00:00:00:00'
  const there = { source: nat, sourceMac: uplinkMac, destinationMac: routerMac }
  assertForwarded(t, 'there', from(left, ours), from(wire, nat), there, 9)
  const back = { destination: ours, sourceMac: pod.hostMac, destinationMac: pod.mac }
  assertForwarded(t, 'back', to(wire, nat), to(left, ours), back, 9)
  t.strictSame(from(wire, ours), [], "the pod's own address is never on the wire")
}

t.test('[F5] [F6] [S6] what is not for the fast path goes to the stack', async (t) => {
  const all = { masquerade: { nonMasqueradeCIDRs: [] }, config: { snat: { masqueradeIPv6: true } } }
  const lab = await servedLab(t, { pods: 1 }, all)
  const node = lab.node(0)
  const pod = node.pod(0)
  const { address } = pod
  t.equal((await pod.ping(address.v4, { count: 2 })).received, 2, 'a pod reaches itself')
  await pod.run(['ip', '-6', 'neigh', 'flush', 'dev', 'eth0'])
  const capture = await node.capture(pod.hostDevice, 'icmp6')
  t.equal((await pod.ping('fe80::1%eth0', { count: 2 })).received, 2, 'the gateway answers on its link-local address')
  t.equal(
    (await pod.ping(OUTSIDE.v6, { count: 2 })).received,
    2,
    'and neighbour discovery works when all is masqueraded'
  )
  const solicits = (await capture.stop()).filter(({ packet }) => packet.l4?.type === 135)
  t.ok(solicits.length > 0 && solicits.every(({ packet }) => packet.l4?.checksumOk), 'solicitations unchanged')
  await pod.ping('ff02::1%eth0', { count: 2, wait: 200 })
  await pod.ping('224.0.0.1', { count: 2, wait: 200, arguments: ['-I', 'eth0'] })
  t.ok((await counted(node, 'link-local')) >= 2, 'link-local is counted as the kernel’s')
  t.ok((await counted(node, 'not-for-router')) >= 4, 'and multicast')

  // without a default route no map answers: the kernel says so
  await node.ip('route del 0.0.0.0/0', 'route del ::/0')
  for (const [family, target] of Object.entries(OUTSIDE)) {
    const told = async () => (await pod.ping(target, { count: 1, wait: 300 })).output
    await until(`${family}: unreachable`, async () => /From \S+ .*unreachable|No route/i.test(await told()), 5_000)
  }
  t.ok((await counted(node, 'no-route')) >= 2, 'counted as no-route')
})
