// Several source addresses: each pod has one of them and keeps it.
import './namespace.js'
import t from 'tap'
import { ip, udp } from '../packets/packet.js'
import { encodeSources } from './layout.js'
import { devices, type TestNode, testNode, to } from './node.js'
import { content, type Family, natPort, out } from './snat_flow.js'

const shared = { 4: ['192.0.2.20', '192.0.2.21', '192.0.2.22'], 6: ['2001:db8::20', '2001:db8::21', '2001:db8::22'] }
const row = (value: number) => Buffer.from([value, 0, 0, 0])

function sharing(family: Family, addresses: string[] = shared[family]): TestNode {
  const node = testNode()
  node.map('snat_sources').update(row(3), encodeSources(addresses))
  const own = family === 4 ? { snat4: addresses[0], snat6: undefined } : { snat4: undefined, snat6: addresses[0] }
  node.setNexthop(0, 'up0', { gateway: '192.0.2.1', ...own, sources: 3 })
  for (const address of addresses) node.setRoute(`${address}/${family === 4 ? 32 : 128}`, { stack: 'local' })
  return node
}

for (const family of [4, 6] as const) {
  t.test(`[S14] an IPv${family} pod has one of the addresses, for all its sockets and remotes`, async (t) => {
    const node = sharing(family)
    const seen = new Set<string>()
    for (const kind of ['tcp', 'udp', 'echo'] as const) {
      for (const local of [1000, 2000, 3000]) {
        for (const remote of [to.external[family], family === 4 ? '8.8.4.4' : '2600::44']) {
          const sent = out(node, 'a', family, kind, local, 'S', remote)
          t.equal(sent.reason, 'to-uplink')
          seen.add(sent.packet.ip?.source ?? '')
        }
      }
    }
    t.equal(seen.size, 1, [...seen].join())
    t.ok(shared[family].includes([...seen][0] ?? ''))
    node.close()
  })

  t.test(`[S14] IPv${family} pods are spread over the addresses`, async (t) => {
    const node = sharing(family)
    const pods = new Map<string, number>()
    for (let last = 1; last <= 90; last++) {
      const address = family === 4 ? `10.1.0.${last}` : `fd00:1::${last.toString(16)}`
      node.setDevice('a', family === 4 ? { address4: address } : { address6: address })
      node.setPod('a', address)
      const sent = node.send(
        'a',
        ip({ source: address, destination: to.external[family] }, udp({ sourcePort: 1000, destinationPort: 53 }, 'x'))
      )
      const source = sent.packet.ip?.source ?? ''
      pods.set(source, (pods.get(source) ?? 0) + 1)
    }
    t.strictSame([...pods.keys()].sort(), shared[family])
    t.ok(Math.min(...pods.values()) >= 15, [...pods].map(([source, count]) => `${source} ${count}`).join(', '))
    node.close()
  })

  t.test(`[S14] IPv${family} answers find their pod, and a flow keeps its address when the list changes`, async (t) => {
    const node = sharing(family)
    const sent = out(node, 'a', family, 'tcp', 4000)
    const source = sent.packet.ip?.source ?? ''
    const answer = node.send(
      'up0',
      ip({ source: to.external[family], destination: source }, content('tcp', natPort(sent), true, 'SA'))
    )
    t.match(answer, { reason: 'to-pod', packet: { destinationMac: devices.a.podMac } })
    const others = shared[family].filter((address) => address !== source)
    node.map('snat_sources').update(row(3), encodeSources(others))
    node.setControl({ routeGeneration: 2 })
    t.equal(out(node, 'a', family, 'tcp', 4000, 'A').packet.ip?.source, source, 'it has begun with this one')
    t.ok(others.includes(out(node, 'a', family, 'tcp', 4001).packet.ip?.source ?? ''), 'a new one has another')
    node.setRoute(`${source}/${family === 4 ? 32 : 128}`, null)
    node.setControl({ routeGeneration: 3 })
    const moved = out(node, 'a', family, 'tcp', 4000, 'A').packet.ip?.source ?? ''
    t.ok(others.includes(moved), 'until the node does not have it any more')
    node.close()
  })

  t.test(`[S14] IPv${family}: without any of the configured addresses what is due is dropped`, async (t) => {
    const node = testNode()
    node.setNexthop(0, 'up0', { gateway: '192.0.2.1', snat4: undefined, snat6: undefined, noSource: true })
    for (const kind of ['tcp', 'udp', 'echo'] as const)
      t.match(out(node, 'a', family, kind, 1000), { verdict: 'drop', reason: 'drop-source' })
    t.equal(out(node, 'a', family, 'udp', 1000, '', to.hostRoute[family]).reason, 'drop-source')
    t.match(out(node, 'a', family, 'udp', 1000, '', to.remoteNode[family]), { verdict: 'forward' }, 'not due')
    t.strictSame(
      node.flows(family).filter(({ verdict }) => verdict === 'snat'),
      []
    )
    node.setNexthop(0, 'up0', { gateway: '192.0.2.1', snat4: '192.0.2.20', snat6: '2001:db8::20', sources: 9 })
    t.equal(out(node, 'a', family, 'udp', 1000).reason, 'drop-source', 'a row that was taken away')
    node.close()
  })
}
