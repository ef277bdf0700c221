import t from 'tap'
import * as codec from '../../src/maps/codec.js'
import { STRUCTS } from '../../src/maps/layout.js'
import { indexKey } from '../../src/maps/mirror.js'
import { podSlotIndex } from '../../src/maps/pods.js'
import { createWriter, type Writer } from '../../src/maps/writer.js'
import { comparePlans, type PlanChange } from '../../src/plan/change.js'
import { defaultPlanOptions } from '../../src/plan/options.js'
import { createPlanner, makePlan } from '../../src/plan/planner.js'
import type { Plan } from '../../src/plan/types.js'
import { REASON_MAX } from '../../src/reasons.js'
import type { Address, Prefix } from '../../src/state/types.js'
import { churn, startChurn } from '../plan/churn.js'
import {
  addPod,
  addRoutes,
  everything,
  hex,
  key,
  leg,
  plainNode,
  podLink,
  route,
  setNeighbour,
  some,
  type TestNode
} from '../plan/node.js'
import { type FakeObject, fakeObject, generationsOf, nativeError } from './fake.js'
import { meaning, sorted } from './meaning.js'

/** A lookup as bpf/pods.h does it. */
function podOf(object: FakeObject, address: Address): codec.PodRow | null {
  const slot = codec.decodePodSlot(
    object.map('pod_slots').lookup(Buffer.from(indexKey(podSlotIndex(address)), 'hex')) ??
      Buffer.alloc(STRUCTS.pod_slot.size)
  )
  if (slot.address === address) return slot.pod
  const bytes = slot.more ? object.map('pods').lookup(codec.encodeAddress(address)) : null
  return bytes && codec.decodePod(bytes)
}

/** Higher after any slot was raised. */
function generation(object: FakeObject): number {
  return generationsOf(object).reduce((sum, each) => sum + each, 0)
}

function start(
  node: TestNode,
  object = fakeObject()
): { object: FakeObject; writer: Writer; apply: (changes?: typeof everything) => PlanChange; plan: () => Plan } {
  const planner = createPlanner(defaultPlanOptions)
  const writer = createWriter(object)
  const apply = (changes = everything): PlanChange => {
    object.log.length = 0
    const change = planner.update(node, changes)
    writer.apply(planner.plan, change)
    return change
  }
  apply()
  return { object, writer, apply, plan: () => planner.plan }
}

t.test('a plan is in the maps as the programs read them', async (t) => {
  const node = plainNode()
  addPod(node, 10, ['10.1.0.2', '10.1.64.2', 'fd00::2'])
  const { object, writer } = start(node)
  const device = codec.decodeDevice(object.map('devices').lookup(Buffer.from(indexKey(10), 'hex')) ?? Buffer.alloc(64))
  t.match(device, { ifindex: 10, kind: 1, mtu: 1500, address4: hex('10.1.0.2'), address6: hex('fd00::2') })
  t.ok(device.podId)
  for (const address of ['10.1.0.2', '10.1.64.2', 'fd00::2'])
    t.match(podOf(object, hex(address)), { ifindex: 10, id: device.podId, flags: 1, mac: '0a000000000a' })
  t.equal(podSlotIndex(hex('10.1.0.2')), podSlotIndex(hex('10.1.64.2')), 'two of them share a slot')
  t.equal(podOf(object, hex('10.1.128.2')), null)
  t.notOk('00000000' in (object.contents()['nexthops'] ?? {}), 'row 0 of nexthops stays empty')
  t.strictSame(writer.verify(), [])
})

