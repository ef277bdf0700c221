import t from 'tap'
import { attribute, attributeU32, messagesOf, nextMessage, writeU16, writeU32 } from '../../src/netlink/bytes.js'
import { decodeAll } from '../../src/netlink/decode.js'
import { noChanges } from '../../src/state/changes.js'
import type { StateMessage } from '../../src/state/messages.js'
import { dumpKinds } from '../../src/state/messages.js'
import { State } from '../../src/state/state.js'
import type { Route } from '../../src/state/types.js'
import { decodedDumps, dumpBytes, eventBytes, oracleOf, readFixture } from './fixture.js'
import { differences } from './oracle.js'

const fixture = readFixture()

function message(type: number, flags: number, body: Buffer): Buffer {
  const bytes = Buffer.alloc(16 + ((body.length + 3) & ~3))
  writeU32(bytes, 16 + body.length, 0)
  writeU16(bytes, type, 4)
  writeU16(bytes, flags, 6)
  body.copy(bytes, 16)
  return bytes
}

function only(bytes: Buffer): StateMessage {
  const counters = { malformed: 0, unknown: 0 }
  const [first, ...more] = decodeAll(bytes, counters)
  if (!first || more.length > 0 || counters.malformed + counters.unknown > 0) throw new Error('not exactly one')
  return first
}

function routesOf(prefix: string): Route[] {
  return decodeAll(dumpBytes(fixture, prefix.includes(':') || prefix.length > 12 ? 'routes6' : 'routes4'), {
    malformed: 0,
    unknown: 0
  })
    .flatMap((fact) => (fact.kind === 'route' ? [fact.route] : []))
    .filter((route) => `${route.destination}/${route.prefixLength}` === prefix)
}

t.test('the recorded node decodes to what ip -j said about it', async (t) => {
  const counters = { malformed: 0, unknown: 0 }
  const state = new State()
  for (const [kind, facts] of decodedDumps(fixture, counters)) {
    t.ok(facts.length > 0, `${kind} has entries`)
    state.replaceAll(kind, facts)
  }
  t.same(counters, { malformed: 0, unknown: 0 })
  t.same(differences(state, oracleOf(fixture)), [])
})

t.test('every dumped kind is there, and dumping it again changes nothing', async (t) => {
  const counters = { malformed: 0, unknown: 0 }
  const state = new State()
  for (const [kind, facts] of decodedDumps(fixture, counters)) state.replaceAll(kind, facts)
  for (const [kind, facts] of decodedDumps(fixture, counters)) {
    const changes = state.replaceAll(kind, facts)
    t.same([changes.all, changes.prefixes.size, changes.neighbours.size], [false, 0, 0], kind)
  }
  t.equal(state.needsDump.size, 0)
})

t.test('route attributes that decide about the datapath', async (t) => {
  const [tos, mtu, appended, other] = routesOf('0a010000/16').sort((a, b) => a.table - b.table || a.metric - b.metric)
  t.match(tos, { table: 254, metric: 0, tos: 0x10 })
  t.match(mtu, { table: 254, metric: 50, mtu: 1300, nexthops: [{ gateway: 'c0000202', weight: 1, dead: false }] })
  t.match(appended, { table: 254, metric: 50, mtu: 0, nexthops: [{ gateway: 'c0000204' }] })
  t.match(other, { table: 1000, nexthops: [{ gateway: 'c6336402' }] })
  t.match(routesOf('0a020000/16')[0]?.nexthops, [{ weight: 3 }, { weight: 1 }])
  t.match(routesOf('0a030000/16')[0]?.nexthops, [{ gateway: '20010db8000100000000000000000002' }])
  t.match(routesOf('0a040000/16')[0]?.nexthops, [
    { gateway: '20010db8000100000000000000000002' },
    { gateway: 'c6336402' }
  ])
  t.match(routesOf('0a050000/16')[0], { type: 6, nexthops: [] })
  t.match(routesOf('0a0a0000/16')[0], { preferredSource: 'c6336401', nexthops: [{ onlink: true }] })
  t.match(routesOf('0a0b0000/16')[0], { unsupported: ['encapsulation'], nexthops: [{ encap: true }] })
  t.match(routesOf('0a140000/16')[0], { nexthopId: 10 })
  t.match(routesOf('20010db8002000000000000000000000/48')[0]?.nexthops, [{ weight: 2 }, { weight: 1 }, { weight: 1 }])
  t.match(routesOf('20010db8004000000000000000000000/48')[0]?.unsupported, ['from 20010db8000100000000000000000000/64'])
})

t.test('rules name the selectors that the maps cannot express', async (t) => {
  const rules = decodeAll(dumpBytes(fixture, 'rules'), { malformed: 0, unknown: 0 }).flatMap((fact) =>
    fact.kind === 'rule' ? [fact.rule] : []
  )
  const rule = (priority: number) => rules.find((entry) => entry.priority === priority && entry.family === 4)
  t.match(rule(1000), {
    source: '0a010000',
    sourceLength: 16,
    table: 100,
    action: 1,
    unsupported: [],
    suppressPrefixLength: -1
  })
  t.match(rule(1001), { mark: 1, markMask: 0xff })
  t.match(rule(1002), { invert: true, iif: 'up0', suppressPrefixLength: 0 })
  t.same(rule(1003)?.unsupported.toSorted(), ['dport 80', 'ipproto tcp'])
  t.match(rule(1004), { tos: 0x10, action: 6 })
  t.match(rule(1005), { action: 2, goto: 32766, unsupported: [] })
})

