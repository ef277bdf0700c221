import t from 'tap'
import { hexAddress, hexMac, hexPrefix, prefixKey } from '../../src/address.js'
import { noChanges } from '../../src/state/changes.js'
import type { StateMessage } from '../../src/state/messages.js'
import { State } from '../../src/state/state.js'
import type { Prefix, Route } from '../../src/state/types.js'
import {
  add,
  address,
  after,
  del,
  gateways,
  gone,
  hex,
  hop,
  link,
  neighbour,
  nexthop,
  p4,
  p6,
  r4,
  r6,
  route,
  rule,
  silent
} from './messages.js'

t.test(
  '[Y6] IPv4: new routes stand before equal ones, appended ones behind, replaced ones in the first place',
  async (t) => {
    const state = new State()
    t.same([...after(state, add(r4(1))).prefixes], [p4])
    after(state, add(r4(2), { append: true }))
    t.equal(gateways(state, p4), '1 2')
    after(state, add(r4(3)))
    t.equal(gateways(state, p4), '3 1 2')
    after(state, add(r4(4), { replace: true }))
    t.equal(gateways(state, p4), '4 1 2')
    after(state, del(r4(1)))
    t.equal(gateways(state, p4), '4 2')
    t.equal(after(state, add(r4(2))).prefixes.size, 0, 'one that is there changes nothing')
    after(state, del(r4(4)), del(r4(2)))
    t.notOk(state.routes4.has(p4), 'no empty list stays')
    t.equal(state.needsDump.size, 0)
  }
)

t.test('[Y6][F11] a route told anew because its nexthop object changed stays in its place', async (t) => {
  const state = new State()
  const objects = (routes: typeof state.routes4, prefix: Prefix) => routes.get(prefix)?.map((each) => each.nexthopId)
  const shared = r4(2, { nexthopId: 21 })
  after(state, add(r4(1)), add(shared, { append: true }))
  after(state, add({ ...shared, nexthops: [hop(2, '192.0.2.7'), hop(3, '192.0.2.8')] }, { replace: true }))
  t.same(objects(state.routes4, p4), [0, 21])
  t.equal(state.needsDump.size, 0)
  state.apply(add(shared, { replace: true }), noChanges(), true)
  t.same([...state.needsDump], ['routes4'], 'in a replay it may be a real replacement: only a dump can tell')
  state.needsDump.clear()
  const second = { ...r6(2), nexthopId: 12 }
  after(state, add({ ...r6(1), nexthopId: 11 }), add(second, { append: true }), add(second, { replace: true }))
  t.same(objects(state.routes6, p6), [11, 12])
  t.same([...state.needsDump], ['routes6'], 'IPv6 may have replaced the first')
})

t.test('[Y2][Y4] dumps that a change ran into are taken together: none missing, none twice', async (t) => {
  const state = new State()
  const at = (prefix: string) => ({ ...r6(1), destination: hex(prefix) })
  const [first, second, third] = [at('2001:db8:1::'), at('2001:db8:2::'), at('2001:db8:3::')]
  const replacement = state.beginReplace('routes6')
  for (const route of [first, second, second]) replacement.add(add(route))
  replacement.again()
  for (const route of [{ ...second, mtu: 1400 }, third, third]) replacement.add(add(route))
  t.equal(state.routes6.size, 0, 'nothing shows before the end')
  const shown = () =>
    [first, second, third].map(({ destination }) =>
      state.routes6.get(prefixKey(destination, 48))?.map(({ mtu }) => mtu)
    )
  Array.from(replacement.unite(noChanges()))
  t.same(shown(), [[0], [1400], [0]], 'the later dump counts')
  const whole = state.beginReplace('routes6')
  for (const route of [first, second]) whole.add(add(route))
  whole.again()
  whole.add(add(third))
  Array.from(whole.finish(noChanges()))
  t.same(shown(), [undefined, undefined, [0]], 'a whole dump needs no other')
})

t.test('[Y5][F11] IPv6 next hops that joined with an MTU of their own: only a dump tells what is left', async (t) => {
  const state = new State()
  const asked = () => {
    const kinds = [...state.needsDump]
    state.needsDump.clear()
    return kinds
  }
  after(state, add({ ...r6(1), mtu: 1300 }), add({ ...r6(2), mtu: 1300 }, { append: true }))
  t.same(asked(), [], 'all alike')
  after(state, add(r6(3), { append: true }))
  t.same(asked(), ['routes6'], 'one that is not')
  after(state, del(r6(3)))
  t.same(asked(), ['routes6'], 'and is gone again: the rest has 1300 as before')
  after(state, del(r6(1)), del(r6(2)))
  asked()
  after(state, add(r6(1)), add(r6(2), { append: true }), del(r6(1)))
  t.same(asked(), [], 'a new route begins anew')
})

