// The XDP program before an uplink: what no stack would take is dropped,
// everything else passes.
import './namespace.js'
import t from 'tap'
import { arp, echo, ethernet, ip, ipv4, ipv6, type Network, tcp, udp } from '../packets/packet.js'
import { devices, testNode, to } from './node.js'

const node = testNode()
// The kernel knows the receive queue of a veth only while XDP is attached.
node.object.attachXdp('uplink_filter', node.ifindexOf('up0'), 'native')
t.teardown(() => node.close())

const macs = { source: devices.up0.podMac, destination: devices.up0.mac }
const four = { source: to.external[4], destination: devices.up0.v4 }
const six = { source: to.external[6], destination: devices.up0.v6 }
const content = udp({ sourcePort: 1, destinationPort: 2 }, 'x')
const judge = (network: Network) => node.filter('up0', ethernet(macs, network))

t.test('ordinary packets pass', async (t) => {
  for (const addresses of [four, six]) {
    for (const body of [content, tcp({ sourcePort: 1, destinationPort: 2 }), echo({ id: 1 })]) {
      t.equal(judge(ip(addresses, body)), 'pass')
    }
  }
  t.equal(judge(arp({ operation: 1, senderMac: macs.source, sender: '192.0.2.1', target: '192.0.2.10' })), 'pass')
  t.equal(judge({ etherType: 0x88cc, bytes: Buffer.alloc(40) }), 'pass', 'LLDP')
  t.equal(node.filter('up0', ethernet({ ...macs, vlans: [{ id: 7 }] }, ip(four, content))), 'pass')
  t.equal(judge(ipv4({ ...four, options: Buffer.from([7, 7, 4, 0, 0, 0, 0]) }, content)), 'pass')
  t.equal(judge(ipv4({ source: '0.0.0.0', destination: '255.255.255.255' }, content)), 'pass', 'DHCP')
  t.equal(judge(ipv6({ source: '::', destination: 'ff02::1' }, content)), 'pass', 'duplicate address detection')
  t.equal(judge(ipv4({ ...four, checksum: 1 }, content)), 'pass', 'the header checksum is the stack’s to check')
})

t.test('[P6] a padded frame and fragments pass', async (t) => {
  t.equal(node.filter('up0', Buffer.concat([ethernet(macs, ip(four, content)), Buffer.alloc(30)])), 'pass')
  t.equal(judge(ipv4({ ...four, fragmentOffset: 64 }, Buffer.alloc(32))), 'pass')
})

t.test('[P6] contradictory headers are dropped and counted', async (t) => {
  const broken: [string, Network][] = [
    ['version 5', ipv4({ ...four, version: 5 }, content)],
    ['ihl 4', ipv4({ ...four, ihl: 4 }, content)],
    ['ihl beyond the total length', ipv4({ ...four, ihl: 15 }, content)],
    ['total length 0', ipv4({ ...four, totalLength: 0 }, content)],
    ['total length above the frame', ipv4({ ...four, totalLength: 200 }, content)],
    ['IPv4 header cut', { etherType: 0x0800, bytes: ip(four, content).bytes.subarray(0, 19) }],
    ['IPv6 version 4', ipv6({ ...six, version: 4 }, content)],
    ['IPv6 payload above the frame', ipv6({ ...six, payloadLength: 200 }, content)],
    ['IPv6 header cut', { etherType: 0x86dd, bytes: ip(six, content).bytes.subarray(0, 39) }]
  ]
  for (const [name, network] of broken) t.equal(judge(network), 'drop-malformed', name)
})

t.test('martian sources are dropped and counted', async (t) => {
  for (const source of ['127.0.0.1', '127.9.9.9', '224.0.0.1', '239.255.255.255', '255.255.255.255']) {
    t.equal(judge(ipv4({ ...four, source }, content)), 'drop-martian', source)
  }
  for (const source of ['::1', 'ff02::1', 'ff0e::5'])
    t.equal(judge(ipv6({ ...six, source }, content)), 'drop-martian', source)
})

t.test('switched off or on an unknown device everything passes', async (t) => {
  const martian = ethernet(macs, ipv4({ ...four, source: '127.0.0.1' }, content))
  node.setControl({ flags: 0 })
  t.equal(node.filter('up0', martian), 'pass')
  node.setControl({ flags: 1 })
  t.equal(node.filter('up0', martian), 'drop-martian')
  node.setDevice('up0', { ifindex: 0 })
  t.equal(node.filter('up0', martian), 'pass')
  node.setDevice('up0')
})
