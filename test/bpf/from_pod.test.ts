// Packets that leave a pod: every stage of from_pod up to SNAT, which
// snat.test.ts has. The node's tables are drawn in node.ts.
import './namespace.js'
import t from 'tap'
import {
  echo,
  ethernet,
  fragments,
  ip,
  type Network,
  Protocol,
  raw,
  type Transport,
  tcp,
  udp
} from '../packets/packet.js'
import { Control } from './layout.js'
import { devices, macBehind, onLink, secondary, testNode, to } from './node.js'

const node = testNode()
/** Routing alone: no SNAT anywhere. */
const plain = testNode({ flags: Control.on })
t.teardown(() => {
  node.close()
  plain.close()
})

type Family = 4 | 6
const address = (name: keyof typeof devices, family: Family) => devices[name][`v${family}`]
const transports: [name: string, content: Transport][] = [
  ['TCP', tcp({ sourcePort: 40000, destinationPort: 80, flags: 'S' }, 'syn data')],
  ['UDP', udp({ sourcePort: 40000, destinationPort: 53 }, 'question')],
  ['echo', echo({ id: 77 }, 'ping')]
]

/** The packet as it is sent on: TTL one less. */
function forwarded(family: Family, destination: string, content: Transport): Network {
  return ip({ source: address('a', family), destination, ttl: 63 }, content)
}

