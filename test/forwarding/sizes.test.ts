// Packets larger than the wire: segments that the device cuts later, and
// fragments.

import { fileURLToPath } from 'node:url'
import t from 'tap'
import { OUTSIDE } from '../lab/addresses.js'
import type { LabHost } from '../lab/host.js'
import { captureAt, from } from './compare.js'
import { counted, servedLab } from './served.js'

const families = ['v4', 'v6'] as const

t.test('[P3] large segments pass the fast path whole, to pods and through SNAT', async (t) => {
  const lab = await servedLab(t, { nodes: 2, pods: 2 })
  const node = lab.node(0)
  const pod = node.pod(0)
  const [near, far] = [node.pod(1), lab.node(1).pod(0)]
  await Promise.all([near.echo(7), far.echo(7)])
  const bytes = 2_000_000
  const before = await node.readCounters()
  for (const family of families) {
    const goals = { near: near.address[family], far: far.address[family], outside: OUTSIDE[family] }
    for (const [name, address] of Object.entries(goals)) {
      const [sent = []] = await captureAt([[node, pod.hostDevice]], `tcp port 7 and greater 2000`, async () => {
        const answer = await pod.ask({ protocol: 'tcp', address, port: 7, bytes, timeout: 10_000 })
        t.match(answer, { echoed: bytes, error: null }, `${family}: ${bytes} bytes to ${name} and back`)
      })
      t.ok(from(sent, pod.address[family]).length > 10, `in ${sent.length} packets above the MTU`)
    }
  }
  t.equal(await counted(node, 'mtu'), 0, 'none of them was called too big')
  t.equal((await node.readCounters()).forward, before.forward, 'none went through the forward hook')

  // iperf3: many segments at once, both directions, a throughput that is not a trickle
  const server = near.start(['iperf3', '-s', '--forceflush'])
  t.teardown(() => server.stop())
  await server.waitFor('listening')
  for (const direction of [[], ['-R']]) {
    const text = await pod.run(['iperf3', '-c', near.address.v4, '-t', '1', '-J', ...direction], { timeout: 15_000 })
    const { end } = JSON.parse(text) as { end: { sum_received: { bits_per_second: number } } }
    t.ok(
      end.sum_received.bits_per_second > 200e6,
      `iperf3 ${direction.join()}: ${Math.round(end.sum_received.bits_per_second / 1e6)} Mbit/s`
    )
  }
})

t.test('[P3] BIG TCP: packets of more than 64 KiB pass the fast path, to pods and through SNAT', async (t) => {
  const lab = await servedLab(t, { pods: 2 })
  const node = lab.node(0)
  const pod = node.pod(0)
  const near = node.pod(1)
  await near.echo(7)
  const devices: [LabHost, string][] = [
    [pod, 'eth0'],
    [near, 'eth0'],
    [node, pod.hostDevice],
    [node, near.hostDevice],
    [node, 'up0'],
    [lab.router, 'n1u0']
  ]
  const program = fileURLToPath(new URL('./big-tcp.js', import.meta.url))
  for (const [host, device] of devices) await host.run([process.execPath, program, device, '180000'])
  const before = await node.readCounters()
  for (const family of families) {
    for (const [name, address] of Object.entries({ near: near.address[family], outside: OUTSIDE[family] })) {
      const forwarded = await counted(node, 'forwarded', pod.hostDevice)
      const large = family === 'v4' ? 'ip and greater 65600' : 'ip6 and greater 65600'
      const [sent = []] = await captureAt([[node, pod.hostDevice]], large, async () => {
        // the window has to open first
        const answer = await pod.ask({ protocol: 'tcp', address, port: 7, bytes: 8_000_000, timeout: 20_000 })
        t.match(answer, { echoed: 8_000_000, error: null }, `${family}: 8 MB to ${name} and back`)
      })
      t.ok(from(sent, pod.address[family]).length > 0, `${family}: ${sent.length} packets of more than 64 KiB`)
      t.ok((await counted(node, 'forwarded', pod.hostDevice)) > forwarded)
    }
  }
  t.equal((await node.readCounters()).forward, before.forward, 'none went through the forward hook')
  for (const reason of ['malformed', 'options', 'mtu']) t.equal(await counted(node, reason), 0, reason)
})

t.test('[P4] fragmented datagrams and echoes between pods arrive whole', async (t) => {
  const lab = await servedLab(t, { nodes: 2, pods: 2 })
  const node = lab.node(0)
  const pod = node.pod(0)
  const [near, far] = [node.pod(1), lab.node(1).pod(0)]
  await Promise.all([near.echo(7), far.echo(7)])
  for (const family of families) {
    for (const [name, other] of Object.entries({ near, far })) {
      const answer = await pod.ask({ protocol: 'udp', address: other.address[family], port: 7, bytes: 5000 })
      t.match(answer, { echoed: 5000, error: null }, `${family}: 5,000 bytes over UDP to ${name}`)
      const report = await pod.ping(other.address[family], { count: 3, arguments: ['-s', '4000'] })
      t.equal(report.received, 3, `${family}: ping of 4,000 bytes to ${name}`)
    }
  }
})

t.test('[P4] fragmented datagrams and echoes through SNAT arrive whole, and so do the answers', async (t) => {
  const lab = await servedLab(t, { pods: 2 })
  const node = lab.node(0)
  const pods = [node.pod(0), node.pod(1)]
  const before = await node.readCounters()
  const [outside = []] = await captureAt([[lab.outside, 'eth0']], '', async () => {
    for (const family of families) {
      const address = OUTSIDE[family]
      for (const bytes of [1473, 5000, 60_000]) {
        // the same port in both pods: the fragments of one must not take the way of the other
        const question = { protocol: 'udp', address, port: 7, bytes, localPort: 30_000 } as const
        const answers = await Promise.all(pods.map((pod) => pod.ask(question)))
        const whole = { echoed: bytes, error: null, peer: node.address[family] }
        t.match(answers, [whole, whole], `${family}: ${bytes} bytes over UDP and back, from two pods`)
      }
      const ping = { count: 5, arguments: ['-s', '4000', '-e', '77'] }
      const reports = await Promise.all(pods.map((pod) => pod.ping(address, ping)))
      t.strictSame(
        reports.map(({ received }) => received),
        [5, 5],
        `${family}: pings of 4,000 bytes from two pods with the same id`
      )
    }
  })
  t.ok(outside.filter(({ packet }) => packet.ip?.fragment).length > 100, 'in fragments')
  for (const family of families) {
    for (const pod of pods) t.strictSame(from(outside, pod.address[family]), [], 'none with the pod’s address')
  }
  t.equal(await counted(node, 'drop'), 0, 'none dropped')
  t.equal((await node.readCounters()).forward, before.forward, 'none of it seen by the node’s netfilter')
})
