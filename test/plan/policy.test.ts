// ip rules as clouds, VPNs and CNIs make them: which pods get a class, what it
// says, and what is left to the kernel.

import t from 'tap'
import { neighbourKey, splitPrefix } from '../../src/address.js'
import { type ClassKey, classRouteKey } from '../../src/plan/keys.js'
import { defaultPlanOptions } from '../../src/plan/options.js'
import { createPlanner, makePlan } from '../../src/plan/planner.js'
import { ruleText } from '../../src/plan/rule-text.js'
import type { Plan } from '../../src/plan/types.js'
import type { Address, Rule } from '../../src/state/types.js'
import {
  addPod,
  addRoutes,
  everything,
  hex,
  key,
  leg,
  link,
  plainNode,
  podLink,
  route,
  rule,
  setNeighbour,
  some,
  type TestNode
} from './node.js'

type Selector = { from?: string; to?: string } & Partial<Rule>

/** "10.1.0.2" or "10.0.0.0/8" as the fields of a rule. */
function prefixOf(text: string): [Address, number] {
  const { address, length } = splitPrefix(key(text))
  return [address, length]
}

function ask(priority: number, table: number, { from, to, ...fields }: Selector = {}, family: 4 | 6 = 4): Rule {
  const [source, sourceLength] = from ? prefixOf(from) : [null, 0]
  const [destination, destinationLength] = to ? prefixOf(to) : [null, 0]
  return rule(family, priority, table, { source, sourceLength, destination, destinationLength, ...fields })
}

/** Two pods; table 100 leads everything over eth1. */
function nodeWith(...rules: Rule[]): TestNode {
  const node = plainNode()
  addPod(node, 10, ['10.1.0.2', 'fd00::2'])
  addPod(node, 11, ['10.1.0.3', 'fd00::3'])
  const table = 100
  addRoutes(
    node,
    route('0.0.0.0/0', [leg(3, '198.51.100.1')], { table }),
    route('198.51.100.0/24', [leg(3)], { table, scope: 253 }),
    route('::/0', [leg(2, '2001:db8::2')], { table })
  )
  node.rules.push(...rules)
  return node
}

const plan = (node: TestNode): Plan => makePlan(node, defaultPlanOptions)

/** Longest prefix of the class of a device: "main", "eth1 198.51.100.1" or "stack ...". */
function says(made: Plan, ifindex: number, prefix: string): string {
  const device = made.devices.get(ifindex)
  const wanted = key(prefix)
  const name = wanted[8] === '/' ? device?.class4 : device?.class6
  if (!name) return 'no class'
  const found = made.classRoutes.get(classRouteKey(name, wanted))
  if (!found) return 'absent'
  if (found.action === 'main') return 'main'
  if (found.action === 'stack') return `stack ${found.reason}: ${found.why}`
  const keys = found.action === 'nexthop' ? [found.nexthop] : found.legs.map((entry) => entry.nexthop)
  return keys.map((each) => `${made.nexthops.get(each)?.device} ${made.nexthops.get(each)?.gateway ?? 'onlink'}`).join()
}

/** Devices that leave IPv4 to the kernel. */
const stacked = (made: Plan): string[] =>
  [...made.devices.values()].filter(({ stack }) => stack.some(({ family }) => family === 4)).map(({ name }) => name)

const eth1 = `eth1 ${hex('198.51.100.1')}`
/** Nothing comes in from outside otherwise than by main. */
const inboundByMain = ask(50, 254, { to: '10.1.0.0/16' })

t.test('[F9] rules that concern no packet of a pod change nothing', async (t) => {
  const harmless: [string, Rule][] = [
    ['locally made packets', ask(100, 100, { iif: 'lo' })],
    ['oif', ask(100, 100, { oif: 'eth1' })],
    ['a mark (Calico, Cilium)', ask(9, 2004, { mark: 0x200, markMask: 0xf00 })],
    ['a tunnel’s key', ask(100, 100, { tunnelId: '7' })],
    ['other users', ask(100, 100, { uidRange: { first: 1000, last: 2000 } })],
    ['VRF', ask(1000, 0, { l3mdev: true })],
    ['main earlier than usual', ask(100, 254)],
    ['main for a part, before main for all', ask(32765, 254, { unsupported: ['dport 22'] })],
    ['the address of the node', ask(100, 100, { from: '192.0.2.10' })],
    ['an empty table', ask(100, 77)],
    ['the other family', ask(100, 100, {}, 6)]
  ]
  for (const [name, each] of harmless) {
    const made = plan(nodeWith(each))
    t.strictSame(stacked(made), [], name)
    t.strictSame(
      [...made.devices.values()].map(({ class4 }) => class4),
      [null, null, null, null],
      name
    )
  }
})

