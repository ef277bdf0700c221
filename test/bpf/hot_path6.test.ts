// The hot path of IPv6 to and from uplinks against the stages
// (hot_path_ways.ts). HOSTROUTE_SEED and HOSTROUTE_FRAMES repeat the random part
// or lengthen it.
import t from 'tap'
import {
  echo,
  ethernet,
  fragmentHeader,
  ipv6,
  type Network,
  optionsHeader,
  Protocol,
  type Transport,
  tcp,
  udp
} from '../packets/packet.js'
import { hotPathFlows, large, port, type Row } from './hot_path_flows.js'
import { changeEntries, frameFor, randomRounds, readEntries, resetEntries } from './hot_path_ways.js'
import { Control } from './layout.js'
import { devices, macBehind, onLink, secondary, to } from './node.js'
import { content } from './snat_flow.js'

/** Routed without SNAT, with a known MAC. */
const plain = 'fd00:3::9'
const others = [onLink[6], to.group[6], to.smallMtu[6]] as const
const { node, remote, natPorts, compare, fromA, toNode, toB } = hotPathFlows({
  name: 'hot_path6',
  family: 6,
  plain: { address: plain, prefix: 'fd00:3::/64' },
  others
})
const destinations = [remote, plain, ...others] as const

const { a, b, up0 } = devices

const ack = (flags = 'A', data: Buffer | string = 'data') =>
  tcp({ sourcePort: port.tcp, destinationPort: 443, flags }, data)
const datagram = (data: Buffer | string = 'data', checksum?: number) =>
  udp({ sourcePort: port.udp, destinationPort: 443, ...(checksum === undefined ? {} : { checksum }) }, data)
const answer = (kind: 'tcp' | 'udp', flags = 'A', data: Buffer | string = 'data') => {
  const ports = { sourcePort: 443, destinationPort: natPorts[`${kind} ${remote}`] as number }
  return kind === 'tcp' ? tcp({ ...ports, flags }, data) : udp(ports, data)
}
const fromB = (transport: Transport) => ipv6({ source: b.v6, destination: remote }, transport)
/** As Ethernet fills small packets up. */
const padded = (network: Network): Network => ({ ...network, bytes: Buffer.concat([network.bytes, Buffer.alloc(9)]) })
const labelled = { flowLabel: 0xabcde, trafficClass: 0xb9 }
const options = Buffer.from([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])

