// The hot path against the stages (hot_path_ways.ts): IPv4, and IPv6 between pods. IPv6 to and from uplinks:
// hot_path6.test.ts. HOSTROUTE_SEED and HOSTROUTE_FRAMES repeat the random part or lengthen it.
import t from 'tap'
import {
  EtherType,
  echo,
  fragmentHeader,
  ipv4,
  ipv6,
  optionsHeader,
  Protocol,
  raw,
  type Transport,
  tcp,
  udp
} from '../packets/packet.js'
import { hotPathFlows, large, port, type Row } from './hot_path_flows.js'
import { changeEntries, frameFor, randomRounds, readEntries, resetEntries, run } from './hot_path_ways.js'
import { Control } from './layout.js'
import { devices, onLink, secondary } from './node.js'
import { content } from './snat_flow.js'

/** Routed without SNAT, with a known MAC. */
const plain = '10.3.0.9'
const { node, remote, natPorts, compare, fromA, toNode, toB } = hotPathFlows({
  name: 'hot_path',
  family: 4,
  plain: { address: plain, prefix: '10.3.0.0/16' },
  others: [onLink[4]]
})

const ack = (flags = 'A', data: Buffer | string = 'data') => content('tcp', port.tcp, false, flags, data as string)
const datagram = (checksum?: number) =>
  udp({ sourcePort: port.udp, destinationPort: 443, ...(checksum === undefined ? {} : { checksum }) }, 'data')
const answer = (kind: 'tcp' | 'udp', flags = 'A') =>
  content(kind, natPorts[`${kind} ${remote}`] as number, true, flags, 'data')
const fromA6 = (destination: string, transport: Transport, fields = {}) =>
  ipv6({ source: devices.a.v6, destination, ...fields }, transport)

const hotRows: Row[] = [
  ['TCP to a pod', 'a', fromA(devices.b.v4, ack())],
  ['a SYN to a pod', 'a', fromA(devices.b.v4, ack('S'))],
  ['UDP to a pod', 'a', fromA(devices.b.v4, datagram())],
  ['an echo to a pod', 'a', fromA(devices.b.v4, echo({ id: 5 }))],
  ['GRE to a pod', 'a', fromA(devices.b.v4, raw(Protocol.gre, Buffer.alloc(40)))],
  ['a fragment to a pod', 'a', fromA(devices.b.v4, ack(), { mf: true, fragmentOffset: 8 })],
  ['TCP GSO to a pod', 'a', fromA(devices.b.v4, ack('A', large)), { gsoSize: 1_400 }],
  ['TCP to a pod, IPv6', 'a', fromA6(devices.b.v6, ack())],
  ['a SYN to a pod, IPv6', 'a', fromA6(devices.b.v6, ack('S'))],
  ['UDP to a pod, IPv6', 'a', fromA6(devices.b.v6, datagram())],
  ['TCP GSO to a pod, IPv6', 'a', fromA6(devices.b.v6, ack('A', large)), { gsoSize: 1_400 }],
  ['TCP with SNAT', 'a', fromA(remote, ack())],
  ['TCP with PSH and URG', 'a', fromA(remote, ack('PAU'))],
  ['TCP with TTL 2', 'a', fromA(remote, ack(), { ttl: 2 })],
  ['TCP without DF', 'a', fromA(remote, ack(), { df: false, id: 77 })],
  ['TCP GSO with SNAT', 'a', fromA(remote, ack('A', large)), { gsoSize: 1_400 }],
  ['UDP with SNAT', 'a', fromA(remote, datagram())],
  ['UDP without checksum', 'a', fromA(remote, datagram(0))],
  [
    'UDP GSO with SNAT',
    'a',
    fromA(remote, udp({ sourcePort: port.udp, destinationPort: 443 }, large)),
    { gsoSize: 1_400 }
  ],
  ['TCP on-link with SNAT', 'a', fromA(onLink[4], ack())],
  ['TCP without SNAT', 'a', fromA(plain, ack())],
  ['UDP without SNAT', 'a', fromA(plain, datagram())],
  [
    'an answer on a connection from outside',
    'b',
    ipv4({ source: devices.b.v4, destination: remote }, content('tcp', 80, false, 'A'))
  ],
  ['an answer to SNAT, TCP', 'up0', toNode(answer('tcp'))],
  ['an answer to SNAT, UDP', 'up0', toNode(answer('udp'))],
  ['TCP from outside to a pod', 'up0', toB(content('tcp', 80, true, 'A'))],
  ['TCP from outside that nobody opened', 'up0', toB(content('tcp', 81, true, 'A'))],
  ['UDP from outside to a pod', 'up0', toB(content('udp', 80, true))]
]