t.test('[F9] AWS: pods of a second interface, each with its rule; what is for pods stays in main', async (t) => {
  const pods = ['10.1.0.2', '10.1.0.3']
  const rules = [
    ...pods.map((pod) => ask(512, 254, { to: pod })),
    ask(1024, 254, { mark: 0x80, markMask: 0x80 }),
    ...pods.map((pod) => ask(1536, 100, { from: pod }))
  ]
  const node = nodeWith(...rules)
  addPod(node, 12, ['10.1.0.4'])
  node.rules.push(ask(512, 254, { to: '10.1.0.4' }))
  const made = plan(node)
  t.strictSame(stacked(made), [])
  t.equal(made.classes.size, 1, 'both share a class')
  t.equal(made.devices.get(12)?.class4, null, 'a pod of the first interface')
  t.equal(says(made, 10, '0.0.0.0/0'), eth1)
  for (const pod of [...pods, '10.1.0.4']) t.equal(says(made, 11, pod), 'main')
  t.equal(says(made, 10, '192.0.2.10'), 'main', 'the node itself')
  t.ok(made.marks)
  t.match(
    [...made.classes.values()],
    [{ label: 'main for 10.1.0.2/32 and 2 more, 100, main', devices: ['pod10', 'pod11'] }]
  )
})

t.test('[F9] wg-quick: everything but the host routes into the tunnel', async (t) => {
  const node = nodeWith(
    ask(32764, 254, { suppressPrefixLength: 0 }),
    ask(32765, 100, { mark: 0xca6c, markMask: 0xffffffff, invert: true })
  )
  addRoutes(node, route('10.9.0.0/16', [leg(2, '192.0.2.9')]), route('10.9.9.0/24', [], { type: 9 }))
  const made = plan(node)
  t.strictSame(stacked(made), [])
  t.equal(says(made, 10, '0.0.0.0/0'), eth1)
  t.equal(says(made, 10, '10.9.0.0/16'), 'main')
  t.equal(says(made, 10, '10.9.9.0/24'), eth1, 'a hole in main')
  t.equal(says(made, 10, '10.1.0.3'), 'main', 'pods')
  node.routes4.delete(key('10.9.0.0/16'))
  t.equal(says(plan(node), 10, '10.9.0.0/16'), 'absent', 'without the route the tunnel answers')
})

t.test('[F9] a VPN’s table for all before main', async (t) => {
  const node = nodeWith(ask(5270, 52))
  addRoutes(
    node,
    route('100.64.0.0/10', [leg(3, '198.51.100.9')], { table: 52 }),
    route('100.100.0.0/16', [], { table: 52, type: 9 })
  )
  const made = plan(node)
  t.equal(says(made, 10, '100.64.0.0/10'), `eth1 ${hex('198.51.100.9')}`)
  t.equal(says(made, 10, '100.100.0.0/16'), 'main', 'throw')
  t.equal(says(made, 10, '0.0.0.0/0'), 'main')
  t.strictSame(stacked(made), [])
})

t.test('[F9] destinations, and all but a destination', async (t) => {
  const to = plan(nodeWith(ask(100, 100, { to: '10.20.0.0/16' })))
  t.equal(says(to, 10, '10.20.0.0/16'), eth1)
  t.equal(says(to, 10, '0.0.0.0/0'), 'main')
  const but = plan(nodeWith(inboundByMain, ask(100, 100, { to: '10.20.0.0/16', invert: true })))
  t.equal(says(but, 10, '10.20.0.0/16'), 'main')
  t.equal(says(but, 10, '0.0.0.0/0'), eth1)
})

