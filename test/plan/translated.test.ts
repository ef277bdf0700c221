// Destinations that the node translates, in the plan.

import t from 'tap'
import { type ClassKey, classRouteKey } from '../../src/plan/keys.js'
import { defaultPlanOptions } from '../../src/plan/options.js'
import { createPlanner } from '../../src/plan/planner.js'
import type { Prefix } from '../../src/state/types.js'
import {
  addPod,
  addRoutes,
  everything,
  hex,
  key,
  leg,
  plainNode,
  route,
  rule,
  setNeighbour,
  some,
  type TestNode
} from './node.js'

const nothing: Prefix[] = []
const stack = {
  action: 'stack',
  reason: 'translated-destination',
  why: "translated by the node's own rules",
  rule: null
}

function planned(node: TestNode, translated: string[] = []) {
  const planner = createPlanner(defaultPlanOptions)
  planner.translate({ added: translated.map(key), removed: nothing })
  planner.update(node, everything)
  const move = (added: string[], removed: string[] = []) => {
    planner.translate({ added: added.map(key), removed: removed.map(key) })
    return planner.update(node, some([]))
  }
  return { planner, plan: planner.plan, move }
}

t.test('[K9] an address is the stack’s while it is translated, and the longer prefix decides', async (t) => {
  const node = plainNode()
  const { plan, move } = planned(node, ['10.96.0.10', 'fd00:5::10'])
  t.same(plan.routes.get(key('10.96.0.10')), stack)
  t.same(plan.routes.get(key('fd00:5::10')), stack)
  t.strictSame([...move(['10.96.0.11'], ['10.96.0.10']).routes].sort(), [key('10.96.0.10'), key('10.96.0.11')])
  t.notOk(plan.routes.has(key('10.96.0.10')))
  t.same(plan.routes.get(key('10.96.0.11')), stack)
  t.equal(move(['10.96.0.11']).routes.size, 0, 'told twice')
  t.equal(move(['169.254.169.254']).routes.size, 0, 'link-local addresses are the stack’s already')
})

t.test('[K9] addresses of the node stay its own; a prefix covers the routes inside it', async (t) => {
  const node = plainNode()
  addRoutes(node, route('10.9.1.0/24', [leg(2, '192.0.2.1')]))
  addRoutes(node, route('192.168.100.11', [leg(1)], { table: 255, type: 2 }))
  const { plan, move } = planned(node, ['192.168.100.11'])
  t.match(plan.routes.get(key('192.168.100.11')), { action: 'stack', reason: 'local' })
  t.match(plan.routes.get(key('10.9.1.0/24')), { action: 'nexthop' })
  move(['10.9.0.0/16'])
  t.same(plan.routes.get(key('10.9.0.0/16')), stack)
  t.same(plan.routes.get(key('10.9.1.0/24')), stack)
  move([], ['10.9.0.0/16'])
  t.notOk(plan.routes.has(key('10.9.0.0/16')))
  t.match(plan.routes.get(key('10.9.1.0/24')), { action: 'nexthop' })
})

t.test('[K9][K10] a pod’s own address: no half flows', async (t) => {
  const node = plainNode()
  addPod(node, 10, ['10.1.0.10', 'fd00::10'])
  setNeighbour(node, 10, '10.1.0.10', '0a000000000a', 0x04)
  const { plan, move } = planned(node)
  t.equal(plan.pods.get(hex('10.1.0.10'))?.mac, '0a000000000a')
  const change = move(['10.1.0.10'])
  t.equal(plan.pods.get(hex('10.1.0.10'))?.mac, null, 'to it through the stack')
  t.match(
    plan.devices.get(10)?.stack,
    [{ family: 4, why: "10.1.0.10: translated by the node's own rules" }],
    'and from it'
  )
  t.equal(plan.devices.get(10)?.stack.length, 1, 'in its family')
  t.ok(change.pods.has(hex('10.1.0.10')) && change.devices.has(10))
  move([], ['10.1.0.10'])
  t.equal(plan.pods.get(hex('10.1.0.10'))?.mac, '0a000000000a')
  t.same(plan.devices.get(10)?.stack, [])
  move(['10.1.0.0/24'])
  t.equal(plan.pods.get(hex('10.1.0.10'))?.mac, null, 'a prefix around it')
})

t.test('[K9][F9] a class answers with the node’s own routes for translated addresses', async (t) => {
  const node = plainNode()
  addPod(node, 10, ['10.1.0.10'])
  node.rules.splice(1, 0, rule(4, 100, 100, { source: hex('10.1.0.10'), sourceLength: 32 }))
  addRoutes(node, route('0.0.0.0/0', [leg(3, '198.51.100.2')], { table: 100 }))
  addRoutes(node, route('10.96.0.12', [leg(3, '198.51.100.2')], { table: 100 }))
  const { plan, move } = planned(node, ['10.96.0.10'])
  const name = plan.devices.get(10)?.class4 as ClassKey
  const answer = (address: string) => plan.classRoutes.get(classRouteKey(name, key(address)))?.action
  t.equal(answer('10.96.0.10'), 'main')
  t.strictSame([...move(['10.96.0.11', '10.96.0.12']).classRoutes].length, 2)
  t.equal(answer('10.96.0.11'), 'main')
  t.equal(answer('10.96.0.12'), 'main')
  move([], ['10.96.0.11', '10.96.0.12'])
  t.equal(answer('10.96.0.11'), undefined)
  t.equal(answer('10.96.0.12'), 'nexthop', 'the table’s own route is back')
})

t.test('[K12] with 10,000 destinations one more takes no time to speak of', async (t) => {
  const node = plainNode()
  for (let pod = 10; pod < 110; pod++) addPod(node, pod, [`10.1.0.${pod}`])
  node.rules.splice(1, 0, rule(4, 100, 100, { source: hex('10.1.0.10'), sourceLength: 32 }))
  addRoutes(node, route('0.0.0.0/0', [leg(3, '198.51.100.2')], { table: 100 }))
  const many = Array.from({ length: 10_000 }, (_, number) => `10.96.${number >> 8}.${number & 255}`)
  const start = performance.now()
  const { plan, move } = planned(node, many)
  const all = performance.now() - start
  t.equal(
    [...plan.routes.values()].filter((each) => each.action === 'stack' && each.reason === stack.reason).length,
    10_000
  )
  const times: number[] = []
  for (let number = 0; number < 100; number++) {
    const before = performance.now()
    move([`10.97.0.${number}`], number === 0 ? [] : [`10.97.0.${number - 1}`])
    times.push(performance.now() - before)
  }
  const middle = times.sort((a, b) => a - b)[50] as number
  t.comment(`all ${all.toFixed(0)} ms, one change ${middle.toFixed(3)} ms`)
  t.ok(middle < 5, 'the median: others use this machine, too')
})
