// Which slots of control.route_generations a change of the maps raises. That the programs give addresses the same ones:
// test/bpf/generations.test.ts.
import t from 'tap'
import { piecesOf } from '../../src/maps/convert.js'
import { createGenerations, slotsOf } from '../../src/maps/generations.js'
import { ROUTE_SLOTS, STRUCTS } from '../../src/maps/layout.js'
import { createWriter } from '../../src/maps/writer.js'
import { defaultPlanOptions } from '../../src/plan/options.js'
import { createPlanner } from '../../src/plan/planner.js'
import { addPod, addRoutes, everything, key, leg, plainNode, route, rule, some } from '../plan/node.js'
import { fakeObject, generationsOf, nativeError } from './fake.js'

const { offset } = STRUCTS.control
const all = Array.from({ length: ROUTE_SLOTS }, (_, slot) => slot)
const slots = (...prefixes: string[]) => [...new Set(prefixes.flatMap((prefix) => slotsOf(key(prefix))))].sort(byNumber)
const byNumber = (a: number, b: number) => a - b

function start(object = fakeObject()) {
  const node = plainNode()
  addPod(node, 10, ['10.1.0.2'])
  const planner = createPlanner(defaultPlanOptions)
  const writer = createWriter(object)
  /** Slots that were raised meanwhile. */
  const apply = (changes = everything): number[] => {
    const before = generationsOf(object)
    object.log.length = 0
    writer.apply(planner.plan, planner.update(node, changes))
    const after = generationsOf(object)
    return all.filter((slot) => after[slot] !== before[slot])
  }
  apply()
  return { node, object, writer, apply, planner }
}

t.test('a route raises the slots of its own addresses, when it comes, changes and goes', async (t) => {
  const { node, object, apply } = start()
  for (const prefix of ['10.9.3.0/24', '10.9.3.7/32', '10.9.0.0/20', '10.9.0.0/16', '10.8.0.0/13', '2001:db8:7::/48']) {
    const six = prefix.includes(':')
    const by = (gateway: string) => [route(prefix, [leg(2, gateway)])]
    const table = six ? node.routes6 : node.routes4
    const [one, other] = six ? ['2001:db8::7', '2001:db8::8'] : ['192.0.2.7', '192.0.2.8']
    table.set(key(prefix), by(one))
    t.strictSame(apply(some([key(prefix)])), slots(prefix), `${prefix} has come`)
    t.strictSame(apply(some([key(prefix)])), [], 'nothing has changed')
    table.set(key(prefix), by(other))
    t.strictSame(apply(some([key(prefix)])), slots(prefix), `${prefix} has another next hop`)
    table.delete(key(prefix))
    t.strictSame(apply(some([key(prefix)])), slots(prefix), `${prefix} has gone`)
    t.equal(object.log.at(-1)?.map, 'nexthops', 'its next hop’s row after that')
  }
  addRoutes(node, route('10.9.3.0/24', [leg(2, '192.0.2.7')]), route('10.77.3.0/24', [leg(2, '192.0.2.7')]))
  t.strictSame(apply(some([key('10.9.3.0/24'), key('10.77.3.0/24')])), slots('10.9.3.0/24', '10.77.3.0/24'))
  t.strictSame(apply(), [], 'compared with everything')
})

t.test('a whole plan raises what is another, or all when much is', async (t) => {
  const { node, object, writer, planner } = start()
  const prefixes = ['10.9.3.0/24', '10.77.0.0/20', '2001:db8:7::/48']
  for (const prefix of prefixes)
    addRoutes(node, route(prefix, [leg(2, prefix.includes(':') ? '2001:db8::7' : '192.0.2.7')]))
  const whole = (): number[] => {
    const before = generationsOf(object)
    planner.update(node, everything)
    writer.apply(planner.plan, 'all')
    const after = generationsOf(object)
    return all.filter((slot) => after[slot] !== before[slot])
  }
  t.strictSame(whole(), slots(...prefixes), 'routes that have come')
  t.strictSame(whole(), [])
  node.routes4.set(key('10.9.3.0/24'), [route('10.9.3.0/24', [leg(2, '192.0.2.8')])])
  node.routes6.delete(key('2001:db8:7::/48'))
  t.strictSame(whole(), slots('10.9.3.0/24', '2001:db8:7::/48'), 'another next hop, and one that has gone')
  for (let i = 0; i < 5_000; i++) addRoutes(node, route(`11.${i >> 8}.${i & 255}.0/24`, [leg(2, '192.0.2.7')]))
  t.strictSame(whole(), all)
})

