// Packets of pods with addresses that are not theirs and that the configuration
// allows on their device: DSR answers, gateways, pods that forward for others.
import { writeFileSync } from 'node:fs'
import t from 'tap'
import { echo, fragments, icmpError, ip, Protocol, raw, type Transport, tcp, udp } from '../packets/packet.js'
import { ip as ipCommand } from './namespace.js'
import { devices, type TestNode, testNode, to } from './node.js'
import { natPort, snatAddress } from './snat_flow.js'

const allowed = { 4: '10.96.0.0/12', 6: 'fd00:96::/32' } as const
const other = { 4: '10.96.7.7', 6: 'fd00:96::7' } as const
const outside = { 4: '10.112.0.1', 6: 'fd00:97::1' } as const
/** The kernel's route to it leads back to pod a. */
const behind = { 4: '10.100.0.1', 6: 'fd00:96:64::1' } as const

function allowing(stays = false, family?: 4 | 6): TestNode {
  const node = testNode()
  for (const each of [4, 6] as const) if (!family || family === each) node.setPodSource('a', allowed[each], stays)
  return node
}

const first = allowing()
first.close()
writeFileSync('/proc/sys/net/ipv4/ip_forward', '1')
writeFileSync('/proc/sys/net/ipv6/conf/all/forwarding', '1')
ipCommand('route', 'add', `${behind[4]}/32`, 'dev', 'pod-a')
ipCommand('-6', 'route', 'add', `${behind[6]}/128`, 'dev', 'pod-a')

const question = (sourcePort = 4000) => udp({ sourcePort, destinationPort: 53 }, 'question')

