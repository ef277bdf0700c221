// Packets larger than the wire: segments that the device cuts later, and
// fragments.

import t from 'tap'
import { OUTSIDE } from '../lab/addresses.js'
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

t.test('[P4] fragments for which SNAT would be due go to the kernel, and its MASQUERADE serves them', async (t) => {
  const lab = await servedLab(t, { pods: 1, legacy: 1 })
  const node = lab.node(0)
  const pod = node.pod(0)
  for (const family of families) {
    const before = await counted(node, 'fragment')
    const answer = await pod.ask({ protocol: 'udp', address: OUTSIDE[family], port: 7, bytes: 5000 })
    t.ok((await counted(node, 'fragment')) >= before + 4, `${family}: counted as fragments`)
    t.match(
      answer,
      { echoed: 5000, error: null, peer: node.address[family] },
      `${family}: with MASQUERADE rules they arrive`
    )
  }
})