for (const family of [4, 6] as const) {
  const source = address('a', family)
  const b = address('b', family)

  for (const [name, content] of transports) {
    t.test(`[F1] ${name} over IPv${family} to a pod of this node goes into it`, async (t) => {
      const result = node.send('a', ip({ source, destination: b }, content))
      t.match(result, { verdict: 'forward', reason: 'to-pod' })
      const macs = { source: devices.b.mac, destination: devices.b.podMac }
      t.same(result.frame, ethernet(macs, forwarded(family, b, content)))
    })

    t.test(`[F3] ${name} over IPv${family} through the gateway without SNAT keeps every other byte`, async (t) => {
      const destination = to.external[family]
      const result = plain.send('a', ip({ source, destination }, content))
      t.match(result, { verdict: 'forward', reason: 'to-uplink' })
      const macs = { source: devices.up0.mac, destination: macBehind('up0') }
      t.same(result.frame, ethernet(macs, forwarded(family, destination, content)))
    })
  }

  t.test(`[F1] a pod's second IPv${family} address is a valid source and destination`, async (t) => {
    const content = transports[1]![1]
    t.equal(node.send('a', ip({ source: secondary[family], destination: b }, content)).reason, 'to-pod')
    t.equal(node.send('b', ip({ source: b, destination: secondary[family] }, content)).reason, 'to-pod')
  })

  t.test(`[F3] IPv${family} on-link destinations use their own neighbour, unknown ones the kernel's`, async (t) => {
    const content = transports[1]![1]
    const known = plain.send('a', ip({ source, destination: onLink[family] }, content))
    t.match(known, { reason: 'to-uplink', packet: { destinationMac: onLink.mac, sourceMac: devices.up0.mac } })
    const unknown = plain.send('a', ip({ source, destination: to.onLinkUnknown[family] }, content))
    t.equal(unknown.reason, 'unresolved')
    const remote = node.send('a', ip({ source, destination: to.remoteNode[family] }, content))
    t.equal(remote.reason, 'to-neighbour')
    t.equal(remote.packet.ip?.source, source)
  })

  t.test(`[F3] an IPv${family} MAC that is no longer known good is not used any more`, async (t) => {
    const own = testNode({ flags: Control.on })
    const packet = ip({ source, destination: to.external[family] }, transports[1]![1])
    t.equal(own.send('a', packet).reason, 'to-uplink')
    own.setNexthop(0, 'up0', { gateway: '192.0.2.1', known: false })
    t.equal(own.send('a', packet).reason, 'to-neighbour')
    own.setNexthop(0, 'up0', { gateway: '192.0.2.1', mac: '02:00:00:00:99:99' })
    t.match(own.send('a', packet), { reason: 'to-uplink', packet: { destinationMac: '02:00:00:00:99:99' } })
    own.close()
  })

  t.test(`[F7] the longest IPv${family} prefix decides, also when it says stack`, async (t) => {
    const content = transports[1]![1]
    const reason = (destination: string) => plain.send('a', ip({ source, destination }, content)).reason
    t.equal(reason(to.hostRoute[family]), 'to-uplink')
    t.equal(reason(to.blackhole[family]), 'route')
    t.equal(reason(to.node[family]), 'local')
  })

  t.test(`[F6] an IPv${family} destination in no map is the kernel's`, async (t) => {
    const own = testNode()
    own.setRoute(family === 4 ? '0.0.0.0/0' : '::/0', null)
    t.equal(own.send('a', ip({ source, destination: to.external[family] }, transports[0]![1])).reason, 'no-route')
    own.close()
  })

  t.test(`[F7] a changed IPv${family} route moves a flow at once when the generation is raised`, async (t) => {
    const own = testNode({ flags: Control.on })
    const packet = ip({ source, destination: to.external[family] }, transports[1]![1])
    t.equal(own.send('a', packet).reason, 'to-uplink')
    own.setRoute(family === 4 ? '0.0.0.0/0' : '::/0', { stack: 'route' })
    own.setControl({ routeGeneration: 2 })
    t.equal(own.send('a', packet).reason, 'route')
    own.setRoute(family === 4 ? '0.0.0.0/0' : '::/0', { nexthop: 3 })
    own.setControl({ routeGeneration: 3 })
    t.match(own.send('a', packet), { reason: 'to-uplink', packet: { sourceMac: devices.up1.mac } })
    own.close()
  })

  t.test(`[F11] both legs of an IPv${family} group are used and a flow keeps its leg`, async (t) => {
    const legs = new Map<number, string>()
    for (let round = 0; round < 3; round++) {
      for (let sourcePort = 1000; sourcePort < 1060; sourcePort++) {
        const content = udp({ sourcePort, destinationPort: 53 })
        const { packet, reason } = plain.send('a', ip({ source, destination: to.group[family] }, content))
        t.equal(reason, 'to-uplink')
        t.equal(packet.destinationMac, legs.get(sourcePort) ?? packet.destinationMac)
        legs.set(sourcePort, packet.destinationMac)
      }
    }
    t.same([...new Set(legs.values())].sort(), [macBehind('up1'), macBehind('up0')].sort())
  })

  t.test(`[F17] IPv${family} from an address that is not the pod's is dropped`, async (t) => {
    const content = transports[1]![1]
    for (const spoofed of [b, address('up0', family), to.external[family]]) {
      t.match(node.send('a', ip({ source: spoofed, destination: to.external[family] }, content)), {
        verdict: 'drop',
        reason: 'drop-spoof'
      })
    }
    const routed = node.send('b', ip({ source: secondary[family], destination: to.external[family] }, content))
    t.equal(routed.reason, 'drop-spoof')
  })

  t.test(`[F5] IPv${family} to itself, to the link or to many is the kernel's`, async (t) => {
    const content = transports[1]![1]
    t.equal(node.send('a', ip({ source, destination: source }, content)).reason, 'same-pod')
    t.equal(node.send('a', ip({ source, destination: secondary[family] }, content)).reason, 'same-pod')
    const special =
      family === 4
        ? ['169.254.1.1', '224.0.0.1', '239.1.1.1', '255.255.255.255', '127.0.0.1', '0.0.0.0']
        : ['fe80::1', 'ff02::1', 'ff05::2', '::1', '::']
    for (const destination of special) {
      t.equal(node.send('a', ip({ source, destination }, content)).reason, 'link-local', destination)
    }
  })

  t.test(`a pod whose MAC is not known yet gets its IPv${family} packets from the kernel`, async (t) => {
    const packet = ip({ source, destination: address('c', family) }, transports[0]![1])
    t.equal(node.send('a', packet).reason, 'pod-not-ready')
  })

  t.test(`[P1] IPv${family} TTL 1 and 0 go to the kernel, which answers time exceeded`, async (t) => {
    for (const destination of [b, to.external[family], to.remoteNode[family]]) {
      for (const ttl of [0, 1]) {
        t.equal(node.send('a', ip({ source, destination, ttl }, transports[1]![1])).reason, 'ttl')
      }
      t.equal(node.send('a', ip({ source, destination, ttl: 2 }, transports[1]![1])).verdict, 'forward')
    }
  })

  t.test(`[P2] IPv${family} larger than the way takes goes to the kernel, exactly as large is sent`, async (t) => {
    const header = family === 4 ? 28 : 48
    const sized = (destination: string, size: number) =>
      node.send(
        'a',
        ip({ source, destination }, udp({ sourcePort: 5, destinationPort: 6 }, Buffer.alloc(size - header)))
      ).reason
    t.equal(sized(b, 1500), 'to-pod')
    t.equal(sized(b, 1501), 'mtu')
    t.equal(sized(to.external[family], 1500), 'to-uplink')
    t.equal(sized(to.external[family], 1501), 'mtu')
    t.equal(sized(to.smallMtu[family], 1280), 'to-uplink')
    t.equal(sized(to.smallMtu[family], 1281), 'mtu')
  })

  t.test(`[P3] an IPv${family} GSO packet is judged by its segments`, async (t) => {
    const header = family === 4 ? 40 : 60
    const content = tcp({ sourcePort: 1, destinationPort: 2, flags: 'A' }, Buffer.alloc(2800))
    const sent = (destination: string, gsoSize: number) =>
      plain.send('a', ip({ source, destination }, content), { gsoSize }).reason
    t.equal(sent(b, 1500 - header), 'to-pod')
    t.equal(sent(b, 1501 - header), 'mtu')
    t.equal(sent(to.external[family], 1500 - header), 'to-uplink')
    t.equal(sent(to.external[family], 1501 - header), 'mtu')
  })

  t.test(`[P4] IPv${family} fragments go to a local pod as they are`, async (t) => {
    const whole = ip({ source, destination: b }, udp({ sourcePort: 1, destinationPort: 2 }, Buffer.alloc(900)))
    for (const part of fragments(whole, 400)) t.equal(node.send('a', part).reason, 'to-pod')
    for (const part of fragments(whole, 400)) {
      const shorter = { ...part, bytes: part.bytes.subarray(0, 60) }
      t.equal(node.send('a', shorter).reason, 'malformed')
    }
  })

  t.test(`a policy on the device leaves IPv${family} to the kernel`, async (t) => {
    const own = testNode()
    const packet = ip({ source, destination: b }, transports[0]![1])
    own.setDevice('a', { flags: family === 4 ? 1 : 2 })
    t.equal(own.send('a', packet).reason, 'policy')
    own.setDevice('a', { flags: family === 4 ? 2 : 1 })
    t.equal(own.send('a', packet).reason, 'to-pod')
    own.close()
  })

  t.test(`[F5] IPv${family} for another MAC, broadcast and multicast frames are not routed`, async (t) => {
    const packet = ip({ source, destination: b }, transports[0]![1])
    for (const mac of ['ff:ff:ff:ff:ff:ff', '01:00:5e:00:00:01', '33:33:00:00:00:01', '02:99:00:00:00:01']) {
      t.equal(node.send('a', packet, { mac }).reason, 'not-for-router', mac)
    }
  })

  t.test(`switched off or after the lease IPv${family} is the kernel's`, async (t) => {
    const own = testNode()
    const packet = ip({ source, destination: b }, transports[0]![1])
    own.setControl({ flags: 0 })
    t.equal(own.send('a', packet).reason, 'off')
    own.setControl({ flags: Control.on, lease: 1n })
    t.equal(own.send('a', packet).reason, 'off')
    own.setControl({ lease: own.expire(0).jiffies + 100000n })
    t.equal(own.send('a', packet).reason, 'to-pod')
    own.close()
  })

  t.test(`[S15] IPv${family} protocols without ports are routed when no SNAT is due`, async (t) => {
    for (const protocol of [Protocol.sctp, Protocol.gre, Protocol.esp, Protocol.ipip, 200]) {
      t.equal(node.send('a', ip({ source, destination: b }, raw(protocol))).reason, 'to-pod', `${protocol}`)
      const away = node.send('a', ip({ source, destination: to.remoteNode[family] }, raw(protocol)))
      t.match(away, { reason: 'to-neighbour', packet: { ip: { source } } }, `${protocol}`)
    }
  })
}

t.test('an unknown device is the kernel’s, unchanged', async (t) => {
  const own = testNode()
  own.setDevice('a', { ifindex: 0 })
  const packet = ethernet(
    { source: devices.a.podMac, destination: devices.a.mac },
    ip({ source: '10.1.0.2', destination: '10.1.0.3' }, udp({ sourcePort: 1, destinationPort: 2 }))
  )
  const { retval, data } = own.object.testRun('from_pod', { data: packet, ifindex: own.ifindexOf('a') })
  t.equal(retval, -1)
  t.same(data, packet)
  own.close()
})