t.test('a group keeps weights above 255, and proxy and bridge entries are no neighbours', async (t) => {
  const group = Buffer.alloc(8)
  writeU32(group, 7, 0)
  group[4] = 0x2b
  group[5] = 0x01
  const body = Buffer.concat([Buffer.alloc(8), attributeU32(1, 9), attribute(2, group)])
  t.match(only(message(104, 0, body)), { kind: 'nexthop', object: { id: 9, group: [{ id: 7, weight: 300 }] } })
  const neighbours = decodeAll(dumpBytes(fixture, 'neighbours'), { malformed: 0, unknown: 0 })
  t.notOk(neighbours.some((fact) => fact.kind === 'neighbour' && fact.neighbour.address === 'c0000263'))
  const bridge = Buffer.alloc(12)
  bridge[0] = 7
  t.same(decodeAll(message(28, 0, bridge), { malformed: 0, unknown: 0 }), [])
})

t.test('[F14] a bridge tells whether iptables sees its frames', async (t) => {
  const bridge = (...switches: [type: number, value: number][]) => {
    const data = Buffer.concat(switches.map(([type, value]) => attribute(type, Buffer.from([value]))))
    const info = Buffer.concat([attribute(1, Buffer.from('bridge\0')), attribute(2 | 0x8000, data)])
    const head = Buffer.alloc(16)
    writeU32(head, 7, 4)
    const body = Buffer.concat([head, attribute(3, Buffer.from('br0\0')), attributeU32(4, 1500), attribute(18, info)])
    return only(message(16, 0, body))
  }
  t.match(bridge([36, 0], [37, 0], [38, 1]), { link: { kind: 'bridge', bridgeNetfilter: false } }, 'ARP is no matter')
  t.match(bridge([36, 1], [37, 0]), { link: { bridgeNetfilter: true } })
  t.match(bridge([36, 0], [37, 1]), { link: { bridgeNetfilter: true } })
})

t.test('netkit tells its mode and which end is the primary', async (t) => {
  const data = Buffer.concat([attribute(2, Buffer.from([1])), attributeU32(5, 1)])
  const info = Buffer.concat([attribute(1, Buffer.from('netkit\0')), attribute(2 | 0x8000, data)])
  const head = Buffer.alloc(16)
  writeU32(head, 12, 4)
  writeU32(head, 0x10001, 8)
  const body = Buffer.concat([
    head,
    attribute(3, Buffer.from('nk0\0')),
    attributeU32(4, 1500),
    attribute(18 | 0x8000, info)
  ])
  t.match(only(message(16, 0, body)), {
    kind: 'link',
    removed: false,
    link: {
      ifindex: 12,
      name: 'nk0',
      kind: 'netkit',
      netkitMode: 'l3',
      netkitPrimary: true,
      up: true,
      carrier: true,
      mac: null
    }
  })
})

t.test('cached routes, bridge port messages and other families are passed over', async (t) => {
  const counters = { malformed: 0, unknown: 0 }
  const cloned = Buffer.alloc(12)
  cloned[0] = 2
  writeU32(cloned, 0x200, 8)
  const port = Buffer.alloc(16)
  port[0] = 7
  const multicast = Buffer.alloc(12)
  multicast[0] = 128
  t.same(
    decodeAll(Buffer.concat([message(24, 0, cloned), message(17, 0, port), message(32, 0, multicast)]), counters),
    []
  )
  t.same(counters, { malformed: 0, unknown: 0 })
  t.same(decodeAll(message(999, 0, Buffer.alloc(4)), counters), [])
  t.same(counters, { malformed: 0, unknown: 1 })
})

t.test('lengths that lie are counted, and the messages after a bad attribute still count', async (t) => {
  const good = dumpBytes(fixture, 'routes4')
  const cursor = messagesOf(good)
  nextMessage(cursor)
  const first = Buffer.from(good.subarray(0, cursor.next))
  for (const length of [0, 3, 200, 0xffff]) {
    const bad = Buffer.from(first)
    writeU16(bad, length, 28)
    const counters = { malformed: 0, unknown: 0 }
    t.equal(decodeAll(Buffer.concat([bad, first]), counters).length, 1)
    t.equal(counters.malformed, 1)
  }
  for (const length of [0, 15, 0x7fffffff, 0xffffffff]) {
    const bad = Buffer.from(first)
    writeU32(bad, length, 0)
    const counters = { malformed: 0, unknown: 0 }
    t.equal(decodeAll(Buffer.concat([first, bad]), counters).length, 1)
    t.equal(counters.malformed, 1)
  }
  for (let cut = 1; cut < first.length; cut++) {
    const counters = { malformed: 0, unknown: 0 }
    t.equal(decodeAll(first.subarray(0, cut), counters).length + counters.malformed, 1)
  }
})

t.test('random damage never throws, hangs or reads another message', async (t) => {
  const sources = [...dumpKinds.map((kind) => dumpBytes(fixture, kind)), eventBytes(fixture)]
  const state = new State()
  let seed = 20240601
  const random = (limit: number): number => {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff
    return seed % limit
  }
  let facts = 0
  const counters = { malformed: 0, unknown: 0 }
  for (let round = 0; round < 3000; round++) {
    const source = sources[round % sources.length] as Buffer
    const start = random(source.length)
    const bytes = Buffer.from(round % 3 === 0 ? source.subarray(start, start + 400) : source)
    const damage = 1 + random(30)
    for (let i = 0; i < damage && bytes.length > 0; i++)
      bytes[random(bytes.length)] = [0, 1, 0xff, random(256)][random(4)] as number
    const decoded = decodeAll(bytes, counters)
    facts += decoded.length
    for (const fact of decoded) state.apply(fact, noChanges())
  }
  t.ok(counters.malformed > 300, `${counters.malformed} malformed`)
  t.ok(facts > 3000, `${facts} facts`)
})
