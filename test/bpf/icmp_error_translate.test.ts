// ICMP errors about SNATed flows, in both directions (RFC 5508): the packet
// inside changes along with the outer address, and every checksum holds.
import './namespace.js'
import t from 'tap'
import {
  echo,
  ethernet,
  type IcmpErrorFields,
  icmpError,
  ip,
  ipv4,
  type Network,
  Protocol,
  raw,
  type Transport,
  tcp,
  udp
} from '../packets/packet.js'
import { devices, type TestNode, testNode, to } from './node.js'

type Family = 4 | 6

const errors: Record<Family, [name: string, fields: IcmpErrorFields][]> = {
  4: [
    ['port unreachable', { type: 3, code: 3 }],
    ['fragmentation needed', { type: 3, code: 4, rest: 1400 }],
    ['time exceeded', { type: 11, code: 0 }],
    ['parameter problem', { type: 12, code: 0, rest: 0x14000000 }]
  ],
  6: [
    ['port unreachable', { type: 1, code: 4 }],
    ['packet too big', { type: 2, code: 0, rest: 1400 }],
    ['time exceeded', { type: 3, code: 0 }],
    ['parameter problem', { type: 4, code: 1, rest: 40 }]
  ]
}
/** A router on the way, which sends the error. */
const router = { 4: '198.51.100.1', 6: '2001:db8:77::1' } as const

const flows: [name: string, content: (port: number) => Transport][] = [
  ['TCP', (port) => tcp({ sourcePort: port, destinationPort: 80, flags: 'S' }, 'some data')],
  ['UDP', (port) => udp({ sourcePort: port, destinationPort: 53 }, 'some data')],
  ['UDP without checksum', (port) => udp({ sourcePort: port, destinationPort: 53, checksum: 0 }, 'some data')],
  ['echo', (port) => echo({ id: port }, 'some data')]
]

/** Opens a flow from pod a; the packet that left, as the outside sees it. */
function open(node: TestNode, family: Family, content: Transport): { port: number; left: Network } {
  const source = devices.a[`v${family}`]
  const { packet, frame, reason } = node.send('a', ip({ source, destination: to.external[family] }, content))
  if (reason !== 'to-uplink') throw new Error(`the flow was not opened: ${reason}`)
  const left = { etherType: packet.etherType, bytes: Buffer.from(frame.subarray(14)) }
  return { port: packet.l4?.id ?? packet.l4?.sourcePort ?? -1, left }
}

function receive(node: TestNode, family: Family, fields: IcmpErrorFields, original: Network, trailer = 0) {
  const destination = devices.up0[`v${family}`]
  const frame = ethernet(
    { source: devices.up0.podMac, destination: devices.up0.mac },
    ip({ source: router[family], destination }, icmpError(fields, original))
  )
  return node.sendFrame('up0', Buffer.concat([frame, Buffer.alloc(trailer, 0xa5)]))
}

