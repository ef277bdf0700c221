import t from 'tap'
import { hexAddress, hexMac } from '../../src/address.js'
import * as codec from '../../src/maps/codec.js'
import { classRow } from '../../src/maps/keys.js'
import { spreadLegs } from '../../src/maps/nexthops.js'
import { podSlotIndex } from '../../src/maps/pods.js'
import { hex, key } from '../plan/node.js'

t.test('what is encoded is decoded again', async (t) => {
  const device = {
    ifindex: 7,
    row: 3,
    kind: 1,
    flags: 2,
    podId: 0xfffffffe,
    mtu: 1500,
    address4: hex('10.1.0.2'),
    address6: hex('fd00::2'),
    class4: 3,
    class6: 0xffff,
    replyTag: 5,
    mac: hexMac('020000000007')
  }
  t.strictSame(codec.decodeDevice(codec.encodeDevice(device)), device)
  for (const row of [classRow(3, key('10.0.0.0/8')), classRow(65535, key('fd00::/16')), classRow(1, key('0.0.0.0/0'))])
    t.equal(codec.decodeClassRouteKey(codec.encodeClassRouteKey(row)), row)
  const pod = { ifindex: 7, id: 5, mtu: 9000, flags: 1, mac: hexMac('0a0000000007'), hostMac: hexMac('020000000007') }
  t.strictSame(codec.decodePod(codec.encodePod(pod)), pod)
  t.strictSame(codec.decodePodSlot(codec.encodePodSlot(hex('10.1.0.2'), codec.encodePod(pod), true)), {
    address: hex('10.1.0.2'),
    pod,
    more: true
  })
  for (const gateway of [null, hex('192.0.2.1'), hex('fe80::1')]) {
    const nexthop = {
      ifindex: 2,
      gateway,
      mac: hexMac('020000000101'),
      macKnown: true,
      sourceMac: hexMac('020000000002'),
      mtu: 1400,
      snat4: hex('192.0.2.10'),
      snat6: null,
      sources: 7,
      noSource: true
    }
    t.strictSame(codec.decodeNexthop(codec.encodeNexthop(nexthop)), nexthop)
  }
  for (const prefix of [key('0.0.0.0/0'), key('10.0.0.0/8'), key('fd00::/32')]) {
    t.equal(codec.decodeRouteKey(codec.encodeRouteKey(prefix)), prefix)
    t.strictSame(codec.decodeMasqueradeKey(codec.encodeMasqueradeKey(9, prefix)), { epoch: 9, prefix })
  }
  for (const address of [hex('192.0.2.1'), hex('fe80::1')])
    t.strictSame(codec.decodeNeighbourKey(codec.encodeNeighbourKey(2, address)), { ifindex: 2, address })
})

t.test('flows, events and control come out readable', async (t) => {
  t.strictSame(codec.decodeTuple(Buffer.from('0a010002c63364070050bb9a06000000', 'hex')), {
    local: '0a010002',
    remote: 'c6336407',
    localPort: 80,
    remotePort: 48026,
    protocol: 6
  })
  const flow = Buffer.alloc(48)
  flow.writeUInt16LE(4, 6)
  flow.writeUInt32LE(9, 0)
  flow.writeUInt16BE(40000, 22)
  flow.write('00000000000000000000ffffc000020a', 24, 'hex')
  t.match(codec.decodeFlow(flow), { nexthop: 4, generation: 9, natPort: 40000, natAddress: 'c000020a' })
  t.strictSame(codec.readable({ address: 'c000020a', mac: '020000000101', mtu: 1500, inner: { gateway: null } }), {
    address: '192.0.2.10',
    mac: '02:00:00:00:01:01',
    mtu: 1500,
    inner: { gateway: null }
  })
})

t.test('slots of pods: IPv4 neighbours never share one, IPv6 is folded and multiplied', async (t) => {
  t.equal(podSlotIndex(hex('10.1.0.2')), 0x0a010002 & 16383)
  const fold = (0xfd000000 ^ 0x00010002) >>> 0
  t.equal(
    podSlotIndex(hexAddress(`fd000000${'0'.repeat(16)}00010002`)),
    Number((BigInt(fold) * 0x9e3779b1n) & 0xffffffffn) >>> 18
  )
  t.equal(new Set(Array.from({ length: 256 }, (_, i) => podSlotIndex(hex(`10.1.7.${i}`)))).size, 256)
})

t.test('[F11] legs share a group by weight, and each has a place', async (t) => {
  const count = (legs: { index: number; weight: number }[]) =>
    legs.map((leg) => spreadLegs(legs).filter((index) => index === leg.index).length)
  t.strictSame(
    count([
      { index: 1, weight: 1 },
      { index: 2, weight: 1 }
    ]),
    [32, 32]
  )
  t.strictSame(
    count([
      { index: 1, weight: 3 },
      { index: 2, weight: 1 }
    ]),
    [48, 16]
  )
  t.strictSame(
    count([
      { index: 1, weight: 256 },
      { index: 2, weight: 1 },
      { index: 3, weight: 1 }
    ]),
    [62, 1, 1]
  )
  for (let size = 1; size <= 64; size++) {
    const legs = Array.from({ length: size }, (_, index) => ({ index: index + 1, weight: 1 + ((index * 37) % 256) }))
    const spread = spreadLegs(legs)
    if (spread.length !== 64 || new Set(spread).size !== size) t.fail(`${size} legs`)
  }
})
