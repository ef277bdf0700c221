import t from 'tap'
import { familyOfPrefix, neighbourKey } from '../../src/address.js'
import { comparePlans, isEmpty, type PlanChange } from '../../src/plan/change.js'
import { defaultPlanOptions } from '../../src/plan/options.js'
import { createPlanner, makePlan } from '../../src/plan/planner.js'
import type { Plan } from '../../src/plan/types.js'
import { RouteTable } from '../../src/state/route-table.js'
import type { NodeState, Prefix } from '../../src/state/types.js'
import { churn, churnTranslated, startChurn } from './churn.js'
import {
  addPod,
  addRoutes,
  everything,
  hex,
  key,
  leg,
  plainNode,
  route,
  setNeighbour,
  some,
  type TestNode
} from './node.js'

const seeds = Number(process.env['CHURN_SEEDS'] ?? 75)

/** Sorted, so that order of insertion does not matter. */
function canonical(plan: Plan): unknown {
  return Object.fromEntries(
    Object.entries(plan).map(([name, table]) => [name, table instanceof Map ? [...table].sort() : table])
  )
}

function copy(plan: Plan): Plan {
  return Object.fromEntries(
    Object.entries(plan).map(([name, table]) => [name, table instanceof Map ? new Map(table) : table])
  ) as unknown as Plan
}

t.test('[N5] the MAC of a gateway that 1,000 routes share changes: one next hop, nothing else', async (t) => {
  const node = plainNode()
  for (let i = 0; i < 1000; i++) addRoutes(node, route(`10.${i >> 8}.${i & 255}.0/24`, [leg(2, '192.0.2.1')]))
  const planner = createPlanner(defaultPlanOptions)
  planner.update(node, everything)
  const change = planner.update(node, some([], [setNeighbour(node, 2, '192.0.2.1', '0200000001ff', 0x02)]))
  t.equal(change.nexthops.size, 1)
  t.strictSame([...change.neighbours], [`2/${hex('192.0.2.1')}`], 'it is an on-link destination too')
  t.equal(change.routes.size + change.pods.size + change.devices.size + change.managed.size, 0)
})

t.test('[N5] a neighbour is deleted while its route stays', async (t) => {
  const node = plainNode()
  const planner = createPlanner(defaultPlanOptions)
  planner.update(node, everything)
  node.neighbours.delete(neighbourKey(2, hex('192.0.2.1')))
  planner.update(node, some([], [neighbourKey(2, hex('192.0.2.1'))]))
  t.match(
    [...planner.plan.nexthops.values()].find((nexthop) => nexthop.gateway === hex('192.0.2.1')),
    { mac: null, macKnown: false }
  )
  t.match(planner.plan.routes.get(key('0.0.0.0/0')), { action: 'nexthop' })
})

t.test('[Y6] replace, append and metric changes of one prefix', async (t) => {
  const node = plainNode()
  const planner = createPlanner(defaultPlanOptions)
  planner.update(node, everything)
  const prefix = key('10.9.0.0/16')
  const gateway = () => {
    const found = planner.plan.routes.get(prefix)
    return found?.action === 'nexthop' ? planner.plan.nexthops.get(found.nexthop)?.gateway : found?.action
  }
  addRoutes(node, route('10.9.0.0/16', [leg(2, '192.0.2.2')], { metric: 100 }))
  planner.update(node, some([prefix]))
  t.equal(gateway(), hex('192.0.2.2'))
  addRoutes(node, route('10.9.0.0/16', [leg(2, '192.0.2.3')], { metric: 100 }))
  t.ok(isEmpty(planner.update(node, some([prefix]))), 'appended with the same metric: the first stays')
  addRoutes(
    node,
    route('10.9.0.0/16', [leg(2, '192.0.2.4')], { metric: 10, protocol: 186 }),
    route('10.9.0.0/16', [leg(3, '198.51.100.2')], { table: 100 })
  )
  planner.update(node, some([prefix]))
  t.equal(gateway(), hex('192.0.2.4'))
  node.routes4.set(prefix, [route('10.9.0.0/16', [leg(3, '198.51.100.2')], { metric: 10 })])
  planner.update(node, some([prefix]))
  t.equal(gateway(), hex('198.51.100.2'))
  node.routes4.delete(prefix)
  planner.update(node, some([prefix]))
  t.equal(gateway(), undefined)
})

t.test('a device becomes a pod’s with its first host route, and none with its last', async (t) => {
  const node = plainNode()
  addPod(node, 10, [])
  const planner = createPlanner(defaultPlanOptions)
  planner.update(node, everything)
  t.notOk(planner.plan.devices.has(10))
  const [prefix] = addRoutes(node, route('10.1.0.2', [leg(10)]))
  planner.update(node, some([prefix], [setNeighbour(node, 10, '10.1.0.2', '0a000000000a', 0x04)]))
  t.match(planner.plan.devices.get(10), { role: 'pod', addresses: [hex('10.1.0.2')] })
  t.equal(planner.plan.pods.get(hex('10.1.0.2'))?.mac, '0a000000000a')
  node.routes4.delete(prefix)
  planner.update(node, some([prefix]))
  t.notOk(planner.plan.devices.has(10))
  t.notOk(planner.plan.pods.has(hex('10.1.0.2')))
})

