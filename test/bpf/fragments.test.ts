// Fragments through SNAT, out and back: the receiver must be able to put
// together exactly the datagram that the kernel would have sent.
import './namespace.js'
import t from 'tap'
import {
  echo,
  fragmentHeader,
  fragments,
  icmpError,
  ip,
  ipv6,
  type Network,
  optionsHeader,
  Protocol,
  raw,
  type Transport,
  tcp,
  udp
} from '../packets/packet.js'
import { Control } from './layout.js'
import { devices, type Result, type TestNode, testNode, to } from './node.js'
import { pod, snatAddress } from './snat_flow.js'

type Family = 4 | 6

/** 900 bytes that differ, so that a piece in the wrong place shows. */
const data = Buffer.from(Array.from({ length: 900 }, (_, index) => (index * 7) & 255))

/** Of one flow, by the local port and the direction. */
const kinds: Record<string, (port: number, reply: boolean) => Transport> = {
  UDP: (port, reply) => udp({ sourcePort: reply ? 53 : port, destinationPort: reply ? port : 53 }, data),
  'UDP without checksum': (port, reply) =>
    udp({ sourcePort: reply ? 53 : port, destinationPort: reply ? port : 53, checksum: 0 }, data),
  echo: (id, reply) => echo({ id, reply }, data),
  TCP: (port, reply) =>
    tcp({ sourcePort: reply ? 80 : port, destinationPort: reply ? port : 80, flags: reply ? 'SA' : 'S' }, data)
}

const layer3 = ({ frame }: Result) => frame.subarray(14)

/** All pieces of a datagram from pod a, in this order of their places. */
function leave(node: TestNode, family: Family, content: Transport, id: number, order: number[], size = 400): Result[] {
  const pieces = fragments(ip({ source: pod('a', family), destination: to.external[family] }, content), size, id)
  return order.map((place) => node.send('a', pieces[place]!))
}

function natPort(first: Result): number {
  return first.packet.l4?.id ?? first.packet.l4?.sourcePort ?? -1
}