const hotRows: Row[] = [
  ['TCP with SNAT', 'a', fromA(remote, ack())],
  ['TCP with PSH and URG', 'a', fromA(remote, ack('PAU'))],
  ['TCP with options', 'a', fromA(remote, tcp({ sourcePort: port.tcp, destinationPort: 443, options }))],
  ['TCP with hop limit 2', 'a', fromA(remote, ack(), { hopLimit: 2 })],
  ['TCP with hop limit 255', 'a', fromA(remote, ack(), { hopLimit: 255 })],
  ['TCP with flow label and traffic class', 'a', fromA(remote, ack(), labelled)],
  ['TCP GSO with SNAT', 'a', fromA(remote, ack('A', large)), { gsoSize: 1_400 }],
  ['TCP as large as the MTU', 'a', fromA(to.smallMtu[6], ack('A', large.subarray(0, 1_220)))],
  ['TCP GSO by the next hop with a small MTU', 'a', fromA(to.smallMtu[6], ack('A', large)), { gsoSize: 1_220 }],
  ['UDP with SNAT', 'a', fromA(remote, datagram())],
  ['UDP without data', 'a', fromA(remote, datagram(''))],
  ['UDP GSO with SNAT', 'a', fromA(remote, datagram(large)), { gsoSize: 1_400 }],
  ['TCP on-link with SNAT', 'a', fromA(onLink[6], ack())],
  ['UDP on-link with SNAT', 'a', fromA(onLink[6], datagram())],
  ['TCP by a group', 'a', fromA(to.group[6], ack())],
  ['UDP by a group', 'a', fromA(to.group[6], datagram())],
  ['TCP without SNAT', 'a', fromA(plain, ack(), labelled)],
  ['UDP without SNAT', 'a', fromA(plain, datagram())],
  ['UDP without SNAT and without checksum', 'a', fromA(plain, datagram('data', 0))],
  ['TCP GSO without SNAT', 'a', fromA(plain, ack('A', large)), { gsoSize: 1_400 }],
  ['an answer on a connection from outside, TCP', 'b', fromB(content('tcp', 80, false, 'A'))],
  ['an answer on a connection from outside, UDP', 'b', fromB(content('udp', 80, false))],
  ['an answer to SNAT, TCP', 'up0', toNode(answer('tcp'))],
  ['an answer to SNAT, TCP with PSH', 'up0', toNode(answer('tcp', 'PA'), labelled)],
  ['an answer to SNAT, UDP', 'up0', toNode(answer('udp'))],
  ['an answer to SNAT with hop limit 2', 'up0', toNode(answer('udp'), { hopLimit: 2 })],
  ['an answer to SNAT, padded', 'up0', padded(toNode(answer('tcp')))],
  ['an answer to SNAT, TCP GSO', 'up0', toNode(answer('tcp', 'A', large)), { gsoSize: 1_400 }],
  ['an answer to SNAT, UDP GSO', 'up0', toNode(answer('udp', 'A', large)), { gsoSize: 1_400 }],
  [
    'an answer without SNAT, TCP',
    'up0',
    ipv6({ source: plain, destination: a.v6 }, content('tcp', port.tcp, true, 'A'))
  ],
  ['an answer without SNAT, UDP', 'up0', ipv6({ source: plain, destination: a.v6 }, content('udp', port.udp, true))],
  ['TCP from outside to a pod', 'up0', toB(content('tcp', 80, true, 'A'), labelled)],
  ['TCP from outside to a pod, padded', 'up0', padded(toB(content('tcp', 80, true, 'A')))],
  ['TCP from outside that nobody opened', 'up0', toB(content('tcp', 81, true, 'A'))],
  [
    'TCP GSO from outside to a pod',
    'up0',
    toB(tcp({ sourcePort: 443, destinationPort: 80 }, large)),
    { gsoSize: 1_400 }
  ],
  ['UDP from outside to a pod', 'up0', toB(content('udp', 80, true))],
  ['UDP from outside to a pod, padded', 'up0', padded(toB(content('udp', 80, true)))],
  ['UDP without checksum to a pod', 'up0', toB(udp({ sourcePort: 443, destinationPort: 80, checksum: 0 }, 'data'))]
]

const shortHeader = (sourcePort: number, destinationPort: number) =>
  tcp({ sourcePort, destinationPort, dataOffset: 4 }, 'data')
const natPortsOfUdp = { sourcePort: 443, destinationPort: natPorts[`udp ${remote}`] as number }
const natPortOfTcp = natPorts[`tcp ${remote}`] as number
const fragment = { extensions: [fragmentHeader(9, 0, true)] }
const withOptions = { extensions: [optionsHeader(Protocol.destination)] }

