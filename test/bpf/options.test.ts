// IPv4 options and IPv6 extension headers of flows that need SNAT, out and back.
import './namespace.js'
import t from 'tap'
import {
  type Extension,
  echo,
  ipv4,
  ipv6,
  type Network,
  optionsHeader,
  Protocol,
  raw,
  routingHeader,
  type Transport,
  tcp,
  udp
} from '../packets/packet.js'
import { Control } from './layout.js'
import { devices, type Result, testNode, to } from './node.js'
import { type Family, natPort, pod, snatAddress } from './snat_flow.js'

const nops = Buffer.from([1, 1, 1, 0])
/** Basic security, as hosts send it; 11 bytes, so that what follows is at an odd place. */
const security = Buffer.from([130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
/** What a router only passes on, of both families. */
const plain: Record<string, { options: Buffer; extensions: Extension[] }> = {
  short: { options: nops, extensions: [optionsHeader(Protocol.destination)] },
  long: {
    options: Buffer.concat([security, security, security]),
    extensions: [optionsHeader(Protocol.destination), routingHeader(4, ['2001:db8::1']), routingHeader()]
  }
}
const readHere: { options: Buffer; extensions: Extension[] }[] = [
  { options: Buffer.from([7, 7, 4, 0, 0, 0, 0]), extensions: [optionsHeader(Protocol.hopByHop)] },
  { options: Buffer.from([68, 8, 5, 0, 0, 0, 0, 0]), extensions: [{ protocol: 51, bytes: Buffer.alloc(24) }] },
  { options: Buffer.from([1, 131, 7, 4, 192, 0, 2, 1]), extensions: [{ protocol: 135, bytes: Buffer.alloc(8) }] },
  {
    options: Buffer.from([148, 4, 0, 0]),
    extensions: [0, 1, 2, 3, 4].map(() => routingHeader(4, ['2001:db8::1', '2001:db8::2']))
  }
]

const kinds: Record<string, (port: number, reply: boolean) => Transport> = {
  UDP: (port, reply) => udp({ sourcePort: reply ? 53 : port, destinationPort: reply ? port : 53 }, 'question'),
  'UDP without checksum': (port, reply) =>
    udp({ sourcePort: reply ? 53 : port, destinationPort: reply ? port : 53, checksum: 0 }, 'question'),
  echo: (id, reply) => echo({ id, reply }, 'ping'),
  TCP: (port, reply) =>
    tcp({ sourcePort: reply ? 80 : port, destinationPort: reply ? port : 80, flags: reply ? 'SA' : 'S' }, '')
}

interface Way {
  source: string
  destination: string
  ttl?: number
}

function packet(
  family: Family,
  way: Way,
  { options, extensions }: { options: Buffer; extensions: Extension[] },
  content: Transport
): Network {
  return family === 4
    ? ipv4({ ...way, options }, content)
    : ipv6({ source: way.source, destination: way.destination, hopLimit: way.ttl, extensions }, content)
}

const layer3 = ({ frame }: Result) => frame.subarray(14)

for (const family of [4, 6] as const) {
  const [source, outside, destination] = [pod('a', family), snatAddress(family), to.external[family]]
  for (const [name, kind] of Object.entries(kinds)) {
    t.test(`[P5] IPv${family} ${name} behind options is translated out and back, byte for byte`, async (t) => {
      const node = testNode()
      t.teardown(() => node.close())
      for (const [length, with_] of Object.entries(plain)) {
        const sent = node.send('a', packet(family, { source, destination }, with_, kind(4000, false)))
        t.equal(sent.reason, 'to-neighbour', `${length}: ${sent.reason}`)
        const port = natPort(sent)
        t.same(
          layer3(sent),
          packet(family, { source: outside, destination, ttl: 63 }, with_, kind(port, false)).bytes,
          `${length}: out`
        )
        const answer = packet(family, { source: destination, destination: outside }, with_, kind(port, true))
        const back = node.send('up0', answer)
        t.equal(back.reason, 'to-pod')
        t.same(
          layer3(back),
          packet(family, { source: destination, destination: source, ttl: 63 }, with_, kind(4000, true)).bytes,
          `${length}: back`
        )
        const none = { options: Buffer.alloc(0), extensions: [] }
        t.equal(
          natPort(node.send('a', packet(family, { source, destination }, none, kind(4000, false)))),
          port,
          'the flow is the same without them'
        )
      }
    })
  }

  t.test(`[P5] IPv${family}: what a router has to read is dropped where SNAT is due, else the kernel's`, async (t) => {
    const node = testNode({ flags: Control.on | Control.snat | Control.dropProtocols })
    t.teardown(() => node.close())
    for (const with_ of readHere) {
      const send = (target: string) =>
        node.send('a', packet(family, { source, destination: target }, with_, kinds['UDP']!(4000, false)))
      t.match(send(destination), { verdict: 'drop', reason: 'drop-options' })
      t.equal(send(to.remoteNode[family]).reason, 'options', 'no SNAT')
      t.equal(send(devices.b[`v${family}`]).reason, 'options', 'a pod of the node')
      t.equal(send(to.node[family]).reason, 'options', 'the node')
      t.equal(send(to.blackhole[family]).reason, 'options', 'a route that is the kernel’s')
    }
    t.same(node.flows(family), [])
    node.setControl({ flags: Control.on | Control.snat })
    t.equal(
      node.send('a', packet(family, { source, destination }, readHere[0]!, kinds['UDP']!(1, false))).reason,
      'options',
      'the node’s own rules masquerade'
    )
    node.setControl({ flags: Control.on })
    t.equal(
      node.send('a', packet(family, { source, destination }, readHere[0]!, kinds['UDP']!(1, false))).reason,
      'options',
      'SNAT is not ours'
    )
  })

  t.test(`[P5] IPv${family}: options before what has no ports are dropped where SNAT is due`, async (t) => {
    const node = testNode({ flags: Control.on | Control.snat | Control.dropProtocols })
    t.teardown(() => node.close())
    for (const protocol of [Protocol.gre, Protocol.sctp]) {
      const sent = node.send('a', packet(family, { source, destination }, plain['short']!, raw(protocol)))
      t.equal(sent.reason, 'drop-options')
    }
  })

  t.test(`[P5] [S13] IPv${family}: a flow opened from outside with options keeps its address`, async (t) => {
    const node = testNode()
    t.teardown(() => node.close())
    const with_ = plain['short']!
    const udpTo = (port: number, reply: boolean) => kinds['UDP']!(port, reply)
    // from the remote's port 53 to the pod's port 4000
    const question = packet(family, { source: destination, destination: source }, with_, udpTo(4000, true))
    t.equal(node.send('up0', question).reason, 'to-pod')
    const answer = node.send('a', packet(family, { source, destination }, with_, udpTo(4000, false)))
    t.same(
      layer3(answer),
      packet(family, { source, destination, ttl: 63 }, with_, udpTo(4000, false)).bytes,
      'untranslated'
    )
    t.match(node.flows(family), [{ verdict: 'inbound' }])
  })

  t.test(`[P5] IPv${family}: from an uplink, for the node: the kernel's, unless it answers a flow`, async (t) => {
    const node = testNode()
    t.teardown(() => node.close())
    const way = { source: destination, destination: outside }
    t.equal(node.send('up0', packet(family, way, plain['short']!, kinds['UDP']!(4000, true))).reason, 'node')
    const record = packet(family, way, readHere[0]!, kinds['UDP']!(4000, true))
    t.equal(node.send('up0', record).reason, family === 4 ? 'node' : 'options')
    t.equal(node.send('up0', packet(family, way, plain['short']!, raw(Protocol.gre))).reason, 'options')
  })
}

t.test('[P5] an answer that a router has to read is dropped: the kernel would take it for its own', async (t) => {
  const node = testNode()
  t.teardown(() => node.close())
  const none = { options: Buffer.alloc(0), extensions: [] }
  const sent = node.send(
    'a',
    packet(4, { source: pod('a', 4), destination: to.external[4] }, none, kinds['UDP']!(4000, false))
  )
  const way = { source: to.external[4], destination: snatAddress(4) }
  const answer = packet(4, way, readHere[0]!, kinds['UDP']!(natPort(sent), true))
  t.equal(node.send('up0', answer).reason, 'drop-options')
})

t.test('[P5] [S1] TCP behind options is followed: both ends close, and the entry leaves', async (t) => {
  for (const family of [4, 6] as const) {
    const node = testNode({ timeouts: [100000, 100000, 0, 100000, 100000, 100000] })
    t.teardown(() => node.close())
    const [source, outside, destination] = [pod('a', family), snatAddress(family), to.external[family]]
    let port = 4000
    const leave = (flags: string, sequence: number, acknowledgement: number) =>
      node.send(
        'a',
        packet(
          family,
          { source, destination },
          plain['long']!,
          tcp({ sourcePort: 4000, destinationPort: 80, flags, sequence, acknowledgement })
        )
      )
    const back = (flags: string, sequence: number, acknowledgement: number) =>
      node.send(
        'up0',
        packet(
          family,
          { source: destination, destination: outside },
          plain['long']!,
          tcp({ sourcePort: 80, destinationPort: port, flags, sequence, acknowledgement })
        )
      )
    port = natPort(leave('S', 1, 0))
    back('SA', 1000, 2)
    leave('A', 2, 1001)
    leave('FA', 2, 1001)
    t.equal(back('FA', 1001, 3).reason, 'to-pod')
    leave('A', 3, 1002)
    // a closed flow leaves once a jiffy has passed
    let deleted = 0
    for (let round = 0; round < 10_000 && deleted === 0; round++) deleted = node.expire(family).deleted
    t.equal(deleted, 1, `IPv${family}: closed`)
  }
})

t.test('[P5] [P4] fragments of a datagram with options leave like others', async (t) => {
  const node = testNode()
  t.teardown(() => node.close())
  const data = 'x'.repeat(900)
  const whole = (from: string, port: number, ttl: number) =>
    ipv4(
      { source: from, destination: to.external[4], ttl, options: nops },
      udp({ sourcePort: port, destinationPort: 53 }, data)
    )
  const pieces = cutWithOptions(whole(pod('a', 4), 4000, 64))
  const [first, later] = pieces.map((piece) => node.send('a', piece))
  const wanted = cutWithOptions(whole(snatAddress(4), natPort(first!), 63))
  t.same(layer3(first!), wanted[0]!.bytes)
  t.same(layer3(later!), wanted[1]!.bytes)
})

/** Two fragments, both with the options (fragments() leaves them out). */
function cutWithOptions(network: Network): Network[] {
  const header = network.bytes.subarray(0, 24)
  const body = network.bytes.subarray(24)
  const piece = (from: number, to: number, mf: boolean) =>
    ipv4(
      {
        source: [...header.subarray(12, 16)].join('.'),
        destination: [...header.subarray(16, 20)].join('.'),
        ttl: header[8],
        id: 77,
        mf,
        fragmentOffset: from,
        options: nops,
        protocol: Protocol.udp
      },
      body.subarray(from, to)
    )
  return [piece(0, 480, true), piece(480, body.length, false)]
}