t.test('order of writes', async (t) => {
  const node = plainNode()
  addPod(node, 10, ['10.1.0.2'])
  const { object, apply } = start(node)
  const prefixes = addRoutes(
    node,
    route('10.9.0.0/16', [leg(2, '192.0.2.7')]),
    route('10.9.1.0/24', [], { type: 6 }),
    route('10.8.0.0/16', [leg(2, '192.0.2.8'), leg(3, '198.51.100.8')])
  )
  apply(some(prefixes))
  const maps = object.log.map((write) => write.map)
  t.strictSame([...new Set(maps)].sort(), ['control', 'groups', 'nexthops', 'routes4'])
  t.ok(maps.lastIndexOf('nexthops') < maps.indexOf('routes4'), 'next hops before all routes')
  const grouped = object.log.findIndex(
    (write) => write.map === 'routes4' && codec.decodeRouteKey(Buffer.from(write.key, 'hex')) === key('10.8.0.0/16')
  )
  t.ok(maps.lastIndexOf('groups') < grouped, 'a group before its route')
  t.equal(
    object.log
      .filter((write) => write.map === 'routes4')
      .map((write) => codec.decodeRouteKey(Buffer.from(write.key, 'hex')))[0],
    key('10.9.1.0/24'),
    'the exception before the rule'
  )
  t.equal(object.log.at(-1)?.map, 'control', 'the generations last')

  for (const prefix of prefixes) node.routes4.delete(prefix)
  apply(some(prefixes))
  const order = object.log.map((write) => `${write.map} ${write.op}`)
  t.ok(order.lastIndexOf('routes4 delete') < order.indexOf('control control'), 'routes go, the generation is raised')
  t.ok(order.indexOf('control control') < order.indexOf('nexthops update'), 'and then rows are zeroed')

  const added = addPod(node, 11, ['10.1.0.3'])
  apply()
  const first = object.log.map((write) => write.map).filter((name, index, all) => all.indexOf(name) === index)
  t.ok(
    first.indexOf('pods') < first.indexOf('pod_slots') && first.indexOf('pod_slots') < first.indexOf('devices'),
    'hash, slot, device'
  )
  node.routes4.delete(added[0] as Prefix)
  apply(some(added))
  const last = object.log.map((write) => write.map)
  t.ok(
    last.indexOf('devices') < last.indexOf('pod_slots') && last.lastIndexOf('pod_slots') < last.indexOf('pods'),
    'device, slot, hash'
  )
})

t.test('a slot never shows an address with a pod that is not its own', async (t) => {
  const node = plainNode()
  addPod(node, 10, ['10.1.0.2'])
  const { object, apply } = start(node)
  const slot = codec.decodePodSlot(
    object.map('pod_slots').lookup(Buffer.from(indexKey(podSlotIndex(hex('10.1.0.2'))), 'hex')) ??
      Buffer.alloc(STRUCTS.pod_slot.size)
  )
  node.routes4.delete(key('10.1.0.2'))
  addRoutes(node, route('10.1.64.2', [leg(10)]))
  setNeighbour(node, 10, '10.1.64.2', '0a00000000ff', 2)
  apply()
  const writes = object.log
    .filter((write) => write.map === 'pod_slots')
    .map((write) => codec.decodePodSlot(Buffer.from(write.value, 'hex')))
  for (const [index, now] of writes.entries()) {
    const before = writes[index - 1] ?? slot
    // one step changes the address or the pod
    if (now.address !== before.address) t.strictSame(now.pod, before.pod, 'the pod stays while the address changes')
    if (now.address === null) t.ok(now.more, 'without an address the hash is asked')
  }
  t.match(writes.at(-1), { address: hex('10.1.64.2'), pod: { mac: '0a00000000ff' } })
})

t.test('a pod whose MAC is not known has no slot', async (t) => {
  const node = plainNode()
  addPod(node, 10, ['10.1.0.2'])
  const { object, apply } = start(node)
  addRoutes(node, route('10.1.0.3', [leg(10)]))
  apply()
  const index = Buffer.from(indexKey(podSlotIndex(hex('10.1.0.3'))), 'hex')
  t.match(codec.decodePodSlot(object.map('pod_slots').lookup(index) ?? Buffer.alloc(STRUCTS.pod_slot.size)), {
    address: null,
    pod: { id: 0, mtu: 0 },
    more: true
  })
  setNeighbour(node, 10, '10.1.0.3', '0a0000000003', 2)
  apply()
  t.match(codec.decodePodSlot(object.map('pod_slots').lookup(index) ?? Buffer.alloc(STRUCTS.pod_slot.size)), {
    address: hex('10.1.0.3'),
    pod: { mac: '0a0000000003' },
    more: false
  })
})

t.test('[N5] a MAC shared by 1,000 routes is one write of one row', async (t) => {
  const node = plainNode()
  for (let i = 0; i < 1000; i++) addRoutes(node, route(`10.${i >> 8}.${i & 255}.0/24`, [leg(2, '192.0.2.9')]))
  setNeighbour(node, 2, '192.0.2.9', '020000000109', 2)
  const { object, apply } = start(node)
  const before = generation(object)
  apply(some([], [setNeighbour(node, 2, '192.0.2.9', '0200000001ff', 2)]))
  t.strictSame(object.log.map((write) => write.map).sort(), ['neighbours', 'nexthops'])
  t.equal(generation(object), before)
})

