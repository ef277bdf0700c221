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
