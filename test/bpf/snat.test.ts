// SNAT of what leaves the node, and the way back: from_pod and from_uplink
// together, since only both show that a translation is right. When SNAT is due
// and what its tables cannot hold is in snat_verdicts.test.ts.
import './namespace.js'
import t from 'tap'
import { ethernet, ip, parsePacket, tcp, udp } from '../packets/packet.js'
import { devices, macBehind, onLink, testNode, to } from './node.js'
import { back, content, natPort, out, pod, snatAddress } from './snat_flow.js'

for (const family of [4, 6] as const) {
  for (const kind of ['tcp', 'udp', 'echo'] as const) {
    t.test(
      `[F3] [S${kind === 'tcp' ? 1 : kind === 'udp' ? 2 : 3}] ${kind} over IPv${family} to the outside and back, byte for byte`,
      async (t) => {
        const node = testNode()
        const sent = out(node, 'a', family, kind, 40000)
        t.match(sent, { verdict: 'forward', reason: 'to-uplink' })
        const port = natPort(sent)
        t.ok(port >= 20000 && port < 22000, `port ${port} is one of those allowed`)
        const leaves = ip(
          { source: snatAddress(family), destination: to.external[family], ttl: 63 },
          content(kind, port, false)
        )
        t.same(sent.frame, ethernet({ source: devices.up0.mac, destination: macBehind('up0') }, leaves))

        const answer = back(node, family, kind, port)
        t.match(answer, { verdict: 'forward', reason: 'to-pod' })
        const arrives = ip(
          { source: to.external[family], destination: pod('a', family), ttl: 63 },
          content(kind, 40000, true, 'SA')
        )
        t.same(answer.frame, ethernet({ source: devices.a.mac, destination: devices.a.podMac }, arrives))
        t.match(node.flows(family), [{ verdict: 'snat', natPort: port, natAddress: snatAddress(family), life: 'live' }])
        t.match(node.reverses(family), [{ pod: pod('a', family), podPort: 40000, replied: true, localPort: port }])
        node.close()
      }
    )

    t.test(`[S7] ${kind} over IPv${family}: two pods with the same port and remote are told apart`, async (t) => {
      const node = testNode()
      const first = natPort(out(node, 'a', family, kind, 5000))
      const second = natPort(out(node, 'b', family, kind, 5000))
      t.not(first, second)
      t.equal(natPort(out(node, 'a', family, kind, 5000, 'A')), first)
      t.equal(back(node, family, kind, second).packet.ip?.destination, pod('b', family))
      t.equal(back(node, family, kind, first).packet.ip?.destination, pod('a', family))
      node.close()
    })
  }

  t.test(`[S1] an IPv${family} TCP connection keeps its port from SYN to FIN`, async (t) => {
    const node = testNode()
    const port = natPort(out(node, 'a', family, 'tcp', 40000, 'S'))
    for (const [direction, flags] of [
      ['in', 'SA'],
      ['out', 'A'],
      ['out', 'PA'],
      ['in', 'PA'],
      ['in', 'FA'],
      ['out', 'A'],
      ['out', 'FA'],
      ['in', 'A']
    ] as const) {
      const result =
        direction === 'out' ? out(node, 'a', family, 'tcp', 40000, flags) : back(node, family, 'tcp', port, flags)
      t.equal(result.verdict, 'forward', flags)
      if (direction === 'out') t.equal(natPort(result), port)
    }
    t.equal(back(node, family, 'tcp', port, 'R').reason, 'to-pod', 'late packets still arrive')
    node.close()
  })

  t.test(`[S2] one IPv${family} UDP socket talks to many remotes`, async (t) => {
    const node = testNode()
    for (let last = 1; last <= 20; last++) {
      const remote = family === 4 ? `8.8.4.${last}` : `2600::${last}`
      const port = natPort(out(node, 'a', family, 'udp', 6000, '', remote))
      t.equal(back(node, family, 'udp', port, '', remote).packet.l4?.destinationPort, 6000)
    }
    t.equal(node.flows(family).length, 20)
    node.close()
  })

  t.test(`[S2] one IPv${family} socket keeps one port outside, and another draws its own`, async (t) => {
    const node = testNode()
    const remote = (last: number) => (family === 4 ? `8.8.4.${last}` : `2600::${last}`)
    const ports = new Map<string, number>()
    for (const name of ['a', 'b'] as const) {
      for (const kind of ['tcp', 'udp', 'echo'] as const) {
        for (const local of [6000, 6001]) {
          const port = natPort(out(node, name, family, kind, local, 'S', remote(1)))
          for (const last of [2, 3]) {
            const again = natPort(out(node, name, family, kind, local, 'S', remote(last)))
            t.equal(again, port, `${kind} port ${local} of ${name}`)
          }
          ports.set(`${name} ${kind} ${local}`, port)
        }
      }
    }
    t.ok(new Set(ports.values()).size >= 10, `12 sockets: ${[...ports.values()].join(', ')}`)
    node.close()
  })

  t.test(
    `[S2] an IPv${family} socket whose port is taken towards one remote keeps it towards the others`,
    async (t) => {
      const node = testNode({ ports: [20000, 20001, 20002] })
      const remote = (last: number) => (family === 4 ? `8.8.4.${last}` : `2600::${last}`)
      const first = natPort(out(node, 'a', family, 'udp', 6000, '', remote(1)))
      // fills the other two rows towards the second remote, and may take the first's
      const others = [1, 2, 3, 4, 5].map((local) => natPort(out(node, 'b', family, 'udp', local, '', remote(2))))
      t.equal(new Set(others.filter((port) => port >= 20_000)).size, 3)
      t.equal(out(node, 'a', family, 'udp', 6000, '', remote(2)).reason, 'drop-ports')
      t.equal(natPort(out(node, 'a', family, 'udp', 6000, '', remote(3))), first)
      node.close()
    }
  )

  t.test(`[S4] an IPv${family} UDP checksum that becomes 0 is sent as 0xffff`, async (t) => {
    const node = testNode()
    const port = natPort(out(node, 'a', family, 'udp', 40000))
    const frame = (data: Buffer, sourcePort: number, source: string) =>
      parsePacket(
        ethernet(
          { source: devices.a.mac, destination: devices.a.mac },
          ip({ source, destination: to.external[family] }, udp({ sourcePort, destinationPort: 443 }, data))
        )
      )
    const data = Buffer.alloc(2)
    for (let word = 0; word < 65536; word++) {
      data.writeUInt16BE(word)
      if (frame(data, port, snatAddress(family)).l4?.checksum === 0xffff) break
    }
    const result = node.send(
      'a',
      ip(
        { source: pod('a', family), destination: to.external[family] },
        udp({ sourcePort: 40000, destinationPort: 443 }, data)
      )
    )
    t.match(result.packet.l4, { checksum: 0xffff, checksumOk: true, sourcePort: port })
    node.close()
  })

  t.test(`[F3] IPv${family} SNAT also on-link and through the kernel's neighbour`, async (t) => {
    const node = testNode()
    const known = out(node, 'a', family, 'udp', 7000, '', onLink[family])
    t.match(known, { reason: 'to-uplink', packet: { destinationMac: onLink.mac, ip: { source: snatAddress(family) } } })
    const unknown = out(node, 'a', family, 'udp', 7000, '', to.onLinkUnknown[family])
    t.match(unknown, { reason: 'to-neighbour', packet: { ip: { source: snatAddress(family) } } })
    node.close()
  })

  t.test(`[F11] the IPv${family} SNAT source belongs to the leg taken`, async (t) => {
    const node = testNode()
    const seen = new Set<string>()
    for (let port = 1000; port < 1060; port++) {
      const { packet } = out(node, 'a', family, 'udp', port, '', to.group[family])
      const uplink = packet.sourceMac === devices.up0.mac ? 'up0' : 'up1'
      t.equal(packet.ip?.source, devices[uplink][`v${family}`])
      seen.add(uplink)
    }
    t.equal(seen.size, 2)
    node.close()
  })
}