const stageRows: Row[] = [
  ['TCP to itself, IPv6', 'a', fromA6(devices.a.v6, ack())],
  ['TCP to a pod without a known MAC, IPv6', 'a', fromA6(devices.c.v6, ack())],
  ['an echo to a pod, IPv6', 'a', fromA6(devices.b.v6, echo({ id: 5 }))],
  ['a forged source, IPv6', 'a', ipv6({ source: devices.c.v6, destination: devices.b.v6 }, ack())],
  ['no source, IPv6', 'a', ipv6({ source: '::', destination: devices.b.v6 }, ack())],
  ['hop limit 1, IPv6', 'a', fromA6(devices.b.v6, ack(), { hopLimit: 1 })],
  ['a fragment to a pod, IPv6', 'a', fromA6(devices.b.v6, ack(), { extensions: [fragmentHeader(9, 0, true)] })],
  ['options, IPv6', 'a', fromA6(devices.b.v6, ack(), { extensions: [optionsHeader(Protocol.destination)] })],
  ['no payload length, IPv6', 'a', fromA6(devices.b.v6, ack(), { payloadLength: 0 })],
  ['a payload length beyond the frame, IPv6', 'a', fromA6(devices.b.v6, ack(), { payloadLength: 900 })],
  ['another version, IPv6', 'a', fromA6(devices.b.v6, ack(), { version: 5 })],
  ['too large for the pod, IPv6', 'a', fromA6(devices.b.v6, ack('A', large))],
  ['a marked packet to a pod, IPv6', 'a', fromA6(devices.b.v6, ack()), { mark: 3 }],
  ['TCP to itself', 'a', fromA(devices.a.v4, ack())],
  ['TCP to a pod without a known MAC', 'a', fromA(devices.c.v4, ack())],
  ['another address of the pod', 'a', ipv4({ source: secondary[4], destination: devices.b.v4 }, ack())],
  ['a forged source', 'a', ipv4({ source: devices.b.v4, destination: remote }, ack())],
  ['a forged source, none', 'a', ipv4({ source: '0.0.0.0', destination: devices.b.v4 }, ack())],
  ['TTL 1', 'a', fromA(remote, ack(), { ttl: 1 })],
  ['TTL 1 to a pod', 'a', fromA(devices.b.v4, ack(), { ttl: 1 })],
  ['options', 'a', fromA(devices.b.v4, ack(), { options: Buffer.from([7, 7, 4, 0, 0, 0, 0, 0]) })],
  ['a wrong header checksum', 'a', fromA(remote, ack(), { checksum: 0x1234 })],
  ['a total length below the header', 'a', fromA(remote, ack(), { totalLength: 19 })],
  ['a total length below the header of TCP', 'a', fromA(remote, ack(), { totalLength: 39 })],
  ['a total length beyond the frame', 'a', fromA(remote, ack(), { totalLength: 1_000 })],
  ['too large', 'a', fromA(remote, ack('A', large))],
  ['too large for the pod', 'a', fromA(devices.b.v4, ack('A', large))],
  ['GSO of too large segments', 'a', fromA(remote, ack('A', large)), { gsoSize: 1_461 }],
  ['a marked packet', 'a', fromA(remote, ack()), { mark: 3 }],
  ['a marked packet to a pod', 'a', fromA(devices.b.v4, ack()), { mark: 3 }],
  ['SYN', 'a', fromA(remote, ack('S'))],
  ['an unknown TCP flow', 'a', fromA(remote, content('tcp', 41_500, false, 'A'))],
  ['an echo with SNAT', 'a', fromA(remote, echo({ id: 5 }))],
  ['a fragment with SNAT', 'a', fromA(remote, ack(), { mf: true })],
  ['a last fragment with SNAT', 'a', fromA(remote, ack(), { fragmentOffset: 8 })],
  ['TCP for the node itself', 'up0', toNode(content('tcp', 22, true, 'A'))],
  ['an answer with TTL 1', 'up0', toNode(answer('tcp'), { ttl: 1 })],
  ['a wrong header checksum from outside', 'up0', toB(content('tcp', 80, true, 'A'), { checksum: 0x1234 })],
  ['a marked answer', 'up0', toNode(answer('tcp')), { mark: 3 }],
  ['UDP from outside that nobody opened', 'up0', toB(content('udp', 82, true))],
  ['loopback as source', 'up0', toB(content('tcp', 80, true, 'A'), { source: '127.0.0.1' })],
  ['a SYN from outside', 'up0', toB(content('tcp', 80, true, 'S'))]
]

