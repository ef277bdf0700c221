// A plan is written in steps: none is long, however many rows there are, and
// whatever becomes of it half-way, the next write makes the maps right.

import t from 'tap'
import { createWriter, type Writer } from '../../src/maps/writer.js'
import { comparePlans } from '../../src/plan/change.js'
import { defaultPlanOptions } from '../../src/plan/options.js'
import { createPlanner, makePlan } from '../../src/plan/planner.js'
import type { Plan } from '../../src/plan/types.js'
import { churn, startChurn } from '../plan/churn.js'
import { addPod, addRoutes, everything, leg, plainNode, route, some, type TestNode } from '../plan/node.js'
import { type FakeObject, fakeObject, nativeError } from './fake.js'
import { meaning, sorted } from './meaning.js'

const many = 100_000
/** Rows that a step may write, or read. */
const mostInStep = 1200

function withRoutes(count: number, gateways = 200): TestNode {
  const node = plainNode()
  addPod(node, 10, ['10.1.0.2', 'fd00::2'])
  for (let i = 0; i < count; i++)
    addRoutes(
      node,
      route(`${20 + (i >> 16)}.${(i >> 8) & 255}.${i & 255}.0/24`, [leg(2, `192.0.2.${1 + (i % gateways)}`)])
    )
  return node
}

/** Takes all steps. The most rows of a step, and how many steps there were. */
function counted(object: FakeObject, steps: ReturnType<Writer['applying']>): { most: number; steps: number } {
  let [most, count, read] = [0, 0, 0]
  for (const family of [4, 6]) {
    const map = object.map(`routes${family}`)
    const { readBatch } = map
    map.readBatch = (position, wanted) => {
      const batch = readBatch(position, wanted)
      read += batch.count
      return batch
    }
  }
  for (;;) {
    const written = object.log.length
    read = 0
    const { done } = steps.next()
    count++
    most = Math.max(most, object.log.length - written + read)
    if (done) return { most, steps: count }
  }
}

t.test('100,000 routes: no step of the first write, of a restart or of what leaves is long', async (t) => {
  const node = withRoutes(many)
  const object = fakeObject()
  const plan = makePlan(node, defaultPlanOptions)
  const first = counted(object, createWriter(object).applying(plan, 'all'))
  t.ok(first.most <= mostInStep, `first write: ${first.steps} steps, ${first.most} rows at most`)
  object.log.length = 0
  const writer = createWriter(object)
  const again = counted(object, writer.applying(plan, 'all'))
  t.ok(again.most <= mostInStep, `restart: ${again.steps} steps, ${again.most} rows at most`)
  t.ok(again.steps > 100)
  t.strictSame(object.log, [], 'nothing is another')
  const less = makePlan(withRoutes(10), defaultPlanOptions)
  const gone = counted(object, writer.applying(less, comparePlans(plan, less)))
  t.ok(gone.most <= mostInStep, `most leave: ${gone.steps} steps, ${gone.most} rows at most`)
  t.strictSame(writer.verify(), [])
})

t.test('generations are raised once, after the last row', async (t) => {
  const object = fakeObject()
  const plan = makePlan(withRoutes(5_000), defaultPlanOptions)
  const raised: number[] = []
  let step = 0
  let written = 0
  object.beforeWrite = ({ op, map }) => {
    if (op === 'control') raised.push(step)
    if (map.startsWith('routes')) written = step
  }
  for (const steps = createWriter(object).applying(plan, 'all'); !steps.next().done; step++);
  t.ok(raised.length > 0)
  t.ok(
    raised.every((at) => at >= written),
    `rows until step ${written}, raised in ${raised.join()}`
  )
})

t.test('no device before the rows that its packets ask for are written', async (t) => {
  const object = fakeObject()
  const plan = makePlan(withRoutes(5_000), defaultPlanOptions)
  const steps = createWriter(object).applying(plan, 'all')
  const rows = () => Object.keys(object.contents()['routes4'] ?? {}).length
  const all = [...plan.routes.keys()].filter((prefix) => prefix[8] === '/').length
  while (!steps.next().done) {
    if (Object.keys(object.contents()['devices'] ?? {}).length > 0 && rows() < all) t.fail(`${rows()} of ${all} routes`)
  }
  t.equal(rows(), all)
})

function isRight(object: FakeObject, writer: Writer, plan: Plan): boolean {
  const fresh = fakeObject()
  createWriter(fresh).apply(plan, 'all')
  const [have, want] = [object, fresh].map((each) => JSON.stringify(sorted(meaning(each))))
  return writer.verify().length === 0 && have === want
}