const stageRows: Row[] = [
  ['SYN', 'a', fromA(remote, ack('S'))],
  ['SYN-ACK', 'a', fromA(remote, ack('SA'))],
  ['RST', 'a', fromA(remote, ack('R'))],
  ['an unknown TCP flow', 'a', fromA(remote, content('tcp', 41_500, false, 'A'))],
  ['an echo', 'a', fromA(remote, echo({ id: 5 }))],
  ['hop limit 1', 'a', fromA(remote, ack(), { hopLimit: 1 })],
  ['hop limit 0', 'a', fromA(remote, ack(), { hopLimit: 0 })],
  ['a fragment', 'a', fromA(remote, ack(), fragment)],
  ['options', 'a', fromA(remote, ack(), withOptions)],
  ['another version', 'a', fromA(remote, ack(), { version: 5 })],
  ['no payload length', 'a', fromA(remote, ack(), { payloadLength: 0 })],
  ['BIG TCP', 'a', fromA(remote, ack('A', large), { payloadLength: 0 }), { gsoSize: 1_400 }],
  ['a payload length below the header of TCP', 'a', fromA(remote, ack(), { payloadLength: 19 })],
  ['a payload length beyond the frame', 'a', fromA(remote, ack(), { payloadLength: 900 })],
  ['a padded packet', 'a', padded(fromA(remote, ack()))],
  ['a data offset below the header', 'a', fromA(remote, shortHeader(port.tcp, 443))],
  ['too large', 'a', fromA(remote, ack('A', large))],
  ['too large for the next hop', 'a', fromA(to.smallMtu[6], ack('A', large.subarray(0, 1_221)))],
  ['GSO of too large segments', 'a', fromA(remote, ack('A', large)), { gsoSize: 1_441 }],
  ['UDP with SNAT and without checksum', 'a', fromA(remote, datagram('data', 0))],
  ['a gateway whose MAC is stale', 'a', fromA(to.remoteNode[6], ack())],
  ['a neighbour that is not known', 'a', fromA(to.onLinkUnknown[6], ack())],
  ['another address of the pod', 'a', ipv6({ source: secondary[6], destination: remote }, ack())],
  ['a forged source', 'a', ipv6({ source: b.v6, destination: remote }, ack())],
  ['no source', 'a', ipv6({ source: '::', destination: remote }, ack())],
  ['a link-local destination', 'a', fromA('fe80::1', ack())],
  ['a multicast destination', 'a', fromA('ff0e::1', datagram())],
  ['a marked packet', 'a', fromA(remote, ack()), { mark: 3 }],
  ['TCP for the node itself', 'up0', toNode(content('tcp', 22, true, 'A'))],
  ['an answer with hop limit 1', 'up0', toNode(answer('tcp'), { hopLimit: 1 })],
  ['an answer that is too large', 'up0', toNode(answer('tcp', 'A', large))],
  ['an answer of too large segments', 'up0', toNode(answer('tcp', 'A', large)), { gsoSize: 1_441 }],
  ['a marked answer', 'up0', toNode(answer('tcp')), { mark: 3 }],
  ['an answer without checksum', 'up0', toNode(udp({ ...natPortsOfUdp, checksum: 0 }, 'data'))],
  ['an answer with a data offset below the header', 'up0', toNode(shortHeader(443, natPortOfTcp))],
  ['from outside, a data offset below the header', 'up0', toB(shortHeader(443, 80))],
  ['an answer with options', 'up0', toNode(answer('tcp'), withOptions)],
  ['a fragment of an answer', 'up0', toNode(answer('tcp'), fragment)],
  ['an answer with a payload length of 0', 'up0', toNode(answer('tcp'), { payloadLength: 0 })],
  ['an answer whose payload length is below the header', 'up0', toNode(answer('tcp'), { payloadLength: 19 })],
  ['an answer whose payload length is beyond the frame', 'up0', toNode(answer('tcp'), { payloadLength: 99 })],
  ['from outside, hop limit 1', 'up0', toB(content('tcp', 80, true, 'A'), { hopLimit: 1 })],
  ['from outside, too large', 'up0', toB(tcp({ sourcePort: 443, destinationPort: 80 }, large))],
  ['UDP from outside that nobody opened', 'up0', toB(content('udp', 82, true))],
  ['loopback as source', 'up0', toB(content('tcp', 80, true, 'A'), { source: '::1' })],
  ['link-local as source', 'up0', toB(content('tcp', 80, true, 'A'), { source: 'fe80::7' })],
  ['to a pod without a known MAC', 'up0', toB(content('tcp', 80, true, 'A'), { destination: devices.c.v6 })],
  ['an echo from outside', 'up0', toB(echo({ id: 5 }))],
  ['a SYN from outside', 'up0', toB(content('tcp', 80, true, 'S'))],
  ['a SYN-ACK from outside', 'up0', toB(content('tcp', 80, true, 'SA'))],
  ['a marked packet from outside', 'up0', toB(content('tcp', 80, true, 'A')), { mark: 3 }]
]
t.test('[F1] [F3] [S4] what takes the hot path leaves as the stages send it', async (t) => {
  for (const [name, device, network, options] of hotRows)
    t.ok(compare(t, name, device, frameFor(device, network), options), name)
  t.test('a damaged transport checksum stays as wrong as it was', async (t) => {
    for (const checksum of [0x0001, 0xfffe, 0xffff]) {
      const ports = { sourcePort: port.tcp, destinationPort: 443 }
      t.ok(compare(t, `TCP ${checksum}`, 'a', frameFor('a', fromA(remote, tcp({ ...ports, checksum })))))
      t.ok(compare(t, `UDP ${checksum}`, 'a', frameFor('a', fromA(remote, datagram('data', checksum)))))
      const back = { sourcePort: 443, destinationPort: natPorts[`udp ${remote}`] as number, checksum }
      t.ok(compare(t, `answer ${checksum}`, 'up0', frameFor('up0', toNode(udp(back)))))
    }
  })
})

