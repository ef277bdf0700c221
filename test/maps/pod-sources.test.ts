// From pods.sources to the rows of pod_sources.

import t from 'tap'
import { decodePodSource, decodePodSourceKey } from '../../src/maps/pod-sources.js'
import { createWriter } from '../../src/maps/writer.js'
import { defaultPlanOptions } from '../../src/plan/options.js'
import { createPlanner } from '../../src/plan/planner.js'
import type { Prefix } from '../../src/state/types.js'
import { addPod, everything, key, plainNode, some, type TestNode } from '../plan/node.js'
import { type FakeObject, fakeObject } from './fake.js'

const allow = (device: string, prefix: string, masquerade = true) => ({ device, prefix: key(prefix), masquerade })

const rows = (object: FakeObject): string[] =>
  Object.entries(object.contents()['pod_sources'] ?? {})
    .map(([name, value]) => {
      const { ifindex, prefix } = decodePodSourceKey(Buffer.from(name, 'hex'))
      return `${ifindex} ${prefix} ${decodePodSource(Buffer.from(value, 'hex')).masquerade}`
    })
    .sort()

function start(node: TestNode, podSources: ReturnType<typeof allow>[], object = fakeObject()) {
  const planner = createPlanner({ ...defaultPlanOptions, podSources })
  const writer = createWriter(object)
  const apply = (changes = everything) => writer.apply(planner.plan, planner.update(node, changes))
  return { planner, object, writer, apply }
}

t.test('[D7] each device has the prefixes of the patterns that its name matches', async (t) => {
  const node = plainNode()
  addPod(node, 10, ['10.1.0.2'])
  addPod(node, 11, ['10.1.0.3'])
  addPod(node, 20, ['10.1.0.4'])
  const names = [10, 11, 20].map((ifindex) => node.links.get(ifindex)?.name ?? '')
  const { object, writer, apply } = start(node, [
    allow(names[0] ?? '', '10.96.0.0/12', false),
    allow(`${names[0]?.slice(0, -1)}*`, '10.96.0.0/12'),
    allow('*', 'fd00:96::/32'),
    allow('eth*', '10.0.0.0/8')
  ])
  apply()
  t.strictSame(
    rows(object),
    [
      `10 ${key('10.96.0.0/12')} false`,
      `10 ${key('fd00:96::/32')} true`,
      `11 ${key('10.96.0.0/12')} true`,
      `11 ${key('fd00:96::/32')} true`,
      `20 ${key('fd00:96::/32')} true`
    ],
    'of two entries for one prefix the first counts; an uplink has none'
  )
  t.strictSame(writer.verify(), [])
})

t.test('[D7] rows come before the device and go with it, with the configuration, and after a restart', async (t) => {
  const node = plainNode()
  addPod(node, 10, ['10.1.0.2'])
  const podSources = [allow('*', '10.96.0.0/12')]
  const { planner, object, apply } = start(node, podSources)
  apply()
  const added = addPod(node, 11, ['10.1.0.3'])
  object.log.length = 0
  apply()
  const order = object.log.map(({ map }) => map)
  t.ok(order.indexOf('pod_sources') < order.indexOf('devices'), 'before')
  t.equal(rows(object).length, 2)
  node.routes4.delete(added[0] as Prefix)
  apply(some(added))
  t.strictSame(rows(object), [`10 ${key('10.96.0.0/12')} true`])
  planner.setOptions({ ...defaultPlanOptions, podSources: [allow('*', '10.100.0.0/16', false)] })
  apply()
  t.strictSame(rows(object), [`10 ${key('10.100.0.0/16')} false`])

  object.log.length = 0
  const again = start(node, [], object)
  again.apply()
  t.strictSame(rows(object), [], 'a later daemon takes away what it does not have')
})

t.test('[D7] what does not fit is said; what somebody else changed is found and written right', async (t) => {
  const node = plainNode()
  addPod(node, 10, ['10.1.0.2'])
  const { object, writer, apply } = start(
    node,
    [allow('*', '10.96.0.0/12'), allow('*', '10.1.0.0/16')],
    fakeObject({ pod_sources: 1 })
  )
  t.match(apply(), { warnings: ['1 prefixes of pods.sources do not fit: packets from them are dropped'] })
  const map = object.map('pod_sources')
  map.update(map.dump().keys, Buffer.from([2, 0, 0, 0]))
  t.match(writer.verify(), [
    { map: 'pod_sources', key: 'device 10, 10.96.0.0/12', have: { masquerade: false }, want: { masquerade: true } }
  ])
  writer.repair()
  t.strictSame(writer.verify(), [])
})
