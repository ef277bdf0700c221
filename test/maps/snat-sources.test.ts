// From snat.addresses to the rows of snat_sources and of the next hops.

import t from 'tap'
import { decodeNexthop } from '../../src/maps/codec.js'
import { decodeSources, spreadSources } from '../../src/maps/snat-sources.js'
import { createWriter } from '../../src/maps/writer.js'
import { defaultPlanOptions, type SnatAddress } from '../../src/plan/options.js'
import { createPlanner } from '../../src/plan/planner.js'
import { everything, hex, interfaceAddress, key, plainNode, type TestNode } from '../plan/node.js'
import { type FakeObject, fakeObject } from './fake.js'

const three: SnatAddress[] = [{ prefix: key('192.0.2.0/28') }]

function node(): TestNode {
  const made = plainNode()
  made.addresses.set(
    2,
    [10, 11, 12].map((last) => interfaceAddress(2, `192.0.2.${last}/24`))
  )
  return made
}

function start(made: TestNode, snatAddresses: 'auto' | SnatAddress[], object = fakeObject()) {
  const planner = createPlanner({ ...defaultPlanOptions, snatAddresses })
  const writer = createWriter(object)
  const apply = () => writer.apply(planner.plan, planner.update(made, everything))
  return { planner, object, writer, apply }
}

/** By row: the addresses in it. */
function lists(object: FakeObject): Map<number, string[]> {
  const rows = Object.entries(object.contents()['snat_sources'] ?? {})
  return new Map(
    rows.map(([index, value]) => [
      Buffer.from(index, 'hex').readUInt32LE(),
      [...new Set(decodeSources(Buffer.from(value, 'hex')))].sort()
    ])
  )
}

const nexthops = (object: FakeObject) =>
  Object.values(object.contents()['nexthops'] ?? {}).map((value) => decodeNexthop(Buffer.from(value, 'hex')))

t.test('[S14] the next hops of one list share a row, which is there before them and gone after them', async (t) => {
  const made = node()
  const { planner, object, writer, apply } = start(made, three)
  apply()
  const all = [10, 11, 12].map((last) => hex(`192.0.2.${last}`))
  t.strictSame([...lists(object)], [[1, all]])
  t.match(
    nexthops(object).filter(({ snat4 }) => snat4 !== null),
    [{ sources: 1, snat4: all[0] }]
  )
  const maps = object.log.map(({ map }) => map)
  t.ok(maps.indexOf('snat_sources') < maps.indexOf('nexthops'))
  t.strictSame(writer.verify(), [])

  made.addresses.set(2, (made.addresses.get(2) ?? []).slice(0, 2))
  apply()
  t.strictSame([...lists(object)], [[2, all.slice(0, 2)]], 'another list, another row')
  planner.setOptions({ ...defaultPlanOptions, snatAddresses: 'auto' })
  apply()
  t.strictSame([...lists(object)], [])
  t.ok(nexthops(object).every(({ sources, noSource }) => sources === 0 && !noSource))
  planner.setOptions({ ...defaultPlanOptions, snatAddresses: [{ prefix: key('192.0.2.99') }] })
  apply()
  const dropping = nexthops(object).filter(({ noSource }) => noSource)
  t.ok(dropping.length > 0 && dropping.every(({ snat4, snat6 }) => snat4 === null && snat6 === null))
})

t.test('[S14] a daemon that starts again finds its rows and changes nothing', async (t) => {
  const made = node()
  const { object, apply } = start(made, three)
  apply()
  object.log.length = 0
  start(made, three, object).apply()
  t.strictSame(
    object.log.filter(({ map }) => map !== 'control'),
    []
  )
  start(made, 'auto', object).apply()
  t.strictSame([...lists(object)], [], 'one with another configuration takes them away')
})

t.test('[S14] a row that somebody has changed is found and written right', async (t) => {
  const { object, writer, apply } = start(node(), three)
  apply()
  const map = object.map('snat_sources')
  const row = Buffer.from([1, 0, 0, 0])
  map.update(row, Buffer.alloc(map.info.valueSize, 7))
  t.match(writer.verify(), [{ map: 'snat_sources', key: 'row 1' }])
  writer.repair()
  t.strictSame(writer.verify(), [])
})

t.test('[S14] addresses share the places evenly, and few pods move when one goes', async (t) => {
  const all = Array.from({ length: 64 }, (_, last) => hex(`192.0.2.${last}`))
  for (const count of [2, 3, 5, 16, 33, 64]) {
    const addresses = all.slice(0, count)
    const places = spreadSources(addresses)
    const shares = addresses.map((each) => places.filter((place) => place === each).length)
    t.equal(places.filter(Boolean).length, 64)
    t.ok(Math.max(...shares) - Math.min(...shares) <= 1, `${count}: ${shares.join(' ')}`)
    t.strictSame(spreadSources(addresses), places, 'always the same')
    if (count < 3) continue
    const gone = addresses[1]
    const after = spreadSources(addresses.filter((each) => each !== gone))
    const moved = places.filter((each, place) => each !== gone && after[place] !== each).length
    t.ok(moved <= 16, `${count}: ${moved} of 64 places of others moved`)
  }
})