t.test('[P1] [P2] [P4] [P5] what does not take the hot path is left to the stages, untouched', async (t) => {
  const before = readEntries(node)
  for (const [name, device, network, options] of stageRows) {
    t.notOk(compare(t, name, device, frameFor(device, network), options), name)
    resetEntries(node, before)
  }
  const macs = { source: macBehind('a'), destination: a.mac }
  for (const id of [0, 7]) {
    t.notOk(compare(t, `VLAN ${id}`, 'a', ethernet({ ...macs, vlans: [{ id }] }, fromA(remote, ack()))), `VLAN ${id}`)
  }
  for (const length of [54, 61, 73]) {
    const short = frameFor('a', fromA(remote, ack('A', ''))).subarray(0, length)
    t.notOk(compare(t, `${length} bytes`, 'a', short), `${length} bytes from a pod`)
    const back = frameFor('up0', toNode(answer('tcp', 'A', ''))).subarray(0, length)
    t.notOk(compare(t, `${length} bytes`, 'up0', back), `${length} bytes from an uplink`)
  }
})

t.test('flows whose next hop has no known MAC any more', async (t) => {
  const rows = hotRows.filter(([name]) => /^(TCP with SNAT|TCP on-link with SNAT|UDP without SNAT)$/.test(name))
  t.equal(rows.length, 3)
  node.setNexthop(0, 'up0', { gateway: '192.0.2.1', known: false })
  node.setNeighbour('up0', onLink[6], onLink.mac, false)
  for (const [name, device, network] of rows) t.notOk(compare(t, name, device, frameFor(device, network)), name)
  node.setNexthop(0, 'up0', { gateway: '192.0.2.1' })
  node.setNeighbour('up0', onLink[6], onLink.mac)
  for (const [name, device, network] of rows) t.ok(compare(t, name, device, frameFor(device, network)), name)
})

t.test('a slot that other addresses share is for the stages', async (t) => {
  const outward = frameFor('a', fromA(remote, ack()))
  const inward = frameFor('up0', toNode(answer('tcp')))
  // one slot of pod_slots after the other would take too long to find: all have others now
  const { keys, values, count } = node.map('pod_slots').dump()
  const shared = Buffer.from(values)
  for (let at = 0; at < count; at++) shared.writeUInt32LE(1, at * 52 + 44)
  node.map('pod_slots').updateBatch(keys, shared, count)
  t.notOk(compare(t, 'out', 'a', outward))
  t.notOk(compare(t, 'in', 'up0', inward))
  node.map('pod_slots').updateBatch(keys, values, count)
  t.ok(compare(t, 'out', 'a', outward))
  t.ok(compare(t, 'in', 'up0', inward))
})

t.test('[S4] a UDP checksum that becomes 0 is sent as 0xffff, both ways', async (t) => {
  const ways = [
    ['a', (data: Buffer) => fromA(remote, datagram(data))],
    ['up0', (data: Buffer) => toNode(answer('udp', '', data))]
  ] as const
  for (const [device, make] of ways) {
    const first = node.sendFrame(device, frameFor(device, make(Buffer.alloc(2))))
    // the two bytes of payload take up what is left of the sum
    const payload = Buffer.alloc(2)
    payload.writeUInt16BE(first.frame.readUInt16BE(60))
    const frame = frameFor(device, make(payload))
    t.ok(compare(t, `from ${device}`, device, frame))
    t.equal(node.sendFrame(device, frame).frame.readUInt16BE(60), 0xffff)
  }
})

t.test('nothing takes the hot path while watched, switched off, after the lease, or with a policy', async (t) => {
  const rows = hotRows.filter(([name]) =>
    /^(TCP with SNAT|UDP without SNAT|an answer to SNAT, TCP|TCP from outside to a pod)$/.test(name)
  )
  t.equal(rows.length, 4)
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
  for (const device of ['a', 'up0'] as const) node.setDevice(device, { flags: 2 })
  none('policy')
  for (const device of ['a', 'up0'] as const) node.setDevice(device)
  node.setDevice('a', { flags: 8, class6: 5 })
  node.setClassRoute(5, '::/0', { nexthop: 4 })
  node.setControl({ routeGeneration: 2 })
  for (const [name, device, network] of rows.filter(([, device]) => device === 'a')) {
    t.notOk(compare(t, name, device, frameFor(device, network)), `ip rules for the device are asked once: ${name}`)
    t.ok(compare(t, name, device, frameFor(device, network)), `and the flow remembers the answer: ${name}`)
  }
  const toPod = frameFor('a', fromA(b.v6, ack()))
  t.notOk(compare(t, 'to a pod', 'a', toPod), 'ip rules for the device may lead away from a pod')
  node.setDevice('a')
  node.setControl({ routeGeneration: 1 })
  for (const [name, device, network] of rows) node.sendFrame(device, frameFor(device, network)) && t.pass(name)
})

