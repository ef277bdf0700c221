// Devices that change under traffic: VLANs, uplinks down, up and renamed, an
// ifindex used again, addresses replaced; and pods that lie about theirs.

import t from 'tap'
import type { HookRow } from '../../src/control/api.js'
import { OUTSIDE } from '../lab/addresses.js'
import type { LabNode } from '../lab/node.js'
import { until } from '../lab/process.js'
import { attached, counted, servedLab, status } from './served.js'

const families = ['v4', 'v6'] as const

async function hook(node: LabNode, device: string): Promise<HookRow | undefined> {
  return (await status(node)).hooks.find((row) => row.device === device)
}

t.test('[F15] an uplink goes down and up, is renamed, and an ifindex is used again', async (t) => {
  const lab = await servedLab(t, { pods: 2 })
  const node = lab.node(0)
  const pod = node.pod(0)
  const { router } = node.uplinks[0] ?? { router: { v4: '', v6: '' } }
  const routes = (device: string) => [
    `route replace default via ${router.v4} dev ${device}`,
    `route replace ::/0 via ${router.v6} dev ${device}`
  ]
  const reaches = async (wanted: boolean) => {
    for (const family of families) {
      const answer = await pod.ask({ protocol: 'tcp', address: OUTSIDE[family], port: 7, timeout: 1500 })
      if ((answer.echoed === 32) !== wanted) return false
    }
    return true
  }
  t.ok(await reaches(true), 'before')

  await node.ip('link set up0 down')
  const told = async () => (await pod.ping(OUTSIDE.v4, { count: 1, wait: 300 })).output
  await until('down: the kernel tells the pod', async () => /Unreachable/i.test(await told()), 3_000)
  t.equal((await pod.ping(node.pod(1).address.v6, { count: 3 })).received, 3, 'pods still reach each other')
  await node.ip('link set up0 up', `addr replace ${node.address.v6}/64 dev up0 nodad`, ...routes('up0'))
  await until('up again', () => reaches(true))

  await node.ip(
    'link set up0 down',
    'link set up0 name wan',
    'link set wan up',
    `addr replace ${node.address.v6}/64 dev wan nodad`,
    ...routes('wan')
  )
  await until('renamed', async () => (await hook(node, 'wan'))?.served === true)
  await until('through the renamed uplink', () => reaches(true))
  const before = await node.readCounters()
  t.ok(await reaches(true), 'renamed')
  t.equal((await node.readCounters()).forward, before.forward, 'by the fast path')
  const report = await node.hostroute(['verify'])
  t.equal(report.status, 0, report.stdout)

  // pod 2 goes and another device gets its number: first a second uplink, then a pod
  const gone = node.pod(1)
  const [row] = await node.ipJson<{ ifindex: number }>('link', 'show', 'dev', gone.hostDevice)
  const index = row?.ifindex ?? 0
  await node.removePod(gone)
  await node.ip(`link add spare index ${index} type veth peer name spare1`, 'link set spare up', 'link set spare1 up')
  await node.ip('addr add 192.168.180.1/24 dev spare', 'route add 198.18.0.0/16 via 192.168.180.9 dev spare')
  await until('served as uplink', async () => (await hook(node, 'spare'))?.role === 'uplink')
  t.equal((await hook(node, 'spare'))?.ifindex, index, 'the same ifindex')
  await node.ip('link del spare')
  const create = node.linkCommands.bind(node)
  node.linkCommands = (pod) =>
    create(pod).map((words) =>
      words.replace('link add ', 'link add ').replace(' type veth', ` index ${index} type veth`)
    )
  const again = await node.addPod(2)
  await until('served as pod', async () => (await hook(node, again.hostDevice))?.role === 'pod')
  t.match(await hook(node, again.hostDevice), { role: 'pod', ifindex: index })
  t.equal((await again.ping(pod.address.v4, { count: 3 })).received, 3, 'the new pod is reached')
  t.equal((await again.ping(OUTSIDE.v6, { count: 3 })).received, 3, 'and reaches the outside')
  t.strictSame(
    (await attached(node)).sort(),
    ['from_pod', 'from_pod', 'from_uplink'],
    'no program is left on a device that is gone'
  )
})