t.test('after any churn the plan is the one made from nothing, and the change is the whole difference', async (t) => {
  for (let seed = 1; seed <= seeds; seed++) {
    const world = startChurn(seed)
    const { random } = world
    const planner = createPlanner(world.options)
    planner.update(world.node, everything)
    for (let step = 0; step < 40; step++) {
      const before = copy(planner.plan)
      planner.translate(churnTranslated(world))
      const change = planner.update(world.node, random(4) ? churn(world) : some([]))
      const fresh = makePlan(world.node, world.options, world.translated)
      const told = sets(change)
      const real = sets(comparePlans(before, planner.plan))
      const missing = Object.entries(real).flatMap(([name, keys]) =>
        keys.filter((entry) => !told[name]?.includes(entry)).map((entry) => `${name} ${entry}`)
      )
      if (missing.length > 0 || JSON.stringify(canonical(planner.plan)) !== JSON.stringify(canonical(fresh))) {
        t.strictSame(missing, [], `seed ${seed} step ${step}: change`)
        t.strictSame(canonical(planner.plan), canonical(fresh), `seed ${seed} step ${step}: plan`)
        return
      }
    }
  }
  t.pass(`${seeds} nodes, 40 changes each`)
})

/** As State has them. */
function inColumns(node: TestNode): NodeState {
  const tables = { routes4: new RouteTable(), routes6: new RouteTable() }
  for (const kind of ['routes4', 'routes6'] as const)
    for (const [prefix, routes] of node[kind]) tables[kind].set(prefix, routes)
  const kindOf = (prefix: Prefix) => tables[familyOfPrefix(prefix) === 4 ? 'routes4' : 'routes6'].kindOf(prefix)
  return { ...node, ...tables, routeUsers: { ...node.routeUsers, kindOf } }
}

function sets(change: PlanChange): Record<string, string[]> {
  return Object.fromEntries(
    Object.entries(change).map(([name, keys]) => [
      name,
      keys instanceof Set ? [...keys].map(String) : keys ? ['yes'] : []
    ])
  )
}

t.test('100,000 routes are planned in well under half a second', async (t) => {
  const node = plainNode()
  for (let i = 0; i < 100_000; i++)
    addRoutes(node, route(`${10 + (i >> 16)}.${(i >> 8) & 255}.${i & 255}.0/24`, [leg(2, `192.0.2.${1 + (i % 200)}`)]))
  const planner = createPlanner(defaultPlanOptions)
  // CPU time, not wall-clock time: other tests run beside this one.
  const start = process.cpuUsage()
  const change = planner.update(node, everything)
  const used = process.cpuUsage(start)
  const first = (used.user + used.system) / 1000
  t.ok(change.routes.size > 100_000)
  const [prefix] = addRoutes(node, route('172.16.0.0/12', [leg(2, '192.0.2.9')]))
  const again = performance.now()
  planner.update(node, some([prefix]))
  const one = performance.now() - again
  t.comment(`all: ${first.toFixed(0)} ms of CPU, one more: ${one.toFixed(2)} ms`)
  t.ok(first < 2000, 'with much room for a slow machine')
  t.ok(one < 20)
})

t.test('routes that are alike are planned together: the same plan as one by one', async (t) => {
  for (let seed = 1; seed <= seeds; seed++) {
    const world = startChurn(seed)
    for (let i = 0; i < 60; i++) {
      churn(world)
      const prefix = `10.${i}.${world.random(200)}.0/${20 + world.random(6)}`
      if (i % 3 === 0) addRoutes(world.node, route(prefix, [leg(2 + world.random(2), '192.0.2.1')]))
    }
    const { node, options, translated } = world
    const apart = { ...node, routeUsers: { ...node.routeUsers, kindOf: () => null } }
    const plans = [apart, node, inColumns(node)].map((each) => makePlan(each, options, translated))
    const [single, ...together] = plans.map(canonical)
    for (const [at, plan] of together.entries()) {
      if (JSON.stringify(plan) === JSON.stringify(single)) continue
      t.strictSame(plan, single, `seed ${seed}, ${at === 0 ? 'as Maps' : 'in columns'}`)
      return
    }
    // next hops have as many users: they go with the last
    const planner = createPlanner(options)
    const state = inColumns(node)
    planner.update(state, everything)
    const gone = [...state.routes4.keys(), ...state.routes6.keys()]
    for (const prefix of gone)
      (prefix[8] === '/' ? (state.routes4 as RouteTable) : (state.routes6 as RouteTable)).delete(prefix)
    planner.update(state, some(gone))
    if (planner.plan.nexthops.size > 0) t.strictSame([...planner.plan.nexthops.keys()], [], `seed ${seed}`)
  }
  t.pass(`${seeds} nodes`)
})
