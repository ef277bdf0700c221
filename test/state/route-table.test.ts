// A table in little memory says what a plain Map says.

import t from 'tap'
import { hexPrefix, prefixKey } from '../../src/address.js'
import { RouteTable } from '../../src/state/route-table.js'
import type { Prefix, Route } from '../../src/state/types.js'
import { randomSource } from '../plan/churn.js'
import { hex, hop, route } from './messages.js'

function randomRoute(random: (below: number) => number, prefix: string): Route {
  const hops = Array.from({ length: 1 + random(2) }, () => ({
    ...hop(2 + random(2), `192.0.2.${random(2)}`),
    dead: random(5) === 0
  }))
  return route(prefix, hops, {
    metric: random(4) === 0 ? random(60) : 0,
    mtu: random(6) === 0 ? 1400 : 0,
    preferredSource: random(6) === 0 ? hex('192.0.2.9') : null,
    unsupported: random(8) === 0 ? ['encapsulation'] : []
  })
}

t.test('random changes: the same as a Map, and no kind is left over', async (t) => {
  for (let seed = 1; seed <= 20; seed++) {
    const random = randomSource(seed)
    const [table, plain] = [new RouteTable(), new Map<Prefix, Route[]>()]
    for (let step = 0; step < 600; step++) {
      const prefix = `10.${random(2)}.${random(100)}.0/24`
      const one = randomRoute(random, prefix)
      const key = prefixKey(one.destination, 24)
      if (random(3) === 0) t.equal(table.delete(key), plain.delete(key))
      else {
        const list = random(5) === 0 ? [one, randomRoute(random, prefix)] : [one]
        table.set(key, list)
        plain.set(key, structuredClone(list))
      }
    }
    t.strictSame([...table], [...plain])
    t.strictSame([...table.keys()], [...plain.keys()])
    t.strictSame(new Map([...table.keys()].map((key) => [key, table.get(key)])), plain)
    t.equal(table.size, plain.size)
    const taken = table.get([...table.keys()][0] as Prefix)
    taken?.splice(0)
    t.strictSame([...table], [...plain], "what it gave away is the other's")
    for (const key of [...table.keys()]) table.delete(key)
    t.equal(table.kindCount, 0)
  }
})

t.test('routes that differ in nothing but their destination are of one kind; a mark goes with a change', async (t) => {
  const table = new RouteTable()
  for (let i = 0; i < 1000; i++)
    table.set(hexPrefix(`0a00${(i + 4096).toString(16)}/32`), [route('10.0.0.1/32', [hop(2, `192.0.2.${i % 2}`)])])
  t.equal(table.kindCount, 2)
  const key = hexPrefix('0a001001/32')
  const same = route('10.0.16.1/32', [hop(2, '192.0.2.1')])
  t.ok(table.isOnly(key, same))
  t.notOk(table.isOnly(key, { ...same, metric: 1 }))
  table.mark(key, 7)
  t.equal(table.markOf(key), 7)
  t.ok(table.isOnly(key, same))
  t.equal(table.get(key)?.[0]?.destination, '0a001001')
  table.set(key, [same])
  t.equal(table.markOf(key), 0)
})
