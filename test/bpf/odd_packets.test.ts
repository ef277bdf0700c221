// Packets from a pod that are not plain routed IP: link protocols, options,
// extension headers, cut, contradictory or padded frames.
import './namespace.js'
import t from 'tap'
import {
  arp,
  echo,
  ethernet,
  fragmentHeader,
  icmp,
  icmpError,
  ip,
  ipv4,
  ipv6,
  type Network,
  neighbourDiscovery,
  optionsHeader,
  Protocol,
  routingHeader,
  tcp,
  udp
} from '../packets/packet.js'
import { type DeviceName, devices, testNode, to } from './node.js'

const node = testNode()
t.teardown(() => node.close())

const address = (name: DeviceName, family: 4 | 6) => devices[name][`v${family}`]

t.test('[F17] ARP and duplicate address detection of a pod are untouched', async (t) => {
  const question = arp({ operation: 1, senderMac: devices.a.podMac, sender: '10.1.0.2', target: '10.1.0.1' })
  t.equal(node.send('a', question, { mac: 'ff:ff:ff:ff:ff:ff' }).reason, 'not-for-router')
  t.equal(node.send('a', question).reason, 'not-ip')
  const detection = ipv6(
    { source: '::', destination: 'ff02::1:ff00:2', hopLimit: 255 },
    neighbourDiscovery(135, 'fd00:1::2', devices.a.podMac)
  )
  t.equal(node.send('a', detection).reason, 'link-local')
})

t.test('[S6] neighbour discovery, router discovery, MLD and redirects are the kernel’s', async (t) => {
  const addresses = { source: 'fd00:1::2', destination: 'fd00:1::3', hopLimit: 255 }
  t.equal(node.send('a', ipv6(addresses, neighbourDiscovery(135, 'fd00:1::3', devices.a.podMac))).reason, 'link-local')
  t.equal(node.send('a', ipv6(addresses, neighbourDiscovery(136, 'fd00:1::3', devices.a.podMac))).reason, 'link-local')
  for (const type of [130, 131, 132, 133, 134, 137, 143]) {
    t.equal(
      node.send(
        'a',
        ipv6(
          addresses,
          icmp(() => type, 0, Buffer.alloc(20))
        )
      ).reason,
      'link-local',
      `type ${type}`
    )
  }
})

t.test('[P5] IPv4 options and IPv6 extension headers are the kernel’s where no SNAT is due', async (t) => {
  const content = udp({ sourcePort: 1, destinationPort: 2 }, 'x')
  for (const destination of ['10.1.0.3', to.remoteNode[4]]) {
    for (const bytes of [
      [7, 7, 4, 0, 0, 0, 0],
      [1, 1, 1, 0]
    ]) {
      const options = ipv4({ source: '10.1.0.2', destination, options: Buffer.from(bytes) }, content)
      t.equal(node.send('a', options).reason, 'options')
    }
  }
  for (const destination of ['fd00:1::3', to.remoteNode[6]]) {
    const chains = [
      [optionsHeader(Protocol.hopByHop)],
      [routingHeader()],
      [optionsHeader(Protocol.destination)],
      [optionsHeader(Protocol.hopByHop), fragmentHeader(1, 0, true)]
    ]
    for (const extensions of chains) {
      t.equal(node.send('a', ipv6({ source: 'fd00:1::2', destination, extensions }, content)).reason, 'options')
    }
  }
})

t.test('[F17] [P5] a forged source is dropped, whatever else is unusual about the packet', async (t) => {
  const content = udp({ sourcePort: 1, destinationPort: 2 }, 'x')
  const spoofed = { verdict: 'drop', reason: 'drop-spoof' }
  const options = Buffer.from([1, 1, 1, 0])
  const forged4 = ['10.1.0.3', to.external[4], devices.up0.v4]
  for (const source of forged4) {
    for (const destination of ['10.1.0.3', to.external[4]])
      t.match(node.send('a', ipv4({ source, destination, options }, content)), spoofed, `options, ${source}`)
    for (const destination of ['224.0.0.251', '255.255.255.255', '169.254.169.254'])
      t.match(node.send('a', ipv4({ source, destination }, content)), spoofed, `${source} to ${destination}`)
  }
  for (const source of ['0.0.0.0', '169.254.7.7'])
    t.equal(node.send('a', ipv4({ source, destination: '224.0.0.22', options }, content)).reason, 'link-local')
  for (const source of ['fd00:1::3', to.external[6], devices.up0.v6]) {
    for (const destination of ['fd00:1::3', to.external[6]]) {
      for (const extension of [optionsHeader(Protocol.hopByHop), optionsHeader(Protocol.destination), routingHeader()])
        t.match(node.send('a', ipv6({ source, destination, extensions: [extension] }, content)), spoofed)
    }
  }
})