t.test('[F17] a spoofed source is dropped, counted and told once; ARP and DAD work', async (t) => {
  const lab = await servedLab(t, { pods: 2, proxyArp: true })
  const node = lab.node(0)
  const [pod, victim] = [node.pod(0), node.pod(1)]
  const lies = { v4: '10.244.1.77', v6: 'fd00:244:1::77' }
  await pod.ip(`addr add ${lies.v4}/32 dev eth0`, `addr add ${lies.v6}/128 dev eth0 nodad`)
  for (const family of families) {
    const capture = await victim.capture('eth0', `host ${lies[family]}`)
    const outside = await lab.outside.capture('eth0', `host ${lies[family]}`)
    const before = await counted(node, 'drop-spoof')
    for (const address of [victim.address[family], OUTSIDE[family], node.address[family]]) {
      await pod.ping(address, { count: 3, wait: 100, arguments: ['-I', lies[family]] })
    }
    t.equal((await counted(node, 'drop-spoof')) - before, 9, `${family}: all counted`)
    t.equal((await capture.stop()).length + (await outside.stop()).length, 0, `${family}: none arrived`)
  }
  const told = node.daemon.log.split('\n').filter((line) => line.includes(lies.v4))
  t.equal(told.length, 1, `told once: ${told.join(' | ')}`)
  t.equal((await pod.ping(victim.address.v4, { count: 3 })).received, 3, 'its own address works')

  await pod.run(['ip', 'neigh', 'flush', 'all'])
  await victim.run(['ip', 'neigh', 'flush', 'all'])
  t.equal((await pod.ping(victim.address.v4, { count: 2 })).received, 2, 'ARP for the gateway')
  t.equal((await pod.ping(victim.address.v6, { count: 2 })).received, 2, 'neighbour discovery')
  // a duplicate address probe has the source ::, a DAD ARP probe 0.0.0.0
  await pod.sysctl({ 'net.ipv6.conf.eth0.accept_dad': 1 })
  const dad = await node.capture(pod.hostDevice, 'icmp6 and ip6[40] == 135 or arp')
  const drops = await counted(node, 'drop')
  await pod.ip('addr add fd00:244:1::2:1/128 dev eth0')
  await pod.exec(['arping', '-D', '-c', '1', '-w', '1', '-I', 'eth0', pod.address.v4])
  await until(
    'DAD ends',
    async () => !(await pod.run(['ip', '-6', 'addr', 'show', 'dev', 'eth0'])).includes('tentative'),
    5_000
  )
  const probes = await dad.stop()
  t.ok(
    probes.some(({ packet }) => packet.ip?.source === '::'),
    'a probe from :: reached the node'
  )
  t.ok(
    probes.some(({ packet }) => packet.arp?.sender === '0.0.0.0'),
    'and one from 0.0.0.0'
  )
  t.equal(await counted(node, 'drop'), drops, 'neither counts as spoofed')
})

t.test('[S14] [S12] the source address follows the route; a live flow keeps what it has', async (t) => {
  const lab = await servedLab(t, { pods: 1 })
  const node = lab.node(0)
  const pod = node.pod(0)
  const { router } = node.uplinks[0] ?? { router: { v4: '', v6: '' } }
  const ask = async (family: 'v4' | 'v6') =>
    (await pod.ask({ protocol: 'tcp', address: OUTSIDE[family], port: 7 })).peer
  const flow = await pod.flow({ protocol: 'tcp', address: OUTSIDE.v4, port: 7 })
  await node.sysctl({ 'net.ipv4.conf.up0.promote_secondaries': 1 })
  await node.ip('addr add 192.168.100.77/24 dev up0', 'addr add fd00:168:100::77/64 dev up0 nodad')
  t.equal(await ask('v4'), node.address.v4, 'a second address changes nothing')
  await node.ip(
    `route replace default via ${router.v4} dev up0 src 192.168.100.77`,
    `route replace ::/0 via ${router.v6} dev up0 src fd00:168:100::77`
  )
  await until('the preferred source', async () => (await ask('v4')) === '192.168.100.77')
  await until('IPv6 alike', async () => (await ask('v6')) === 'fd00:168:100::77')
  const report = await flow.finish()
  t.match(report, { peer: node.address.v4, error: null }, 'the flow began with the old address')
  t.equal(report.received, report.sent, 'and kept it without a loss')

  await node.ip(`route replace default via ${router.v4} dev up0`, `addr del ${node.address.v4}/24 dev up0`)
  await until('the address that is left', async () => (await ask('v4')) === '192.168.100.77')
  t.pass('an address removed is not used any more')
})