t.test('[F8] rules that end the way, and tables that do', async (t) => {
  const made = plan(
    nodeWith(
      ask(100, 0, { action: 7, to: '10.20.0.0/16' }),
      ask(101, 0, { action: 2, goto: 200 }),
      ask(150, 100),
      ask(200, 254)
    )
  )
  t.equal(
    says(made, 10, '10.20.0.0/16'),
    'stack policy: ip rule 100: from all to 10.20.0.0/16 unreachable: the kernel answers'
  )
  t.equal(says(made, 10, '0.0.0.0/0'), 'main', 'goto passes over rule 150')
  const node = nodeWith(inboundByMain, ask(100, 100, { from: '10.1.0.2' }))
  addRoutes(node, route('10.30.0.0/16', [], { table: 100, type: 6 }))
  t.match(says(plan(node), 10, '10.30.0.0/16'), /^stack route: blackhole/)
})

t.test('[F9] what cannot be told is the kernel’s only where it matters, and the rule is named', async (t) => {
  const node = nodeWith(inboundByMain, ask(100, 60, { unsupported: ['dport 53'] }))
  addRoutes(node, route('10.40.0.0/16', [leg(3, '198.51.100.7')], { table: 60 }))
  const made = plan(node)
  t.strictSame(stacked(made), [])
  t.equal(
    says(made, 10, '10.40.0.0/16'),
    'stack policy: ip rule 100: from all dport 53 lookup 60: the maps do not know "dport 53"'
  )
  t.match(made.classRoutes.get(classRouteKey(made.devices.get(10)?.class4 as ClassKey, key('10.40.0.0/16'))), {
    rule: '100: from all dport 53 lookup 60'
  })
  t.equal(says(made, 10, '0.0.0.0/0'), 'main')
  const all = plan(nodeWith(inboundByMain, ask(100, 100, { tos: 0x10 })))
  t.equal(says(all, 10, '10.1.0.0/16'), 'main')
  t.match(says(all, 10, '0.0.0.0/0'), /^stack policy: ip rule 100: from all tos 0x10 lookup 100/)
})

t.test('[F9] packets from outside that a rule may send elsewhere: that pod, in both directions', async (t) => {
  const made = plan(nodeWith(ask(100, 100, { to: '10.1.0.3' })))
  t.strictSame(stacked(made), ['pod11'])
  t.match(made.devices.get(11)?.stack, [
    { family: 4, rule: '100: from all to 10.1.0.3 lookup 100', why: /from uplinks to 10.1.0.3/ }
  ])
  t.equal(made.pods.get(hex('10.1.0.3'))?.mac, null, 'its way in is the kernel’s, too')
  t.ok(made.pods.get(hex('fd00::3'))?.mac, 'not of the other family')
  t.equal(says(made, 10, '10.1.0.3'), eth1)
  for (const each of [ask(100, 100, { from: '203.0.113.0/24' }), ask(100, 100, { iif: 'eth1' }), ask(100, 100)])
    t.strictSame(stacked(plan(nodeWith(each))), ['pod10', 'pod11'], ruleText(each))
  for (const each of [
    ask(100, 100, { from: '10.1.0.2' }),
    ask(100, 60, { iif: 'eth1' }),
    ask(100, 254, { iif: 'eth0' })
  ])
    t.strictSame(stacked(plan(nodeWith(each))), [], ruleText(each))
})

t.test('[F9] the device a pod’s packets come in by', async (t) => {
  const one = plan(nodeWith(ask(100, 100, { iif: 'pod10' })))
  t.equal(says(one, 10, '0.0.0.0/0'), eth1)
  t.equal(says(one, 11, '0.0.0.0/0'), 'no class')
  const but = plan(nodeWith(inboundByMain, ask(100, 100, { iif: 'pod11', to: '10.20.0.0/16', invert: true })))
  t.equal(says(but, 10, '0.0.0.0/0'), eth1)
  t.equal(says(but, 10, '10.20.0.0/16'), 'absent')
  t.equal(says(but, 11, '0.0.0.0/0'), eth1)
  t.equal(says(but, 11, '10.20.0.0/16'), 'main')
})

t.test('[F9] addresses of one pod that fall under different rules', async (t) => {
  const node = nodeWith(ask(100, 100, { from: '10.1.0.5' }))
  addPod(node, 12, ['10.1.0.4', '10.1.0.5'])
  const made = plan(node)
  t.strictSame(stacked(made), ['pod12'])
  t.match(made.devices.get(12)?.stack[0]?.why, /10\.1\.0\.4: main; 10\.1\.0\.5: 100, main/)
})

