import t from 'tap'
import { neighbourKey } from '../../src/address.js'
import type { NexthopKey } from '../../src/plan/keys.js'
import { defaultPlanOptions, type PlanOptions } from '../../src/plan/options.js'
import { makePlan } from '../../src/plan/planner.js'
import type { Plan, WantedRoute } from '../../src/plan/types.js'
import { NeighbourState } from '../../src/state/types.js'
import {
  addObject,
  addPod,
  addRoutes,
  hex,
  interfaceAddress,
  key,
  leg,
  link,
  plainNode,
  podLink,
  route,
  setNeighbour,
  type TestNode
} from './node.js'

function plan(node: TestNode, options: Partial<PlanOptions> = {}): Plan {
  return makePlan(node, { ...defaultPlanOptions, ...options })
}

function routeTo(made: Plan, prefix: string): WantedRoute | undefined {
  return made.routes.get(key(prefix))
}

/** Gateways a route leads to; 'stack: why' for what stays on the stack. */
function legs(made: Plan, prefix: string): string[] {
  const found = routeTo(made, prefix)
  if (!found) return ['absent']
  if (found.action === 'stack') return [`stack ${found.reason}: ${found.why}`]
  const keys = found.action === 'nexthop' ? [found.nexthop] : found.legs.map((entry) => entry.nexthop)
  return keys.map((name) => `${made.nexthops.get(name)?.device} ${made.nexthops.get(name)?.gateway ?? 'onlink'}`)
}

t.test('a plain node', async (t) => {
  const node = plainNode()
  addPod(node, 10, ['10.1.0.2', 'fd00::2'])
  const made = plan(node)
  t.strictSame(made.unserved, [])
  t.strictSame(
    [...made.devices.values()].map((device) => [device.name, device.role, device.addresses, device.stack]).sort(),
    [
      ['eth0', 'uplink', [], []],
      ['eth1', 'uplink', [], []],
      ['pod10', 'pod', [hex('10.1.0.2'), hex('fd00::2')], []]
    ]
  )
  t.match(made.pods.get(hex('10.1.0.2')), {
    ifindex: 10,
    mac: '0a000000000a',
    hostMac: '02000000000a',
    mtu: 1500,
    l3: false
  })
  t.strictSame(legs(made, '0.0.0.0/0'), ['eth0 c0000201'])
  t.strictSame(legs(made, '192.0.2.0/24'), ['eth0 onlink'])
  t.strictSame(legs(made, '192.0.2.10'), ['stack local: local'])
  t.strictSame(legs(made, 'fe80::/64'), ['absent'])
  t.match(
    [...made.nexthops.values()].find((nexthop) => nexthop.gateway === hex('192.0.2.1')),
    {
      mac: '020000000101',
      macKnown: true,
      mtu: 1500,
      snat4: hex('192.0.2.10'),
      snat6: null
    }
  )
  t.match(
    [...made.nexthops.values()].find((nexthop) => nexthop.gateway === hex('2001:db8::1')),
    { macKnown: false, snat4: null, snat6: hex('2001:db8::10') }
  )
  t.strictSame(
    [...made.managed.keys()].sort(),
    [`10/${hex('10.1.0.2')}`, `10/${hex('fd00::2')}`, `2/${hex('192.0.2.1')}`, `2/${hex('2001:db8::1')}`].sort()
  )
  t.match(made.neighbours.get(neighbourKey(2, hex('192.0.2.77'))), { mac: '020000000177', known: false })
})

t.test('[Y9] the way to a pod is in the routes as stack, so that no shorter prefix answers for it', async (t) => {
  const node = plainNode()
  addPod(node, 10, ['10.1.0.2'])
  t.strictSame(legs(plan(node), '10.1.0.2'), ['stack route: pod device pod10'])
})

t.test('[F7] the lowest metric decides', async (t) => {
  const node = plainNode()
  addRoutes(
    node,
    route('10.9.0.0/16', [leg(2, '192.0.2.2')], { metric: 100 }),
    route('10.9.0.0/16', [leg(3, '198.51.100.2')], { metric: 10 })
  )
  t.strictSame(legs(plan(node), '10.9.0.0/16'), ['eth1 c6336402'])
})