for (const family of [4, 6] as const) {
  const [source, outside, destination] = [pod('a', family), snatAddress(family), to.external[family]]
  const out = (port: number, kind: (port: number, reply: boolean) => Transport, id: number, size = 400) =>
    fragments(ip({ source: outside, destination, ttl: 63 }, kind(port, false)), size, id)
  const reply = (port: number, kind: (port: number, reply: boolean) => Transport) =>
    ip({ source: destination, destination: outside, ttl: 60 }, kind(port, true))

  for (const [name, kind] of Object.entries(kinds)) {
    t.test(`[P4] IPv${family} ${name}: fragments leave with the flow's address and port, byte for byte`, async (t) => {
      const node = testNode()
      t.teardown(() => node.close())
      const orders = { 'in order': [0, 1, 2], reordered: [0, 2, 1], duplicated: [0, 0, 1, 1, 2], 'one missing': [0, 2] }
      let port = -1
      Object.entries(orders).forEach(([order, places], index) => {
        const results = leave(node, family, kind(4000, false), 0x1200 + index, places)
        const first = natPort(results[0]!)
        if (port >= 0) t.equal(first, port, 'every datagram of the flow has its port')
        port = first
        const wanted = out(port, kind, 0x1200 + index)
        results.forEach((result, at) => {
          t.equal(result.verdict, 'forward')
          t.same(layer3(result), wanted[places[at]!]!.bytes, `${order}, piece ${places[at]}`)
        })
      })
      const small = leave(node, family, kind(4000, false), 0x1300, [0, 1, 2, 3, 4], 200)
      t.same(
        small.map(layer3),
        out(port, kind, 0x1300, 200).map(({ bytes }) => bytes),
        'in smaller pieces'
      )
    })

    t.test(`[P4] IPv${family} ${name}: an answer's fragments reach the pod, byte for byte`, async (t) => {
      const node = testNode()
      t.teardown(() => node.close())
      const [first] = leave(node, family, kind(4000, false), 1, [0])
      const port = natPort(first!)
      const wanted = fragments(ip({ source: destination, destination: source, ttl: 59 }, kind(4000, true)), 400, 0xbeef)
      const pieces = fragments(reply(port, kind), 400, 0xbeef)
      for (const place of [0, 2, 1, 1]) {
        const result = node.send('up0', pieces[place]!)
        t.equal(result.reason, 'to-pod')
        t.same(layer3(result), wanted[place]!.bytes, `piece ${place}`)
        t.equal(result.packet.destinationMac, devices.a.podMac)
      }
      t.match(node.reverses(family), [{ replied: true }], 'the flow has been answered')
    })
  }

  t.test(`[P4] IPv${family}: a fragment before its first, or of another datagram, is dropped by name`, async (t) => {
    const node = testNode()
    t.teardown(() => node.close())
    const kind = kinds['UDP']!
    t.equal(leave(node, family, kind(4000, false), 7, [1])[0]!.reason, 'drop-fragment')
    t.equal(leave(node, family, kind(4000, false), 7, [0])[0]!.verdict, 'forward')
    t.equal(leave(node, family, kind(4000, false), 7, [1])[0]!.verdict, 'forward', 'the first is there now')
    t.equal(leave(node, family, kind(4000, false), 8, [1])[0]!.reason, 'drop-fragment', 'another id')
    const elsewhere = ip({ source, destination: to.group[family] }, kind(4000, false))
    t.equal(node.send('a', fragments(elsewhere, 400, 7)[1]!).reason, 'drop-fragment', 'another destination')
    const other = ip({ source: pod('b', family), destination }, kind(4000, false))
    t.equal(node.send('b', fragments(other, 400, 7)[1]!).reason, 'drop-fragment', 'another pod')
    node.setDevice('a', { podId: 900 })
    t.equal(leave(node, family, kind(4000, false), 7, [2])[0]!.reason, 'drop-fragment', 'a new pod with its address')
  })

  t.test(`[P4] IPv${family}: 10 s after the first fragment the others are too late`, async (t) => {
    const node = testNode()
    t.teardown(() => node.close())
    leave(node, family, kinds['UDP']!(4000, false), 7, [0])
    const notes = node.map('fragments')
    const { keys: key, values: note } = notes.dump()
    const age = (seconds: number) => {
      note.writeUInt32LE((Number(node.expire(0).jiffies & 0xffffffffn) - seconds * 250) >>> 0, 24)
      notes.update(key, note)
    }
    age(9)
    t.equal(leave(node, family, kinds['UDP']!(4000, false), 7, [1])[0]!.verdict, 'forward')
    age(11)
    t.equal(leave(node, family, kinds['UDP']!(4000, false), 7, [1])[0]!.reason, 'drop-fragment')
  })

  t.test(`[P4] IPv${family}: fragments that nothing changes are routed each for itself`, async (t) => {
    const node = testNode()
    t.teardown(() => node.close())
    node.setMasquerade(1, { [family === 4 ? '8.0.0.0/8' : '2600::/16']: false })
    for (const content of [kinds['UDP']!(1, false), kinds['echo']!(1, false), raw(Protocol.esp, data)]) {
      const pieces = fragments(ip({ source, destination }, content), 400, 3)
      const wanted = fragments(ip({ source, destination, ttl: 63 }, content), 400, 3)
      for (const place of [2, 0, 1]) {
        const result = node.send('a', pieces[place]!)
        t.equal(result.reason, 'to-uplink')
        t.same(layer3(result), wanted[place]!.bytes)
      }
    }
  })

  t.test(`[P4] [S12] IPv${family}: a datagram's fragments keep the verdict of its first`, async (t) => {
    const node = testNode()
    t.teardown(() => node.close())
    const all = family === 4 ? '0.0.0.0/0' : '::/0'
    const [first] = leave(node, family, kinds['UDP']!(4000, false), 7, [0])
    node.setMasquerade(2, { [all]: false })
    node.setControl({ epoch: 2 })
    const [later] = leave(node, family, kinds['UDP']!(4000, false), 7, [1])
    t.equal(later?.packet.ip?.source, first?.packet.ip?.source)
    const pieces = leave(node, family, kinds['UDP']!(4001, false), 8, [0])
    t.equal(pieces[0]?.packet.ip?.source, source, 'a new flow has the new verdict')
    node.setControl({ epoch: 1 })
    t.equal(leave(node, family, kinds['UDP']!(4001, false), 8, [1])[0]?.packet.ip?.source, source)
  })

  t.test(`[P4] [F11] IPv${family}: all fragments take the leg of the first`, async (t) => {
    const node = testNode({ flags: Control.on })
    t.teardown(() => node.close())
    const pieces = fragments(ip({ source, destination: to.group[family] }, kinds['UDP']!(1, false)), 400, 3)
    const macs = (generation: number) => {
      node.setControl({ routeGeneration: generation })
      return pieces.map((piece) => node.send('a', piece).packet.destinationMac)
    }
    t.equal(new Set(macs(1)).size, 1)
    t.equal(new Set(macs(2)).size, 1, 'also after a change of routes')
  })

  t.test(`[P4] [S13] IPv${family}: a flow opened by a fragmented datagram from outside is inbound`, async (t) => {
    const node = testNode()
    t.teardown(() => node.close())
    const inbound = ip(
      { source: destination, destination: source },
      udp({ sourcePort: 53, destinationPort: 4000 }, data)
    )
    for (const piece of fragments(inbound, 400, 5)) t.equal(node.send('up0', piece).reason, 'to-pod')
    t.match(node.flows(family), [{ verdict: 'inbound', localPort: 4000, remotePort: 53 }])
    const answers = leave(node, family, kinds['UDP']!(4000, false), 6, [0, 1, 2])
    for (const answer of answers) t.equal(answer.packet.ip?.source, source, 'its answers keep the address')
  })

  t.test(`[P4] IPv${family}: fragments for the node that answer nothing are its own`, async (t) => {
    const node = testNode()
    t.teardown(() => node.close())
    const [first] = leave(node, family, kinds['UDP']!(4000, false), 1, [0])
    const port = natPort(first!)
    const pieces = fragments(reply(port, kinds['UDP']!), 400, 9)
    t.equal(node.send('up0', pieces[1]!).reason, 'fragment', 'before the first')
    const strange = fragments(reply(port + 1, kinds['UDP']!), 400, 10)
    t.same(
      strange.map((piece) => node.send('up0', piece).reason),
      ['node', 'fragment', 'fragment']
    )
    const request = fragments(ip({ source: destination, destination: outside }, kinds['echo']!(7, false)), 400, 11)
    t.same(
      request.map((piece) => node.send('up0', piece).reason),
      ['node', 'fragment', 'fragment']
    )
    node.send('up0', pieces[0]!)
    node.setPod('a', source, { id: 900 })
    t.equal(node.send('up0', pieces[1]!).reason, 'fragment', 'the pod is another')
  })

  t.test(`[P4] IPv${family}: fragments without ports that need SNAT: stack or drop, as configured`, async (t) => {
    const node = testNode()
    t.teardown(() => node.close())
    const pieces = fragments(ip({ source, destination }, raw(Protocol.gre, data)), 400, 3)
    for (const piece of pieces) t.equal(node.send('a', piece).reason, 'protocol')
    node.setControl({ flags: Control.on | Control.snat | Control.dropProtocols })
    for (const piece of pieces) t.equal(node.send('a', piece).reason, 'drop-protocol')
    const tiny = fragments(ip({ source, destination }, kinds['TCP']!(1, false)), 8, 4)
    t.equal(node.send('a', tiny[0]!).reason, 'drop-fragment', 'TCP without its flags in the first')
    t.equal(node.send('a', tiny[1]!).reason, 'drop-fragment')
  })
}

