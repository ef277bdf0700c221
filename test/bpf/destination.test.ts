// What is remembered of a destination (bpf/destination.h): a new flow goes as the routes and the policy say under the
// generation and the epoch of now, whoever went there before, and whichever addresses share a row.
import './namespace.js'
import t from 'tap'
import { addressBytes } from '../packets/bytes.js'
import { ip, tcp, udp } from '../packets/packet.js'
import { devices, macBehind, onLink, type PodName, testNode, to } from './node.js'

const CLASS = { 4: 1 << 2, 6: 1 << 3 } as const
const ROWS = 512

/** As destination_row() has it. */
function rowOf(address: string): number {
  const bytes = addressBytes(address)
  const mapped = bytes.length === 16 ? bytes : Buffer.concat([Buffer.alloc(10), Buffer.from([255, 255]), bytes])
  const word = mapped.readBigUInt64LE(0) ^ mapped.readBigUInt64LE(8)
  const half = Number(word & 0xffffffffn) ^ Number(word >> 32n)
  return (Math.imul(half, 0x9e3779b1) >>> 0) >>> 23
}

/** Another address beyond the node that has the same row. */
function sharingRow(address: string, family: 4 | 6): string {
  for (let number = 1; number < 100 * ROWS; number++) {
    const other = family === 4 ? `198.20.${number >> 8}.${number & 255}` : `2001:db8:20::${number.toString(16)}`
    if (rowOf(other) === rowOf(address)) return other
  }
  throw new Error('none found')
}

for (const family of [4, 6] as const) {
  const everywhere = family === 4 ? '0.0.0.0/0' : '::/0'
  let port = 1000

  /** A new flow each time. */
  const open = (node: ReturnType<typeof testNode>, destination: string, from: PodName = 'a', kind = 'tcp') => {
    const ports = { sourcePort: ++port, destinationPort: 80 }
    const content = kind === 'tcp' ? tcp({ ...ports, flags: 'S' }) : udp(ports)
    return node.send(from, ip({ source: devices[from][`v${family}`], destination }, content))
  }

  for (const kind of ['tcp', 'udp']) {
    t.test(`IPv${family}: ${kind} that is new goes by new routes when the generation is raised`, async (t) => {
      const node = testNode()
      const destination = to.external[family]
      const way = () => open(node, destination, 'a', kind)
      t.equal(way().packet.destinationMac, macBehind('up0'))
      t.equal(way().packet.destinationMac, macBehind('up0'))
      node.setRoute(everywhere, { nexthop: 3 })
      node.setControl({ routeGeneration: 2 })
      t.equal(way().packet.destinationMac, macBehind('up1'))
      t.equal(way().packet.destinationMac, macBehind('up1'))
      node.setRoute(everywhere, { stack: 'translated-destination' })
      node.setControl({ routeGeneration: 3 })
      t.equal(way().reason, 'translated-destination')
      node.setRoute(everywhere, { stack: 'route' })
      t.equal(way().reason, 'route', 'what is the stack’s is asked about each time')
      node.setRoute(everywhere, null)
      node.setControl({ routeGeneration: 4 })
      t.equal(way().reason, 'no-route')
      node.setRoute(everywhere, { nexthop: 0 })
      node.setControl({ routeGeneration: 5 })
      t.equal(way().packet.destinationMac, macBehind('up0'))
      node.close()
    })

    t.test(`IPv${family}: ${kind} that is new goes by the policy of the epoch`, async (t) => {
      const node = testNode()
      const source = devices.a[`v${family}`]
      const isOwn = () => open(node, to.external[family], 'a', kind).packet.ip?.source === source
      t.equal(isOwn(), false)
      t.equal(isOwn(), false)
      node.setMasquerade(2, { [everywhere]: false })
      t.equal(isOwn(), false, 'not before')
      node.setControl({ epoch: 2 })
      t.equal(isOwn(), true)
      t.equal(isOwn(), true)
      node.setControl({ epoch: 1 })
      t.equal(isOwn(), false)
      node.setControl({ flags: 1 })
      t.equal(isOwn(), true, 'SNAT is not ours')
      node.close()
    })
  }

  t.test(`IPv${family}: two destinations of one row`, async (t) => {
    const node = testNode()
    const one = to.external[family]
    const other = sharingRow(one, family)
    node.setRoute(family === 4 ? '198.20.0.0/16' : '2001:db8:20::/64', { nexthop: 3 })
    node.setMasquerade(1, { [family === 4 ? '198.20.0.0/16' : '2001:db8:20::/64']: false })
    for (const destination of [one, other, other, one, one, other, one]) {
      const { packet } = open(node, destination)
      t.equal(packet.destinationMac, macBehind(destination === one ? 'up0' : 'up1'), destination)
      t.equal(packet.ip?.source === devices.a[`v${family}`], destination !== one, destination)
    }
    node.close()
  })

  t.test(`IPv${family}: pods whose packets other tables route`, async (t) => {
    const node = testNode()
    const [first, second] = [0, 65_535]
    node.setClassRoute(first, everywhere, { nexthop: 3 })
    node.setClassRoute(second, everywhere, 'main')
    const destination = to.external[family]
    const inClass = (number: number) =>
      node.setDevice('b', { flags: CLASS[family], [family === 4 ? 'class4' : 'class6']: number })
    for (let round = 0; round < 2; round++) {
      t.equal(open(node, destination).packet.destinationMac, macBehind('up0'), 'of no class')
      inClass(first)
      t.equal(open(node, destination, 'b').packet.destinationMac, macBehind('up1'), 'of one')
      t.equal(open(node, destination, 'b').packet.destinationMac, macBehind('up1'), 'of one, again')
      inClass(second)
      t.equal(open(node, destination, 'b').packet.destinationMac, macBehind('up0'), 'of one that says main')
    }
    node.close()
  })

  t.test(`IPv${family}: flows to one destination use all legs of its group, and no other`, async (t) => {
    const node = testNode()
    const legs = () => new Set(Array.from({ length: 64 }, () => open(node, to.group[family]).packet.destinationMac))
    t.same([...legs()].sort(), [macBehind('up0'), macBehind('up1')].sort())
    t.equal(open(node, onLink[family]).packet.destinationMac, onLink.mac)
    node.close()
  })
}

t.test('both families in one row', async (t) => {
  const node = testNode()
  const six = Array.from({ length: 100 * ROWS }, (_, number) => `2001:db8:77::${number.toString(16)}`)
  const shared = six.find((address) => rowOf(address) === rowOf(to.external[4])) ?? ''
  node.setRoute('2001:db8:77::/64', { nexthop: 3 })
  node.setControl({ routeGeneration: 2 })
  for (let round = 0; round < 4; round++) {
    const ports = { sourcePort: 2000 + round, destinationPort: 80, flags: 'S' }
    const four = node.send('a', ip({ source: devices.a.v4, destination: to.external[4] }, tcp(ports)))
    const other = node.send('a', ip({ source: devices.a.v6, destination: shared }, tcp(ports)))
    t.equal(four.packet.destinationMac, macBehind('up0'))
    t.equal(other.packet.destinationMac, macBehind('up1'))
  }
  node.close()
})