t.test('[F7] an address that two devices claim belongs to the route with the lowest metric', async (t) => {
  const node = plainNode()
  addPod(node, 10, [])
  addPod(node, 11, [])
  addRoutes(node, route('10.1.0.2', [leg(10)], { metric: 20 }), route('10.1.0.2', [leg(11)], { metric: 10 }))
  t.equal(plan(node).pods.get(hex('10.1.0.2'))?.ifindex, 11)
})

t.test('[F8] routes that are no way to anywhere stay on the stack', async (t) => {
  const node = plainNode()
  for (const [index, type] of [6, 7, 8, 9, 2, 3].entries()) addRoutes(node, route(`10.${index}.0.0/16`, [], { type }))
  const made = plan(node)
  t.strictSame(
    [0, 1, 2, 3, 4, 5].map((index) => legs(made, `10.${index}.0.0/16`)[0]),
    [
      'stack route: blackhole',
      'stack route: unreachable',
      'stack route: prohibit',
      'stack no-route: throw',
      'stack local: local',
      'stack local: broadcast'
    ]
  )
})

t.test('[F8] everything inside a short route of table local stays on the stack', async (t) => {
  const node = plainNode()
  addRoutes(
    node,
    route('203.0.113.0/24', [leg(1)], { table: 255, type: 2 }),
    route('203.0.113.8/29', [leg(2, '192.0.2.2')])
  )
  t.strictSame(legs(plan(node), '203.0.113.8/29'), ['stack route: inside a route of table local'])
})

t.test('[F10] tables that no rule asks and devices of a VRF do not count', async (t) => {
  const node = plainNode()
  node.links.set(20, link(20, 'red', { kind: 'vrf', type: 1 }))
  node.links.set(4, link(4, 'eth2', { master: 20 }))
  addRoutes(
    node,
    route('10.7.0.0/16', [leg(2, '192.0.2.2')], { table: 100 }),
    route('10.8.0.0/16', [leg(4, '203.0.113.1')])
  )
  const made = plan(node)
  t.strictSame(legs(made, '10.7.0.0/16'), ['absent'])
  t.match(legs(made, '10.8.0.0/16')[0], /^stack route: eth2: it belongs to VRF red/)
})

t.test('[F11] multipath', async (t) => {
  const node = plainNode()
  addRoutes(
    node,
    route('10.3.0.0/16', [leg(2, '192.0.2.2', { weight: 3 }), leg(3, '198.51.100.2')]),
    route('10.4.0.0/16', [leg(2, '192.0.2.2', { dead: true }), leg(3, '198.51.100.2')]),
    route('10.5.0.0/16', [leg(2, '192.0.2.2', { dead: true }), leg(3, '198.51.100.2', { dead: true })]),
    route('10.6.0.0/16', [leg(2, '192.0.2.2'), leg(99, '198.51.100.2')]),
    route('10.7.0.0/16', [], { nexthopId: 7 }),
    route('10.8.0.0/16', [], { nexthopId: 8 }),
    route('2001:db8:9::/48', [leg(2, 'fe80::1'), leg(3, 'fe80::1')])
  )
  addObject(node, 1, { nexthop: leg(2, '192.0.2.2') })
  addObject(node, 2, { nexthop: leg(3, '198.51.100.2') })
  addObject(node, 7, {
    group: [
      { id: 1, weight: 2 },
      { id: 2, weight: 1 }
    ]
  })
  addObject(node, 8, { blackhole: true })
  const made = plan(node)
  t.strictSame(legs(made, '10.3.0.0/16'), ['eth0 c0000202', 'eth1 c6336402'])
  t.strictSame(
    (routeTo(made, '10.3.0.0/16') as { legs: { weight: number }[] }).legs.map((entry) => entry.weight),
    [3, 1]
  )
  t.strictSame(legs(made, '10.4.0.0/16'), ['eth1 c6336402'], 'one leg down')
  t.strictSame(legs(made, '10.5.0.0/16'), ['stack route: next hop is down'])
  t.match(legs(made, '10.6.0.0/16')[0], /^stack route/, 'a leg that cannot be expressed')
  t.strictSame(legs(made, '10.7.0.0/16'), ['eth0 c0000202', 'eth1 c6336402'], 'next hop group')
  t.strictSame(legs(made, '10.8.0.0/16'), ['stack route: blackhole'])
  t.strictSame(legs(made, '2001:db8:9::/48').length, 2)
  const sources = (routeTo(made, '10.3.0.0/16') as { legs: { nexthop: NexthopKey }[] }).legs.map(
    (entry) => made.nexthops.get(entry.nexthop)?.snat4
  )
  t.strictSame(sources, [hex('192.0.2.10'), hex('198.51.100.10')], 'the source belongs to the leg')
})

