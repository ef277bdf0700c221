import t from 'tap'
import type { MapAccess } from '../../src/maps/access.js'
import { encodeRouteKey } from '../../src/maps/codec.js'
import { createWriter } from '../../src/maps/writer.js'
import { type BpfMap, native } from '../../src/native.js'
import { defaultPlanOptions } from '../../src/plan/options.js'
import { createPlanner } from '../../src/plan/planner.js'
import { churn, startChurn } from '../plan/churn.js'
import { addPod, addRoutes, everything, key, leg, plainNode, route, some } from '../plan/node.js'

// The kernel's own maps, loaded without programs and without pins: nothing is
// attached, and they vanish with this process.

function load(sizes: Record<string, number> = {}): { access: MapAccess; writes: () => number; close: () => void } {
  const object = native().loadObject({ programs: [], sizes })
  let writes = 0
  const counting = (map: BpfMap): BpfMap => ({
    info: map.info,
    lookup: (key) => map.lookup(key),
    update(key, value, flags) {
      writes++
      map.update(key, value, flags)
    },
    delete(key) {
      writes++
      return map.delete(key)
    },
    updateBatch: (keys, values, count) => map.updateBatch(keys, values, count),
    deleteBatch: (keys, count) => map.deleteBatch(keys, count),
    readBatch: (position, most) => map.readBatch(position, most),
    layout: () => map.layout(),
    pin: (path) => map.pin(path),
    become: (other) => map.become(other),
    dump: () => map.dump(),
    dumpPresent: () => map.dumpPresent(),
    close: () => map.close()
  })
  const maps = new Map<string, BpfMap>()
  return {
    access: {
      map(name) {
        const map = maps.get(name) ?? counting(object.map(name))
        maps.set(name, map)
        return map
      },
      readControl: () => object.readControl(),
      writeControl: (offset, bytes) => object.writeControl(offset, bytes)
    },
    writes: () => writes,
    close: () => object.close()
  }
}

t.test('random changes, the kernel’s maps: nothing differs, and a restart writes nothing', async (t) => {
  for (const seed of [500, 501, 502]) {
    const world = startChurn(seed)
    const { access, writes, close } = load()
    const planner = createPlanner(world.options)
    const writer = createWriter(access)
    writer.apply(planner.plan, planner.update(world.node, everything))
    for (let step = 0; step < 20; step++) {
      writer.apply(planner.plan, planner.update(world.node, churn(world)))
      t.strictSame(writer.verify(), [], `seed ${seed} step ${step}`)
    }
    const before = writes()
    createWriter(access).apply(planner.plan, 'all')
    t.equal(writes(), before, '[L1] a restart writes nothing')
    close()
  }
})

t.test('[Y10] the kernel’s trie is full: the family goes to the stack, and back', async (t) => {
  const node = plainNode()
  addPod(node, 10, ['10.1.0.2'])
  const { access, close } = load({ routes4: 32 })
  const planner = createPlanner(defaultPlanOptions)
  const writer = createWriter(access)
  writer.apply(planner.plan, planner.update(node, everything))
  const prefixes = Array.from(
    { length: 40 },
    (_, i) => addRoutes(node, route(`10.20.${i}.0/24`, [leg(2, '192.0.2.7')]))[0]
  )
  t.match(writer.apply(planner.plan, planner.update(node, some(prefixes))).alarms, [{ family: 4 }])
  for (const prefix of prefixes) node.routes4.delete(prefix)
  t.strictSame(writer.apply(planner.plan, planner.update(node, some(prefixes))).alarms, [])
  t.strictSame(writer.verify(), [])
  close()
})

t.test('100,000 routes', async (t) => {
  const node = plainNode()
  for (let i = 0; i < 100_000; i++)
    addRoutes(node, route(`${10 + (i >> 16)}.${(i >> 8) & 255}.${i & 255}.0/24`, [leg(2, `192.0.2.${1 + (i % 200)}`)]))
  const { access, close } = load()
  const planner = createPlanner(defaultPlanOptions)
  const writer = createWriter(access)
  const change = planner.update(node, everything)
  const start = process.cpuUsage()
  writer.apply(planner.plan, change)
  const { user, system } = process.cpuUsage(start)
  t.comment(`written in ${((user + system) / 1000).toFixed(0)} ms of CPU`)
  t.ok(access.map('routes4').lookup(encodeRouteKey(key('11.0.0.0/24'))))
  t.strictSame(writer.verify(), [])
  const planned = createWriter(access)
  t.strictSame(planned.apply(planner.plan, 'all').alarms, [], 'taken over by the next daemon')
  close()
})