t.test('[F9] rules without main or local', async (t) => {
  const node = nodeWith()
  node.rules.splice(0, node.rules.length, rule(4, 0, 255), rule(6, 0, 255), rule(6, 32766, 254))
  t.strictSame(stacked(plan(node)), ['pod10', 'pod11'])
  node.rules.push(rule(4, 100, 100))
  t.strictSame(stacked(plan(node)), ['pod10', 'pod11'], 'nothing says where pods are')
})

t.test('[F11] [F12] legs, MTU, IPv6 gateway and SNAT source of a class’s next hops', async (t) => {
  const node = nodeWith(inboundByMain, ask(100, 100, { from: '10.1.0.2' }))
  addRoutes(
    node,
    route('10.50.0.0/16', [leg(2, '192.0.2.1', { weight: 2 }), leg(3, '198.51.100.1')], { table: 100 }),
    route('10.51.0.0/16', [leg(3, '198.51.100.1')], { table: 100, mtu: 1400, preferredSource: hex('198.51.100.10') }),
    route('10.52.0.0/16', [leg(3, '2001:db8::1')], { table: 100 }),
    route('10.53.0.0/16', [leg(3, '198.51.100.1')], { table: 100, tos: 8 }),
    route('10.54.0.0/16', [leg(3, '198.51.100.1')], { table: 100, metric: 20 }),
    route('10.54.0.0/16', [leg(2, '192.0.2.7')], { table: 100, metric: 10 }),
    route('10.55.0.0/16', [leg(3, '198.51.100.1', { dead: true })], { table: 100 })
  )
  const made = plan(node)
  t.equal(says(made, 10, '10.50.0.0/16'), `eth0 ${hex('192.0.2.1')},${eth1}`)
  const name = made.devices.get(10)?.class4 as ClassKey
  const own = made.classRoutes.get(classRouteKey(name, key('10.51.0.0/16')))
  const nexthop = own?.action === 'nexthop' ? made.nexthops.get(own.nexthop) : null
  t.match(nexthop, { mtu: 1400, snat4: hex('198.51.100.10'), device: 'eth1' })
  t.equal(says(made, 10, '10.52.0.0/16'), `eth1 ${hex('2001:db8::1')}`)
  t.match(says(made, 10, '10.53.0.0/16'), /^stack route: routes by type of service/)
  t.equal(says(made, 10, '10.54.0.0/16'), `eth0 ${hex('192.0.2.7')}`)
  t.match(says(made, 10, '10.55.0.0/16'), /^stack route: next hop is down/)
})

t.test('[F10] a device that only a rule’s table uses is an uplink; tables that no rule asks make none', async (t) => {
  const node = nodeWith(inboundByMain, ask(100, 100, { from: '10.1.0.2' }))
  node.routes4.delete(key('198.51.100.0/24'))
  node.links.set(4, link(4, 'eth2'))
  node.links.set(20, podLink(20, 'pod20'))
  addRoutes(
    node,
    route('10.60.0.0/16', [leg(4, '203.0.113.1')], { table: 100 }),
    route('10.61.0.1', [leg(20)], { table: 100 })
  )
  const made = plan(node)
  t.match(made.devices.get(4), { role: 'uplink' })
  t.equal(says(made, 10, '10.60.0.0/16'), `eth2 ${hex('203.0.113.1')}`)
  t.notOk(made.devices.has(20), 'a host route elsewhere than in main makes no pod')
  t.match(says(made, 10, '10.61.0.1'), /^stack route: pod20/)
  node.rules.pop()
  t.notOk(plan(node).devices.has(4))
})