t.test('[S12] a flow that is dying, dead, of another pod or of older routes is for the stages', async (t) => {
  const out = frameFor('a', fromA(remote, ack()))
  const back = frameFor('up0', toNode(answer('tcp')))
  const inward = frameFor('up0', toB(content('udp', 80, true)))
  const before = readEntries(node)
  const rows: [string, string, Buffer, number, number[]][] = [
    ['dying', 'flows6', out, 16, [1, 0, 0, 0]],
    ['dead', 'flows6', out, 16, [2, 0, 0, 0]],
    ['another pod', 'flows6', out, 12, [9, 9, 0, 0]],
    ['older routes', 'flows6', out, 0, [0, 0, 0, 0]],
    ['the answer dying', 'reverse6', back, 28, [1, 0, 0, 0]],
    ['the answer dead', 'reverse6', back, 28, [2, 0, 0, 0]],
    ['the answer for another pod', 'reverse6', back, 24, [9, 9, 0, 0]],
    ['from outside, dying', 'flows6', inward, 16, [1, 0, 0, 0]],
    ['from outside, dead', 'flows6', inward, 16, [2, 0, 0, 0]],
    ['from outside, of another pod', 'flows6', inward, 12, [9, 9, 0, 0]]
  ]
  for (const [name, table, frame, at, bytes] of rows) {
    changeEntries(node, before, table, at, bytes)
    t.notOk(compare(t, name, frame === out ? 'a' : 'up0', frame), name)
    resetEntries(node, before)
  }
})

t.test(
  '[K6] on a node that translates, TCP from outside is looked up, and flows of the stack go there at once',
  async (t) => {
    node.setControl({ translating: true })
    const inbound = (kind: 'tcp' | 'udp', port: number) => frameFor('up0', toB(content(kind, port, true, 'A')))
    const outbound = (kind: 'tcp' | 'udp', port: number, destination: string, flags = 'A') =>
      frameFor('a', fromA(destination, content(kind, port, false, flags)))
    const own = (
      local: string,
      far: string,
      kind: 'tcp' | 'udp',
      port: number,
      reason: string | null,
      pod: 'a' | 'b'
    ) =>
      node.setOwner(
        pod,
        { local, remote: far, localPort: port, remotePort: 443, protocol: kind === 'tcp' ? 6 : 17 },
        reason
      )
    for (const kind of ['tcp', 'udp'] as const) {
      t.ok(compare(t, 'opened from outside', 'up0', inbound(kind, 80)), `${kind} opened from outside`)
      own(b.v6, remote, kind, 84, 'translated-flow', 'b')
      t.ok(compare(t, 'from outside', 'up0', inbound(kind, 84)), `${kind}, the stack's, from outside`)
      own(a.v6, remote, kind, 84, 'translated-flow', 'b')
      t.notOk(compare(t, 'of another pod', 'up0', inbound(kind, 85)), `${kind}, an owner of another pod's`)
      // an established flow, and yet the stack's
      own(a.v6, remote, kind, port[kind], 'translated-flow', 'a')
      t.ok(compare(t, `${kind} to outside`, 'a', outbound(kind, port[kind], remote)))
      if (kind === 'tcp') t.ok(compare(t, 'its end', 'a', outbound(kind, port[kind], remote, 'FA')))
      if (kind === 'tcp') t.notOk(compare(t, 'opened anew', 'a', outbound(kind, port[kind], remote, 'S')))
      own(a.v6, remote, kind, port[kind], null, 'a')
      if (kind === 'tcp')
        t.notOk(compare(t, 'what the SYN has left', 'a', outbound(kind, 41_777, remote)), `${kind}, unknown`)
    }
    t.notOk(compare(t, 'not known', 'up0', inbound('tcp', 81)))
    t.ok(compare(t, 'asked about once', 'up0', inbound('tcp', 81)), 'and remembered')
    node.setControl({ flags: Control.on | Control.snat | Control.handOver })
    t.notOk(compare(t, 'before leaving', 'up0', inbound('tcp', 81)))
    node.setControl({ flags: Control.on | Control.snat })
    own(b.v6, remote, 'udp', 86, null, 'b')
    t.notOk(compare(t, 'UDP without an entry', 'up0', inbound('udp', 86)), 'gets one by the stages')
    t.ok(compare(t, 'UDP with an entry', 'up0', inbound('udp', 86)), 'and has it then')
    // no longer counts: conntrack is asked
    const owners = node.map('owners6').dump()
    own(a.v6, remote, 'udp', port.udp, 'translated-flow', 'a')
    const aged = node.map('owners6').dump()
    for (let at = 0; at < aged.count; at++)
      aged.values.writeUInt32LE((aged.values.readUInt32LE(at * 12) - 9_999) >>> 0, at * 12)
    node.map('owners6').updateBatch(aged.keys, aged.values, aged.count)
    t.notOk(compare(t, 'an owner of long ago', 'a', outbound('udp', port.udp, remote)))
    t.ok(owners.count > 0)
    node.setControl({ translating: false })
    t.ok(compare(t, 'owners are not asked', 'up0', inbound('tcp', 84)), 'TCP where nothing is translated')
  }
)