t.test('an address that the node loses raises all, one that it gets its own', async (t) => {
  const { node, apply } = start()
  const prefix = key('192.0.2.99')
  addRoutes(node, route('192.0.2.99', [leg(2)], { table: 255, type: 2 }))
  t.strictSame(apply(some([prefix])), slots('192.0.2.99'))
  node.routes4.delete(prefix)
  t.strictSame(apply(some([prefix])), all)
})

t.test('other tables for a device, and repaired rows, raise all', async (t) => {
  const { node, object, writer, apply } = start()
  addRoutes(node, route('0.0.0.0/0', [leg(3, '198.51.100.1')], { table: 100 }))
  node.rules.push(rule(4, 1000, 100, { iif: 'pod10' }))
  t.strictSame(apply(), all)
  const before = generationsOf(object)
  const routes = object.map('routes4')
  const { keys } = routes.dump()
  routes.delete(keys.subarray(0, 8))
  t.equal(writer.repair().length, 1)
  t.ok(generationsOf(object).every((value, slot) => value !== before[slot]))
})

t.test('a family that is served again raises all', async (t) => {
  const { node, writer, apply, planner } = start(fakeObject({ routes4: 32 }))
  const prefixes = addRoutes(
    node,
    ...Array.from({ length: 40 }, (_, number) => route(`10.20.${number}.0/24`, [leg(2, '192.0.2.7')]))
  )
  apply(some(prefixes))
  t.match(writer.apply(planner.plan, 'all').alarms, [{ family: 4 }])
  for (const prefix of prefixes) node.routes4.delete(prefix)
  t.strictSame(apply(some(prefixes)), all)
  t.strictSame(writer.apply(planner.plan, 'all').alarms, [])
})

t.test('what was written before an error raises all', async (t) => {
  const { node, object, apply } = start()
  addRoutes(node, route('10.9.3.0/24', [leg(2, '192.0.2.7')]))
  object.beforeWrite = ({ map }) => {
    if (map === 'control') throw nativeError('EIO', 'no')
  }
  t.throws(() => apply(some([key('10.9.3.0/24')])), { code: 'EIO' })
  object.beforeWrite = null
  t.strictSame(apply(some([])), all)
  t.strictSame(apply(some([])), [])
})

t.test('a generation is never 0, and few slots are few writes', async (t) => {
  const object = fakeObject()
  const [slot = 0] = slotsOf(key('10.9.3.0/24'))
  object.writeControl(offset.route_generations + slot * 4, Buffer.alloc(4, 0xff))
  const made = createGenerations(object)
  made.load()
  object.log.length = 0
  t.notOk(made.pending())
  made.raise()
  t.strictSame(object.log, [])
  made.note(key('10.9.3.0/24'))
  made.note(key('10.9.3.9'))
  t.ok(made.pending())
  made.raise()
  t.notOk(made.pending())
  t.match(object.log, [{ key: String(offset.route_generations + slot * 4), value: '01000000' }])
  t.equal(object.log.length, 1)
  made.note(key('0.0.0.0/0'))
  made.raise()
  t.equal(object.log.length, 2, 'all at once')
  made.note(key('10.9.3.0/24'))
  for (let number = 0; number < 5000; number++) made.note(key(`10.9.3.${number & 255}`))
  object.log.length = 0
  made.raise()
  t.match(object.log, [{ key: String(offset.route_generations), value: /^.{8192}$/ }], 'so many prefixes raise all')
})

t.test('a flow of layout 5 keeps the leg of its group and has no answer', async (t) => {
  const field = (name: string, at: number, size: number) => ({ name, offset: at, type: { size } })
  const old = { size: 16, name: 'flow', fields: [field('route', 0, 8), field('seen', 8, 4)] }
  const { generation, slot, nexthop, seen } = STRUCTS.flow.offset
  const fields = [field('generation', generation, 4), field('slot', slot, 2), field('nexthop', nexthop, 2)]
  const now = { size: STRUCTS.flow.size, name: 'flow', fields: [...fields, field('seen', seen, 4)] }
  t.strictSame(piecesOf(old, now), [
    { from: 0, to: nexthop, length: 2 },
    { from: 8, to: seen, length: 4 }
  ])
})
