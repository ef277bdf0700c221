// The plan's routes in little memory say what a Map says.

import t from 'tap'
import { hexPrefix } from '../../src/address.js'
import { sameRoute } from '../../src/plan/change.js'
import { nexthopKey } from '../../src/plan/keys.js'
import { RouteMap } from '../../src/plan/route-map.js'
import type { WantedRoute } from '../../src/plan/types.js'
import { toEnd } from '../../src/slice.js'
import type { Prefix } from '../../src/state/types.js'
import { randomSource } from './churn.js'

type Random = (below: number) => number

const hop = (ifindex: number) => nexthopKey(ifindex, null, 1500, '-', '-')
const shared: WantedRoute[] = Array.from({ length: 5 }, (_, i) => ({ action: 'nexthop', nexthop: hop(i) }))

function randomRoute(random: Random): WantedRoute {
  if (random(6) > 0) return shared[random(shared.length)] as WantedRoute
  if (random(2)) return { action: 'group', legs: [{ nexthop: hop(random(3)), weight: 1 }] }
  return { action: 'stack', reason: 'route', why: `${random(2)}`, rule: null }
}

function randomPrefix(random: Random): Prefix {
  const digit = random(16).toString(16)
  return hexPrefix(random(2) ? `0a${digit}00000/12` : `20010db8${digit}`.padEnd(32, '0').concat('/36'))
}

function change(random: Random, map: RouteMap, plain: Map<Prefix, WantedRoute>): void {
  const prefix = randomPrefix(random)
  if (random(3) === 0) {
    if (map.delete(prefix) !== plain.delete(prefix)) throw new Error(prefix)
    return
  }
  const route = randomRoute(random)
  map.set(prefix, route)
  plain.set(prefix, route)
}

t.test('random changes: the same as a Map, and a route nobody has is forgotten', async (t) => {
  for (let seed = 1; seed <= 30; seed++) {
    const random = randomSource(seed)
    const [map, plain] = [new RouteMap(), new Map<Prefix, WantedRoute>()]
    for (let step = 0; step < 300; step++) change(random, map, plain)
    const sorted = (entries: Iterable<[Prefix, WantedRoute]>) => [...entries].sort(([a], [b]) => (a < b ? -1 : 1))
    t.strictSame(sorted(map), sorted(plain))
    t.strictSame(sorted(map.entriesOf(() => true) as Iterable<[Prefix, WantedRoute]>), sorted(plain))
    t.strictSame(new Set(map.keys()), new Set(plain.keys()))
    t.equal(map.size, plain.size)
    for (const [prefix, route] of plain) if (map.get(prefix) !== route || !map.has(prefix)) t.fail(prefix)
    const counts = new Map<WantedRoute, number>()
    for (const route of plain.values()) counts.set(route, (counts.get(route) ?? 0) + 1)
    t.strictSame(new Map(map.counts()), counts)
    const stack = [...plain].filter(([, { action }]) => action === 'stack')
    const found = [...map.entriesOf(({ action }) => action === 'stack')].filter((entry) => entry !== null)
    t.strictSame(sorted(found), sorted(stack))
    map.clear()
    t.equal(map.size, 0)
    t.strictSame([...map.counts()], [])
  }
})

t.test('what two plans do not have alike', async (t) => {
  for (let seed = 1; seed <= 30; seed++) {
    const random = randomSource(seed)
    const [before, after] = [new RouteMap(), new RouteMap()]
    for (let step = 0; step < 40; step++) {
      change(random, before, new Map(before))
      change(random, after, new Map(after))
    }
    const keys = new Set([...before.keys(), ...after.keys()])
    const unlike = [...keys].filter((key) => {
      const [a, b] = [before.get(key), after.get(key)]
      return !a || !b || !sameRoute(a, b)
    })
    t.strictSame([...toEnd(after.keysUnlike(before, sameRoute))].sort(), unlike.sort())
    t.strictSame(new Set(after.copyOfKeys()), new Set(after.keys()))
  }
})
