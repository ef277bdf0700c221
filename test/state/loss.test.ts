// What goes with a device, an address or a next hop object.

import t from 'tap'
import { familyOfPrefix } from '../../src/address.js'
import { noChanges } from '../../src/state/changes.js'
import type { StateMessage } from '../../src/state/messages.js'
import { State } from '../../src/state/state.js'
import type { Prefix, Route } from '../../src/state/types.js'
import {
  add,
  address,
  after,
  both4,
  both6,
  del,
  gateways,
  gone,
  hex,
  hop,
  link,
  nexthop,
  other4,
  p4,
  p6,
  r4,
  r6,
  route,
  silent
} from './messages.js'

t.test('[Y5] next hop objects go with their device, and with its carrier', async (t) => {
  for (const message of [link(2, { up: false }), link(2, { carrier: false, up: true }), gone(link(2))]) {
    const state = new State()
    const lost = message.removed ? message : { ...message, running: false }
    after(
      state,
      link(2),
      link(3),
      nexthop(1, { nexthop: hop(2, '192.0.2.1') }),
      nexthop(2, { nexthop: hop(3, '192.0.2.2') }),
      nexthop(10, { group: [1, 2].map((id) => ({ id, weight: 1 })) }),
      add(r4(99, { nexthopId: 10 })),
      add(route('10.2.0.0/16', [], { nexthopId: 1 }))
    )
    const changes = after(state, lost)
    t.same([[...changes.objects], [...changes.prefixes], [...changes.links]], [[1, 10], ['0a020000/16'], [2]])
    t.equal(gateways(state, p4), '2')
    t.same(state.doubts, silent)
  }
})

/** What is left of a route after each loss: gateways, 'x' behind those that are dead. */
function legs(state: State, key: Prefix): string | undefined {
  const list = (familyOfPrefix(key) === 6 ? state.routes6 : state.routes4).get(key)
  return list
    ?.map(({ nexthops }) =>
      nexthops.map(({ gateway, dead }) => `${gateway?.slice(-1) ?? 'on'}${dead ? 'x' : ''}`).join('+')
    )
    .join(' ')
}

t.test('[Y5] routes go with their device at once, as the kernel does without a message', async (t) => {
  const down = link(2, { up: false })
  const lost = { ...link(2, { carrier: false }), running: false }
  const cases: [string, StateMessage[], StateMessage, string | undefined, string | undefined][] = [
    ['down: a route of its own', [add(r4(1)), add(r6(1))], down, undefined, undefined],
    ['gone: a route of its own', [add(r4(1)), add(r6(1))], gone(link(2)), undefined, undefined],
    ['no carrier: it stays, dead', [add(r4(1)), add(r6(1))], lost, '1x', '1x'],
    ['down: one of two next hops dies', [add(both4), add(both6)], down, '1x+2', '1x+2'],
    ['gone: IPv4 takes the route, IPv6 the next hop', [add(both4), add(both6)], gone(link(2)), undefined, '2'],
    ['no carrier: one of two is dead', [add(both4), add(both6)], lost, '1x+2', '1x+2'],
    ['down: the other device is down', [link(3, { up: false }), add(both4), add(both6)], down, undefined, undefined],
    ['down: a route to the host itself', [add({ ...r4(1), scope: 254, type: 2 })], down, '1', undefined],
    ['down: another route of the prefix stays', [add(r4(1)), add(other4)], down, '3', undefined]
  ]
  for (const [name, messages, loss, four, six] of cases) {
    const state = new State()
    after(state, link(2), link(3), ...messages)
    t.equal(state.needsDump.size + state.doubts.size, 0)
    const changes = after(state, loss)
    t.equal(legs(state, p4), four, `${name}, IPv4`)
    t.equal(legs(state, p6), six, `${name}, IPv6`)
    t.same([...changes.links], [2])
    t.equal(changes.all, false)
    t.equal(state.needsDump.size, 0)
    if (changes.prefixes.size > 0) t.same(state.doubts, silent, 'to be confirmed')
  }
  t.same([...after(new State(), link(3, { mtu: 9000 }), link(3, { mtu: 1400 })).links], [3])
})

t.test(
  '[Y5] next hops live again at once with their device, its carrier or an address, as in the kernel',
  async (t) => {
    const down = link(2, { up: false })
    const up = link(2)
    const silentWire = { ...link(2, { carrier: false }), running: false }
    const dead = (entry: Route): StateMessage =>
      add({ ...entry, nexthops: entry.nexthops.map((leg) => (leg.ifindex === 2 ? { ...leg, dead: true } : leg)) })
    const singles = [dead(r4(1)), dead(r6(1))]
    const pairs = [dead(both4), dead(both6)]
    const local = address(2, '192.0.2.9')
    const cases: [string, StateMessage[], StateMessage, string, string][] = [
      ['up', [down, ...pairs], up, '1+2', '1+2'],
      ['up, no carrier', [down, ...pairs], silentWire, '1x+2', '1x+2'],
      ['carrier', [silentWire, ...singles], up, '1', '1'],
      ['carrier, and the link watch has not seen it', [silentWire, ...singles], { ...up, running: false }, '1', '1x'],
      ['carrier, two next hops, perhaps dead for lack of an address', [silentWire, ...pairs], up, '1x+2', '1+2'],
      ['carrier, two next hops', [silentWire, local, ...pairs], up, '1+2', '1+2'],
      ['address', pairs, local, '1+2', '1x+2'],
      ['address, no carrier', [silentWire, ...pairs], local, '1x+2', '1x+2'],
      ['address, down', [down, ...pairs], local, '1x+2', '1x+2'],
      ['another device', [link(3, { up: false }), down, ...pairs], link(3), '1x+2', '1x+2']
    ]
    for (const [name, messages, revival, four, six] of cases) {
      const state = new State()
      after(state, link(2), link(3), ...messages)
      const [before4, before6] = [legs(state, p4), legs(state, p6)]
      const changes = after(state, revival)
      t.equal(legs(state, p4), four, `${name}, IPv4`)
      t.equal(legs(state, p6), six, `${name}, IPv6`)
      t.same(
        [changes.prefixes.has(p4), changes.prefixes.has(p6)],
        [before4 !== four, before6 !== six],
        `${name}: what is told`
      )
      t.same([...state.doubts], [])
    }
    const replayed = new State()
    after(replayed, link(2), link(3), down, ...pairs)
    replayed.apply(up, noChanges(), true)
    t.same([...replayed.doubts].sort(), ['routes4', 'routes6'], 'in a replay it is confirmed')
  }
)

