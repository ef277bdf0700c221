// Planning in steps: no step is long, however many routes there are, and what
// comes of them is the plan that is made at once.

import t from 'tap'
import { comparePlans } from '../../src/plan/change.js'
import { defaultPlanOptions } from '../../src/plan/options.js'
import { createPlanner, makePlan } from '../../src/plan/planner.js'
import type { Plan } from '../../src/plan/types.js'
import { RouteTable } from '../../src/state/route-table.js'
import type { NodeState, Route } from '../../src/state/types.js'
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

const many = 100_000
/** Prefixes that a step may look at. */
const mostInStep = 2048

function canonical(plan: Plan): string {
  return JSON.stringify(
    Object.entries(plan).map(([name, table]) => [name, table instanceof Map ? [...table].sort() : table])
  )
}

/** As State has them; `asked` counts how often a prefix is looked at. */
function inColumns(node: TestNode): { state: NodeState; asked: () => number } {
  let asked = 0
  class Counted extends RouteTable {
    override get(prefix: string): Route[] | undefined {
      asked++
      return super.get(prefix)
    }

    override kindAt(...where: Parameters<RouteTable['kindAt']>): Route | null {
      asked++
      return super.kindAt(...where)
    }
  }
  const tables = { routes4: new Counted(), routes6: new Counted() }
  for (const kind of ['routes4', 'routes6'] as const)
    for (const [prefix, routes] of node[kind]) tables[kind].set(prefix, routes)
  const kindOf = (prefix: string) => tables[prefix[8] === '/' ? 'routes4' : 'routes6'].kindOf(prefix)
  return { state: { ...node, ...tables, routeUsers: { ...node.routeUsers, kindOf } }, asked: () => asked }
}

/** How many steps there were, and the most that was asked in one. */
function counted<Result>(
  steps: Generator<void, Result>,
  asked: () => number
): { steps: number; most: number; result: Result } {
  let [count, most, last] = [0, 0, asked()]
  for (;;) {
    const { done, value } = steps.next()
    count++
    most = Math.max(most, asked() - last)
    last = asked()
    if (done) return { steps: count, most, result: value }
  }
}

t.test('100,000 routes: no step of the first plan, nor of one with other options, looks at many', async (t) => {
  const node = plainNode()
  addPod(node, 10, ['10.1.0.2'])
  for (let i = 0; i < many; i++)
    addRoutes(node, route(`${20 + (i >> 16)}.${(i >> 8) & 255}.${i & 255}.0/24`, [leg(2, `192.0.2.${1 + (i % 200)}`)]))
  const { state, asked } = inColumns(node)
  const planner = createPlanner(defaultPlanOptions)
  const first = counted(planner.updating(state, everything), asked)
  t.ok(first.most <= mostInStep, `${first.steps} steps, ${first.most} at most`)
  t.equal(planner.plan.routes.size, first.result.routes.size)

  planner.setOptions({ ...defaultPlanOptions, stackPrefixes: [key('20.0.0.0/10')] })
  const steps = planner.updating(state, everything)
  steps.next()
  t.match(planner.plan.routes.get(key('20.1.0.0/24')), { action: 'nexthop' }, 'the earlier plan holds until the last')
  const again = counted(steps, asked)
  t.ok(again.most <= mostInStep, `${again.steps} steps, ${again.most} at most`)
  t.match(planner.plan.routes.get(key('20.1.0.0/24')), { action: 'stack' })
  t.match(planner.plan.routes.get(key('20.128.0.0/24')), { action: 'nexthop' })
})

t.test('20,000 routes through one gateway that comes and goes: nor does a step of an event', async (t) => {
  const node = plainNode()
  for (let i = 0; i < 20_000; i++) addRoutes(node, route(`20.${i >> 8}.${i & 255}.0/24`, [leg(2, '192.0.2.1')]))
  const { state, asked } = inColumns(node)
  const planner = createPlanner(defaultPlanOptions)
  planner.update(state, everything)
  node.links.set(2, { ...(node.links.get(2) as NonNullable<ReturnType<TestNode['links']['get']>>), mtu: 1400 })
  const { steps, most, result } = counted(planner.updating(state, { ...some([]), links: new Set([2]) }), asked)
  t.ok(result.routes.size >= 20_000)
  t.ok(steps > 100)
  t.ok(most <= mostInStep, `${steps} steps, ${most} at most`)
  t.equal(canonical(planner.plan), canonical(makePlan(state, defaultPlanOptions)))
})

t.test('events and destinations that come between the steps are taken in by the next update', async (t) => {
  for (let seed = 1; seed <= 20; seed++) {
    const world = startChurn(seed)
    const planner = createPlanner(world.options)
    const before = { ...planner.plan }
    let change = comparePlans(before, planner.plan)
    for (let round = 0; round < 15; round++) {
      if (world.random(5) === 0) planner.setOptions(world.options)
      const changes = round > 0 && world.random(3) > 0 ? churn(world) : everything
      const steps = planner.updating(world.node, changes)
      for (;;) {
        const step = steps.next()
        if (step.done) {
          change = step.value
          break
        }
        // the kernel's tables stand still; these do not
        if (world.random(2)) planner.translate(churnTranslated(world))
      }
      t.ok(change)
      planner.update(world.node, some([]))
      if (canonical(planner.plan) === canonical(makePlan(world.node, world.options, world.translated))) continue
      return t.fail(`seed ${seed} round ${round}`)
    }
  }
  t.pass('20 nodes, 15 changes each')
})

t.test('a whole plan that is given up half-way leaves the one before, and the next is whole', async (t) => {
  const node = plainNode()
  for (let i = 0; i < 5_000; i++) addRoutes(node, route(`20.${i >> 8}.${i & 255}.0/24`, [leg(2, '192.0.2.1')]))
  const { state, asked } = inColumns(node)
  const planner = createPlanner(defaultPlanOptions)
  planner.update(state, everything)
  const before = canonical(planner.plan)
  const gateway = `2/${hex('192.0.2.1')}`
  const used = planner.plan.routes.get(key('20.0.0.0/24'))
  const nexthop = used?.action === 'nexthop' ? used.nexthop : ''
  const { steps: all } = counted(createPlanner(defaultPlanOptions).updating(state, everything), asked)
  for (let given = 0; given < all - 1; given += 3) {
    planner.setOptions({ ...defaultPlanOptions, stackPrefixes: [key('20.0.0.0/16')] })
    const steps = planner.updating(state, everything)
    for (let step = 0; step <= given; step++) steps.next()
    if (canonical(planner.plan) !== before) return t.fail(`after ${given} steps`)
    planner.setOptions(defaultPlanOptions)
    const earlier = node.neighbours.get(gateway)
    setNeighbour(node, 2, '192.0.2.1', '0200000001ff', 0x02)
    const change = planner.update(state, some([], [gateway]))
    if (canonical(planner.plan) !== canonical(makePlan(state, defaultPlanOptions))) return t.fail(`given up ${given}`)
    if (change.routes.size > 0 || !change.nexthops.has(nexthop)) return t.fail(`difference after ${given} steps`)
    if (earlier) node.neighbours.set(gateway, earlier)
    planner.update(state, some([], [gateway]))
  }
  t.pass(`${all} steps`)
})