t.test('[F11][N2] a leg whose gateway is not there is passed over where the kernel does so', async (t) => {
  const node = plainNode()
  const ways = [leg(2, '192.0.2.2'), leg(3, '198.51.100.2')] as const
  for (const [at, nexthop] of ways.entries()) addObject(node, at + 1, { nexthop })
  addObject(node, 7, { group: [1, 2].map((id) => ({ id, weight: 1 })) })
  addRoutes(node, route('10.7.0.0/16', [], { nexthopId: 7 }), route('10.8.0.0/16', [...ways]))
  const [first, second] = ['eth0 c0000202', 'eth1 c6336402']
  const looks = (options = {}) => [legs(plan(node, options), '10.7.0.0/16'), legs(plan(node, options), '10.8.0.0/16')]
  t.strictSame(looks(), [
    [first, second],
    [first, second]
  ])
  for (const state of [NeighbourState.failed, NeighbourState.incomplete]) {
    setNeighbour(node, 2, '192.0.2.2', '020000000102', state)
    t.strictSame(looks(), [[second], [first, second]], 'a group of next hop objects')
    t.strictSame(looks({ multipathUseNeigh: true }), [[second], [second]], 'IPv4 routes where the sysctl says so')
  }
  setNeighbour(node, 3, '198.51.100.2', '020000000103', NeighbourState.failed)
  t.strictSame(looks(), [[first], [first, second]], 'none is there: the first')
  setNeighbour(node, 2, '192.0.2.2', '020000000102', NeighbourState.stale)
  t.strictSame(looks({ multipathUseNeigh: true }), [[first], [first]], 'stale is there')
})

t.test('routes with what the maps do not hold stay on the stack; an MTU and an IPv6 gateway they hold', async (t) => {
  const node = plainNode()
  addRoutes(
    node,
    route('10.3.0.0/16', [leg(2, '192.0.2.2', { encap: true })]),
    route('10.4.0.0/16', [leg(2, '192.0.2.2')], { unsupported: ['incoming device'] }),
    route('10.5.0.0/16', [leg(2, '192.0.2.2')], { tos: 0x10 }),
    route('10.6.0.0/16', [leg(2, '192.0.2.2')], { mtu: 1400 }),
    route('10.7.0.0/16', [leg(2, 'fe80::1')])
  )
  addRoutes(
    node,
    route('2001:db8:5::/48', [leg(2, 'fe80::1')], { metric: 5 }),
    route('2001:db8:5::/48', [leg(3, 'fe80::2')], { metric: 5 })
  )
  const made = plan(node)
  t.match(legs(made, '10.3.0.0/16')[0], /^stack route/)
  t.match(legs(made, '10.4.0.0/16')[0], /^stack route: incoming device/)
  t.match(legs(made, '10.5.0.0/16')[0], /^stack route: routes by type of service/)
  t.match(routeTo(made, '10.6.0.0/16'), { nexthop: '2/c0000202/1400/c000020a/-' })
  t.match(made.nexthops.get((routeTo(made, '10.7.0.0/16') as { nexthop: NexthopKey }).nexthop), {
    gateway: hex('fe80::1'),
    snat4: hex('192.0.2.10')
  })
  t.match(legs(made, '2001:db8:5::/48')[0], /^stack route: several routes/)
})