for (const family of [4, 6] as const) {
  const data = udp({ sourcePort: 53, destinationPort: 4000 }, Buffer.alloc(3200, 'x'))
  const pieces = (source: string, destination: string) => fragments(ip({ source, destination }, data), 1352, 9)

  t.test(
    `[P4] [P2] [K10] IPv${family}: if the first is too big for a pod all of a datagram are the kernel's`,
    async (t) => {
      const node = testNode()
      t.teardown(() => node.close())
      node.setPod('b', pod('b', family), { mtu: 1300 }, family === 6)
      const reasons = (from: 'a' | 'up0', source: string, destination: string) =>
        pieces(source, destination).map((piece) => node.send(from, piece).reason)
      t.same(reasons('a', pod('a', family), pod('b', family)), ['mtu', 'mtu', 'mtu'], 'between pods')
      t.same(reasons('up0', to.external[family], pod('b', family)), ['mtu', 'mtu', 'mtu'], 'from outside')
      t.same(
        reasons('up0', to.external[family], pod('a', family)),
        ['to-pod', 'to-pod', 'to-pod'],
        'one that takes them'
      )
    }
  )

  t.test(
    `[P4] IPv${family}: after the last in order nothing is remembered, and nothing of the node's own is held`,
    async (t) => {
      const node = testNode()
      t.teardown(() => node.close())
      const count = () => node.map('fragments').dump().count
      leave(node, family, kinds['UDP']!(4000, false), 7, [0, 1])
      t.equal(count(), 1)
      leave(node, family, kinds['UDP']!(4000, false), 7, [2])
      t.equal(count(), 0)
      const own = pieces(to.external[family], snatAddress(family)).map((piece) => node.send('up0', piece).reason)
      t.same(own, ['node', 'fragment', 'fragment'])
    }
  )
}

