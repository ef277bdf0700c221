// Packets that come in by an uplink: for a pod, for the node, for beyond it.
// Answers to SNATed flows are in snat.test.ts, ICMP errors in icmp_error.test.ts.
import './namespace.js'
import t from 'tap'
import {
  arp,
  echo,
  ethernet,
  fragments,
  ip,
  ipv4,
  ipv6,
  neighbourDiscovery,
  optionsHeader,
  Protocol,
  raw,
  tcp,
  udp
} from '../packets/packet.js'
import { devices, secondary, testNode, to } from './node.js'

const node = testNode()
t.teardown(() => node.close())

for (const family of [4, 6] as const) {
  const source = to.external[family]
  const destination = devices.a[`v${family}`]
  const contents = {
    TCP: tcp({ sourcePort: 40000, destinationPort: 80, flags: 'S' }, 'x'),
    'TCP mid-flow': tcp({ sourcePort: 40001, destinationPort: 80, flags: 'PA' }, 'x'),
    UDP: udp({ sourcePort: 40000, destinationPort: 53 }, 'x'),
    'UDP without data': udp({ sourcePort: 40000, destinationPort: 53 }),
    echo: echo({ id: 5 }, 'x'),
    SCTP: raw(Protocol.sctp),
    ESP: raw(Protocol.esp)
  }
  for (const [name, content] of Object.entries(contents)) {
    t.test(`[F2] ${name} over IPv${family} for a pod goes into it`, async (t) => {
      const result = node.send('up0', ip({ source, destination }, content))
      t.match(result, { verdict: 'forward', reason: 'to-pod' })
      const macs = { source: devices.a.mac, destination: devices.a.podMac }
      t.same(result.frame, ethernet(macs, ip({ source, destination, ttl: 63 }, content)))
    })
  }

  t.test(`[F2] IPv${family} fragments for a pod go into it`, async (t) => {
    const whole = ip({ source, destination }, udp({ sourcePort: 1, destinationPort: 2 }, Buffer.alloc(900)))
    for (const part of fragments(whole, 400)) t.equal(node.send('up0', part).reason, 'to-pod')
  })

  t.test(`[F2] a pod's second IPv${family} address is served`, async (t) => {
    t.equal(node.send('up0', ip({ source, destination: secondary[family] }, contents.UDP)).reason, 'to-pod')
  })

  t.test(`[F4] IPv${family} for the node or beyond it is the kernel's`, async (t) => {
    for (const other of [to.node[family], to.remoteNode[family], to.onLinkUnknown[family]]) {
      for (const content of Object.values(contents)) {
        t.equal(node.send('up0', ip({ source, destination: other }, content)).reason, 'node', other)
      }
    }
  })

  t.test(`[F4] IPv${family} fragments for the node are the kernel's`, async (t) => {
    const whole = ip(
      { source, destination: to.node[family] },
      udp({ sourcePort: 1, destinationPort: 2 }, Buffer.alloc(900))
    )
    for (const part of fragments(whole, 400)) t.equal(node.send('up0', part).verdict, 'stack')
  })

  t.test(`[P1] IPv${family} TTL 1 for a pod is the kernel's`, async (t) => {
    t.equal(node.send('up0', ip({ source, destination, ttl: 1 }, contents.UDP)).reason, 'ttl')
    t.equal(node.send('up0', ip({ source, destination, ttl: 2 }, contents.UDP)).reason, 'to-pod')
  })

  t.test(
    `[P2] IPv${family} larger than the pod's device takes is the kernel's, GSO is judged by segments`,
    async (t) => {
      const own = testNode()
      own.setPod('a', destination, { mtu: 1300 })
      const header = family === 4 ? 28 : 48
      const sized = (size: number) =>
        own.send(
          'up0',
          ip({ source, destination }, udp({ sourcePort: 1, destinationPort: 2 }, Buffer.alloc(size - header)))
        ).reason
      t.equal(sized(1300), 'to-pod')
      t.equal(sized(1301), 'mtu')
      const large = ip(
        { source, destination },
        tcp({ sourcePort: 1, destinationPort: 2, flags: 'A' }, Buffer.alloc(2400))
      )
      t.equal(own.send('up0', large, { gsoSize: 1200 }).reason, 'to-pod')
      t.equal(own.send('up0', large, { gsoSize: 1400 }).reason, 'mtu')
      own.close()
    }
  )

  t.test(`a pod whose MAC is not known yet gets IPv${family} from the kernel`, async (t) => {
    t.equal(
      node.send('up0', ip({ source, destination: devices.c[`v${family}`] }, contents.UDP)).reason,
      'pod-not-ready'
    )
  })

  t.test(`[F5] IPv${family} frames for others and special addresses are the kernel's`, async (t) => {
    for (const mac of ['ff:ff:ff:ff:ff:ff', '01:00:5e:00:00:01', '02:99:00:00:00:01']) {
      t.equal(node.send('up0', ip({ source, destination }, contents.UDP), { mac }).reason, 'not-for-router')
    }
    for (const special of family === 4
      ? ['224.0.0.1', '255.255.255.255', '127.0.0.1']
      : ['ff02::1', 'fe80::1', '::1']) {
      t.equal(node.send('up0', ip({ source, destination: special }, contents.UDP)).reason, 'link-local')
      t.equal(node.send('up0', ip({ source: special, destination }, contents.UDP)).reason, 'link-local')
    }
  })

  t.test(`a policy on the uplink leaves IPv${family} to the kernel`, async (t) => {
    const own = testNode()
    own.setDevice('up0', { flags: family === 4 ? 1 : 2 })
    t.equal(own.send('up0', ip({ source, destination }, contents.UDP)).reason, 'policy')
    own.close()
  })

  t.test(
    `[D6] IPv${family}: what comes from outside with a pod's address is the kernel's, in every state`,
    async (t) => {
      const own = testNode()
      const from = { source: devices.b[`v${family}`], destination: devices.a[`v${family}`] }
      for (const flags of ['S', 'SA', 'A', 'PA', 'FA', 'R']) {
        const packet = ip(from, tcp({ sourcePort: 40000, destinationPort: 80, flags }))
        t.equal(own.send('up0', packet).reason, 'route', flags)
      }
      t.equal(own.send('up0', ip(from, contents.UDP)).reason, 'route', 'UDP')
      t.same(own.flows(family), [])
      own.close()
    }
  )

  t.test(`[S13] IPv${family}: a second SYN of the same inbound connection keeps one entry`, async (t) => {
    const own = testNode()
    for (let round = 0; round < 3; round++) own.send('up0', ip({ source, destination }, contents.TCP))
    t.match(own.flows(family), [{ verdict: 'inbound', localPort: 80, remotePort: 40000 }])
    t.equal(own.flows(family).length, 1)
    own.close()
  })

  t.test(`[S10] IPv${family}: an inbound connection goes on with the flow table full`, async (t) => {
    const own = testNode({ sizes: { [`flows${family}`]: 1 } })
    own.send('up0', ip({ source, destination }, udp({ sourcePort: 1, destinationPort: 2 })))
    t.equal(own.send('up0', ip({ source, destination }, contents.TCP)).reason, 'to-pod')
    own.close()
  })
}

t.test('[S6] ARP, neighbour discovery, options and extension headers are the kernel’s', async (t) => {
  const mac = devices.up0.podMac
  const question = arp({ operation: 1, senderMac: mac, sender: '192.0.2.1', target: '192.0.2.10' })
  t.equal(node.send('up0', question).reason, 'not-ip')
  const six = { source: to.external[6], destination: devices.a.v6 }
  t.equal(
    node.send('up0', ipv6({ ...six, hopLimit: 255 }, neighbourDiscovery(135, devices.a.v6, mac))).reason,
    'link-local'
  )
  const content = udp({ sourcePort: 1, destinationPort: 2 })
  t.equal(node.send('up0', ipv6({ ...six, extensions: [optionsHeader(Protocol.hopByHop)] }, content)).reason, 'options')
  const four = { source: to.external[4], destination: devices.a.v4 }
  t.equal(node.send('up0', ipv4({ ...four, options: Buffer.from([148, 4, 0, 0]) }, content)).reason, 'options')
})
