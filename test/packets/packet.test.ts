import t from 'tap'
import { addressBytes, addressText, checksum } from './bytes.js'
import {
  arp,
  EtherType,
  echo,
  ethernet,
  fragmentHeader,
  fragments,
  icmpError,
  ip,
  ipv4,
  ipv6,
  neighbourDiscovery,
  optionsHeader,
  Protocol,
  parsePacket,
  raw,
  readPcap,
  routingHeader,
  tcp,
  udp
} from './packet.js'

const macs = { source: '02:00:00:00:00:01', destination: '02:00:00:00:00:02' }
const v4 = { source: '10.1.0.2', destination: '192.0.2.9' }
const v6 = { source: 'fd00::2', destination: '2001:db8::9' }

t.test('addresses survive the way to bytes and back', async (t) => {
  for (const text of ['10.0.0.1', '::', '::1', 'fd00::2', '2001:db8::1:0:0:1', '1:2:3:4:5:6:7:8', 'fe80::']) {
    t.equal(addressText(addressBytes(text)), text)
  }
  t.same(addressBytes('::ffff:10.1.0.2').toString('hex'), '00000000000000000000ffff0a010002')
  t.throws(() => addressBytes('10.0.0'))
  t.throws(() => addressBytes('1:2:3'))
})

t.test('the checksum of a known IPv4 header is the published one', async (t) => {
  const header = Buffer.from('45000073000040004011 0000 c0a80001c0a800c7'.replaceAll(' ', ''), 'hex')
  t.equal(checksum(header), 0xb861)
})

t.test('frames that a Linux stack sent are built byte for byte', async (t) => {
  const loopback = { source: '00:00:00:00:00:00', destination: '00:00:00:00:00:00' }
  const four = { source: '127.0.0.1', destination: '127.0.0.1' }
  const request = ipv4({ ...four, id: 0xea83 }, echo({ id: 7032 }, 'abcd'))
  t.equal(
    ethernet(loopback, request).toString('hex'),
    '0000000000000000000000000800450000 20ea8340004001 52577f0000017f0000010800 17c01b78000161626364'.replaceAll(
      ' ',
      ''
    )
  )
  const request6 = ipv6({ source: '::1', destination: '::1', flowLabel: 0xdd597 }, echo({ id: 7033 }, 'abcd'))
  t.equal(
    request6.bytes.toString('hex'),
    `600dd597000c3a40${'0'.repeat(31)}1${'0'.repeat(31)}180009f761b79000161626364`
  )
  // lo leaves the checksum of UDP to the device: only the pseudo header's sum is there
  const datagram = udp({ sourcePort: 4000, destinationPort: 53, checksum: 0xfe20 }, 'hello')
  const error = icmpError({ type: 3, code: 3 }, ipv4({ ...four, id: 0x7593 }, datagram))
  t.equal(
    ipv4({ ...four, id: 0xea89, df: false, tos: 0xc0 }, error).bytes.toString('hex'),
    '45c0003dea890000400191747f0000017f0000010303ab2700000000' +
      '4500002175934000 4011c7367f0000017f0000010fa00035000dfe2068656c6c6f'.replace(' ', '')
  )
})

for (const addresses of [v4, v6]) {
  const family = addresses === v4 ? 4 : 6
  t.test(`TCP, UDP and echo over IPv${family} have correct checksums`, async (t) => {
    const contents = [
      tcp({ sourcePort: 1, destinationPort: 2, flags: 'SA', options: Buffer.from([2, 4, 5, 180]) }, 'odd'),
      udp({ sourcePort: 1, destinationPort: 2 }, 'even'),
      echo({ id: 7, sequence: 3 }, 'ping!'),
      echo({ id: 7, reply: true })
    ]
    for (const content of contents) {
      const parsed = parsePacket(ethernet(macs, ip({ ...addresses, ttl: 9 }, content)))
      t.match(parsed, { ip: { family, ...addresses, ttl: 9, headerChecksumOk: true }, l4: { checksumOk: true } })
      t.same(parsed.problems, [])
    }
    const syn = parsePacket(ethernet(macs, ip(addresses, contents[0]!)))
    t.match(syn.l4, { flags: 'SA', sequence: 1, sourcePort: 1, destinationPort: 2 })
    t.equal(syn.l4?.options?.toString('hex'), '020405b4')
    t.match(parsePacket(ethernet(macs, ip(addresses, contents[2]!))).l4, { id: 7, sequence: 3 })
  })

  t.test(`a single changed byte is noticed over IPv${family}`, async (t) => {
    const frame = ethernet(macs, ip(addresses, tcp({ sourcePort: 1, destinationPort: 2 }, 'data')))
    frame.writeUInt8(frame[frame.length - 1]! ^ 1, frame.length - 1)
    t.equal(parsePacket(frame).l4?.checksumOk, false)
  })

  t.test(`fragments over IPv${family} carry the whole body in order`, async (t) => {
    const network = ip(addresses, udp({ sourcePort: 1, destinationPort: 2 }, Buffer.alloc(100, 7)))
    const parts = fragments(network, 40, 99).map((part) => parsePacket(ethernet(macs, part)))
    t.same(
      parts.map(({ ip }) => [ip?.fragmentOffset, ip?.mf, ip?.id, ip?.headerChecksumOk]),
      [
        [0, true, 99, true],
        [40, true, 99, true],
        [80, false, 99, true]
      ]
    )
    t.equal(parts[0]?.l4?.sourcePort, 1)
    t.equal(parts[0]?.l4?.checksumOk, null)
    t.equal(parts[1]?.l4, undefined)
  })

  t.test(`an ICMP error over IPv${family} shows the packet inside`, async (t) => {
    const original = ip(addresses, udp({ sourcePort: 4000, destinationPort: 53 }, 'question'))
    const error = icmpError({ type: family === 4 ? 3 : 1, code: 3 }, original)
    const parsed = parsePacket(
      ethernet(macs, ip({ source: addresses.destination, destination: addresses.source }, error))
    )
    t.equal(parsed.l4?.checksumOk, true)
    t.match(parsed.embedded, { ip: { ...addresses }, l4: { sourcePort: 4000, checksumOk: true } })
    const short = icmpError({ type: family === 4 ? 3 : 1, code: 3, quote: (family === 4 ? 20 : 40) + 8 }, original)
    const cut = parsePacket(ethernet(macs, ip({ source: addresses.destination, destination: addresses.source }, short)))
    t.match(cut.embedded, { l4: { sourcePort: 4000, checksumOk: null } })
  })
}

