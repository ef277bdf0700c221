// Real routes of every kind; the same node with hostroute switched off is the
// oracle for what a pod is told.
// Mostly waits: for ICMP errors and their absence.

import t from 'tap'
import type { VerifyReport } from '../../src/control/api.js'
import type { LabPacket } from '../lab/capture.js'
import type { LabPod } from '../lab/node.js'
import { sleep, until } from '../lab/process.js'
import { captureAt, to } from './compare.js'
import { asTheKernelDoes, control, counted, servedLab } from './served.js'

/** Nobody answers for these; the others are asked until somebody has. */
const silent = new Set(['198.18.0.9', '198.18.6.9', '198.18.7.255', '2001:db8::9', '2001:db8:6::9'])

/** What the pod is told when it sends to each address: source, type, code and what is embedded. */
async function told(pod: LabPod, addresses: string[]): Promise<Record<string, string>> {
  const family = addresses[0]?.includes(':') ? 'v6' : 'v4'
  const capture = await pod.capture('eth0', family === 'v4' ? 'icmp' : 'icmp6')
  let answers: Record<string, string> = {}
  for (let round = 0; round < 8; round++) {
    const open = addresses.filter((address) => !answers[address])
    if (open.every((address) => silent.has(address))) break
    // after five errors to one pod the kernel holds back all but one a second
    if (round > 0) await sleep(1_050)
    await Promise.all(open.map((address) => pod.ping(address, { count: 1, wait: 200 })))
    answers = answersIn(capture.packets(), pod.address[family], addresses)
  }
  await capture.stop()
  return answers
}

function answersIn(packets: LabPacket[], pod: string, addresses: string[]): Record<string, string> {
  const answers: Record<string, string> = {}
  for (const { packet } of to(packets, pod)) {
    const { ip, l4, embedded } = packet
    const about = embedded?.ip.destination ?? ip?.source ?? ''
    if (!addresses.includes(about)) continue
    const inside = embedded ? ` about ${embedded.ip.source} ttl ${embedded.ip.ttl}` : ''
    const checksum = l4?.checksumOk ? 'right' : 'wrong'
    answers[about] = `${ip?.source} type ${l4?.type} code ${l4?.code}${inside}, checksum ${checksum}`
  }
  return answers
}