t.test('[F1] [F3] [S4] what takes the hot path leaves as the stages send it', async (t) => {
  for (const [name, device, network, options] of hotRows)
    t.ok(compare(t, name, device, frameFor(device, network), options), name)
  t.test('a damaged transport checksum stays as wrong as it was', async (t) => {
    for (const value of [0x0001, 0xfffe, 0xffff]) {
      const frame = frameFor(
        'a',
        fromA(remote, tcp({ sourcePort: port.tcp, destinationPort: 443, flags: 'A', checksum: value }))
      )
      t.ok(compare(t, `TCP ${value}`, 'a', frame))
      t.ok(compare(t, `UDP ${value}`, 'a', frameFor('a', fromA(remote, datagram(value)))))
    }
  })
})

t.test('[P1] [P2] [P4] [P5] what does not take the hot path is left to the stages, untouched', async (t) => {
  for (const [name, device, network, options] of stageRows)
    t.notOk(compare(t, name, device, frameFor(device, network), options), name)
})

t.test('[S4] a UDP checksum that becomes 0 is sent as 0xffff', async (t) => {
  const before = frameFor('a', fromA(remote, udp({ sourcePort: port.udp, destinationPort: 443 }, Buffer.alloc(2))))
  const first = node.sendFrame('a', before)
  // the two bytes of payload take up what is left of the sum
  const payload = Buffer.alloc(2)
  payload.writeUInt16BE(first.frame.readUInt16BE(40))
  const frame = frameFor('a', fromA(remote, udp({ sourcePort: port.udp, destinationPort: 443 }, payload)))
  t.ok(compare(t, 'UDP', 'a', frame))
  t.equal(node.sendFrame('a', frame).frame.readUInt16BE(40), 0xffff)
})

t.test(
  'nothing takes the hot path while every packet is watched, when switched off, after the lease, or with a policy',
  async (t) => {
    const rows = hotRows.filter(([name]) => /^(TCP to a pod(, IPv6)?|TCP with SNAT|an answer to SNAT, TCP)$/.test(name))
    const none = (words: string) => {
      for (const [name, device, network] of rows)
        t.notOk(compare(t, name, device, frameFor(device, network)), `${words}: ${name}`)
    }
    node.setControl({ flags: Control.on | Control.snat | Control.monitor, eventRate: 0 })
    none('monitor')
    node.setControl({ flags: Control.snat })
    none('off')
    node.setControl({ flags: Control.on | Control.snat, lease: 1n })
    none('lease')
    node.setControl({ lease: 0x7fffffffffffffffn })
    for (const device of ['a', 'up0'] as const) node.setDevice(device, { flags: 3 })
    none('policy')
    node.setDevice('a', { flags: 12 })
    for (const [name, device, network] of rows.filter(([name]) => name.startsWith('TCP to a pod'))) {
      t.notOk(compare(t, name, device, frameFor(device, network)), `ip rules for the device: ${name}`)
    }
    for (const device of ['a', 'up0'] as const) node.setDevice(device)
  }
)