t.test('[F15] devices', async (t) => {
  const node = plainNode()
  const add = (ifindex: number, name: string, fields: object) => {
    node.links.set(ifindex, link(ifindex, name, fields))
    addRoutes(node, route(`10.${ifindex}.0.0/16`, [leg(ifindex)]))
  }
  add(20, 'br0', { kind: 'bridge' })
  add(21, 'tun0', { kind: 'tun', type: 65534, mac: null })
  add(22, 'eth0.5', { kind: 'vlan' })
  add(23, 'down0', { up: false })
  add(24, 'veth9', { kind: 'veth', linkNamespace: 0 })
  addPod(node, 30, ['10.1.0.30'], { master: 20 })
  const made = plan(node)
  const why = Object.fromEntries(made.unserved.map((entry) => [entry.name, entry.why]))
  t.match(why, { br0: /bridge/, tun0: /Ethernet/, down0: /down/, pod30: /port of bridge br0/ })
  t.equal(made.devices.get(22)?.role, 'uplink')
  await t.test(
    '[F14] a bridge is an uplink with a gateway behind it, while netfilter does not see its frames',
    async (t) => {
      const role = (fields: object, gateways: boolean, options = {}) => {
        const node = plainNode()
        node.links.set(20, link(20, 'br0', { kind: 'bridge', ...fields }))
        addRoutes(node, route('10.20.0.0/16', [leg(20)]))
        if (gateways) addRoutes(node, route('10.21.0.0/16', [leg(20, '10.20.0.1')]))
        const { devices, unserved } = plan(node, options)
        return devices.get(20)?.role ?? unserved.find((entry) => entry.ifindex === 20)?.why
      }
      t.equal(role({}, true), 'uplink')
      t.match(role({}, false), /no gateway/)
      t.equal(role({}, false, { uplinkDevices: ['eth*', 'br0'] }), 'uplink', 'named in the configuration')
      t.match(role({ bridgeNetfilter: true }, true), /netfilter/)
      t.match(role({}, true, { bridgeNetfilter: true, uplinkDevices: ['br0'] }), /netfilter/, 'even if named')
    }
  )
  t.equal(made.devices.get(24)?.role, 'uplink', 'a veth with a subnet behind it is no pod')
  t.notOk(made.pods.has(hex('10.1.0.30')))
  t.test('a host route through a cloud’s on-link gateway makes no pod', async (t) => {
    const cloud = plainNode()
    cloud.links.set(40, podLink(40, 'uplink'))
    addRoutes(
      cloud,
      route('169.254.1.1', [leg(40)]),
      route('203.0.113.1', [leg(40)]),
      route('10.0.0.0/8', [leg(40, '203.0.113.1')]),
      route('203.0.113.9', [leg(2)])
    )
    const made = plan(cloud)
    t.equal(made.devices.get(40)?.role, 'uplink')
    t.equal(made.pods.size, 0)
  })
  t.test('two devices that share a row: the lower index is served', async (t) => {
    const crowded = plainNode()
    addPod(crowded, 16384 + 10, ['10.1.0.9'])
    t.ok(plan(crowded).pods.has(hex('10.1.0.9')))
    addPod(crowded, 10, ['10.1.0.2'])
    const made = plan(crowded)
    t.strictSame([...made.pods.keys()], [hex('10.1.0.2')])
    t.match(made.unserved, [{ ifindex: 16394, why: /shares a row/ }])
  })
  t.test(
    "the daemon's own TAP device is nobody's concern, even if named or routed to; another's is told",
    async (t) => {
      const crowded = plainNode()
      crowded.links.set(50, link(50, 'hostroute0', { kind: 'tun' }))
      crowded.links.set(51, link(51, 'tap0', { kind: 'tun' }))
      crowded.links.set(52, link(52, 'hostroute1'))
      addRoutes(crowded, ...[50, 51, 52].map((ifindex) => route(`10.${ifindex}.0.0/16`, [leg(ifindex)])))
      const made = plan(crowded, { uplinkDevices: ['*'], podDevices: ['*'] })
      t.strictSame(
        made.unserved.map(({ name }) => name),
        ['tap0']
      )
      t.notOk(made.devices.has(50))
      t.equal(made.devices.get(52)?.role, 'uplink', 'the name alone does not make it')
    }
  )
  t.test('configured patterns narrow', async (t) => {
    const made = plan(node, { uplinkDevices: ['eth*', 'veth9'], podDevices: ['none*'] })
    t.strictSame([...made.devices.values()].map((device) => device.name).sort(), ['eth0', 'eth0.5', 'eth1', 'veth9'])
  })
})