t.test('[Y6] lists are sorted by table, metric and tos, and each of these is its own route', async (t) => {
  const state = new State()
  after(
    state,
    add(r4(1, { table: 1000 })),
    add(r4(2, { metric: 50 })),
    add(r4(3, { tos: 16 })),
    add(r4(4)),
    add(r4(5, { table: 100 }))
  )
  t.equal(gateways(state, p4), '5 4 3 2 1')
  after(state, add(r4(6, { metric: 50 }), { replace: true }))
  t.equal(gateways(state, p4), '5 4 3 6 1', 'a replacement touches its own metric only')
  after(state, del(r4(1, { table: 1000 })))
  t.equal(gateways(state, p4), '5 4 3 6')
})

t.test('[Y6] a change of protocol, MTU or type replaces in place and is reported', async (t) => {
  const state = new State()
  after(state, add(r4(1)))
  for (const fields of [
    { protocol: 12 },
    { mtu: 1400 },
    { preferredSource: hex('192.0.2.9') },
    { unsupported: ['encapsulation'] }
  ]) {
    t.equal(after(state, add(r4(1, fields), { replace: true })).prefixes.size, 1)
    t.match(state.routes4.get(p4), [fields])
    t.equal(state.routes4.get(p4)?.length, 1)
  }
})

t.test(
  'a removal that fits none of the routes of its table and metric asks for a dump, but not in a replay',
  async (t) => {
    const state = new State()
    after(state, add(r4(1)))
    after(state, del(r4(9, { metric: 7 })))
    t.equal(state.needsDump.size, 0, 'nothing to be unsure about')
    state.apply(del(r4(9)), noChanges(), true)
    t.equal(state.needsDump.size, 0)
    after(state, del(r4(9)))
    t.same([...state.needsDump], ['routes4'])
    t.equal(gateways(state, p4), '1')
  }
)

t.test('[Y6] IPv6 multipath: whole, by single messages, and taken apart hop by hop', async (t) => {
  const state = new State()
  after(state, add(r6(1)), add(r6(2)), add(r6(3), { append: true }))
  t.equal(gateways(state, p6), '1+2+3', 'several messages are one route')
  after(state, del(r6(2)))
  t.equal(gateways(state, p6), '1+3')
  after(state, add(r6(4, 1, 3), { append: true }))
  t.equal(gateways(state, p6), '1+3+4', 'announced whole, whichever comes first')
  t.equal(after(state, add(r6(3))).prefixes.size, 0, 'one that is known adds nothing')
  after(state, add(r6(7, 8), { replace: true }))
  t.equal(gateways(state, p6), '7+8')
  after(state, del(r6(7, 8)))
  t.notOk(state.routes6.has(p6))
})

t.test('IPv6 routes without a gateway stand side by side, and a replacement takes one of its own sort', async (t) => {
  const state = new State()
  const onDevice = (ifindex: number): Route => route('fe80::/64', [hop(ifindex)], { metric: 256, protocol: 2 })
  const key = hexPrefix('fe800000000000000000000000000000/64')
  after(state, add(onDevice(2)), add(onDevice(3)), add(onDevice(4)))
  t.equal(state.routes6.get(key)?.length, 3)
  after(state, del(onDevice(3)))
  t.same(
    state.routes6.get(key)?.map((entry) => entry.nexthops[0]?.ifindex),
    [2, 4]
  )
  const viaGateway = route('fe80::/64', [hop(9, 'fe80::9')], { metric: 256 })
  after(state, add(viaGateway), add({ ...viaGateway, nexthops: [hop(8, 'fe80::8')] }, { replace: true }))
  t.same(
    state.routes6.get(key)?.map((entry) => entry.nexthops[0]?.ifindex),
    [2, 4, 8]
  )
})

t.test('a source prefix makes an IPv6 route another one', async (t) => {
  const state = new State()
  after(state, add(r6(1)), add({ ...r6(2), unsupported: ['from 2001:db8::/32'] }))
  t.equal(gateways(state, p6), '1 2')
  after(state, del(r6(1)))
  t.equal(gateways(state, p6), '2')
})