t.test('a freed row of nexthops is not used again under the same generation', async (t) => {
  const node = plainNode()
  const { object, writer, apply, plan } = start(node)
  const row = () => {
    const found = plan().routes.get(key('10.9.0.0/16'))
    return found?.action === 'nexthop' ? writer.nexthopIndex(found.nexthop) : undefined
  }
  addRoutes(node, route('10.9.0.0/16', [leg(2, '192.0.2.7')]))
  apply(some([key('10.9.0.0/16')]))
  const first = row()
  const raised = generation(object)
  node.routes4.set(key('10.9.0.0/16'), [route('10.9.0.0/16', [leg(2, '192.0.2.8')])])
  apply(some([key('10.9.0.0/16')]))
  t.not(row(), first)
  t.ok(generation(object) > raised)
  node.routes4.set(key('10.9.0.0/16'), [route('10.9.0.0/16', [leg(2, '192.0.2.9')])])
  apply(some([key('10.9.0.0/16')]))
  t.equal(row(), first, 'but after it was raised')
})

t.test('[S16] a pod keeps its id while it lives, and its address in another pod has another id', async (t) => {
  const node = plainNode()
  addPod(node, 10, ['10.1.0.2'])
  const { object, apply } = start(node)
  const id = () => podOf(object, hex('10.1.0.2'))?.id
  const first = id()
  node.links.set(10, podLink(10, 'pod10', { mtu: 1400 }))
  setNeighbour(node, 10, '10.1.0.2', '0a00000000ff', 2)
  apply()
  t.equal(id(), first, 'MAC and MTU are no new life')
  node.links.delete(10)
  node.routes4.delete(key('10.1.0.2'))
  apply()
  t.equal(id(), undefined)
  addPod(node, 11, ['10.1.0.2'])
  apply()
  t.not(id(), first)
  const second = id()
  node.links.delete(11)
  node.routes4.delete(key('10.1.0.2'))
  addPod(node, 12, ['10.1.0.2'])
  apply()
  t.not(id(), second, 'also when the address moves in one step')
  t.match(codec.decodeDevice(object.map('devices').lookup(Buffer.from(indexKey(12), 'hex')) ?? Buffer.alloc(64)), {
    podId: id()
  })
})

t.test('[M5] the masquerade policy is switched by one write, without a plan', async (t) => {
  const object = fakeObject()
  const { masquerade } = createWriter(object)
  const entry = (text: string, due: boolean) => ({ prefix: key(text), masquerade: due })
  masquerade.write([entry('0.0.0.0/0', true), entry('10.0.0.0/8', false)])
  object.log.length = 0
  const next = [entry('0.0.0.0/0', true), entry('172.16.0.0/12', false)]
  t.equal(masquerade.write(next), null)
  t.strictSame(
    object.log.map((write) => `${write.map} ${write.op}`),
    ['masquerade update', 'masquerade update', 'control control', 'masquerade delete', 'masquerade delete']
  )
  object.log.length = 0
  t.equal(masquerade.write([...next].reverse()), null)
  t.strictSame(object.log, [], 'the same policy is not written again')
  const crowded = Array.from({ length: 8192 }, (_, i) => entry(`10.${i >> 8}.${i & 255}.0/24`, false))
  t.match(masquerade.write(crowded), /it has 8192 prefixes, and 8190 fit into its map/)
  t.equal(object.log.length, 0, 'a policy that does not fit changes nothing')
  const restarted = createWriter(object).masquerade
  t.same(restarted.inForce(), next, 'a restart reads what is in force')
  t.equal(restarted.write(next), null)
  t.strictSame(object.log, [], 'and leaves it')
})

t.test('[M5] a write of the policy that fails half way leaves the old one, and nothing of the new', async (t) => {
  const object = fakeObject()
  const { masquerade } = createWriter(object)
  const entries = (first: number) =>
    Array.from({ length: 20 }, (_, i) => ({ prefix: key(`10.${first + i}.0.0/16`), masquerade: false }))
  masquerade.write(entries(0))
  const before = object.contents()
  for (const code of ['ENOSPC', 'EIO']) {
    let writes = 0
    object.beforeWrite = ({ map, op }) => {
      if (map === 'masquerade' && op === 'update' && ++writes > 7) throw nativeError(code, 'as the test wants')
    }
    if (code === 'EIO') t.throws(() => masquerade.write(entries(30)), { code })
    else t.match(masquerade.write(entries(30)), /it has 20 prefixes, which do not fit into its map/)
    object.beforeWrite = null
    t.strictSame(object.contents(), before, code)
    t.same(masquerade.inForce().length, 20)
  }
  t.equal(masquerade.write(entries(30)), null, 'later it is written')
  t.ok(masquerade.inForce().some(({ prefix }) => prefix === key('10.49.0.0/16')))
})