t.test('[S14] the source address for SNAT', async (t) => {
  const node = plainNode()
  node.addresses.set(2, [
    interfaceAddress(2, '192.0.2.10/24'),
    interfaceAddress(2, '192.0.2.11/24', { secondary: true }),
    interfaceAddress(2, '203.0.113.5/28'),
    interfaceAddress(2, '2001:db8::11/64', { secondary: true }),
    interfaceAddress(2, 'fd00:1::5/64'),
    interfaceAddress(2, '2001:db8::10/64'),
    interfaceAddress(2, '2001:db8::12/64', { usable: false })
  ])
  node.links.set(4, link(4, 'eth2'))
  addRoutes(
    node,
    route('10.3.0.0/16', [leg(2, '203.0.113.1')]),
    route('10.4.0.0/16', [leg(2, '192.0.2.1')], { preferredSource: hex('192.0.2.11') }),
    route('10.5.0.0/16', [leg(2, '192.0.2.1')], { preferredSource: hex('192.0.2.99') }),
    route('10.6.0.0/16', [leg(4)]),
    route('fd00:9::/32', [leg(2)])
  )
  const made = plan(node)
  const source = (prefix: string) => {
    const nexthop = made.nexthops.get((routeTo(made, prefix) as { nexthop: NexthopKey }).nexthop)
    return nexthop?.snat4 ?? nexthop?.snat6
  }
  t.equal(source('10.3.0.0/16'), hex('203.0.113.5'), 'the subnet of the gateway')
  t.equal(source('10.4.0.0/16'), hex('192.0.2.11'), 'the preferred source')
  t.equal(source('10.5.0.0/16'), hex('192.0.2.10'), 'not one that the node has no more')
  t.equal(source('10.6.0.0/16'), hex('192.0.2.10'), 'a device without addresses borrows')
  t.equal(source('::/0'), hex('2001:db8::10'), 'neither temporary nor unique local')
  t.equal(source('fd00:9::/32'), hex('fd00:1::5'), 'unique local to unique local')
  t.equal(
    [...plan(node, { snat: false }).nexthops.values()].filter((nexthop) => nexthop.snat4 ?? nexthop.snat6).length,
    0
  )
})

t.test('neighbour states', async (t) => {
  const node = plainNode()
  addPod(node, 10, ['10.1.0.2'])
  const outcome = (state: number, flags = 0) => {
    setNeighbour(node, 2, '192.0.2.1', '020000000101', state, flags)
    setNeighbour(node, 10, '10.1.0.2', '0a000000000a', state, flags)
    const made = plan(node)
    const nexthop = [...made.nexthops.values()].find((entry) => entry.gateway === hex('192.0.2.1'))
    return [nexthop?.mac !== null, nexthop?.macKnown, made.pods.get(hex('10.1.0.2'))?.mac !== null]
  }
  const { reachable, delay, probe, permanent, noarp } = NeighbourState
  for (const state of [reachable, delay, probe, permanent, noarp]) t.strictSame(outcome(state), [true, true, true])
  t.strictSame(outcome(NeighbourState.stale), [true, false, true], 'nobody is asking: the kernel must see a packet')
  for (const state of [NeighbourState.failed, NeighbourState.incomplete])
    t.strictSame(outcome(state), [false, false, false])
  t.strictSame(outcome(NeighbourState.permanent, 0x08), [false, false, false], 'a proxy entry is nobody’s MAC')
})

t.test('configuration: a prefix left to the kernel, and a family switched off', async (t) => {
  const node = plainNode()
  addPod(node, 10, ['10.1.0.2', 'fd00::2'])
  addRoutes(node, route('10.96.4.0/24', [leg(2, '192.0.2.2')]), route('10.0.0.0/8', [leg(2, '192.0.2.2')]))
  const made = plan(node, { stackPrefixes: [key('10.96.0.0/12')], ipv6: false })
  t.match(legs(made, '10.96.0.0/12')[0], /^stack policy/)
  t.match(legs(made, '10.96.4.0/24')[0], /^stack policy/)
  t.strictSame(legs(made, '10.0.0.0/8'), ['eth0 c0000202'])
  t.strictSame([...made.pods.keys()], [hex('10.1.0.2')])
  t.notOk([...made.routes.keys()].some((prefix) => prefix.length > 12))
  t.strictSame(
    [...made.devices.values()].map((device) => device.stack.map((entry) => entry.family)),
    [[6], [6], [6]]
  )
})