t.test('[S12] a flow that is dying, dead, of another pod or of older routes is for the stages', async (t) => {
  const frame = frameFor('a', fromA(remote, ack()))
  const back = frameFor('up0', toNode(answer('tcp')))
  const before = readEntries(node)
  const rows: [string, string, Buffer, number, number[]][] = [
    ['dying', 'flows4', frame, 16, [1, 0, 0, 0]],
    ['dead', 'flows4', frame, 16, [2, 0, 0, 0]],
    ['another pod', 'flows4', frame, 12, [9, 9, 0, 0]],
    ['older routes', 'flows4', frame, 0, [0, 0, 0, 0]],
    ['the answer dying', 'reverse4', back, 28, [1, 0, 0, 0]],
    ['the answer dead', 'reverse4', back, 28, [2, 0, 0, 0]],
    ['the answer for another pod', 'reverse4', back, 24, [9, 9, 0, 0]]
  ]
  for (const [name, table, each, at, bytes] of rows) {
    changeEntries(node, before, table, at, bytes)
    t.notOk(compare(t, name, each === frame ? 'a' : 'up0', each), name)
    resetEntries(node, before)
  }
})

t.test(
  '[K6] on a node that translates, TCP from outside is looked up, and flows of the stack go there at once',
  async (t) => {
    node.setControl({ translating: true })
    const inbound = (port: number) => frameFor('up0', toB(content('tcp', port, true, 'A')))
    const outbound = (kind: 'tcp' | 'udp', port: number, destination: string) =>
      frameFor('a', ipv4({ source: devices.a.v4, destination }, content(kind, port, false, 'A')))
    const own = (local: string, far: string, kind: 'tcp' | 'udp', port: number, reason: string, pod: 'a' | 'b') => {
      const ports = { localPort: port, remotePort: 443, protocol: kind === 'tcp' ? 6 : 17 }
      node.setOwner(pod, { local, remote: far, ...ports }, reason)
    }
    t.ok(compare(t, 'between two without a flow of the stack', 'up0', inbound(80)))
    own(devices.b.v4, remote, 'tcp', 82, 'translated-flow', 'b')
    t.ok(compare(t, 'from outside', 'up0', inbound(82)))
    t.ok(compare(t, 'opened from outside', 'up0', inbound(80)))
    t.notOk(compare(t, 'not known', 'up0', inbound(81)))
    t.ok(compare(t, 'asked about once', 'up0', inbound(81)), 'and remembered')
    t.ok(compare(t, 'UDP from outside, opened there', 'up0', frameFor('up0', toB(content('udp', 80, true)))))
    for (const kind of ['tcp', 'udp'] as const) {
      own(devices.a.v4, remote, kind, 4711, 'translated-flow', 'a')
      t.ok(compare(t, `${kind} to outside`, 'a', outbound(kind, 4711, remote)))
      if (kind === 'tcp') {
        const end = ipv4({ source: devices.a.v4, destination: remote }, content(kind, 4711, false, 'FA'))
        t.ok(compare(t, 'its end', 'a', frameFor('a', end)))
      }
      own(devices.a.v4, devices.b.v4, kind, 4712, 'translated-flow', 'a')
      t.ok(compare(t, `${kind} to a local pod, not looked up`, 'a', outbound(kind, 4712, devices.b.v4)))
      node.share('a', true)
      t.ok(compare(t, `${kind} to a local pod`, 'a', outbound(kind, 4712, devices.b.v4)))
      t.notOk(compare(t, `${kind} to a local pod, not known`, 'a', outbound(kind, 4713, devices.b.v4)))
      t.ok(compare(t, `${kind} to a local pod, known`, 'a', outbound(kind, 4713, devices.b.v4)))
      node.share('a', false)
    }
    node.setControl({ translating: false })
  }
)