t.test('[K6] UDP from outside to a port that has sent to a translated destination is for the stages', async (t) => {
  node.setControl({ translating: true })
  const frame = frameFor('up0', toB(content('udp', 80, true)))
  t.ok(compare(t, 'before', 'up0', frame))
  node.setOwner(
    'b',
    { local: b.v6, remote: '::', localPort: 80, remotePort: 0, protocol: 17 },
    'translated-destination'
  )
  t.notOk(compare(t, 'after', 'up0', frame))
  node.setControl({ translating: false })
  t.ok(compare(t, 'where nothing is translated', 'up0', frame))
})

t.test('[S4] the sum over a CHECKSUM_COMPLETE packet from an uplink stays right', async (t) => {
  for (const [name, device, network, options] of hotRows.filter(([, device]) => device === 'up0')) {
    if (options) continue
    try {
      t.ok(compare(t, name, device, frameFor(device, network), { checksumComplete: true }), name)
    } catch (error) {
      if ((error as { code: string }).code !== 'EINVAL') throw error
      t.pass('before Linux 6.11 such a packet cannot be made')
    }
  }
})

t.test('random packets: on the hot path or not, the outcome is that of the stages', async (t) => {
  const { frames, below: random, pick, rare } = randomRounds(t)
  const before = readEntries(node)
  let hot = 0
  for (let round = 0; round < frames; round++) {
    const outward = random(2) === 0
    const data = Buffer.from(Array.from({ length: random(40) }, () => random(256)))
    const kind = pick(['tcp', 'udp'] as const)
    const far = pick(destinations)
    const toPod = random(3) === 0
    const local = outward ? port[kind] : toPod ? 80 : (natPorts[`${kind} ${far}`] as number)
    const ports = outward ? { sourcePort: local, destinationPort: 443 } : { sourcePort: 443, destinationPort: local }
    const checksum = rare(random(65_536))
    const sum = checksum === undefined ? {} : { checksum }
    const dataOffset = random(20) === 0 ? { dataOffset: random(16) } : {}
    const transport =
      kind === 'tcp'
        ? tcp({ ...ports, ...sum, ...dataOffset, flags: pick(['A', 'A', 'PA', '', 'FA', 'SA', 'R']) }, data)
        : udp({ ...ports, ...sum }, data)
    const fields = {
      trafficClass: random(256),
      flowLabel: random(0x100000),
      hopLimit: rare(random(3)) ?? 1 + random(255),
      ...(random(20) === 0 ? { payloadLength: random(80) } : {}),
      ...(random(30) === 0 ? { version: random(16) } : {}),
      ...(random(20) === 0 ? { extensions: [pick([fragmentHeader(9, 0, false), optionsHeader(60)])] } : {})
    }
    const network = outward
      ? ipv6({ source: a.v6, destination: far, ...fields }, transport)
      : ipv6({ source: toPod ? remote : far, destination: toPod ? b.v6 : up0.v6, ...fields }, transport)
    const device = outward ? 'a' : 'up0'
    const whole = frameFor(device, random(20) === 0 ? padded(network) : network)
    const frame = random(20) === 0 ? whole.subarray(0, Math.max(54, random(whole.length))) : whole
    if (compare(t, `round ${round}`, device, frame)) hot++
    resetEntries(node, before)
  }
  t.ok(hot > frames / 5, `${hot} of ${frames} took the hot path`)
})

t.teardown(() => node.close({ byHand: true }))
