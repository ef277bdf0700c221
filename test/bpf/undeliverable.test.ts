// Packets of SNATed flows whose TTL is used up, or that are too big: who is
// told, and that nothing leaves with the pod's address.
import './namespace.js'
import t, { type Test } from 'tap'
import { checksum, pseudoHeader } from '../packets/bytes.js'
import { fragments, ip, ipv4, type Network, Protocol, type Transport, tcp, udp } from '../packets/packet.js'
import { devices, type Result, testNode, to } from './node.js'
import { content, type Kind, natPort, out, pod, snatAddress } from './snat_flow.js'

type Family = 4 | 6

/** The datagram back to a flow's port, of `size` bytes in all. */
function answer(family: Family, port: number, size: number, ttl = 64): Network {
  const header = family === 4 ? 28 : 48
  const addresses = { source: to.external[family], destination: snatAddress(family), ttl }
  return ip(addresses, udp({ sourcePort: 443, destinationPort: port }, Buffer.alloc(size - header, 'abcdefg')))
}

function opened(t: { teardown(end: () => void): void }, family: Family, kind: Kind = 'udp', podMtu = 1500) {
  const node = testNode()
  t.teardown(() => node.close())
  node.setPod('a', pod('a', family), { mtu: podMtu })
  return { node, port: natPort(out(node, 'a', family, kind, 4000)) }
}

/** The error that `result` has become: from the node to the remote, about `original` as it was sent. */
function matchError(t: Test, family: Family, result: Result, original: Network, type: number, code: number, mtu = 0) {
  const header = family === 4 ? 20 : 40
  const quoted = original.bytes.subarray(0, family === 4 ? 548 : 1232)
  t.equal(result.told, true, 'the sender is told')
  t.match(result.packet, {
    ip: {
      source: snatAddress(family),
      destination: to.external[family],
      ttl: 64,
      tos: family === 4 ? 0xc0 : 0,
      length: header + 8 + quoted.length,
      headerChecksumOk: true
    },
    l4: { type, code, rest: mtu, checksumOk: true },
    problems: []
  })
  t.same(result.frame.subarray(14 + header + 8), quoted, 'with the packet as it was sent')
}

for (const family of [4, 6] as const) {
  for (const kind of ['tcp', 'udp', 'echo'] as const) {
    t.test(`[P1] IPv${family} ${kind}: an answer with TTL 1 ends here, its sender gets time exceeded`, async (t) => {
      const { node, port } = opened(t, family, kind)
      for (const ttl of [0, 1]) {
        for (const data of ['', 'x', 'xy', 'xyz', 'x'.repeat(900)]) {
          const addresses = { source: to.external[family], destination: snatAddress(family), ttl }
          const packet = ip(addresses, content(kind, port, true, 'SA', data))
          const result = node.send('up0', packet)
          t.equal(result.reason, 'drop-ttl')
          matchError(t, family, result, packet, family === 4 ? 11 : 3, 0)
        }
      }
      t.match(node.flows(family), [{ natPort: port }], 'the flow goes on')
    })
  }

  t.test(`[P2] IPv${family}: an answer too big for the pod, not to be cut: its sender is told the MTU`, async (t) => {
    const { node, port } = opened(t, family, 'udp', 1300)
    t.equal(node.send('up0', answer(family, port, 1300)).reason, 'to-pod')
    const packet = answer(family, port, 1301)
    const result = node.send('up0', packet)
    t.equal(result.reason, 'drop-mtu')
    matchError(t, family, result, packet, family === 4 ? 3 : 2, family === 4 ? 4 : 0, 1300)
    const large = ip(
      { source: to.external[family], destination: snatAddress(family) },
      udp({ sourcePort: 443, destinationPort: port }, Buffer.alloc(2800))
    )
    const segments = node.send('up0', large, { gsoSize: 1400 })
    t.equal(segments.reason, 'drop-mtu')
    matchError(t, family, segments, large, family === 4 ? 3 : 2, family === 4 ? 4 : 0, 1300)
  })

  t.test(`[P1] IPv${family}: nobody is told if the way back or the checksum is not known`, async (t) => {
    const { node, port } = opened(t, family, 'udp')
    const destination = snatAddress(family)
    const addresses = { source: to.external[family], destination, ttl: 1 }
    for (const [protocol, header] of [
      [Protocol.udp, 8],
      [Protocol.tcp, 20]
    ] as const) {
      const flow = protocol === Protocol.udp ? port : natPort(out(node, 'a', family, 'tcp', 4001))
      // as a veth or virtio device leaves it: the sum of the pseudo header, to be finished by the device
      const [source, target] = [addresses.source, destination].map(
        (each) => ip({ source: each, destination: each }, Buffer.alloc(0)).bytes
      )
      const at = family === 4 ? 12 : 8
      const length = family === 4 ? 4 : 16
      const pseudo = pseudoHeader(
        source!.subarray(at, at + length),
        target!.subarray(at, at + length),
        protocol,
        header + 1
      )
      const partial = 0xffff - checksum(pseudo)
      const ports = { sourcePort: 443, destinationPort: flow, checksum: partial }
      const unfinished: Transport = protocol === Protocol.udp ? udp(ports, 'x') : tcp({ ...ports, flags: 'SA' }, 'x')
      t.match(node.send('up0', ip(addresses, unfinished)), { reason: 'drop-ttl', told: false })
    }
    t.match(node.send('up0', answer(family, port, 100, 1)), { reason: 'drop-ttl', told: true })
    node.setRoute(family === 4 ? '0.0.0.0/0' : '::/0', { stack: 'policy' })
    node.setControl({ routeGeneration: 3 })
    t.match(node.send('up0', answer(family, port, 100, 1)), { reason: 'drop-ttl', told: false })
  })

  t.test(`[P1] [P4] IPv${family}: of fragments with TTL 1 only the first tells`, async (t) => {
    const { node, port } = opened(t, family, 'udp')
    const pieces = fragments(answer(family, port, 900, 1), 400, 9)
    const results = pieces.map((piece) => node.send('up0', piece))
    t.same(
      results.map(({ reason, told }) => [reason, told]),
      [
        ['drop-ttl', true],
        ['drop-ttl', false],
        ['drop-ttl', false]
      ]
    )
    matchError(t, family, results[0]!, pieces[0]!, family === 4 ? 11 : 3, 0)
  })
}