t.test('[Y5] the kernel tells of IPv6 routes that went with their device: no dump is needed for that', async (t) => {
  const state = new State()
  const onDevice = (ifindex: number): Route => route('fe80::/64', [hop(ifindex)], { metric: 256, protocol: 2 })
  after(state, link(2), link(3), add(onDevice(2)), add(onDevice(3)))
  after(state, link(2, { up: false }), del(onDevice(2)))
  t.equal(state.needsDump.size, 0)
  after(state, del(onDevice(4)))
  t.same([...state.needsDump], [], 'nor of those of a device that is gone')
  after(state, link(2), del(onDevice(2)))
  t.same([...state.needsDump], ['routes6'], 'but if the device is there')
})

t.test('[Y5] dumps are asked for where the kernel may have changed routes in a way that cannot be told', async (t) => {
  const asked = (...messages: StateMessage[]): string[] => {
    const state = new State()
    after(state, link(2), link(3), ...messages.slice(0, -1))
    t.equal(state.needsDump.size, 0)
    after(state, ...messages.slice(-1))
    return [...state.needsDump]
  }
  const dead = { ...r4(1), nexthops: [{ ...hop(2, '192.0.2.1'), dead: true }, hop(3, '192.0.2.2')] }
  const all = ['nexthops', 'routes4', 'routes6']
  const deadObject = nexthop(1, { nexthop: { ...hop(2, '192.0.2.1'), dead: true } })
  const noCarrier = { ...link(2, { carrier: false }), running: false }
  t.same(asked(link(2, { up: false }), add(dead), link(2)), [], 'a device is back, and next hops were dead')
  t.same(asked(noCarrier, add(dead), link(2)), ['routes4'], 'they may have died with an address')
  t.same(asked(noCarrier, address(2, '192.0.2.8'), add(dead), link(2)), [], 'not while the device has one')
  t.same(asked(noCarrier, deadObject, link(2)), ['nexthops'], 'objects with dead next hops')
  t.same(asked(add(r4(1)), link(2, { master: 7 })), all, 'it has another master, perhaps a VRF')
  t.same(asked(link(7, { kind: 'vrf' }), add(r4(1)), link(2, { master: 7 })), all, 'a VRF')
  t.same(asked(link(7, { kind: 'bridge' }), add(r4(1)), link(2, { master: 7 })), [], 'no VRF')
  t.same(asked(link(2, { master: 7 })), [], 'and no routes')
  t.same(asked(add(dead), address(2, '192.0.2.1')), [], 'a new IPv4 address revives next hops')
  t.same(asked(add(r4(1)), address(2, '192.0.2.1')), [])
  t.same(asked(add(dead), address(2, '2001:db8::1')), [])
  const prefers = add(other4, {})
  other4.preferredSource = hex('192.0.2.1')
  t.same(asked(address(2, '192.0.2.1'), prefers, gone(address(2, '192.0.2.1'))), ['routes4'], 'a preferred source goes')
  t.same(asked(address(2, '192.0.2.1'), prefers, gone(link(2))), ['routes4'], 'or its device does')
  t.same(asked(address(2, '192.0.2.7'), prefers, gone(address(2, '192.0.2.7'))), [])
  const own = add({ ...r4(1), protocol: 2, preferredSource: hex('192.0.2.1') })
  t.same(
    asked(address(2, '192.0.2.1'), address(2, '192.0.2.2'), own, gone(address(2, '192.0.2.1'))),
    [],
    "the kernel's own"
  )
  const six = add({ ...r6(1), preferredSource: hex('2001:db8::9') })
  t.same(asked(address(2, '2001:db8::9'), six, gone(address(2, '2001:db8::9'))), ['routes6'])
  other4.preferredSource = null
})

t.test('[Y5] IPv4 routes go with the last IPv4 address of their device', async (t) => {
  const state = new State()
  const local = route('192.0.2.1/32', [hop(2)], { table: 255, type: 2, scope: 254 })
  after(state, link(2), link(3), address(2, '192.0.2.1'), address(2, '192.0.2.2'), add(r4(1)), add(r6(1)), add(local))
  after(state, gone(address(2, '192.0.2.1')))
  t.equal(legs(state, p4), '1')
  const changes = after(state, gone(address(2, '192.0.2.2')))
  t.same([...changes.addresses], [2])
  t.same([...changes.prefixes].sort(), [p4, 'c0000201/32'])
  t.same([state.routes4.size, legs(state, p6)], [0, '1'])
  t.same(state.doubts, silent)
})

t.test('[Y2] a loss in a replay may be older than the dump: only another dump can tell', async (t) => {
  const state = new State()
  after(state, link(2), add(r4(1)))
  state.apply(link(2, { up: false }), noChanges(), true)
  t.same(state.needsDump, silent)
})
