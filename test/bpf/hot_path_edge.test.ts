// The hot path where flows begin and end, against the stages (hot_path_ways.ts): the packets that make an entry,
// those that change what it says of the connection, and those that are refused one.
import t from 'tap'
import { ip, type Transport, udp } from '../packets/packet.js'
import { compareFresh, frameFor, hotPathNode, resetEntries } from './hot_path_ways.js'
import { Control } from './layout.js'
import { type DeviceName, onLink, type PodName, to } from './node.js'
import { content, pod, snatAddress } from './snat_flow.js'

const SHOT = 2
const STACK = -1
const REDIRECT = 7

const node = hotPathNode('hot_edge')
for (const family of [4, 6] as const) {
  for (const name of ['a', 'b'] as const) node.setPod(name, pod(name, family))
  node.setRoute(family === 4 ? '10.3.0.0/16' : 'fd00:3::/64', { nexthop: 0 })
}
const plain = { 4: '10.3.0.9', 6: 'fd00:3::9' } as const

const families = [4, 6] as const
const kinds = ['tcp', 'udp'] as const
type Family = (typeof families)[number]

const out = (family: Family, destination: string, transport: Transport, name: PodName = 'a') =>
  frameFor(name, ip({ source: pod(name, family), destination }, transport))
const back = (family: Family, transport: Transport, source: string = to.external[family]) =>
  frameFor('up0', ip({ source, destination: snatAddress(family) }, transport))

t.beforeEach(() => resetEntries(node, new Map()))

for (const family of families) {
  t.test(`IPv${family}: the first packet of a flow`, async (t) => {
    const rows: [name: string, destination: string, action: number | null][] = [
      ['with SNAT', to.external[family], REDIRECT],
      ['without SNAT', plain[family], REDIRECT],
      ['by a group', to.group[family], REDIRECT],
      ['on-link', onLink[family], REDIRECT],
      ['no source address', to.noSource[family], STACK],
      ['no way', to.blackhole[family], STACK],
      ['a gateway whose MAC is stale', to.remoteNode[family], null],
      ['to the node', to.node[family], STACK]
    ]
    for (const kind of kinds) {
      for (const [name, destination, action] of rows) {
        const frame = out(family, destination, content(kind, 41_000, false))
        t.equal(compareFresh(node, t, `${kind} ${name}`, 'a', frame), action, `${kind} ${name}`)
        resetEntries(node, new Map())
      }
    }
  })

  t.test(`IPv${family}: the ports`, async (t) => {
    for (const kind of kinds) {
      const first = content(kind, 20_005, false)
      t.equal(compareFresh(node, t, `${kind} own`, 'a', out(family, to.external[family], first)), REDIRECT)
      t.equal(node.flows(family).find(({ podId }) => podId === 100)?.natPort, 20_005, 'the port stays')
      t.equal(compareFresh(node, t, `${kind} taken`, 'b', out(family, to.external[family], first, 'b')), REDIRECT)
      t.not(node.flows(family).find(({ podId }) => podId === 101)?.natPort, 20_005, 'another port')
      const drop = content(kind, 41_000, false)
      node.setControl({ portCount: 0 })
      t.equal(compareFresh(node, t, `${kind} no ports`, 'a', out(family, to.external[family], drop)), SHOT)
      node.setControl({ portCount: 2000 })
      node.setControl({ flags: Control.on | Control.snat | Control.handOver })
      t.equal(compareFresh(node, t, `${kind} leaving`, 'a', out(family, to.external[family], drop)), STACK)
      node.setControl({ flags: Control.on | Control.snat })
      node.setControl({ translating: true })
      t.equal(compareFresh(node, t, `${kind} translating`, 'a', out(family, to.external[family], drop)), REDIRECT)
      node.setControl({ translating: false })
      resetEntries(node, new Map())
    }
  })

  t.test(`IPv${family}: a connection from its first packet to its last`, async (t) => {
    const goes = (name: string, device: DeviceName, frame: Buffer, action: number | null = REDIRECT) =>
      t.equal(compareFresh(node, t, name, device, frame), action, name)
    const sends = (flags: string) => out(family, to.external[family], content('tcp', 41_000, false, flags))
    goes('SYN', 'a', sends('S'))
    const flow = node.flows(family)[0]
    const answers = (flags: string) => back(family, content('tcp', flow?.natPort as number, true, flags))
    goes('SYN again', 'a', sends('S'), null)
    goes('SYN-ACK', 'up0', answers('SA'))
    goes('ACK', 'a', sends('A'))
    goes('data', 'a', sends('PA'))
    goes('answer', 'up0', answers('A'))
    goes('FIN', 'a', sends('FA'))
    goes('FIN of the remote', 'up0', answers('FA'))
    goes('last ACK', 'a', sends('A'))
    t.equal(node.flows(family).length, 1)
    node.sendFrame('a', sends('RA'))
    goes('ACK after it', 'a', sends('A'), null)
    goes('FIN after it', 'a', sends('FA'), null)
    goes('SYN anew', 'a', sends('S'), null)
  })

  t.test(`IPv${family}: what else is at an edge is for the stages`, async (t) => {
    const stays = (name: string, device: DeviceName, frame: Buffer) =>
      t.equal(compareFresh(node, t, name, device, frame), null, name)
    for (const flags of ['SA', 'SF', 'F', 'FA', 'A', '']) {
      stays(flags, 'a', out(family, to.external[family], content('tcp', 41_001, false, flags)))
      resetEntries(node, new Map())
    }
    // taken up in the middle: no SYN-ACK is for it
    resetEntries(node, new Map())
    node.sendFrame('a', out(family, to.external[family], content('tcp', 41_002, false, 'A')))
    const natPort = node.flows(family)[0]?.natPort as number
    for (const flags of ['F', 'S', 'SF', 'SA'])
      stays(`${flags} of the remote`, 'up0', back(family, content('tcp', natPort, true, flags)))
  })

  t.test(`IPv${family}: the first answer over UDP, and one to a flow that has gone`, async (t) => {
    compareFresh(
      node,
      t,
      'question',
      'a',
      out(family, to.external[family], udp({ sourcePort: 41_000, destinationPort: 443 }, 'q'))
    )
    const natPort = node.flows(family)[0]?.natPort as number
    const answer = back(family, content('udp', natPort, true))
    t.equal(compareFresh(node, t, 'answer', 'up0', answer), REDIRECT)
    resetEntries(node, new Map())
    t.equal(compareFresh(node, t, 'gone', 'up0', answer), null)
    t.equal(compareFresh(node, t, 'an end', 'up0', back(family, content('tcp', natPort, true, 'FA'))), null)
  })
}

t.test('a link-local destination opens nothing', async (t) => {
  for (const kind of kinds)
    for (const [family, destination] of [
      [4, '169.254.7.7'],
      [6, 'fe80::7']
    ] as const)
      t.equal(compareFresh(node, t, kind, 'a', out(family, destination, content(kind, 41_000, false))), null)
})
