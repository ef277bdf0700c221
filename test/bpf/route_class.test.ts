// Devices whose packets ip rules send to other tables: their class answers
// first. Pod a has class 7, pod b none; the tables are drawn in node.ts.
import './namespace.js'
import t from 'tap'
import { ip, Protocol, raw, tcp, udp } from '../packets/packet.js'
import { Control } from './layout.js'
import { devices, macBehind, testNode, to } from './node.js'

const routeClass = 7
const other = 8
const CLASS = { 4: 4, 6: 8 } as const
const node = testNode({ flags: Control.on })
t.teardown(() => node.close())
const whole = { 4: '0.0.0.0/0', 6: '::/0' }
const range = { 4: '10.1.0.0/16', 6: 'fd00:1::/32' }
const host = (address: string) => `${address}/${address.includes(':') ? 128 : 32}`

node.setDevice('a', { flags: CLASS[4] | CLASS[6], class4: routeClass, class6: routeClass })
for (const family of [4, 6] as const) {
  node.setClassRoute(routeClass, whole[family], { nexthop: 3 })
  node.setClassRoute(routeClass, range[family], 'main')
  node.setClassRoute(routeClass, host(devices.b[`v${family}`]), { nexthop: 3 })
  node.setClassRoute(routeClass, host(to.onLink[family]), 'main')
  node.setClassRoute(routeClass, host(to.blackhole[family]), { stack: 'policy' })
  node.setClassRoute(other, whole[family], { stack: 'policy' })
  node.setClassRoute(other, host(to.external[family]), { nexthop: 0 })
}
node.setNexthop(3, 'up1', { gateway: '203.0.113.1' })

for (const family of [4, 6] as const) {
  const source = devices.a[`v${family}`]
  const send = (destination: string, port = 80, from: 'a' | 'b' = 'a') =>
    node.send(
      from,
      ip(
        { source: devices[from][`v${family}`], destination },
        tcp({ sourcePort: 40000, destinationPort: port, flags: 'S' })
      )
    )

  t.test(`[F9] IPv${family}: the class's next hop, not the node's; other pods as before`, async (t) => {
    const result = send(to.external[family])
    t.match(result, { verdict: 'forward', reason: 'to-uplink' })
    t.equal(result.packet.destinationMac, macBehind('up1'))
    t.equal(send(to.external[family], 80, 'b').packet.destinationMac, macBehind('up0'))
  })

  t.test(
    `[F9] IPv${family}: a flow follows when the device gets another class and the generation is raised`,
    async (t) => {
      const datagram = () => {
        const content = udp({ sourcePort: 40001, destinationPort: 53 })
        return node.send('a', ip({ source, destination: to.external[family] }, content)).packet.destinationMac
      }
      t.equal(datagram(), macBehind('up1'))
      node.setDevice('a', { flags: CLASS[4] | CLASS[6], class4: other, class6: other })
      t.equal(datagram(), macBehind('up1'), 'not before')
      node.setControl({ routeGeneration: 10 + family })
      t.equal(datagram(), macBehind('up0'))
      node.setDevice('a', { flags: CLASS[4] | CLASS[6], class4: routeClass, class6: routeClass })
      node.setControl({ routeGeneration: 20 + family })
      t.equal(datagram(), macBehind('up1'))
    }
  )

  t.test(`[F9] IPv${family}: where the class says main, the node's pods and routes answer`, async (t) => {
    t.match(send(to.onLink[family]), { verdict: 'forward', reason: 'to-uplink' })
    t.equal(send(to.onLink[family]).packet.destinationMac, to.onLink.mac)
    node.setClassRoute(routeClass, host(devices.b[`v${family}`]), 'main')
    t.match(send(devices.b[`v${family}`]), { verdict: 'forward', reason: 'to-pod' })
  })

  t.test(`[F9] IPv${family}: a pod of this node is not reached where the class says otherwise`, async (t) => {
    node.setClassRoute(routeClass, host(devices.b[`v${family}`]), { nexthop: 3 })
    const result = send(devices.b[`v${family}`], 82)
    t.match(result, { verdict: 'forward', reason: 'to-uplink' })
    t.equal(result.packet.destinationMac, macBehind('up1'))
  })

  t.test(`[F9] IPv${family}: what a class leaves to the kernel, and a class without an answer`, async (t) => {
    t.match(send(to.blackhole[family]), { verdict: 'stack', reason: 'policy' })
    node.setDevice('a', { flags: CLASS[4] | CLASS[6], class4: 99, class6: 99 })
    t.match(send(to.external[family], 83), { verdict: 'stack', reason: 'policy' })
    t.match(send(devices.b[`v${family}`], 83), { verdict: 'stack', reason: 'policy' })
    node.setDevice('a', { flags: CLASS[4] | CLASS[6], class4: routeClass, class6: routeClass })
  })

  t.test(`[F9] IPv${family}: packets without ports take the class's way, too`, async (t) => {
    const result = node.send('a', ip({ source, destination: to.external[family] }, raw(Protocol.esp)))
    t.match(result, { verdict: 'forward', reason: 'to-uplink' })
    t.equal(result.packet.destinationMac, macBehind('up1'))
  })

  t.test(`[F9] IPv${family}: a marked packet is the kernel's while ip rules ask for marks`, async (t) => {
    const question = ip({ source, destination: to.external[family] }, udp({ sourcePort: 1, destinationPort: 53 }))
    const inward = ip(
      { source: to.external[family], destination: devices.b[`v${family}`] },
      udp({ sourcePort: 53, destinationPort: 9 })
    )
    t.match(node.send('a', question, { mark: 5 }), { verdict: 'forward' })
    t.match(node.send('up0', inward, { mark: 5 }), { verdict: 'forward' })
    node.setControl({ flags: Control.on | Control.marks })
    t.match(node.send('a', question, { mark: 5 }), { verdict: 'stack', reason: 'policy' })
    t.match(node.send('up0', inward, { mark: 5 }), { verdict: 'stack', reason: 'policy' })
    t.match(node.send('a', question), { verdict: 'forward' })
    node.setControl({ flags: Control.on })
  })
}

t.test('[F9] the answer to a SNATed flow is delivered whatever its mark', async (t) => {
  const masquerading = testNode({ flags: Control.on | Control.snat | Control.marks })
  const sent = masquerading.send(
    'a',
    ip({ source: devices.a.v4, destination: to.external[4] }, udp({ sourcePort: 9, destinationPort: 53 }))
  )
  t.match(sent, { verdict: 'forward', reason: 'to-uplink' })
  const { source, l4 } = { source: sent.packet.ip?.source ?? '', l4: sent.packet.l4 }
  t.equal(source, devices.up0.v4)
  const answer = ip(
    { source: to.external[4], destination: source },
    udp({ sourcePort: 53, destinationPort: l4?.sourcePort ?? 0 })
  )
  t.match(masquerading.send('up0', answer, { mark: 5 }), { verdict: 'forward', reason: 'to-pod' })
  masquerading.close()
})
