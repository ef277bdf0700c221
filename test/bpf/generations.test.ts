// What ends when a route changes (bpf/generation.h): flows, notes of fragments and what is remembered of destinations,
// as far as their address lies in it; the others stay on the hot path.
import './namespace.js'
import t from 'tap'
import { hexPrefix } from '../../src/address.js'
import { slotsOf } from '../../src/maps/generations.js'
import { STRUCTS } from '../../src/maps/layout.js'
import { addressBytes, addressText, macText } from '../packets/bytes.js'
import { fragments, ip, type Network, tcp, udp } from '../packets/packet.js'
import { key } from '../plan/node.js'
import { hotPathFlows, port } from './hot_path_flows.js'
import { compiled, frameFor, randomRounds, run } from './hot_path_ways.js'
import { CONTROL, Control } from './layout.js'
import { devices, macBehind, type TestNode, testNode, to } from './node.js'
import { content } from './snat_flow.js'

/** For each family a destination, routes that lead elsewhere, and those that have it. */
const places = {
  4: {
    address: '10.3.0.9',
    prefix: '10.3.0.0/16',
    without: ['10.9.9.0/24', '10.3.1.0/24', '10.3.2.8/29', '10.4.0.0/16', '198.51.100.7/32', '2001:db8:18::/64'],
    having: ['10.3.0.9/32', '10.3.0.8/29', '10.3.0.0/24', '10.3.0.0/22', '10.3.0.0/16', '10.2.0.0/15', '0.0.0.0/0']
  },
  6: {
    address: 'fd00:3::9',
    prefix: 'fd00:3::/48',
    without: ['fd00:9:9::/64', 'fd00:3:0:1::/64', 'fd00:4::/48', 'fd01::/40', '10.3.0.0/24'],
    having: ['fd00:3::9/128', 'fd00:3::/120', 'fd00:3::/64', 'fd00:3::/60', 'fd00:3::/48', 'fd00::/29', '::/0']
  }
} as const

const shares = (prefix: string, address: string) =>
  slotsOf(key(prefix)).some((slot) => slotsOf(key(address))[0] === slot)

for (const family of [4, 6] as const) {
  const { address, prefix, without, having } = places[family]
  const remote = to.external[family]

  t.test(
    `[F7] [F15] IPv${family}: flows stay on the hot path when routes change that have not their address`,
    async (t) => {
      const plain = { address, prefix }
      const { node, compare, fromA } = hotPathFlows({ name: `generations${family}`, family, plain, others: [] })
      const ways = (): string[] =>
        [address, remote].flatMap((destination) =>
          (['tcp', 'udp'] as const).map((kind) => {
            const frame = frameFor('a', fromA(destination, content(kind, port[kind], false, 'A')))
            return `${destination} ${compare(t, `${kind} to ${destination}`, 'a', frame) ? 'hot' : 'stages'}`
          })
        )
      const both = (destination: string, way: string) => [`${destination} ${way}`, `${destination} ${way}`]
      const hot = [...both(address, 'hot'), ...both(remote, 'hot')]
      t.strictSame(ways(), hot)
      for (const other of without) {
        t.notOk(shares(other, address) || shares(other, remote), `${other} has another slot`)
        node.raiseFor(other)
        t.strictSame(ways(), hot, `${other} has changed`)
      }
      for (const other of having) {
        node.raiseFor(other)
        const far = shares(other, remote) ? 'stages' : 'hot'
        t.strictSame(ways(), [...both(address, 'stages'), ...both(remote, far)], `${other} has changed`)
        t.strictSame(ways(), hot, `asked once, ${other}`)
      }
      node.setControl({ routeGeneration: 7 })
      t.strictSame(ways(), [...both(address, 'stages'), ...both(remote, 'stages')], 'all were raised')
      node.close()
    }
  )

  t.test(`IPv${family}: what is remembered of a destination ends with its own routes only`, async (t) => {
    const node = testNode()
    node.setRoute(prefix, { nexthop: 0 })
    let sourcePort = 1000
    const way = () => {
      const content = tcp({ sourcePort: ++sourcePort, destinationPort: 80, flags: 'S' })
      const packet = ip({ source: devices.a[`v${family}`], destination: address }, content)
      // a trace would ask the routes themselves
      return node.send('a', packet, { mark: 5 }).packet.destinationMac
    }
    t.equal(way(), macBehind('up0'))
    node.setRoute(prefix, { nexthop: 3 })
    for (const other of without) node.raiseFor(other)
    t.equal(way(), macBehind('up0'), 'not asked again')
    let uplink: 'up0' | 'up1' = 'up0'
    for (const other of having) {
      uplink = uplink === 'up0' ? 'up1' : 'up0'
      node.setRoute(prefix, { nexthop: uplink === 'up0' ? 0 : 3 })
      node.raiseFor(other)
      t.equal(way(), macBehind(uplink), `${other} has changed`)
    }
    node.close()
  })

  t.test(`[P4] IPv${family}: a note of a first fragment ends with its own routes only`, async (t) => {
    const node = testNode({ flags: Control.on })
    node.setRoute(prefix, { nexthop: 0 })
    const datagram = ip(
      { source: devices.a[`v${family}`], destination: address },
      udp({ sourcePort: 4000, destinationPort: 53 }, Buffer.alloc(900))
    )
    const pieces = fragments(datagram, 400, 7)
    const way = (place: number) => node.send('a', pieces[place] as (typeof pieces)[number]).packet.destinationMac
    t.equal(way(0), macBehind('up0'))
    node.setRoute(prefix, { nexthop: 3 })
    for (const other of without) node.raiseFor(other)
    t.equal(way(1), macBehind('up0'), 'on the way of the first')
    node.raiseFor(prefix)
    t.equal(way(1), macBehind('up1'))
    node.close()
  })

  t.test(`IPv${family}: programs and daemon give an address, and what covers it, the same slot`, async (t) => {
    const node = testNode({ flags: Control.on })
    const { below } = randomRounds(t)
    const slots = new Set<number>()
    for (let round = 0; round < 400; round++) {
      const bytes = Buffer.from(Array.from({ length: family === 4 ? 4 : 16 }, () => below(256)))
      // routed, and no pod's: as special4() and special6() have it
      bytes[0] = family === 4 ? 11 + below(80) : 0x20 + below(16)
      const destination = addressText(bytes)
      const slot = slotOfFlow(node, family, destination)
      slots.add(slot)
      const digits = bytes.toString('hex')
      t.strictSame(slotsOf(hexPrefix(`${digits}/${bytes.length * 8}`)), [slot], destination)
      const length = below(bytes.length * 8 + 1)
      const covering = key(`${destination}/${length}`)
      t.ok(slotsOf(covering).includes(slot), `${covering} has the slot of ${destination}`)
    }
    t.ok(slots.size > 200, `${slots.size} slots for 400 addresses`)
    node.close()
  })
}