t.test('[L1] a restart writes nothing when nothing changed, and keeps rows and ids when something did', async (t) => {
  for (let seed = 300; seed < 305; seed++) {
    const world = startChurn(seed)
    const { object, apply, plan } = start(world.node)
    for (let step = 0; step < 10; step++) apply(churn(world))
    object.log.length = 0
    createWriter(object).apply(plan(), 'all')
    t.strictSame(object.log, [], `seed ${seed}`)
  }
  const node = plainNode()
  addPod(node, 10, ['10.1.0.2'])
  addPod(node, 11, ['10.1.0.3'])
  const { object } = start(node)
  const id = podOf(object, hex('10.1.0.2'))?.id ?? 0
  const highest = Math.max(id, podOf(object, hex('10.1.0.3'))?.id ?? 0)
  node.links.delete(11)
  node.routes4.delete(key('10.1.0.3'))
  addPod(node, 12, ['10.1.0.4'])
  object.log.length = 0
  start(node, object)
  t.equal(podOf(object, hex('10.1.0.2'))?.id, id)
  t.ok((podOf(object, hex('10.1.0.4'))?.id ?? 0) > highest, 'ids go on above the highest')
  t.notOk(object.log.some((write) => write.map === 'nexthops'))
})

t.test('difference after difference, the maps are those written from nothing', async (t) => {
  for (let seed = 400; seed < 406; seed++) {
    const world = startChurn(seed)
    const { object, writer, apply, plan } = start(world.node)
    for (let step = 0; step < 25; step++) {
      apply(churn(world))
      const fresh = fakeObject()
      createWriter(fresh).apply(plan(), 'all')
      const have = meaning(object)
      const want = meaning(fresh)
      if (JSON.stringify(sorted(have)) !== JSON.stringify(sorted(want))) {
        t.strictSame(have, want, `seed ${seed} step ${step}`)
        return
      }
      for (const address of plan().pods.keys())
        if (!podOf(object, address)) t.fail(`seed ${seed} step ${step}: ${address} is not found`)
      if (writer.verify().length > 0) t.strictSame(writer.verify(), [], `seed ${seed} step ${step}`)
    }
  }
  t.pass('6 nodes, 25 changes each')
})

t.test('[Y8] what somebody edits is found, told and repaired', async (t) => {
  const node = plainNode()
  addPod(node, 10, ['10.1.0.2'])
  const { object, writer } = start(node)
  const good = object.contents()
  const before = generation(object)
  object.map('routes4').delete(codec.encodeRouteKey(key('0.0.0.0/0')))
  object
    .map('routes4')
    .update(codec.encodeRouteKey(key('10.66.0.0/16')), codec.encodeRoute({ action: 1, nexthop: 1, reason: 0 }))
  object.map('nexthops').update(Buffer.from(indexKey(1), 'hex'), Buffer.alloc(64))
  object.map('pods').delete(codec.encodeAddress(hex('10.1.0.2')))
  object.map('devices').update(Buffer.from(indexKey(77), 'hex'), Buffer.alloc(64, 1))
  object.map('pod_slots').update(Buffer.from(indexKey(3), 'hex'), Buffer.alloc(STRUCTS.pod_slot.size, 1))
  const found = writer.verify()
  t.strictSame(found.map((entry) => `${entry.map} ${entry.key}`).sort(), [
    'devices row 77',
    'nexthops row 1',
    'pod_slots row 3',
    'pods 10.1.0.2',
    'routes4 0.0.0.0/0',
    'routes4 10.66.0.0/16'
  ])
  t.match(
    found.find((entry) => entry.key === '10.66.0.0/16'),
    { have: { action: 'nexthop', nexthop: 1 }, want: null }
  )
  t.equal(writer.repair().length, 6)
  t.ok(generation(object) > before)
  t.strictSame(writer.verify(), [])
  const { control: _, ...now } = object.contents()
  const { control: __, ...then } = good
  t.strictSame(now, then)
})