t.test('given up after any step, or failed in it: the next write goes on from there', async (t) => {
  const [before, after] = [withRoutes(3_000, 20), withRoutes(2_000, 30)]
  addRoutes(after, route('30.0.0.0/8', [leg(3, '198.51.100.1')]))
  const [plan, next] = [before, after].map((node) => makePlan(node, defaultPlanOptions)) as [Plan, Plan]
  const count = (): number => {
    const writer = createWriter(fakeObject())
    writer.apply(plan, 'all')
    let steps = 1
    for (const each = writer.applying(next, comparePlans(plan, next)); !each.next().done; steps++);
    return steps
  }
  const all = count()
  t.ok(all > 5, `${all} steps`)
  for (const fails of [false, true]) {
    for (let given = 0; given < all - 1; given++) {
      const object = fakeObject()
      const writer = createWriter(object)
      writer.apply(plan, 'all')
      const steps = writer.applying(next, comparePlans(plan, next))
      for (let step = 0; step <= given; step++) steps.next()
      t.strictSame(writer.verify(), [], 'nothing is compared with what stands between two plans')
      if (fails) {
        object.beforeWrite = () => {
          throw nativeError('EPERM', 'not now')
        }
        try {
          while (!steps.next().done);
        } catch (error) {
          t.match(error, { code: 'EPERM' })
        }
        object.beforeWrite = null
      }
      // an event: everything is compared all the same
      writer.apply(given % 2 ? next : plan, comparePlans(plan, plan))
      if (!isRight(object, writer, given % 2 ? next : plan)) return t.fail(`given up after ${given} of ${all} steps`)
    }
  }
})

t.test('a tight change that is given up half-way: no family is served from a part of its table', async (t) => {
  const make = (octet: number): TestNode => {
    const node = plainNode()
    for (let i = 0; i < 20; i++) addRoutes(node, route(`10.${octet}.${i}.0/24`, [leg(2, `192.0.2.${i + octet}`)]))
    return node
  }
  const [plan, next] = [make(20), make(60)].map((node) => makePlan(node, defaultPlanOptions)) as [Plan, Plan]
  for (let given = 0; ; given++) {
    const object = fakeObject({ nexthops: 32, routes4: 40 })
    const writer = createWriter(object)
    writer.apply(plan, 'all')
    const steps = writer.applying(next, comparePlans(plan, next))
    let done = false
    for (let step = 0; step <= given && !done; step++) done = steps.next().done ?? false
    writer.apply(next, comparePlans(plan, next))
    if (!isRight(object, writer, next)) return t.fail(`given up after ${given} steps`)
    if (done) break
  }
  t.pass()
})

t.test('maps are compared beside a write that takes its steps: not now, and nothing is repaired', async (t) => {
  const node = withRoutes(6_000, 20)
  const object = fakeObject()
  const planner = createPlanner(defaultPlanOptions)
  const writer = createWriter(object, async () => {})
  planner.update(node, everything)
  writer.apply(planner.plan, 'all')
  const map = object.map('routes4')
  const { readBatch } = map
  // each read takes so long that the comparison rests after it
  map.readBatch = (position, most) => {
    for (const end = performance.now() + 6; performance.now() < end; );
    return readBatch(position, most)
  }
  const comparing = writer.repairSlowly()
  const gone = [...node.routes4.keys()].filter((prefix) => prefix.startsWith('140'))
  for (const prefix of gone) node.routes4.delete(prefix)
  const steps = writer.applying(planner.plan, planner.update(node, some(gone)))
  steps.next()
  object.log.length = 0
  t.equal(await comparing, null, 'it gives way')
  t.equal(await writer.repairSlowly(), null, 'nor does one begin')
  t.strictSame(object.log, [], 'and has written nothing')
  map.readBatch = readBatch
  while (!steps.next().done);
  t.ok(isRight(object, writer, planner.plan))
})

t.test('random changes, some of them given up or failed: the maps are those written from nothing', async (t) => {
  let ended = 0
  for (let seed = 700; seed < 712; seed++) {
    const world = startChurn(seed)
    const planner = createPlanner(world.options)
    const object = fakeObject()
    const writer = createWriter(object)
    writer.apply(planner.plan, planner.update(world.node, everything))
    for (let round = 0; round < 15; round++) {
      const steps = writer.applying(planner.plan, planner.update(world.node, churn(world)))
      const end = world.random(3) === 0 ? 1 + world.random(12) : Number.POSITIVE_INFINITY
      let left = world.random(3) === 0 ? world.random(20) : Number.POSITIVE_INFINITY
      object.beforeWrite = () => {
        if (left-- <= 0) throw nativeError('EPERM', 'not now')
      }
      let whole = false
      try {
        for (let step = 0; step < end && !whole; step++) whole = steps.next().done ?? false
      } catch (error) {
        t.match(error, { code: 'EPERM' })
      }
      object.beforeWrite = null
      ended += whole ? 1 : 0
      if (whole && !isRight(object, writer, planner.plan)) return t.fail(`seed ${seed} round ${round}`)
    }
  }
  t.ok(ended > 60 && ended < 180, `${ended} of 180 came to their end`)
})