t.test('[P2] an IPv4 answer too big for the pod that may be cut is translated, then the kernel’s', async (t) => {
  for (const kind of ['tcp', 'udp', 'echo'] as const) {
    const { node, port } = opened(t, 4, kind, 1300)
    const packet = (destination: string, local: number) =>
      ipv4(
        { source: to.external[4], destination, df: false, id: 77 },
        content(kind, local, true, 'SA', 'x'.repeat(1400))
      )
    const result = node.send('up0', packet(snatAddress(4), port))
    t.equal(result.reason, 'rewritten')
    t.same(result.frame.subarray(14), packet(pod('a', 4), 4000).bytes, `${kind}: the pod’s address and port, TTL kept`)
    const pieces = (destination: string, local: number) => fragments(packet(destination, local), 1352, 78)
    const wanted = pieces(pod('a', 4), 4000)
    pieces(snatAddress(4), port).forEach((piece, place) => {
      const cut = node.send('up0', piece)
      t.equal(cut.reason, 'rewritten', 'all of a datagram go the same way')
      t.same(cut.frame.subarray(14), wanted[place]!.bytes, `${kind}: fragment ${place}, too`)
    })
  }
})

t.test('[P2] an IPv4 packet too big to leave gets DF if SNAT is due, so that the kernel tells the pod', async (t) => {
  const node = testNode()
  t.teardown(() => node.close())
  const packet = (df: boolean, destination: string = to.smallMtu[4]) =>
    ipv4({ source: pod('a', 4), destination, df }, udp({ sourcePort: 1, destinationPort: 2 }, Buffer.alloc(1300)))
  for (const df of [true, false]) {
    const result = node.send('a', packet(df))
    t.equal(result.reason, 'mtu')
    t.same(result.frame.subarray(14), packet(true).bytes, df ? 'as it came' : 'and nothing else')
  }
  const whole = ipv4(
    { source: pod('a', 4), destination: to.smallMtu[4], df: false },
    udp({ sourcePort: 1, destinationPort: 2 }, Buffer.alloc(3000))
  )
  t.equal(node.send('a', fragments(whole, 800, 5)[0]!).verdict, 'forward')
  const [, later] = fragments(whole, 1400, 5)
  t.match(node.send('a', later!), { reason: 'mtu', packet: { ip: { df: true, headerChecksumOk: true } } })
  node.setMasquerade(1, { '198.19.0.0/16': false })
  node.setControl({ routeGeneration: 3 })
  const direct = ipv4(
    { source: pod('a', 4), destination: to.smallMtu[4], df: false },
    udp({ sourcePort: 9, destinationPort: 2 }, Buffer.alloc(1300))
  )
  t.same(node.send('a', direct).frame.subarray(14), direct.bytes, 'without SNAT the kernel cuts it')
})

t.test(
  "[P2] [P4] a pod's IPv6 fragment larger than the next hop takes: the pod is told once, by the node",
  async (t) => {
    const node = testNode()
    t.teardown(() => node.close())
    const [source, destination] = [devices.a.v6, to.smallMtu[6]]
    const whole = ip({ source, destination }, udp({ sourcePort: 4000, destinationPort: 53 }, Buffer.alloc(2600, 'x')))
    const [first, second, last] = fragments(whole, 1400, 7)
    const told = node.send('a', first!)
    t.match(told, { reason: 'drop-mtu', told: true })
    t.match(told.packet, { sourceMac: devices.a.mac, destinationMac: devices.a.podMac })
    t.match(told.packet.ip, { source: snatAddress(6), destination: source })
    t.match(told.packet.l4, { type: 2, code: 0, rest: 1280, checksumOk: true })
    t.equal(told.frame.length, 14 + 40 + 8 + 1232)
    t.same(told.frame.subarray(14 + 48), first!.bytes.subarray(0, 1232), 'about the packet as it was sent')
    if (last) t.equal(node.send('a', second!).reason, 'drop-mtu')
    const fits = fragments(whole, 1200, 8)[0]!
    t.equal(node.send('a', fits).verdict, 'forward')
  }
)
