// Classes of routes in the maps: whole before a device has one, gone only when
// none has it, and kept by a daemon that starts again.

import t from 'tap'
import * as codec from '../../src/maps/codec.js'
import { classRow } from '../../src/maps/keys.js'
import { createWriter, type Writer } from '../../src/maps/writer.js'
import type { PlanChange } from '../../src/plan/change.js'
import { defaultPlanOptions } from '../../src/plan/options.js'
import { createPlanner } from '../../src/plan/planner.js'
import type { Plan } from '../../src/plan/types.js'
import type { Rule } from '../../src/state/types.js'
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
  some,
  type TestNode
} from '../plan/node.js'
import { type FakeObject, fakeObject, nativeError } from './fake.js'

const source = (address: string, table = 100): Rule => rule(4, 100, table, { source: hex(address), sourceLength: 32 })

function nodeWith(...rules: Rule[]): TestNode {
  const node = plainNode()
  addPod(node, 10, ['10.1.0.2'])
  addPod(node, 11, ['10.1.0.3'])
  for (const table of [100, 101]) {
    addRoutes(node, route('0.0.0.0/0', [leg(3, '198.51.100.1')], { table }))
    addRoutes(node, route('10.20.0.0/16', [leg(2, '192.0.2.7')], { table }))
  }
  node.rules.push(rule(4, 50, 254, { destination: hex('10.1.0.0'), destinationLength: 16 }), ...rules)
  return node
}

interface Started {
  object: FakeObject
  writer: Writer
  plan: Plan
  apply(changes?: typeof everything): PlanChange
}

function start(node: TestNode, object = fakeObject()): Started {
  const planner = createPlanner(defaultPlanOptions)
  const writer = createWriter(object)
  const apply = (changes = everything): PlanChange => {
    object.log.length = 0
    const change = planner.update(node, changes)
    writer.apply(planner.plan, change)
    return change
  }
  apply()
  return { object, writer, plan: planner.plan, apply }
}

/** Class of a device as the programs read it. */
function classOf(object: FakeObject, ifindex: number): number {
  const [, bytes = ''] = Object.entries(object.contents()['devices'] ?? {}).find(
    ([, value]) => codec.decodeDevice(Buffer.from(value, 'hex')).ifindex === ifindex
  ) ?? ['', '']
  const row = codec.decodeDevice(Buffer.from(bytes, 'hex'))
  return row.flags & 4 ? row.class4 : 0
}

/** Keys of class_routes4 as text. */
function classRoutes(object: FakeObject): string[] {
  return Object.keys(object.contents()['class_routes4'] ?? {})
    .map((bytes) => codec.decodeClassRouteKey(Buffer.from(bytes, 'hex')))
    .sort()
}

t.test('[Y9] at no moment has a device a class that is not whole', async (t) => {
  const node = nodeWith(source('10.1.0.2'))
  const { object, apply } = start(node)
  const steps: [string, () => void][] = [
    ['another class', () => node.rules.splice(-1, 1, source('10.1.0.2', 101))],
    ['none', () => node.rules.pop()],
    ['one again, for both', () => node.rules.push(source('10.1.0.2'), source('10.1.0.3'))]
  ]
  for (const [name, change] of steps) {
    let seen = 0
    object.beforeWrite = () => {
      for (const ifindex of [10, 11]) {
        const number = classOf(object, ifindex)
        if (number === 0) continue
        seen++
        const rows = classRoutes(object).filter((row) => row.startsWith(`${number} `))
        for (const prefix of ['0.0.0.0/0', '10.20.0.0/16', '10.1.0.0/16', '192.0.2.10'])
          if (!rows.includes(`${number} ${key(prefix)}`)) t.fail(`${name}: ${prefix} is missing`)
      }
    }
    change()
    apply()
    object.beforeWrite = null
    t.ok(seen > 0 || name !== 'another class', name)
    const last = object.log.findLast(({ op }) => op === 'control')
    t.ok(
      last && object.log.indexOf(last) > object.log.findLastIndex(({ map }) => map === 'devices'),
      'then the generation'
    )
  }
  t.equal(classOf(object, 10), classOf(object, 11), 'one class for both: same table, same domains')
  node.rules.splice(-2, 2)
  apply()
  t.strictSame(classRoutes(object), [], 'nothing is left')
})