t.test('routes by nexthop object follow the object and its group', async (t) => {
  const state = new State()
  after(state, link(2), nexthop(1, { nexthop: hop(2, '192.0.2.1') }), nexthop(2, { nexthop: hop(2, '192.0.2.2') }))
  after(
    state,
    nexthop(10, {
      group: [
        { id: 1, weight: 5 },
        { id: 2, weight: 300 }
      ]
    }),
    add(r4(99, { nexthopId: 10 }))
  )
  t.equal(gateways(state, p4), '1+2')
  t.same(
    state.routes4.get(p4)?.[0]?.nexthops.map((leg) => leg.weight),
    [5, 300]
  )
  t.same([...after(state, nexthop(2, { nexthop: hop(2, '192.0.2.22') })).objects], [2])
  t.equal(gateways(state, p4), '1+22')
  t.equal(state.needsDump.size, 0)
  t.same([...after(state, gone(nexthop(1, {}))).objects], [1, 10])
  t.equal(gateways(state, p4), '22')
  t.same(state.doubts, silent, '[Y5] what the kernel changed silently is confirmed')
  t.equal(state.needsDump.size, 0)
  const last = after(state, gone(nexthop(2, {})))
  t.same([[...last.objects], [...last.prefixes]], [[2, 10], [p4]], 'a group goes with its last member, routes with it')
  t.notOk(state.routes4.has(p4))
  t.equal(state.nexthopObjects.size, 0)
})

t.test(
  '[Y7] a device that goes takes its addresses and neighbours along, and late events leave no trace',
  async (t) => {
    const state = new State()
    after(
      state,
      link(2),
      link(3),
      address(2, '192.0.2.1'),
      neighbour(2, '192.0.2.5'),
      neighbour(22, '192.0.2.5'),
      neighbour(3, '192.0.2.6')
    )
    t.equal(state.neighbours.size, 2, 'device 22 does not exist')
    const changes = after(state, gone(link(2)))
    t.same([...changes.neighbours], ['2/c0000205'])
    t.same([...state.neighbours.keys()], ['3/c0000206'])
    t.equal(state.addresses.size, 0)
    after(state, neighbour(2, '192.0.2.5'), address(2, '192.0.2.1'))
    t.equal(state.neighbours.size + state.addresses.size, 1)
  }
)

t.test('neighbour changes are precise, and repetitions are none', async (t) => {
  const state = new State()
  after(state, link(2))
  t.same([...after(state, neighbour(2, '192.0.2.5')).neighbours], ['2/c0000205'])
  t.equal(after(state, neighbour(2, '192.0.2.5')).neighbours.size, 0)
  t.equal(after(state, neighbour(2, '192.0.2.5', { mac: hexMac('020000000009') })).neighbours.size, 1)
  t.same([...after(state, gone(neighbour(2, '192.0.2.5'))).neighbours], ['2/c0000205'])
  t.equal(after(state, gone(neighbour(2, '192.0.2.5'))).neighbours.size, 0)
})

t.test('rules keep the order of priority and creation', async (t) => {
  const state = new State()
  after(state, rule(32766, 254), rule(100, 7), rule(100, 8), rule(0, 255))
  t.same(
    state.rules.map((entry) => entry.table),
    [255, 7, 8, 254]
  )
  t.equal(after(state, rule(100, 7)).rules, false)
  t.equal(after(state, gone(rule(100, 7))).rules, true)
  t.same(
    state.rules.map((entry) => entry.table),
    [255, 8, 254]
  )
})

