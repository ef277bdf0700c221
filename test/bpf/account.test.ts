// Who may take room from whom: no flood costs an established flow its entry or
// another pod its new ones.
import './namespace.js'
import t from 'tap'
import { ip, tcp, udp } from '../packets/packet.js'
import { devices, type PodName, type TestNode, testNode, to } from './node.js'
import { back, numbers, out, pod } from './snat_flow.js'

type Family = 4 | 6
const LIMIT = 300

function fromOutside(node: TestNode, name: PodName, family: Family, port: number) {
  const addresses = { source: to.external[family], destination: pod(name, family) }
  return node.send('up0', ip(addresses, udp({ sourcePort: port, destinationPort: 53 })))
}

function answered(node: TestNode, name: PodName, family: Family, port: number): string {
  const question = { source: to.external[family], destination: pod(name, family) }
  node.send('up0', ip(question, tcp({ sourcePort: port, destinationPort: 80, flags: 'S', ...numbers('S') })))
  const answer = { source: question.destination, destination: question.source }
  const { packet } = node.send(
    'b',
    ip(answer, tcp({ sourcePort: 80, destinationPort: port, flags: 'SA', ...numbers('SA') }))
  )
  return packet.ip?.source ?? ''
}

const floods = {
  'SYNs through SNAT': (node: TestNode, family: Family, port: number) => out(node, 'a', family, 'tcp', port),
  'ACKs to addresses that are not masqueraded': (node: TestNode, family: Family, port: number) =>
    out(node, 'a', family, 'tcp', port, 'A', to.remoteNode[family]),
  'datagrams from outside that the pod does not answer': (node: TestNode, family: Family, port: number) =>
    fromOutside(node, 'a', family, port)
}

for (const family of [4, 6] as const) {
  for (const [what, flood] of Object.entries(floods)) {
    t.test(`[S10] IPv${family}: a flood of ${what} takes nothing from others`, async (t) => {
      const node = testNode()
      node.setControl({ flowLimit: LIMIT })
      const live = out(node, 'b', family, 'tcp', 1).packet.l4?.sourcePort ?? -1
      back(node, family, 'tcp', live)
      out(node, 'b', family, 'tcp', 1, 'A')
      for (let port = 1000; port < 1000 + 2 * LIMIT; port++) flood(node, family, port)
      const taken = node.flows(family).filter(({ localPort }) => localPort !== 1).length
      t.ok(taken <= LIMIT / 2, `${taken} of ${LIMIT}`)
      t.equal(out(node, 'b', family, 'tcp', 1, 'PA').packet.l4?.sourcePort, live, 'the established one goes on')
      t.equal(back(node, family, 'tcp', live, 'PA').reason, 'to-pod')
      for (let port = 2; port < 20; port++) t.equal(out(node, 'b', family, 'tcp', port).reason, 'to-uplink')
      for (let port = 20; port < 40; port++)
        t.equal(answered(node, 'b', family, port), pod('b', family), 'an inbound connection keeps the address')
      node.close()
    })
  }

  t.test(`[S10] IPv${family}: pods that all take what they can leave room for the next`, async (t) => {
    const node = testNode()
    node.setControl({ flowLimit: LIMIT })
    for (const name of ['a', 'b'] as const)
      for (let port = 1000; port < 1000 + LIMIT; port++) out(node, name, family, 'udp', port)
    const share = (name: PodName) =>
      node.flows(family).filter(({ local }) => local === devices[name][`v${family}`]).length
    t.match([share('a'), share('b')], [LIMIT / 2, LIMIT / 4], 'what is left for everybody, each')
    t.equal(out(node, 'a', family, 'udp', 5000).reason, 'drop-flows')
    t.equal(fromOutside(node, 'b', family, 6000).reason, 'to-pod', 'without an entry')
    node.close()
  })

  t.test(`[S10] IPv${family}: a limit that is raised at run time is in force at once`, async (t) => {
    const node = testNode()
    node.setControl({ flowLimit: 2 })
    t.equal(out(node, 'a', family, 'udp', 1).reason, 'to-uplink')
    t.equal(out(node, 'a', family, 'udp', 2).reason, 'drop-flows')
    node.setControl({ flowLimit: 200 })
    t.equal(out(node, 'a', family, 'udp', 2).reason, 'to-uplink')
    node.setControl({ flowLimit: 1 })
    t.equal(out(node, 'a', family, 'udp', 2).reason, 'to-uplink', 'a smaller one ends nothing')
    t.equal(out(node, 'a', family, 'udp', 3).reason, 'drop-flows')
    node.close()
  })

  t.test(
    `[S10] IPv${family}: a connection from outside that would not be masqueraded has an entry only when the pod answers`,
    async (t) => {
      const node = testNode()
      const addresses = { source: to.remoteNode[family], destination: pod('a', family) }
      const syn = tcp({ sourcePort: 7, destinationPort: 53, flags: 'S', ...numbers('S') })
      t.equal(node.send('up0', ip(addresses, syn)).reason, 'to-pod')
      t.same(node.flows(family), [])
      const answer = { source: addresses.destination, destination: addresses.source }
      const { packet } = node.send(
        'a',
        ip(answer, tcp({ sourcePort: 53, destinationPort: 7, flags: 'SA', ...numbers('SA') }))
      )
      t.equal(packet.ip?.source, pod('a', family))
      t.match(node.flows(family), [{ verdict: 'direct' }])
      node.close()
    }
  )
}