t.test('the number of a class that is gone is not used again by the same apply', async (t) => {
  const node = nodeWith(source('10.1.0.2'))
  const { object, apply } = start(node)
  const first = classOf(object, 10)
  node.rules.splice(-1, 1, source('10.1.0.2', 101))
  addRoutes(node, route('10.30.0.0/16', [leg(2, '192.0.2.7')], { table: 101 }))
  apply()
  t.not(classOf(object, 10), first)
  t.ok(classOf(object, 10) > 0)
})

t.test('[L1] a restart keeps the numbers, and writes only what differs', async (t) => {
  const node = nodeWith(source('10.1.0.2'), source('10.1.0.3', 101))
  const { object } = start(node)
  const before = [classOf(object, 10), classOf(object, 11)]
  object.log.length = 0
  const again = start(node, object)
  t.strictSame(object.log, [])
  t.strictSame([classOf(object, 10), classOf(object, 11)], before)
  t.strictSame(again.writer.verify(), [])
  addRoutes(node, route('10.40.0.0/16', [leg(2, '192.0.2.7')], { table: 100 }))
  start(node, object)
  t.strictSame([...new Set(object.log.map(({ map }) => map))], ['class_routes4', 'control'])
})

t.test('[L1] a class shared by devices whose rules differ now is not taken over', async (t) => {
  const node = nodeWith(source('10.1.0.2'), source('10.1.0.3'))
  const { object } = start(node)
  const before = classOf(object, 10)
  t.equal(classOf(object, 11), before)
  node.rules.pop()
  start(node, object)
  t.equal(classOf(object, 11), 0)
  t.ok(classOf(object, 10) > 0)
  t.not(classOf(object, 10), before)
  t.ok(
    classRoutes(object).every((row) => row.startsWith(`${classOf(object, 10)} `)),
    'the old rows are gone'
  )
})

t.test('[Y8] what somebody edits in a class is found, told and repaired', async (t) => {
  const node = nodeWith(source('10.1.0.2'))
  const { object, writer } = start(node)
  const number = classOf(object, 10)
  const map = object.map('class_routes4')
  map.update(
    codec.encodeClassRouteKey(classRow(number, key('0.0.0.0/0'))),
    codec.encodeRoute({ action: 3, nexthop: 0, reason: 0 })
  )
  map.update(
    codec.encodeClassRouteKey(classRow(999, key('10.0.0.0/8'))),
    codec.encodeRoute({ action: 3, nexthop: 0, reason: 0 })
  )
  const wrong = writer.verify()
  t.match(wrong.map((each) => [each.map, each.key]).sort(), [
    ['class_routes4', `0.0.0.0/0 in class ${number}`],
    ['class_routes4', '10.0.0.0/8 in class 999']
  ])
  writer.repair()
  t.strictSame(writer.verify(), [])
})

t.test('[Y10] classes that do not fit leave their family to the kernel, and come back', async (t) => {
  const node = nodeWith(source('10.1.0.2'))
  const object = fakeObject({ class_routes4: 6 })
  const planner = createPlanner(defaultPlanOptions)
  const writer = createWriter(object)
  const apply = () => {
    planner.update(node, everything)
    return writer.apply(planner.plan, 'all')
  }
  for (let i = 0; i < 6; i++) addRoutes(node, route(`10.50.${i}.0/24`, [leg(2, '192.0.2.7')], { table: 100 }))
  t.match(apply().alarms, [{ family: 4, why: /class_routes4 is full at 6/ }])
  t.ok(
    (codec.decodeDevice(Buffer.from(Object.values(object.contents()['devices'] ?? {})[0] ?? '', 'hex')).flags & 1) === 1
  )
  node.rules.pop()
  t.strictSame(apply().alarms, [])
  t.strictSame(classRoutes(object), [])
})

t.test('after a write that failed the next apply goes on from what is there', async (t) => {
  const node = nodeWith(source('10.1.0.2'))
  const { object, apply, writer, plan } = start(node)
  addRoutes(node, route('10.60.0.0/16', [leg(2, '192.0.2.8')], { table: 100 }))
  object.beforeWrite = ({ map }) => {
    if (map === 'class_routes4') throw nativeError('EIO', 'no')
  }
  t.throws(() => apply(some([key('10.60.0.0/16')])))
  object.beforeWrite = null
  writer.apply(plan, 'all')
  t.ok(classRoutes(object).some((row) => row.endsWith(key('10.60.0.0/16'))))
  t.strictSame(writer.verify(), [])
})