t.test('[F9] pods, routes and rules that come and go: the class follows, and nothing else is touched', async (t) => {
  const node = nodeWith(inboundByMain, ask(100, 100, { from: '10.1.0.2' }))
  for (let i = 0; i < 1000; i++) addRoutes(node, route(`172.16.${i >> 8}.${i & 255}`, [leg(2, '192.0.2.1')]))
  const planner = createPlanner(defaultPlanOptions)
  planner.update(node, everything)
  const name = planner.plan.devices.get(10)?.class4
  t.ok(name)
  const [prefix] = addRoutes(node, route('10.70.0.0/16', [leg(2, '192.0.2.5')], { table: 100 }))
  const change = planner.update(node, some([prefix]))
  t.strictSame([...change.classRoutes], [`${name} ${prefix}`])
  t.equal(change.routes.size + change.devices.size + change.pods.size + change.classes.size, 0)
  const [inMain] = addRoutes(node, route('10.71.0.0/16', [leg(2, '192.0.2.5')]))
  t.equal(planner.update(node, some([inMain])).classRoutes.size, 0, 'a route of main does not touch the class')
  node.rules.pop()
  const without = planner.update(node, everything)
  t.equal(planner.plan.classRoutes.size, 0)
  t.strictSame([...without.classes], [name])
  t.match(planner.plan.devices.get(10), { class4: null })
})

t.test('[Y10] a class that would be too large leaves its pods to the kernel', async (t) => {
  const node = nodeWith(inboundByMain, ask(100, 100, { from: '10.1.0.2' }))
  const hop = [leg(3, '198.51.100.1')]
  for (let i = 0; i < 33_000; i++)
    addRoutes(node, route(`172.${16 + (i >> 16)}.${(i >> 8) & 255}.${i & 255}`, hop, { table: 100 }))
  const made = plan(node)
  t.strictSame(stacked(made), ['pod10'])
  t.match(made.devices.get(10)?.stack[0]?.why, /more than 32768 prefixes/)
  t.equal(made.classRoutes.size, 0)
})

t.test('two classes of 10,000 routes each: time and size', async (t) => {
  const node = nodeWith(inboundByMain, ask(100, 100, { from: '10.1.0.2' }), ask(101, 101, { from: '10.1.0.3' }))
  for (const table of [100, 101])
    for (let i = 0; i < 10_000; i++)
      addRoutes(node, route(`10.${table}.${i >> 8}.${i & 255}`, [leg(3, `198.51.100.${1 + (i % 50)}`)], { table }))
  const planner = createPlanner(defaultPlanOptions)
  const spent = (action: () => unknown): number => {
    const start = process.cpuUsage()
    action()
    const { user, system } = process.cpuUsage(start)
    return (user + system) / 1000
  }
  const first = spent(() => planner.update(node, everything))
  t.ok(planner.plan.classRoutes.size > 20_000)
  const [prefix] = addRoutes(node, route('10.200.0.0/16', [leg(2, '192.0.2.5')], { table: 100 }))
  const one = spent(() => t.equal(planner.update(node, some([prefix])).classRoutes.size, 1))
  const [inMain] = addRoutes(node, route('10.201.0.0/16', [leg(2, '192.0.2.5')]))
  const main = spent(() => planner.update(node, some([inMain])))
  t.comment(`all ${first.toFixed(0)} ms, one route of a class ${one.toFixed(0)} ms, of main ${main.toFixed(1)} ms`)
  t.ok(first < 4000 && one < 2000 && main < 100, 'CPU time, with much room for a slow machine')
})

t.test('rules are written as `ip rule` does', async (t) => {
  const text = (each: Rule): string => ruleText(each)
  t.equal(text(ask(100, 254, { from: '10.0.0.0/8', to: '10.1.0.2' })), '100: from 10.0.0.0/8 to 10.1.0.2 lookup main')
  t.equal(
    text(ask(5, 7, { invert: true, mark: 1, markMask: 0xffffffff, suppressPrefixLength: 0 })),
    '5: not from all fwmark 0x1 lookup 7 suppress_prefixlength 0'
  )
})

t.test('neighbours of a class’s gateways are kept, and gone with the class', async (t) => {
  const node = nodeWith(inboundByMain, ask(100, 100, { from: '10.1.0.2' }))
  const planner = createPlanner(defaultPlanOptions)
  planner.update(node, everything)
  const name = neighbourKey(3, hex('198.51.100.1'))
  t.ok(planner.plan.managed.has(name))
  setNeighbour(node, 3, '198.51.100.1', '0200000003ff', 0x02)
  t.equal(planner.update(node, some([], [name])).nexthops.size, 1)
  node.rules.pop()
  planner.update(node, everything)
  t.notOk(planner.plan.managed.has(name))
})