for (const family of [4, 6] as const) {
  const source = other[family]
  const external = to.external[family]
  const send = (node: TestNode, content: Transport, destination: string = external, from: string = source) =>
    node.send('a', ip({ source: from, destination }, content))
  const answer = (node: TestNode, content: Transport) =>
    node.send('up0', ip({ source: external, destination: snatAddress(family) }, content))

  t.test(
    `[D6] IPv${family}: what is allowed on one device is dropped on another, and so is its neighbour`,
    async (t) => {
      const node = allowing()
      t.equal(send(node, question()).reason, 'to-uplink')
      t.equal(node.send('b', ip({ source, destination: external }, question())).reason, 'drop-spoof')
      t.equal(send(node, question(), external, outside[family]).reason, 'drop-spoof')
      node.close()
      const without = allowing(false, family === 4 ? 6 : 4)
      t.equal(send(without, question()).reason, 'drop-spoof', 'the other family allows nothing')
      without.close()
    }
  )

  for (const [name, content, back] of [
    [
      'TCP',
      (port: number) => tcp({ sourcePort: port, destinationPort: 53, flags: 'S' }),
      (port: number) => tcp({ sourcePort: 53, destinationPort: port, flags: 'SA' })
    ],
    ['UDP', question, (port: number) => udp({ sourcePort: 53, destinationPort: port }, 'answer')],
    ['echo', (port: number) => echo({ id: port }, 'ping'), (port: number) => echo({ id: port, reply: true }, 'ping')]
  ] as [string, (port: number) => Transport, (port: number) => Transport][]) {
    t.test(
      `[D6] IPv${family} ${name} with an allowed source is masqueraded, and its answers get to the pod`,
      async (t) => {
        const node = allowing()
        for (const from of [source, behind[family]]) {
          const sent = send(node, content(4000), external, from)
          t.match(sent, { reason: 'to-uplink', packet: { ip: { source: snatAddress(family) } } })
          const port = natPort(sent)
          for (let round = 0; round < 3; round++) {
            const received = answer(node, back(port))
            t.match(received, {
              reason: 'to-pod',
              packet: { destinationMac: devices.a.podMac, ip: { destination: from } }
            })
          }
        }
        node.close()
      }
    )
  }

  t.test(`[D6] [S16] IPv${family}: no answer gets to a later pod on the device`, async (t) => {
    const node = allowing()
    const port = natPort(send(node, question()))
    node.setPod('a', devices.a[`v${family}`], { id: 999 })
    t.equal(answer(node, udp({ sourcePort: 53, destinationPort: port }, 'answer')).reason, 'node')
    node.close()
  })

  t.test(`[D7] IPv${family}: a connection that begins with a SYN-ACK keeps its source, as DSR asks for`, async (t) => {
    const node = allowing()
    for (const flags of ['SA', 'A', 'PA', 'FA']) {
      const sent = send(node, tcp({ sourcePort: 80, destinationPort: 40000, flags }, flags === 'PA' ? 'data' : ''))
      t.match(sent, { reason: 'to-uplink', packet: { ip: { source }, l4: { sourcePort: 80 } } }, flags)
    }
    t.match(node.flows(family), [{ verdict: 'inbound', local: source }])
    node.close()
  })

  t.test(`[D7] IPv${family}: a source that stays is never masqueraded, whatever the protocol`, async (t) => {
    const node = allowing(true)
    for (const content of [
      question(),
      tcp({ sourcePort: 1, destinationPort: 2, flags: 'S' }),
      echo({ id: 1 }),
      raw(Protocol.sctp)
    ])
      t.match(send(node, content), { reason: 'to-uplink', packet: { ip: { source } } })
    for (const fragment of fragments(
      ip({ source, destination: external }, udp({ sourcePort: 9, destinationPort: 53 }, 'x'.repeat(3000))),
      1400
    ))
      t.match(node.send('a', fragment), { verdict: 'forward', packet: { ip: { source } } })
    node.close()
  })

  t.test(`[D7] [K10] IPv${family}: what the stack brings back, and is not masqueraded, it sends, too`, async (t) => {
    const node = allowing(true)
    const from = behind[family]
    t.equal(send(node, question(), external, from).reason, 'unknown-device')
    t.equal(send(node, raw(Protocol.sctp), external, from).reason, 'unknown-device')
    const parts = fragments(
      ip({ source: from, destination: external }, udp({ sourcePort: 9, destinationPort: 53 }, 'x'.repeat(3000))),
      1400
    )
    for (const part of parts) t.equal(node.send('a', part).verdict, 'stack')
    t.equal(node.send('a', parts[1]!).verdict, 'stack')
    node.close()
    const due = allowing()
    t.equal(send(due, question(), to.remoteNode[family], from).reason, 'unknown-device', 'not due there')
    due.close()
  })

  t.test(`[D7] IPv${family}: to a pod of the node, unless the answer takes the stack`, async (t) => {
    const node = allowing()
    const b = devices.b[`v${family}`]
    t.match(send(node, question(), b), { reason: 'to-pod', packet: { ip: { source } } })
    node.setRoute(allowed[family], { stack: 'translated-destination' })
    t.equal(send(node, question(), b).reason, 'translated-destination')
    node.close()
  })

  t.test(`[D6] [S6] IPv${family}: errors and fragments about an allowed source find the pod`, async (t) => {
    const node = allowing()
    const sent = send(node, question())
    const inner = ip(
      { source: snatAddress(family), destination: external, ttl: 63 },
      udp({ sourcePort: natPort(sent), destinationPort: 53 }, 'question')
    )
    const error = node.send(
      'up0',
      ip(
        { source: to.remoteNode[family], destination: snatAddress(family) },
        icmpError({ type: family === 4 ? 3 : 1, code: family === 4 ? 1 : 0 }, inner)
      )
    )
    t.match(error, { reason: 'to-pod', packet: { destinationMac: devices.a.podMac, ip: { destination: source } } })
    const answers = fragments(
      ip(
        { source: external, destination: snatAddress(family) },
        udp({ sourcePort: 53, destinationPort: natPort(sent) }, 'y'.repeat(3000))
      ),
      1400
    )
    for (const part of answers)
      t.match(node.send('up0', part), {
        reason: 'to-pod',
        packet: { destinationMac: devices.a.podMac, ip: { destination: source } }
      })
    node.close()
  })
}

t.test('[D6] a source that nobody may have is the kernel’s to judge, allowed or not', async (t) => {
  const node = testNode()
  node.setPodSource('a', '0.0.0.0/0')
  for (const source of ['127.0.0.1', '0.0.0.0', '224.0.0.1'])
    t.equal(node.send('a', ip({ source, destination: to.external[4] }, question())).reason, 'link-local', source)
  t.equal(node.send('a', ip({ source: devices.b.v4, destination: to.external[4] }, question())).reason, 'to-uplink')
  node.close()
})