t.test('[P2] [P4] a pod’s fragments over a route with a smaller MTU, no SNAT: all are the kernel’s', async (t) => {
  const node = testNode()
  t.teardown(() => node.close())
  node.setNexthop(2, 'up0', { gateway: '192.0.2.2', mtu: 1280 })
  const whole = ip(
    { source: pod('a', 4), destination: to.remoteNode[4] },
    udp({ sourcePort: 53, destinationPort: 4000 }, Buffer.alloc(3200, 'x'))
  )
  t.same(
    fragments(whole, 1352, 9).map((piece) => node.send('a', piece).reason),
    ['mtu', 'mtu', 'mtu']
  )
})

t.test('[S5] [P4] ICMPv6 errors about a first fragment, or behind extension headers, reach the pod', async (t) => {
  const node = testNode()
  t.teardown(() => node.close())
  const [source, destination, outside] = [pod('a', 6), to.external[6], snatAddress(6)]
  const sent = [
    fragments(ip({ source, destination }, kinds['UDP']!(4000, false)), 400, 5)[0]!,
    ipv6(
      { source, destination, extensions: [optionsHeader(Protocol.destination)] },
      udp({ sourcePort: 4000, destinationPort: 53 }, 'question')
    )
  ]
  for (const network of sent) {
    const left = node.send('a', network)
    t.equal(left.verdict, 'forward')
    const about = { etherType: 0x86dd, bytes: layer3(left) }
    const error = icmpError({ type: 2, code: 0, rest: 1280 }, about)
    const told = node.send('up0', ipv6({ source: '2001:db8::99', destination: outside }, error))
    t.equal(told.reason, 'to-pod')
    t.match(told.packet, { ip: { destination: source }, l4: { checksumOk: true }, embedded: { ip: { source } } })
    const { bytes } = network
    t.same(layer3(told).subarray(48 + 40), bytes.subarray(40), 'quoted as the pod has sent it')
  }
})

t.test('[P4] an IPv6 datagram in one fragment is translated as the whole it is', async (t) => {
  const node = testNode()
  t.teardown(() => node.close())
  const atomic = (from: string, target: string, hopLimit: number, content: Transport): Network =>
    ipv6({ source: from, destination: target, hopLimit, extensions: [fragmentHeader(9, 0, false)] }, content)
  const [source, outside, destination] = [devices.a.v6, devices.up0.v6, to.external[6]]
  for (const [name, kind] of Object.entries(kinds)) {
    const result = node.send('a', atomic(source, destination, 64, kind(4000, false)))
    t.equal(result.verdict, 'forward')
    const port = natPort(result)
    t.same(layer3(result), atomic(outside, destination, 63, kind(port, false)).bytes, `${name} out`)
    const answer = node.send('up0', atomic(destination, outside, 64, kind(port, true)))
    t.same(layer3(answer), atomic(destination, source, 63, kind(4000, true)).bytes, `${name} back`)
  }
})

t.test('[P4] an IPv6 fragment cut within its header is malformed', async (t) => {
  const node = testNode()
  t.teardown(() => node.close())
  const whole = ip({ source: devices.a.v6, destination: to.external[6] }, kinds['UDP']!(1, false))
  const [piece] = fragments(whole, 400, 1)
  for (const payload of [1, 4, 7]) {
    const bytes = Buffer.from(piece!.bytes.subarray(0, 40 + payload))
    bytes.writeUInt16BE(payload, 4)
    t.equal(node.send('a', { ...piece!, bytes }).reason, 'malformed')
  }
})
