// Which port a flow gets outside: the pod's own where it may, one that nobody
// has, and at last one of a flow that is over.
import './namespace.js'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { echo, ip, tcp, udp } from '../packets/packet.js'
import { devices, type TestNode, testNode, to } from './node.js'
import { back, natPort, numbers, out, pod, snatAddress } from './snat_flow.js'

const ports = Array.from({ length: 200 }, (_, at) => 20000 + at)

/** A second and more, as the test node counts it from here on. */
async function second(node: TestNode): Promise<void> {
  node.setControl({ jiffiesPerSecond: 10 })
  const began = node.expire(0).jiffies
  while (node.expire(0).jiffies - began <= 12n) await sleep(10)
}

for (const family of [4, 6] as const) {
  t.test(
    `[S2] IPv${family}: a socket keeps its own port where SNAT may take it, and the first one has it`,
    async (t) => {
      const node = testNode({ ports })
      for (const kind of ['tcp', 'udp', 'echo'] as const) {
        t.equal(natPort(out(node, 'a', family, kind, 20007)), 20007, kind)
        const other = natPort(out(node, 'b', family, kind, 20007))
        t.ok(other !== 20007 && ports.includes(other), `${kind}: another pod's gets one of the others`)
        t.ok(ports.includes(natPort(out(node, 'a', family, kind, 443))), `${kind}: not one that it may not take`)
      }
      node.close()
    }
  )

  const over = {
    'closed by both sides': (node: TestNode, port: number, outside: number) => {
      back(node, family, 'tcp', outside, 'FA')
      out(node, 'a', family, 'tcp', port, 'FA')
    },
    reset: (node: TestNode, _port: number, outside: number) => back(node, family, 'tcp', outside, 'R')
  }
  for (const [what, end] of Object.entries(over)) {
    t.test(`[S9] IPv${family}: where all ports are taken, that of a connection ${what} is used again`, async (t) => {
      const node = testNode({ ports: ports.slice(0, 4) })
      const outside = [1, 2, 3, 4].map((port) => natPort(out(node, 'a', family, 'tcp', port)))
      outside.forEach((nat, at) => {
        back(node, family, 'tcp', nat)
        out(node, 'a', family, 'tcp', at + 1, 'A')
      })
      end(node, 2, outside[1] ?? -1)
      t.equal(out(node, 'b', family, 'tcp', 9).reason, 'drop-ports', 'not at once')
      await second(node)
      t.equal(natPort(out(node, 'b', family, 'tcp', 9)), outside[1])
      t.equal(out(node, 'b', family, 'tcp', 10).reason, 'drop-ports', 'established ones keep theirs')
      t.match([node.flows(family).length, node.reverses(family).length], [4, 4])
      t.match(back(node, family, 'tcp', outside[1] ?? -1), { packet: { ip: { destination: pod('b', family) } } })
      node.close()
    })
  }

  t.test(
    `[S9] IPv${family}: so is that of an answered question, and no stream's, and no unanswered one's`,
    async (t) => {
      const node = testNode({ ports: ports.slice(0, 3) })
      const [asked = 0, stream = 0] = [1, 2, 3].map((port) => natPort(out(node, 'a', family, 'udp', port)))
      back(node, family, 'udp', asked)
      back(node, family, 'udp', stream)
      for (let seconds = 0; seconds < 3; seconds++) await second(node)
      out(node, 'a', family, 'udp', 2)
      await second(node)
      t.equal(natPort(out(node, 'b', family, 'udp', 9)), asked)
      t.equal(out(node, 'b', family, 'udp', 10).reason, 'drop-ports')
      node.close()
    }
  )

  t.test(`[S9] IPv${family}: 90 of 100 ports taken, the others are found`, async (t) => {
    const node = testNode({ ports: ports.slice(0, 100) })
    const seen = new Set<number>()
    for (let port = 1; port <= 98; port++) seen.add(natPort(out(node, 'a', family, 'udp', port)))
    t.ok(seen.size >= 97 && !seen.has(-1), `${seen.size} of 98`)
    node.close()
  })

  t.test(`[S3] IPv${family}: a pod's ping and a ping to it may have one id`, async (t) => {
    const node = testNode()
    const [own, remote] = [pod('a', family), to.external[family]]
    const from = { source: own, destination: remote }
    const to_ = { source: remote, destination: own }
    t.equal(node.send('up0', ip(to_, echo({ id: 77 }))).reason, 'to-pod')
    t.equal(
      node.send('a', ip(from, echo({ id: 77 }))).packet.ip?.source,
      snatAddress(family),
      "the pod's is masqueraded"
    )
    t.equal(node.send('a', ip(from, echo({ id: 77, reply: true }))).packet.ip?.source, own, 'its answer is not')
    t.equal(node.send('up0', ip(to_, echo({ id: 78, reply: true }))).verdict, 'stack', 'an answer to nothing')
    t.equal(node.send('a', ip(from, echo({ id: 78 }))).packet.ip?.source, snatAddress(family), 'it changes nothing')
    node.close()
  })

  t.test(
    `[S14] IPv${family}: a flow whose address is gone, or whose uplink is another, is decided again`,
    async (t) => {
      const node = testNode()
      const moved = () => node.map('usage').lookup(Buffer.alloc(4))?.readUInt32LE(8)
      const first = out(node, 'a', family, 'udp', 1000)
      t.equal(first.packet.ip?.source, snatAddress(family))
      const mapped = natPort(first)
      // the node gets another address, and keeps this one: nothing changes
      const other = family === 4 ? '192.0.2.77' : '2001:db8::77'
      node.setNexthop(0, 'up0', { gateway: '192.0.2.1', [`snat${family}`]: other })
      node.setControl({ routeGeneration: 2 })
      t.match(out(node, 'a', family, 'udp', 1000).packet, { ip: { source: snatAddress(family) } })
      t.equal(moved(), 0)
      // now it goes
      node.setRoute(family === 4 ? '192.0.2.10/32' : '2001:db8::10/128', null)
      node.setControl({ routeGeneration: 3 })
      t.match(out(node, 'a', family, 'udp', 1000).packet, { ip: { source: other } })
      t.equal(moved(), 1)
      t.equal(
        node.send(
          'up0',
          ip(
            { source: to.external[family], destination: snatAddress(family) },
            udp({ sourcePort: 443, destinationPort: mapped })
          )
        ).verdict,
        'stack',
        'the old mapping is gone'
      )
      // the other uplink
      node.setRoute(family === 4 ? '0.0.0.0/0' : '::/0', { nexthop: 3 })
      node.setControl({ routeGeneration: 4 })
      t.match(out(node, 'a', family, 'udp', 1000).packet, { ip: { source: devices.up1[`v${family}`] } })
      t.equal(moved(), 2)
      t.same([node.flows(family).length, node.reverses(family).length], [1, 1])
      node.close()
    }
  )

  t.test(
    `[S14] IPv${family}: TCP whose address is gone gets another, so that the remote refuses it at once`,
    async (t) => {
      const node = testNode()
      const nat = natPort(out(node, 'a', family, 'tcp', 1000))
      back(node, family, 'tcp', nat)
      out(node, 'a', family, 'tcp', 1000, 'A')
      node.setRoute(family === 4 ? '0.0.0.0/0' : '::/0', { nexthop: 3 })
      node.setControl({ routeGeneration: 2 })
      const again = out(node, 'a', family, 'tcp', 1000, 'PA')
      const source = devices.up1[`v${family}`]
      t.match(again.packet, { ip: { source } })
      const reset = tcp({ sourcePort: 443, destinationPort: natPort(again), ...numbers('A'), flags: 'R' })
      const answer = node.send('up1', ip({ source: to.external[family], destination: source }, reset))
      t.match(answer, { reason: 'to-pod', packet: { ip: { destination: pod('a', family) } } })
      node.close()
    }
  )
}