t.test('[P5] an IPv6 chain that is cut short is the kernel’s', async (t) => {
  const whole = ipv6(
    { source: 'fd00:1::2', destination: 'fd00:1::3', extensions: [optionsHeader(Protocol.hopByHop)] },
    udp({ sourcePort: 1, destinationPort: 2 })
  )
  for (let length = 40; length < whole.bytes.length; length++) {
    t.equal(node.send('a', { ...whole, bytes: whole.bytes.subarray(0, length) }).verdict, 'stack')
  }
})

t.test('[P6] malformed headers are the kernel’s, never dropped here', async (t) => {
  const addresses = { source: '10.1.0.2', destination: '10.1.0.3' }
  const content = udp({ sourcePort: 1, destinationPort: 2 }, 'x')
  const broken: [string, Network][] = [
    ['version 5', ipv4({ ...addresses, version: 5 }, content)],
    ['ihl 4', ipv4({ ...addresses, ihl: 4 }, content)],
    ['ihl 0', ipv4({ ...addresses, ihl: 0 }, content)],
    ['total length below the header', ipv4({ ...addresses, totalLength: 19 }, content)],
    ['total length 0', ipv4({ ...addresses, totalLength: 0 }, content)],
    ['total length above the frame', ipv4({ ...addresses, totalLength: 500 }, content)],
    ['IPv6 version 4', ipv6({ source: 'fd00:1::2', destination: 'fd00:1::3', version: 4 }, content)],
    [
      'IPv6 payload length above the frame',
      ipv6({ source: 'fd00:1::2', destination: 'fd00:1::3', payloadLength: 99 }, content)
    ]
  ]
  for (const [name, network] of broken) t.equal(node.send('a', network).reason, 'malformed', name)
})

t.test('[P6] an IPv4 header with a wrong checksum is not forwarded', async (t) => {
  const network = ipv4(
    { source: '10.1.0.2', destination: '10.1.0.3', checksum: 0x1234 },
    udp({ sourcePort: 1, destinationPort: 2 })
  )
  t.equal(node.send('a', network).verdict, 'stack')
})

t.test('[P6] transport headers that are cut short leave the node through the kernel only', async (t) => {
  for (const family of [4, 6] as const) {
    const addresses = { source: address('a', family), destination: to.external[family] }
    for (const content of [
      tcp({ sourcePort: 1, destinationPort: 2, flags: 'S' }),
      udp({ sourcePort: 1, destinationPort: 2 }),
      echo({ id: 1 })
    ]) {
      const length = ip(addresses, content).bytes.length
      const header = family === 4 ? 20 : 40
      for (let size = header; size < length; size++) {
        const bytes = Buffer.from(ip(addresses, content).bytes.subarray(0, size))
        if (family === 4) {
          const shorter = ipv4({ ...addresses, protocol: bytes[9] }, bytes.subarray(20))
          t.equal(node.send('a', shorter).reason, 'malformed')
        } else {
          bytes.writeUInt16BE(size - 40, 4)
          t.equal(node.send('a', { etherType: 0x86dd, bytes }).reason, 'malformed')
        }
      }
    }
  }
})

t.test('[P6] short frames and a VLAN tag are the kernel’s', async (t) => {
  const macs = { source: devices.a.podMac, destination: devices.a.mac }
  const whole = ethernet(
    macs,
    ip({ source: '10.1.0.2', destination: '10.1.0.3' }, udp({ sourcePort: 1, destinationPort: 2 }))
  )
  // Shorter ones BPF_PROG_TEST_RUN itself refuses.
  for (let length = 34; length < whole.length; length++) {
    t.equal(node.sendFrame('a', whole.subarray(0, length)).reason, 'malformed')
  }
  const tagged = node.send(
    'a',
    ip({ source: '10.1.0.2', destination: '10.1.0.3' }, udp({ sourcePort: 1, destinationPort: 2 })),
    { vlans: [{ id: 5 }] }
  )
  t.equal(tagged.verdict, 'stack')
})

t.test('[P6] a frame padded to the Ethernet minimum is forwarded', async (t) => {
  const macs = { source: devices.a.podMac, destination: devices.a.mac }
  const short = ethernet(
    macs,
    ip({ source: '10.1.0.2', destination: '10.1.0.3' }, udp({ sourcePort: 1, destinationPort: 2 }, 'x'))
  )
  t.equal(node.sendFrame('a', Buffer.concat([short, Buffer.alloc(60 - short.length)])).reason, 'to-pod')
})

t.test('[S5] ICMP errors that a pod sends about a direct flow are forwarded as they are', async (t) => {
  for (const family of [4, 6] as const) {
    const source = address('a', family)
    const original = ip(
      { source: address('b', family), destination: source },
      udp({ sourcePort: 9, destinationPort: 10 }, 'x')
    )
    const error = icmpError({ type: family === 4 ? 3 : 1, code: 3 }, original)
    const result = node.send('a', ip({ source, destination: address('b', family) }, error))
    t.equal(result.reason, 'to-pod')
    t.equal(result.packet.l4?.checksumOk, true)
  }
})