t.test('[Y2] events older than the dump, replayed after it, end where the kernel is', async (t) => {
  const sequences: [string, StateMessage[], string][] = [
    ['add, replace', [add(r4(1)), add(r4(2), { replace: true })], '2'],
    ['replace twice', [add(r4(1), { replace: true }), add(r4(2), { replace: true })], '2'],
    ['add, delete, add another', [add(r4(1)), del(r4(1)), add(r4(2))], '2'],
    ['add, append, delete the first', [add(r4(1)), add(r4(2), { append: true }), del(r4(1))], '2'],
    ['add, append, replace', [add(r4(1)), add(r4(2), { append: true }), add(r4(3), { replace: true })], '3 2'],
    ['IPv6 by hops', [add(r6(1)), add(r6(2, 1), { append: true }), del(r6(1)), add(r6(3, 2), { append: true })], '2+3'],
    ['IPv6 replaced', [add(r6(1)), add(r6(1, 2), { append: true }), add(r6(4), { replace: true })], '4']
  ]
  for (const [name, events, expected] of sequences) {
    const kernel = new State()
    after(kernel, ...events)
    const key = events.some((event) => event.kind === 'route' && event.route.family === 6) ? p6 : p4
    t.equal(gateways(kernel, key), expected, name)
    // Dumped after each of the events, with all of them still in the queue.
    for (let seen = 0; seen <= events.length; seen++) {
      const source = new State()
      after(source, ...events.slice(0, seen))
      const state = new State()
      state.replaceAll(
        key === p6 ? 'routes6' : 'routes4',
        [...source.routes4.values(), ...source.routes6.values()].flat().map((entry) => add(entry))
      )
      for (const event of events) state.apply(event, noChanges(), true)
      t.equal(gateways(state, key), expected, `${name}: dumped after ${seen}`)
    }
  }
})

t.test('[Y3] a fresh dump is applied as a difference: what stays is untouched, and no moment is empty', async (t) => {
  const state = new State()
  const routes = Array.from({ length: 10_000 }, (_, i) => route(`10.${i >> 8}.${i & 255}.0/24`, [hop(2, '192.0.2.1')]))
  const changes = state.replaceAll(
    'routes4',
    routes.map((entry) => add(entry))
  )
  t.equal(changes.prefixes.size, 10_000)
  t.equal(
    state.replaceAll(
      'routes4',
      routes.map((entry) => add({ ...entry }))
    ).prefixes.size,
    0
  )
  t.strictSame(state.routes4.get(hexPrefix('0a000500/24')), [routes[5]])

  const keyOf = ({ destination, prefixLength }: Route) => prefixKey(destination, prefixLength)
  const replacement = state.beginReplace('routes4')
  for (const entry of routes.slice(2)) replacement.add(add({ ...entry }))
  replacement.add(add(route('172.16.0.0/12', [hop(2, '192.0.2.1')])))
  const difference = noChanges()
  let steps = 0
  for (const _ of replacement.finish(difference)) {
    steps++
    // one prefix after the other
    if (!routes.slice(2).every((entry) => gateways(state, keyOf(entry)) === '1')) t.fail('what stays is there')
    if (state.routes4.size < 9_998 || state.routes4.size > 10_001) t.fail(`${state.routes4.size} prefixes`)
  }
  t.ok(steps > 1)
  t.same([...difference.prefixes].sort(), ['0a000000/24', '0a000100/24', 'ac100000/12'])
  t.equal(state.routes4.size, 9_999)

  after(state, link(2), link(3), neighbour(2, '192.0.2.1'), neighbour(2, '192.0.2.2'), address(2, '192.0.2.9'))
  const fewer = state.replaceAll('neighbours', [
    neighbour(2, '192.0.2.2'),
    neighbour(3, '192.0.2.3'),
    neighbour(77, '192.0.2.4')
  ])
  t.same([...fewer.neighbours].sort(), ['2/c0000201', '3/c0000203'])
  t.equal(state.replaceAll('links', [link(2), link(3)]).links.size, 0)
  t.same([...state.replaceAll('links', [link(3)]).links], [2])
  t.same([...state.neighbours.keys()], ['3/c0000203'], 'links that are gone in a dump take their facts along')
  t.equal(state.addresses.size, 0)
})

t.test('100,000 routes need little memory', async (t) => {
  const collect = globalThis.gc
  const state = new State()
  const before = process.memoryUsage().heapUsed
  const replacement = state.beginReplace('routes4')
  const shared = [hop(2, '192.0.2.1')]
  for (let i = 0; i < 100_000; i++) {
    const destination = hexAddress((0x0a000000 + i * 256).toString(16).padStart(8, '0'))
    replacement.add(add({ ...route('10.0.0.0/24', shared), destination }))
  }
  Array.from(replacement.finish(noChanges()))
  collect?.()
  const megabytes = (process.memoryUsage().heapUsed - before) / 1e6
  t.equal(state.routes4.size, 100_000)
  t.ok(megabytes < (collect ? 60 : 200), `${megabytes.toFixed(0)} MB`)
})
