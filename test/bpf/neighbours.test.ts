// Next hops by what is known of their MAC: sure, stale, none.
import './namespace.js'
import t from 'tap'
import { echo, icmpError, ip, Protocol, raw, type Transport, tcp, udp } from '../packets/packet.js'
import { Control } from './layout.js'
import { devices, onLink, testNode, to } from './node.js'

const UDP = udp({ sourcePort: 4000, destinationPort: 53 }, 'question')

for (const family of [4, 6] as const) {
  const source = devices.a[`v${family}`]

  t.test(`[N1] [N2] IPv${family}: without a MAC the kernel gets what may begin a flow, unchanged`, async (t) => {
    const node = testNode({ flags: Control.on })
    t.teardown(() => node.close())
    const gateway = family === 4 ? '192.0.2.1' : '2001:db8::1'
    const answer = ip({ source: to.external[family], destination: source }, UDP)
    const contents: [name: string, content: Transport, reason: string][] = [
      ['a SYN', tcp({ sourcePort: 1, destinationPort: 80, flags: 'S' }), 'unresolved'],
      ['a datagram', UDP, 'unresolved'],
      ['an echo request', echo({ id: 7 }), 'unresolved'],
      ['ESP', raw(Protocol.esp), 'unresolved'],
      // conntrack would call these invalid, not having seen what they answer
      ['a SYN-ACK', tcp({ sourcePort: 2, destinationPort: 80, flags: 'SA' }), 'to-neighbour'],
      ['TCP mid-flow', tcp({ sourcePort: 3, destinationPort: 80, flags: 'PA' }, 'x'), 'to-neighbour'],
      // its request has not come through here
      ['an echo reply', echo({ id: 8, reply: true }), 'unknown-owner'],
      ['an ICMP error', icmpError({ type: family === 4 ? 3 : 1, code: 3 }, answer), 'to-neighbour']
    ]
    node.setNexthop(0, 'up0', { gateway, mac: undefined })
    for (const destination of [to.external[family], to.onLinkUnknown[family]]) {
      for (const [name, content, reason] of contents) {
        t.equal(node.send('a', ip({ source, destination }, content)).reason, reason, `${name} to ${destination}`)
      }
    }
    node.setNexthop(0, 'up0', { gateway, known: false })
    node.setNeighbour('up0', to.onLinkUnknown[family], onLink.mac, false)
    for (const destination of [to.external[family], to.onLinkUnknown[family]]) {
      const stale = node.send('a', ip({ source, destination }, UDP))
      t.equal(stale.reason, 'to-neighbour', 'a stale MAC: the entry knows it, and has it refreshed')
    }
    node.setNexthop(0, 'up0', { gateway })
    node.setNeighbour('up0', to.onLinkUnknown[family], onLink.mac)
    for (const destination of [to.external[family], to.onLinkUnknown[family]]) {
      t.equal(node.send('a', ip({ source, destination }, UDP)).reason, 'to-uplink', 'a sure one is used')
    }
  })

  t.test(`[N2] IPv${family}: with SNAT due the kernel never gets the packet, it would send the pod's address`, (t) => {
    const node = testNode()
    node.setNexthop(0, 'up0', { gateway: family === 4 ? '192.0.2.1' : '2001:db8::1', mac: undefined })
    for (const destination of [to.external[family], to.onLinkUnknown[family]]) {
      const result = node.send('a', ip({ source, destination }, UDP))
      t.match(result, { reason: 'to-neighbour', packet: { ip: { source: devices.up0[`v${family}`] } } })
    }
    node.close()
    t.end()
  })
}