/** Families a device leaves to the kernel: flags of its row. */
function flags(object: FakeObject, ifindex: number): number {
  return codec.decodeDevice(object.map('devices').lookup(Buffer.from(indexKey(ifindex), 'hex')) ?? Buffer.alloc(64))
    .flags
}

t.test('[Y10] routes that do not fit send their family to the stack, and back when they fit', async (t) => {
  const node = plainNode()
  addPod(node, 10, ['10.1.0.2'])
  const object = fakeObject({ routes4: 30 })
  const planner = createPlanner(defaultPlanOptions)
  const writer = createWriter(object)
  const apply = (changes = everything) => writer.apply(planner.plan, planner.update(node, changes))
  t.strictSame(apply().alarms, [])
  const prefixes = Array.from(
    { length: 40 },
    (_, i) => addRoutes(node, route(`10.20.${i}.0/24`, [leg(2, '192.0.2.7')]))[0]
  )
  object.log.length = 0
  t.match(apply(some(prefixes)).alarms, [{ family: 4, why: /IPv4 routes, routes4 takes 30/ }])
  t.equal(object.log[0]?.map, 'devices', 'the flags come first')
  t.strictSame([flags(object, 2), flags(object, 3), flags(object, 10)], [1, 1, 1])
  addRoutes(node, route('2001:db8:7::/48', [leg(2, 'fe80::1')]))
  t.equal(apply(some([key('2001:db8:7::/48')])).alarms.length, 1)
  t.ok(object.map('routes6').lookup(codec.encodeRouteKey(key('2001:db8:7::/48'))), 'the other family goes on')
  for (const prefix of prefixes) node.routes4.delete(prefix)
  object.log.length = 0
  t.strictSame(apply(some(prefixes)).alarms, [])
  t.strictSame([flags(object, 2), flags(object, 10)], [0, 0])
  const maps = object.log.map((write) => write.map)
  t.ok(maps.lastIndexOf('devices') > maps.lastIndexOf('routes4'), 'the flags go last')
  t.strictSame(writer.verify(), [])
  t.strictSame(meaning(object), meaning(start(node).object))
})

t.test('a pod’s device that finds no room is left out alone, with its addresses', async (t) => {
  const node = plainNode()
  const room = 4 // two of these are uplinks
  const object = fakeObject({ counters: room * REASON_MAX })
  const planner = createPlanner(defaultPlanOptions)
  const writer = createWriter(object)
  const apply = () => writer.apply(planner.plan, planner.update(node, everything))
  const there = () => [2, 3, 4, 5].map((last) => podOf(object, hex(`10.1.0.${last}`))?.ifindex)
  addPod(node, 10, ['10.1.0.2'])
  t.strictSame(apply(), { alarms: [], warnings: [], leftOut: [] })
  addPod(node, 11, ['10.1.0.3'])
  addPod(node, 12, ['10.1.0.4'])
  t.strictSame(apply(), { alarms: [], warnings: [], leftOut: ['pod12'] }, 'no family is left')
  t.strictSame(there(), [10, 11, undefined, undefined])
  t.strictSame(
    [2, 3, 10, 11].map((ifindex) => flags(object, ifindex)),
    [0, 0, 0, 0]
  )
  t.notOk(writer.counterRows.has(12), 'no program is attached there')
  addPod(node, 13, ['10.1.0.5'])
  t.strictSame(apply().leftOut, ['pod12', 'pod13'])
  t.strictSame(writer.verify(), [])
  node.links.delete(10)
  node.routes4.delete(key('10.1.0.2/32'))
  t.strictSame(apply().leftOut, ['pod13'], 'the first that waits gets the room of one that goes')
  t.strictSame(there(), [undefined, 11, 12, undefined])
  t.ok(writer.counterRows.has(12))
  t.strictSame(writer.verify(), [])
  node.links.delete(13)
  node.routes4.delete(key('10.1.0.5/32'))
  t.strictSame(apply().leftOut, [])
  t.strictSame(meaning(object), meaning(start(node).object))
})