t.test('[S4] the sum over a CHECKSUM_COMPLETE packet stays right on both ways', async (t) => {
  const rows = hotRows.filter(
    ([, , network, options]) => !options && network.etherType === EtherType.ipv4 && network.bytes[9] !== Protocol.gre
  )
  for (const [name, device, network] of rows) {
    const frame = frameFor(device, network)
    const udpWithout = name === 'UDP without checksum'
    try {
      // nobody looks at that sum again, and neither way keeps it
      if (!udpWithout) t.ok(compare(t, name, device, frame, { checksumComplete: true }), name)
    } catch (error) {
      if ((error as { code: string }).code !== 'EINVAL') throw error
      t.pass('before Linux 6.11 such a packet cannot be made')
    }
  }
})

t.test('skb->priority follows TOS towards an uplink, as ip_forward sets it (rt_tos2priority)', async (t) => {
  for (const [tos, priority] of [
    [0x00, 0],
    [0x02, 0],
    [0x08, 2],
    [0x10, 6],
    [0x18, 4],
    [0xb8, 4],
    [0xe0, 0]
  ] as const) {
    for (const destination of [remote, plain]) {
      const frame = frameFor('a', fromA(destination, ack(), { tos }))
      t.ok(compare(t, `TOS ${tos}`, 'a', frame))
      t.equal(run(node, 'from_pod', 'a', frame, {}).priority, priority, `TOS ${tos}`)
    }
  }
})

t.test('random packets: on the hot path or not, the outcome is that of the stages', async (t) => {
  const { frames, below: random, pick, rare } = randomRounds(t)
  let hot = 0
  for (let round = 0; round < frames; round++) {
    const outward = random(2) === 0
    const data = Buffer.from(Array.from({ length: random(40) }, () => random(256)))
    const kind = pick(['tcp', 'udp'] as const)
    const destination = pick([remote, plain, onLink[4], devices.b.v4])
    const nat = natPorts[`${kind} ${remote}`] as number
    const local = outward ? port[kind] : destination === devices.b.v4 ? 80 : nat
    const ports = outward ? { sourcePort: local, destinationPort: 443 } : { sourcePort: 443, destinationPort: local }
    const checksum = rare(random(65_536))
    const sum = checksum === undefined ? {} : { checksum }
    const transport =
      kind === 'tcp'
        ? tcp({ ...ports, ...sum, flags: pick(['A', 'A', 'PA', '', 'FA', 'SA', 'R']) }, data)
        : udp({ ...ports, ...sum }, data)
    const fields = {
      tos: random(256),
      id: random(65_536),
      ttl: rare(random(3)) ?? 1 + random(255),
      df: random(2) === 0,
      mf: rare(true) ?? false,
      ...(random(20) === 0 ? { totalLength: random(80) } : {}),
      ...(random(20) === 0 ? { ihl: random(16) } : {}),
      ...(random(20) === 0 ? { checksum: random(65_536) } : {})
    }
    const network = outward
      ? ipv4({ source: devices.a.v4, destination, ...fields }, transport)
      : ipv4({ source: remote, destination: pick([devices.up0.v4, devices.b.v4]), ...fields }, transport)
    const device = outward ? 'a' : 'up0'
    const whole = frameFor(device, network)
    const frame = random(20) === 0 ? whole.subarray(0, Math.max(34, random(whole.length))) : whole
    if (compare(t, `round ${round}`, device, frame)) hot++
  }
  t.ok(hot > frames / 5, `${hot} of ${frames} took the hot path`)
})

t.teardown(() => node.close({ byHand: true }))