t.test('[F7] [F8] a pod is told the same about every kind of route as by the kernel', async (t) => {
  const lab = await servedLab(t, { offloads: false }, { config: { snat: { enabled: false } } })
  const node = lab.node(0)
  const pod = node.pod(0)
  for (const table of ['', '-6']) {
    for (const each of ['all', 'default', 'up0']) {
      const key = table ? `net.ipv6.conf.${each}.forwarding` : `net.ipv4.conf.${each}.send_redirects`
      await node.exec(['sysctl', '-qw', `${key}=${table ? 1 : 0}`])
    }
  }
  await node.sysctl({ 'net.ipv4.icmp_ratelimit': 0, 'net.ipv6.icmp.ratelimit': 0 })
  const { router } = node.uplinks[0] ?? { router: { v4: '', v6: '' } }
  await lab.router.ip(
    `route add 10.244.1.0/24 via ${node.address.v4}`,
    `route add fd00:244:1::/64 via ${node.address.v6}`,
    ...['198.18.1.9', '198.18.2.9', '198.18.2.200', '198.18.4.9', '198.18.5.9', '198.18.6.7'].map(
      (each) => `addr add ${each}/32 dev lo`
    ),
    ...['1::9', '2::9', '2::200', '4::9', '5::9', '6::7'].map((each) => `addr add 2001:db8:${each}/128 dev lo`)
  )
  await node.ip(
    `route add blackhole 198.18.0.0/24`,
    `route add unreachable 198.18.1.0/24`,
    `route add prohibit 198.18.2.0/24`,
    `route add throw 198.18.3.0/24`,
    `route add unreachable 198.18.4.0/24 metric 20`,
    `route add 198.18.4.0/24 via ${router.v4} metric 10`,
    `route add 198.18.5.0/24 via ${router.v4} metric 20`,
    `route add prohibit 198.18.5.0/24 metric 10`,
    `route add 198.18.2.200/32 via ${router.v4}`,
    `route add blackhole 198.18.6.0/24`,
    `route add 198.18.6.0/29 via ${router.v4}`,
    `route add local 198.18.7.7/32 dev lo`,
    `route add broadcast 198.18.7.255/32 dev up0`,
    `route add blackhole 2001:db8:0::/64`,
    `route add unreachable 2001:db8:1::/64`,
    `route add prohibit 2001:db8:2::/64`,
    `route add throw 2001:db8:3::/64`,
    `route add unreachable 2001:db8:4::/64 metric 20`,
    `route add 2001:db8:4::/64 via ${router.v6} metric 10`,
    `route add 2001:db8:5::/64 via ${router.v6} metric 20`,
    `route add prohibit 2001:db8:5::/64 metric 10`,
    `route add 2001:db8:2::200/128 via ${router.v6}`,
    `route add blackhole 2001:db8:6::/64`,
    `route add 2001:db8:6::/125 via ${router.v6}`,
    `route add local 2001:db8:7::7/128 dev lo`
  )
  const four = ['0.9', '1.9', '2.9', '2.200', '3.9', '4.9', '5.9', '6.7', '6.9', '7.7', '7.255'].map(
    (each) => `198.18.${each}`
  )
  const six = ['::9', '1::9', '2::9', '2::200', '3::9', '4::9', '5::9', '6::7', '6::9', '7::7'].map((each) =>
    `2001:db8:${each}`.replace(':::', '::')
  )
  await until('in step', async () => (await control(node).get<VerifyReport>('/v1/verify')).value.ok)
  for (const [family, addresses] of [
    ['IPv4', four],
    ['IPv6', six]
  ] as const) {
    const before = await counted(node, 'forwarded', pod.hostDevice)
    const ours = await told(pod, addresses)
    t.ok((await counted(node, 'forwarded', pod.hostDevice)) >= before + 3, `${family}: reachable ones by the fast path`)
    const kernel = await asTheKernelDoes(node, () => told(pod, addresses))
    t.strictSame(ours, kernel, family)
    const kinds = new Set(Object.values(kernel).map((words) => words.replace(/^\S+/, '')))
    t.ok(kinds.size >= 3, `${family}: ${kinds.size} different answers`)
  }
})

t.test('[F7] [Y5] a route that comes, is replaced and goes is obeyed by the next packets', async (t) => {
  const lab = await servedLab(t, { nodes: 2, pods: 1 }, { config: { snat: { enabled: false } } })
  const [node, other] = [lab.node(0), lab.node(1)]
  const pod = node.pod(0)
  const range = { v4: '198.18.0.0/16', v6: '2001:db8:18::/48' }
  const target = { v4: '198.18.9.9', v6: '2001:db8:18::9' }
  const macs = new Map([
    ['02:04:00:00:00:00', 'router'],
    [other.uplinks[0]?.mac, 'node 2']
  ])
  for (const family of ['v4', 'v6'] as const) {
    const { router } = node.uplinks[0] ?? { router: { v4: '', v6: '' } }
    const leaves = async () => {
      const filter = family === 'v4' ? 'icmp[icmptype] == icmp-echo' : 'icmp6 and ip6[40] == 128'
      const [packets = []] = await captureAt([[lab.router, 'n1u0']], filter, () =>
        pod.ping(target[family], { count: 1, wait: 50 })
      )
      return to(packets, target[family]).map(
        ({ packet }) => macs.get(packet.destinationMac) ?? packet.destinationMac
      )[0]
    }
    const obeyed = (wanted: string | undefined, name: string) =>
      until(`${family}: ${name}`, async () => (await leaves()) === wanted, 3_000).then(() =>
        t.pass(`${family}: ${name}`)
      )
    await obeyed('router', 'the default route')
    await node.ip(`route add ${range[family]} via ${other.address[family]}`)
    await obeyed('node 2', 'a route that is longer')
    await node.ip(`route replace ${range[family]} via ${router[family]}`)
    await obeyed('router', 'replaced')
    await node.ip(`route add ${target[family]} via ${other.address[family]}`)
    await obeyed('node 2', 'a host route')
    await node.ip(`route del ${target[family]}`, `route replace blackhole ${range[family]}`)
    await obeyed(undefined, 'a blackhole')
    await node.ip(`route del blackhole ${range[family]}`)
    await obeyed('router', 'the default route again')
  }
})