t.test('[S4] an IPv4 UDP checksum of 0 stays 0 in both directions', async (t) => {
  const node = testNode()
  const addresses = { source: devices.a.v4, destination: to.external[4] }
  const sent = node.send('a', ip(addresses, udp({ sourcePort: 1, destinationPort: 443, checksum: 0 }, 'x')))
  t.equal(sent.packet.l4?.checksum, 0)
  const answer = udp({ sourcePort: 443, destinationPort: natPort(sent), checksum: 0 }, 'y')
  const received = node.send('up0', ip({ source: to.external[4], destination: devices.up0.v4 }, answer))
  t.match(received, { reason: 'to-pod', packet: { l4: { checksum: 0, destinationPort: 1 } } })
  node.close()
})

t.test('[S4] a thousand random payloads keep correct checksums through SNAT', async (t) => {
  const node = testNode()
  for (let round = 0; round < 1000; round++) {
    const family = round % 2 ? 4 : 6
    const data = Buffer.from(Array.from({ length: round % 37 }, (_, at) => (round * 7919 + at * 104729) & 0xff))
    const addresses = { source: pod('a', family), destination: to.external[family] }
    const body =
      round % 3
        ? udp({ sourcePort: 1000 + (round % 50), destinationPort: 53 }, data)
        : tcp({ sourcePort: 1000 + (round % 50), destinationPort: 80 }, data)
    const { packet, verdict } = node.send('a', ip(addresses, body))
    if (verdict !== 'forward' || packet.l4?.checksumOk !== true) t.fail(`round ${round}`)
  }
  t.pass('all correct')
  node.close()
})