for (const family of [4, 6] as const) {
  const source = devices.a[`v${family}`]
  const header = family === 4 ? 20 : 40

  for (const [name, content] of flows) {
    for (const [error, fields] of errors[family]) {
      t.test(`[S5] ${error} about a SNATed ${name} flow over IPv${family} reaches its pod byte for byte`, async (t) => {
        const node = testNode()
        const { left } = open(node, family, content(4000))
        const result = receive(node, family, fields, left)
        t.equal(result.reason, 'to-pod')
        const inside = ip({ source, destination: to.external[family], ttl: 63 }, content(4000))
        const outer = ip({ source: router[family], destination: source, ttl: 63 }, icmpError(fields, inside))
        t.same(result.frame, ethernet({ source: devices.a.mac, destination: devices.a.podMac }, outer))
        node.close()
      })
    }

    t.test(`[S5] an error with 8 bytes of a ${name} packet over IPv${family} is enough`, async (t) => {
      const node = testNode()
      const { left } = open(node, family, content(4000))
      const fields = { ...errors[family][0]![1], quote: header + 8 }
      for (const trailer of [0, 6, 40]) {
        const result = receive(node, family, fields, left, trailer)
        t.equal(result.reason, 'to-pod')
        const inner = result.packet.embedded
        t.match(inner, { ip: { source } })
        t.equal(inner?.l4?.id ?? inner?.l4?.sourcePort, 4000)
        t.equal(result.packet.l4?.checksumOk, true, `outer checksum with a trailer of ${trailer} bytes`)
        const rest = result.frame.length - trailer
        t.same(result.frame.subarray(rest), Buffer.alloc(trailer, 0xa5), 'bytes after the packet are left alone')
      }
      node.close()
    })
  }

  t.test(`[S5] an IPv${family} error about no flow of ours is the kernel's`, async (t) => {
    const node = testNode()
    const { left } = open(node, family, flows[1]![1](4000))
    const other = ip(
      { source: devices.up0[`v${family}`], destination: to.external[family] },
      udp({ sourcePort: 9, destinationPort: 53 }, 'x')
    )
    t.equal(receive(node, family, errors[family][0]![1], other).reason, 'node')
    const foreign = ip(
      { source: '10.77.0.1', destination: '10.77.0.2' },
      udp({ sourcePort: 9, destinationPort: 53 }, 'x')
    )
    t.equal(receive(node, family, errors[family][0]![1], foreign).verdict, 'stack')
    for (const quote of [0, 4, header - 1, header, header + 7]) {
      t.equal(
        receive(node, family, { ...errors[family][0]![1], quote }, left).verdict,
        'stack',
        `${quote} bytes quoted`
      )
    }
    const esp = ip({ source: devices.up0[`v${family}`], destination: to.external[family] }, raw(Protocol.esp))
    t.equal(receive(node, family, errors[family][0]![1], esp).verdict, 'stack')
    node.close()
  })

  t.test(`[S5] an IPv${family} error for a pod without SNAT goes into it unchanged but for TTL and MACs`, async (t) => {
    const node = testNode()
    const original = ip(
      { source, destination: to.remoteNode[family] },
      udp({ sourcePort: 9, destinationPort: 53 }, 'x')
    )
    const outer = (ttl: number) =>
      ip({ source: router[family], destination: source, ttl }, icmpError(errors[family][0]![1], original))
    const result = node.send('up0', outer(64))
    t.equal(result.reason, 'to-pod')
    t.same(result.frame, ethernet({ source: devices.a.mac, destination: devices.a.podMac }, outer(63)))
    node.close()
  })

  t.test(`[P1] an IPv${family} error with TTL 1 ends here, and nobody is told of it`, async (t) => {
    const node = testNode()
    const { left } = open(node, family, flows[1]![1](4000))
    const error = icmpError(errors[family][2]![1], left)
    const packet = ip({ source: router[family], destination: devices.up0[`v${family}`], ttl: 1 }, error)
    t.match(node.send('up0', packet), { reason: 'drop-ttl', told: false })
    node.close()
  })

  t.test(`[S5] a pod's error about an inbound IPv${family} flow leaves as it is, though SNAT is due`, async (t) => {
    const node = testNode()
    const question = (destinationPort: number) =>
      ip({ source: to.external[family], destination: source }, udp({ sourcePort: 53, destinationPort }, 'x'))
    const answer = (port: number) =>
      ip({ source, destination: to.external[family] }, icmpError(errors[family][0]![1], question(port)))
    t.equal(node.send('up0', question(4000)).reason, 'to-pod')
    const result = node.send('a', answer(4000))
    t.equal(result.reason, 'to-uplink')
    const expected = { source, destination: to.external[family], ttl: 63 }
    t.same(result.frame.subarray(14), ip(expected, icmpError(errors[family][0]![1], question(4000))).bytes)
    t.equal(node.send('a', answer(4001)).reason, 'protocol', 'about a flow that nobody knows')
    node.close()
  })

  for (const [name, content] of flows.slice(0, 3)) {
    t.test(
      `[S5] a pod's own error about a SNATed ${name} flow over IPv${family} leaves with the flow's face`,
      async (t) => {
        const node = testNode()
        const { port } = open(node, family, content(4000))
        const remotePort = name === 'TCP' ? 80 : 53
        const answer = (destination: string, destinationPort: number) =>
          ip(
            { source: to.external[family], destination, ttl: 60 },
            name === 'TCP'
              ? tcp({ sourcePort: remotePort, destinationPort, flags: 'SA' })
              : udp({ sourcePort: remotePort, destinationPort, ...(name === 'UDP' ? {} : { checksum: 0 }) }, 'answer')
          )
        const error = (inside: Network) => icmpError(errors[family][0]![1], inside)
        const result = node.send('a', ip({ source, destination: to.external[family] }, error(answer(source, 4000))))
        t.equal(result.verdict, 'forward')
        const face = devices.up0[`v${family}`]
        const expected = ip({ source: face, destination: to.external[family], ttl: 63 }, error(answer(face, port)))
        t.same(result.frame.subarray(14), expected.bytes)
        node.close()
      }
    )
  }
}

t.test('[S5] embedded IPv4 options and an embedded first fragment are understood', async (t) => {
  const node = testNode()
  const { port } = open(node, 4, udp({ sourcePort: 4000, destinationPort: 53 }, 'some data'))
  const addresses = { source: devices.up0.v4, destination: to.external[4] }
  const datagram = udp({ sourcePort: port, destinationPort: 53 }, Buffer.alloc(64))
  const options = ipv4({ ...addresses, options: Buffer.from([7, 7, 4, 0, 0, 0, 0]) }, datagram)
  const first = ipv4({ ...addresses, mf: true }, datagram)
  for (const original of [options, first]) {
    const result = receive(node, 4, { type: 11, code: 1 }, original)
    t.match(result, {
      reason: 'to-pod',
      packet: { embedded: { ip: { source: devices.a.v4 }, l4: { sourcePort: 4000 } } }
    })
    t.equal(result.packet.l4?.checksumOk, true)
  }
  const later = ipv4({ ...addresses, fragmentOffset: 64 }, datagram)
  t.equal(receive(node, 4, { type: 11, code: 1 }, later).verdict, 'stack')
  node.close()
})

t.test('[S5] an error about a flow of a pod that is gone is the kernel’s', async (t) => {
  const node = testNode()
  const { left } = open(node, 4, udp({ sourcePort: 4000, destinationPort: 53 }, 'x'))
  node.setPod('a', devices.a.v4, { id: 900 })
  t.equal(receive(node, 4, { type: 3, code: 3 }, left).reason, 'node')
  node.close()
})