t.test('what a program was told before a publication and stores after it does not count', async (t) => {
  const node = testNode({ flags: Control.on, objectFile: compiled('published_between') })
  for (const family of [4, 6] as const) {
    const { address, prefix } = places[family]
    const [slot = 0] = slotsOf(key(address))
    const source = devices.a[`v${family}`]
    const publishes = (on: boolean) => node.setControl({ eventRate: on ? 2 ** 31 + slot * 4 : 1000 })
    const whole = (sourcePort: number) =>
      ip({ source, destination: address }, udp({ sourcePort, destinationPort: 53 }, Buffer.alloc(900)))
    const pieces = fragments(whole(4001), 400, 7)
    const ways: Record<string, () => Network> = {
      'of a new flow': () => whole(4000),
      'of a flow that asks again': () => whole(4000),
      'of a first fragment': () => pieces[0] as Network
    }
    for (const [name, packet] of Object.entries(ways)) {
      // without a trace, which would publish before, and by the stages, which ask once
      const way = (network: Network) =>
        macText(Buffer.from(run(node, 'from_pod', 'a', frameFor('a', network), { mark: 5 }).data.slice(0, 12), 'hex'))
      publishes(true)
      node.setRoute(prefix, { nexthop: 0 })
      t.equal(way(packet()), macBehind('up0'), `IPv${family}, ${name}`)
      node.setRoute(prefix, { nexthop: 3 })
      // this writes generations, too: those of before
      const published = node.object.readControl()
      publishes(false)
      node.object.writeControl(CONTROL.routeGenerations, published.subarray(CONTROL.routeGenerations, CONTROL.shared))
      t.equal(way(packet() === pieces[0] ? (pieces[1] as Network) : packet()), macBehind('up1'), 'and the next')
      t.equal(way(whole(4002)), macBehind('up1'), 'and another flow')
    }
  }
  node.close()
})

/** The program's: of a new flow to there. */
function slotOfFlow(node: TestNode, family: 4 | 6, destination: string): number {
  const source = devices.a[`v${family}`]
  const { reason } = node.send('a', ip({ source, destination }, udp({ sourcePort: 9, destinationPort: 9 })))
  if (reason !== 'to-uplink') throw new Error(`${destination}: ${reason}`)
  const flows = node.map(`flows${family}`)
  const { keys, values, count } = flows.dump()
  const width = addressBytes(destination).length
  const size = keys.length / count
  for (let row = 0; row < count; row++) {
    const remote = keys.subarray(row * size + width, row * size + 2 * width)
    if (remote.equals(addressBytes(destination)))
      return values.readUInt16LE(row * STRUCTS.flow.size + STRUCTS.flow.offset.slot) / 4
  }
  throw new Error(`${destination} has no flow`)
}

t.test('a prefix has few slots, unless it is short', async (t) => {
  const count = (prefix: string) => new Set(slotsOf(key(prefix))).size
  t.equal(count('10.1.2.3/32'), 1)
  t.equal(count('10.1.2.0/24'), 1)
  t.ok(count('10.1.0.0/20') <= 16)
  t.equal(count('10.1.0.0/16'), 32)
  t.ok(count('10.0.0.0/14') <= 128)
  t.equal(count('0.0.0.0/0'), 1024)
  t.equal(count('2001:db8:1:2::/64'), 1)
  t.equal(count('2001:db8:1::/48'), 8)
  t.equal(count('2001:db8::/32'), 64)
  t.equal(count('::/0'), 1024)
  for (const prefix of ['10.0.0.0/9', '2001::/20', '::/0', '10.1.2.0/23'])
    t.equal(count(prefix), slotsOf(key(prefix)).length, `${prefix}: each once`)
})
