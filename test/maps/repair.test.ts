// The comparison of maps and plan that goes on in slices, beside everything else.

import t from 'tap'
import * as codec from '../../src/maps/codec.js'
import { createGroupRows, createNexthopRows } from '../../src/maps/nexthops.js'
import { createRouteRows, nodeRoutes, type RouteRows } from '../../src/maps/routes.js'
import { createWriter } from '../../src/maps/writer.js'
import { defaultPlanOptions } from '../../src/plan/options.js'
import { createPlanner } from '../../src/plan/planner.js'
import type { WantedRoute } from '../../src/plan/types.js'
import type { Prefix } from '../../src/state/types.js'
import { addRoutes, everything, key, leg, plainNode, route } from '../plan/node.js'
import { type FakeObject, fakeObject } from './fake.js'

const stack: WantedRoute = { action: 'stack', reason: 'route', why: '', rule: null }

/** 10,000 rows of routes4: the comparison takes several steps. */
function manyRows(): { object: FakeObject; rows: RouteRows<Prefix>; prefixes: Prefix[] } {
  const object = fakeObject()
  const nexthops = createNexthopRows(object)
  const rows = createRouteRows(object, nexthops, createGroupRows(object, nexthops), nodeRoutes, () => {})
  const prefixes = Array.from({ length: 10_000 }, (_, i) => key(`10.${i >> 8}.${i & 255}.0/24`))
  for (const prefix of prefixes) rows.write(prefix, stack)
  return { object, rows, prefixes }
}

/** Runs the comparison; `between` is called after each step. */
function compared(rows: RouteRows<Prefix>, between: (step: number) => void): string[] {
  const steps = rows.differences(4)
  for (let step = 0; ; step++) {
    const { done, value } = steps.next()
    if (done) return value.map(({ key: bytes }) => codec.decodeRouteKey(bytes)).sort()
    between(step)
  }
}

t.test('[Y9] what is written while the comparison goes on counts as right, the rest is compared', async (t) => {
  const { object, rows, prefixes } = manyRows()
  const [first, last] = [prefixes[5], prefixes[9_990]] as [Prefix, Prefix]
  const remove = (prefix: Prefix) => object.map('routes4').delete(codec.encodeRouteKey(prefix))
  const add = (prefix: Prefix) =>
    object.map('routes4').update(codec.encodeRouteKey(prefix), codec.encodeRoute({ action: 1, nexthop: 1, reason: 0 }))
  t.same(
    compared(rows, () => {}),
    []
  )
  let steps = 0
  t.same(
    compared(rows, (step) => {
      steps++
      rows.write(key(`11.0.${step}.0/24`), stack)
      rows.remove(prefixes[step * 700] as Prefix)
      rows.remove(prefixes[9_000 - step * 700] as Prefix)
    }),
    [],
    'rows that come and go, before and behind the point where it is'
  )
  t.ok(steps > 8, `${steps} steps`)
  remove(first)
  add(key('12.0.0.0/24'))
  t.same(
    compared(rows, (step) => rows.write(key(`13.0.${step}.0/24`), stack)),
    [first, key('12.0.0.0/24')].sort()
  )
  rows.remove(first)
  rows.write(first, stack)
  remove(key('12.0.0.0/24'))
  remove(last)
  add(key('12.0.0.0/24'))
  t.same(
    compared(rows, () => {}),
    [last, key('12.0.0.0/24')].sort(),
    'one missing and one too many'
  )
  t.equal(rows.count(4), rows.size())
})

t.test('a comparison of large tables takes a small share of the time, from its begin to its end', async (t) => {
  const node = plainNode()
  for (let i = 0; i < 12_000; i++) addRoutes(node, route(`10.${i >> 8}.${i & 255}.0/24`, [leg(2, '192.0.2.1')]))
  const object = fakeObject()
  const planner = createPlanner(defaultPlanOptions)
  const pauses: number[] = []
  const writer = createWriter(object, async (milliseconds) => {
    pauses.push(milliseconds)
  })
  planner.update(node, everything)
  writer.apply(planner.plan, 'all')
  const map = object.map('routes4')
  const { readBatch } = map
  let read = 0
  map.readBatch = (position, most) => {
    for (const begin = process.cpuUsage(), end = 20_000; process.cpuUsage(begin).user < end; );
    read++
    return readBatch(position, most)
  }
  t.strictSame(await writer.repairSlowly(), [])
  t.ok(read >= 12)
  const sum = pauses.reduce((all, one) => all + one, 0)
  t.ok(sum >= (read * 20 - 130) * 500, `${read} reads of 20 ms of CPU at least: pauses of ${Math.round(sum)} ms`)
  t.ok(Math.max(...pauses) < sum / 2, 'one after each slice')
})

t.test('[Y9] what somebody else changed is written right, and not looked for again at once', async (t) => {
  const node = plainNode()
  for (let i = 0; i < 5_000; i++) addRoutes(node, route(`10.${i >> 8}.${i & 255}.0/24`, [leg(2, '192.0.2.1')]))
  const object = fakeObject()
  const planner = createPlanner(defaultPlanOptions)
  const writer = createWriter(object)
  t.equal(await writer.repairSlowly(), null, 'nothing was written yet')
  planner.update(node, everything)
  writer.apply(planner.plan, 'all')
  const good = object.contents()['routes4']
  object.map('routes4').delete(codec.encodeRouteKey(key('10.3.3.0/24')))
  const repair = writer.repairSlowly()
  t.equal(await writer.repairSlowly(), null, 'one at a time')
  t.match(await repair, [{ map: 'routes4', key: '10.3.3.0/24', have: null, want: { action: 'nexthop' } }])
  t.strictSame(object.contents()['routes4'], good)
  t.equal(await writer.repairSlowly(), null, 'comparing takes a small part of the time')
  t.strictSame(writer.verify(), [])
})