for (const family of [4, 6] as const) {
  t.test(`[S10] IPv${family}: a listening pod under a flood of SYNs serves the clients that go on`, async (t) => {
    const node = testNode()
    node.setControl({ flowLimit: LIMIT })
    const client = (port: number, flags: string) => {
      const addresses = { source: to.external[family], destination: pod('b', family) }
      const content = tcp({ sourcePort: port, destinationPort: 80, flags, ...numbers(flags) })
      return node.send('up0', ip(addresses, content))
    }
    const server = (port: number, flags: string) => {
      const addresses = { source: pod('b', family), destination: to.external[family] }
      const content = tcp({ sourcePort: 80, destinationPort: port, flags, ...numbers(flags) })
      return node.send('b', ip(addresses, content)).packet.ip?.source
    }
    for (let port = 1000; port < 1000 + LIMIT; port++) {
      client(port, 'S')
      t.equal(server(port, 'SA'), pod('b', family))
    }
    const half = node.flows(family).length
    t.ok(half <= LIMIT / 5 + 1, `${half} half-open ones of ${LIMIT}`)
    for (let port = 5000; port < 5020; port++) {
      client(port, 'S')
      t.equal(server(port, 'SA'), pod('b', family), 'no entry, and not masqueraded')
      client(port, 'A')
      t.equal(server(port, 'PA'), pod('b', family), 'the opener has spoken again')
      t.equal(server(port, 'FA'), pod('b', family))
    }
    node.close()
  })

  t.test(
    `[S9] IPv${family}: a pod that has all ports to a remote, and no answers, leaves some to others`,
    async (t) => {
      const ports = Array.from({ length: 300 }, (_, at) => 20000 + at)
      const node = testNode({ ports })
      for (let port = 1; port <= 300; port++) out(node, 'a', family, 'udp', port)
      for (let port = 1; port <= 40; port++) t.equal(out(node, 'b', family, 'udp', port).reason, 'to-uplink')
      node.close()
    }
  )

  t.test(
    `[S8] IPv${family}: a port taken up in the middle of a connection is the node's if the node opens one with it`,
    async (t) => {
      const node = testNode()
      const taken = out(node, 'a', family, 'tcp', 40_000, 'A')
      t.equal(taken.packet.l4?.sourcePort, 40_000, 'as the kernel would leave it')
      t.equal(back(node, family, 'tcp', 40_000, 'SA').verdict, 'stack')
      t.same([node.flows(family).length, node.reverses(family).length], [0, 0])
      t.equal(back(node, family, 'tcp', 40_000, 'A').verdict, 'stack', 'what follows, too')
      node.close()
    }
  )
}