t.test('[Y10] the kernel’s own "full" counts as well', async (t) => {
  const node = plainNode()
  const object = fakeObject()
  object.beforeWrite = (write) => {
    if (write.map === 'routes6' && write.op === 'update') throw nativeError('ENOMEM', 'no memory')
  }
  const result = createWriter(object).apply(makePlan(node, defaultPlanOptions), 'all')
  t.match(result.alarms, [{ family: 6, why: /full/ }])
  t.equal(flags(object, 2), 2)
  t.ok(object.map('routes4').lookup(codec.encodeRouteKey(key('0.0.0.0/0'))))
})

t.test('[Y10] next hops, groups and pods that do not fit', async (t) => {
  const node = plainNode()
  for (let i = 0; i < 20; i++) addRoutes(node, route(`10.20.${i}.0/24`, [leg(2, `192.0.2.${i + 20}`)]))
  const nexthops = fakeObject({ nexthops: 16 })
  t.strictSame(
    createWriter(nexthops)
      .apply(makePlan(node, defaultPlanOptions), 'all')
      .alarms.map((alarm) => alarm.family),
    [4, 6]
  )
  t.equal(flags(nexthops, 2), 3)
  for (let i = 0; i < 9; i++)
    addRoutes(node, route(`10.30.${i}.0/24`, [leg(2, '192.0.2.2', { weight: i + 1 }), leg(3, '198.51.100.2')]))
  const groups = fakeObject({ groups: 4 })
  t.match(createWriter(groups).apply(makePlan(node, defaultPlanOptions), 'all').alarms, [{ family: 4, why: /groups/ }])
  for (let i = 0; i < 9; i++) addPod(node, 20 + i, [`10.1.0.${i}`])
  const pods = fakeObject({ pods: 5 })
  t.match(createWriter(pods).apply(makePlan(node, defaultPlanOptions), 'all').alarms, [{ family: 4, why: /pods/ }])
})

t.test(
  '[Y10] a change that fits, but not beside what it replaces, is applied with the family on the stack meanwhile',
  async (t) => {
    const node = plainNode()
    for (let i = 0; i < 20; i++) addRoutes(node, route(`10.20.${i}.0/24`, [leg(2, `192.0.2.${i + 20}`)]))
    const object = fakeObject({ nexthops: 32, routes4: 32 })
    const { writer, apply } = start(node, object)
    const prefixes: Prefix[] = []
    for (let i = 0; i < 20; i++) {
      prefixes.push(key(`10.20.${i}.0/24`))
      node.routes4.delete(key(`10.20.${i}.0/24`))
      prefixes.push(...addRoutes(node, route(`10.40.${i}.0/24`, [leg(2, `192.0.2.${i + 60}`)])))
    }
    apply(some(prefixes))
    t.equal(flags(object, 2), 0)
    t.strictSame(writer.verify(), [])
    t.strictSame(meaning(object), meaning(start(node).object))
  }
)

t.test('after a write that failed the next apply goes on from what is there', async (t) => {
  for (let failing = 0; failing < 60; failing++) {
    const node = plainNode()
    addPod(node, 10, ['10.1.0.2', 'fd00::2'])
    const object = fakeObject()
    const writer = createWriter(object)
    const plan = makePlan(node, defaultPlanOptions)
    let left = failing
    object.beforeWrite = () => {
      if (left-- === 0) throw nativeError('EPERM', 'not now')
    }
    try {
      writer.apply(plan, 'all')
    } catch (error) {
      t.match(error, { code: 'EPERM' })
    }
    object.beforeWrite = null
    writer.apply(plan, comparePlans(plan, plan))
    const fresh = fakeObject()
    createWriter(fresh).apply(plan, 'all')
    if (JSON.stringify(sorted(meaning(object))) !== JSON.stringify(sorted(meaning(fresh)))) {
      t.strictSame(meaning(object), meaning(fresh), `write ${failing} failed`)
      return
    }
  }
})

t.test('counters of a device start at zero', async (t) => {
  const node = plainNode()
  addPod(node, 10, ['10.1.0.2'])
  const { object, writer, apply } = start(node)
  const row = writer.counterRows.get(10) ?? -1
  const cell = Buffer.from(indexKey(row * REASON_MAX), 'hex')
  object.map('counters').update(cell, Buffer.alloc(32, 1))
  node.links.delete(10)
  node.routes4.delete(key('10.1.0.2'))
  apply()
  addPod(node, 11, ['10.1.0.3'])
  apply()
  t.equal(writer.counterRows.get(11), row, 'the row is used again')
  t.ok(
    object
      .map('counters')
      .lookup(cell)
      ?.every((byte) => byte === 0)
  )
})