t.test('UDP without a checksum stays without one, and a computed 0 becomes 0xffff', async (t) => {
  const none = parsePacket(ethernet(macs, ip(v4, udp({ sourcePort: 1, destinationPort: 2, checksum: 0 }, 'x'))))
  t.match(none.l4, { checksum: 0, checksumOk: null })
  const zero = Array.from({ length: 65536 }, (_, sourcePort) => sourcePort).find((sourcePort) => {
    const l4 = parsePacket(ethernet(macs, ip(v4, udp({ sourcePort, destinationPort: 2 })))).l4
    return l4?.checksum === 0xffff
  })
  t.type(zero, 'number')
})

t.test('VLAN tags, IPv4 options and overridden fields come out as given', async (t) => {
  const options = Buffer.from([7, 7, 4, 0, 0, 0, 0])
  const network = ipv4({ ...v4, options, totalLength: 99, checksum: 1, df: false }, raw(Protocol.gre))
  const frame = ethernet(
    {
      ...macs,
      vlans: [
        { id: 5, type: EtherType.qinq },
        { id: 6, priority: 3 }
      ]
    },
    network
  )
  const parsed = parsePacket(frame)
  t.match(parsed.vlans, [
    { id: 5, type: 0x88a8 },
    { id: 6, priority: 3 }
  ])
  t.match(parsed.ip, { headerLength: 28, headerChecksumOk: false, length: 99, protocol: 47, df: false })
  t.equal(parsed.problems.length, 1)
})

t.test('IPv6 extension headers are walked to the transport', async (t) => {
  const extensions = [
    optionsHeader(Protocol.hopByHop),
    routingHeader(),
    fragmentHeader(3, 0, false),
    optionsHeader(Protocol.destination)
  ]
  const parsed = parsePacket(ethernet(macs, ipv6({ ...v6, extensions }, udp({ sourcePort: 1, destinationPort: 2 }))))
  t.match(parsed.ip, { extensions: [0, 43, 44, 60], protocol: 17, fragment: true })
  t.equal(parsed.l4?.checksumOk, true)
})

t.test('ARP and neighbour discovery parse', async (t) => {
  const request = arp({ operation: 1, senderMac: macs.source, sender: '10.1.0.2', target: '10.1.0.1' })
  t.match(parsePacket(ethernet(macs, request)).arp, { operation: 1, sender: '10.1.0.2', target: '10.1.0.1' })
  const solicitation = ipv6({ ...v6, hopLimit: 255 }, neighbourDiscovery(135, 'fd00::1', macs.source))
  t.match(parsePacket(ethernet(macs, solicitation)).l4, { type: 135, checksumOk: true })
})

t.test('any prefix of any frame parses without an exception', async (t) => {
  const inner = ip(v6, tcp({ sourcePort: 1, destinationPort: 2 }, 'abc'))
  const frame = ethernet(
    macs,
    ip({ source: v6.destination, destination: v6.source }, icmpError({ type: 1, code: 0 }, inner))
  )
  for (let length = 0; length < frame.length; length++) t.doesNotThrow(() => parsePacket(frame.subarray(0, length)))
})

t.test('a capture file is read in both byte orders, a cut last record left out', async (t) => {
  for (const little of [true, false]) {
    const file = Buffer.alloc(24 + 16 + 4 + 16)
    const put = (value: number, at: number) => (little ? file.writeUInt32LE(value, at) : file.writeUInt32BE(value, at))
    put(0xa1b2c3d4, 0)
    put(100, 24)
    put(500000, 28)
    put(4, 32)
    put(4, 36)
    file.write('abcd', 40, 'latin1')
    put(9, 44 + 8)
    const packets = readPcap(file)
    t.equal(packets.length, 1)
    t.equal(packets[0]?.time, 100.5)
    t.equal(packets[0]?.frame.toString(), 'abcd')
  }
  t.throws(() => readPcap(Buffer.alloc(30)), /tcpdump -w/)
})
