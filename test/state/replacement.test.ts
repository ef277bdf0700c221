// A dump of routes that is taken in while events go on: in the end State has what
// the kernel has, whatever was lost before, and in the meantime nothing older
// than what the events told.
//
// The kernel is a second State that gets every event; its dump is read entry by
// entry while it changes, as the kernel's are.

import t from 'tap'
import { hexPrefix, prefixKey, unspecified } from '../../src/address.js'
import { noChanges } from '../../src/state/changes.js'
import { type RoutePart, type StateMessage, wholeKind } from '../../src/state/messages.js'
import { State } from '../../src/state/state.js'
import type { Route } from '../../src/state/types.js'
import { randomSource } from '../plan/churn.js'
import { add, address, after, del, gone, hop, link, nexthop, route } from './messages.js'

type Random = (below: number) => number

const prefixes = Array.from({ length: 12 }, (_, i) => `10.${i}.0.0/16`)
const prefixes6 = Array.from({ length: 12 }, (_, i) => `2001:db8:${i}::/48`)

/** One route a prefix and metric: what the events say of several peers is another test's. */
function randomRoute(random: Random): Route {
  const six = random(3) === 0
  const prefix = (six ? prefixes6 : prefixes)[random(12)] ?? ''
  const gateway = (last: number) => (six ? `2001:db8::${last}` : `192.0.2.${last}`)
  const metric = random(3) * 10
  if (random(6) === 0 && !six) return route(prefix, [], { metric, nexthopId: 1 + random(2) })
  return route(prefix, [hop(2 + random(3), gateway(1 + random(3)))], { metric })
}

/** What the kernel tells; null: nothing happens. */
function randomEvent(random: Random, kernel: State): StateMessage[] {
  switch (random(12)) {
    case 0: {
      const up = random(2) === 0
      return [{ ...link(2 + random(3), { up, carrier: up }), running: up }]
    }
    case 1: {
      const carrier = random(2) === 0
      return [{ ...link(2 + random(3), { carrier }), running: carrier }]
    }
    case 2: {
      const id = 1 + random(2)
      return [
        random(3) ? nexthop(id, { nexthop: hop(2 + random(3), `192.0.2.${1 + random(3)}`) }) : gone(nexthop(id, {}))
      ]
    }
    case 3:
      return [random(2) ? address(2, '192.0.2.9') : gone(address(2, '192.0.2.9'))]
    default:
      return routeEvent(random, kernel)
  }
}

function routeEvent(random: Random, kernel: State): StateMessage[] {
  const entry = randomRoute(random)
  const table = entry.family === 4 ? kernel.routes4 : kernel.routes6
  const key = prefixKey(entry.destination, entry.prefixLength)
  const known = table.get(key)?.find(({ metric }) => metric === entry.metric)
  if (random(2) === 0) return known ? [del({ ...known })] : []
  if (entry.nexthopId !== 0 && !kernel.nexthopObjects.has(entry.nexthopId)) return []
  if (entry.nexthops.some(({ ifindex }) => !isAlive(kernel, ifindex))) return []
  return [add(entry, { replace: known !== undefined })]
}

function isAlive({ links }: State, ifindex: number): boolean {
  const known = links.get(ifindex)
  return known?.up === true && known.carrier
}

/** Both tables, comparable. */
function contents({ routes4, routes6 }: State): string[] {
  return [...routes4, ...routes6]
    .map(([key, routes]) =>
      [key, ...routes.map(({ metric, nexthopId, nexthops }) => JSON.stringify([metric, nexthopId, nexthops]))].join(' ')
    )
    .sort()
}

function copyOf(entry: Route): Route {
  return structuredClone(entry)
}

/** The routes as the addon tells them: kinds apart from destinations, some whole. */
function partOf(random: Random, family: 4 | 6, routes: readonly Route[]): RoutePart {
  const kinds: Route[] = []
  const numbers = new Map<string, number>()
  const records = routes.flatMap((entry) => {
    const whole = random(8) === 0
    const kind = whole ? entry : { ...entry, destination: unspecified[entry.family], prefixLength: 0 }
    const text = JSON.stringify(kind)
    const number = numbers.get(text) ?? kinds.push(structuredClone(kind)) - 1
    numbers.set(text, number)
    const words = entry.destination.match(/.{8}/g) ?? []
    return [
      number * 256 + (whole ? wholeKind : entry.prefixLength),
      ...words.map((word) => (whole ? 0 : Number.parseInt(word, 16)))
    ]
  })
  return { family, kinds, records: Uint32Array.from(records) }
}

/** Takes a dump in, in either form; between its steps `act` is called. */
function dump(random: Random, state: State, kernel: State, kind: 'routes4' | 'routes6', act: () => void): void {
  const replacement = state.beginReplace(kind)
  // prefixes that come during the dump are seen when they lie behind it, those that go are not
  const keys = [...(kind === 'routes4' ? prefixes : prefixes6)].map((prefix) => {
    const { destination, prefixLength } = route(prefix, [])
    return prefixKey(destination, prefixLength)
  })
  for (const key of keys) {
    const routes = kernel[kind].get(key) ?? []
    if (random(2)) for (const entry of routes) replacement.add(add(copyOf(entry)))
    else replacement.addPart(partOf(random, kind === 'routes4' ? 4 : 6, routes), 0, routes.length)
    act()
  }
  for (const _ of replacement.finish(noChanges())) act()
  replacement.drop()
}

for (const lossy of [false, true]) {
  t.test(
    `[Y3] a dump while events go on${lossy ? ', after some were lost' : ''}: in the end all is there`,
    async (t) => {
      let dumps = 0
      for (let seed = 1; seed <= 400; seed++) {
        const [random, form] = [randomSource(seed), randomSource(seed + 10_000)]
        const [kernel, state] = [new State(), new State()]
        const tell = (messages: StateMessage[], lost = false): void => {
          for (const message of messages) {
            after(kernel, structuredClone(message))
            if (!lost) after(state, structuredClone(message))
          }
        }
        tell([link(2), link(3), link(4), address(2, '192.0.2.9')])
        tell([nexthop(1, { nexthop: hop(2, '192.0.2.1') }), nexthop(2, { nexthop: hop(3, '192.0.2.2') })])
        for (let i = 0; i < 60; i++) tell(randomEvent(random, kernel))
        if (lossy) for (let i = 0; i < 30; i++) tell(routeEvent(random, kernel), random(2) === 0)
        state.needsDump.clear()
        if (lossy) state.needsDump.add('routes4').add('routes6')
        // until a dump is not disturbed; then all that is asked for has been met
        for (let round = 0; round < 8 && (round === 0 || state.needsDump.size > 0); round++) {
          const quiet = round > 3
          state.needsDump.clear()
          for (const kind of ['routes4', 'routes6'] as const) {
            dumps++
            dump(form, state, kernel, kind, () => {
              if (!quiet && random(3) > 0) tell(randomEvent(random, kernel))
            })
          }
        }
        if (state.needsDump.size > 0) t.fail(`seed ${seed}: dumps without end`)
        const [mine, theirs] = [contents(state), contents(kernel)]
        if (JSON.stringify(mine) !== JSON.stringify(theirs)) {
          t.same(mine, theirs, `seed ${seed}`)
          return
        }
      }
      t.pass(`400 nodes, ${dumps} dumps`)
    }
  )
}

t.test(
  '[Y3] while a dump is on its way, events show at once, and what it shows of before does not undo them',
  async (t) => {
    const state = new State()
    const one = (last: number): Route => route('10.1.0.0/16', [hop(2, `192.0.2.${last}`)])
    const two = route('10.2.0.0/16', [hop(2, '192.0.2.1')])
    after(state, link(2), link(3), add(one(1)), add(two))
    const replacement = state.beginReplace('routes4')
    replacement.add(add(one(1)))
    t.same([...after(state, add(one(2), { replace: true })).prefixes], ['0a010000/16'])
    t.equal(state.routes4.get(hexPrefix('0a010000/16'))?.[0]?.nexthops[0]?.gateway, 'c0000202')
    after(state, del(two))
    replacement.add(add(two))
    const changes = noChanges()
    for (const _ of replacement.finish(changes)) t.pass()
    t.equal(state.routes4.get(hexPrefix('0a010000/16'))?.[0]?.nexthops[0]?.gateway, 'c0000202')
    t.equal(state.routes4.has(hexPrefix('0a020000/16')), false)
    t.equal(changes.prefixes.size, 0)
    t.same([...state.needsDump], [])
  }
)

t.test('[Y5] what went with its device during the dump does not come back', async (t) => {
  const state = new State()
  const lost = route('10.3.0.0/16', [hop(3, '192.0.2.1')])
  after(state, link(2), link(3), add(route('10.1.0.0/16', [hop(3, '192.0.2.1')])))
  const replacement = state.beginReplace('routes4')
  replacement.add(add(route('10.1.0.0/16', [hop(3, '192.0.2.1')])))
  // its event was lost
  replacement.add(add(lost))
  after(state, gone(link(3)))
  for (const _ of replacement.finish(noChanges())) t.pass()
  t.equal(state.routes4.size, 0)
  t.ok(state.needsDump.has('routes4'), 'only another dump can tell')
})

t.test(
  'routes told by what they share are those told one by one: the first dump of all, made again, and a later one',
  async (t) => {
    for (let seed = 1; seed <= 100; seed++) {
      const random = randomSource(seed)
      const [single, parts] = [new State(), new State()]
      for (const state of [single, parts])
        after(state, link(2), link(3), link(4), nexthop(1, { nexthop: hop(2, '192.0.2.1') }))
      for (let round = 0; round < 4; round++) {
        const routes = Array.from({ length: 60 }, () => randomRoute(random)).filter(({ nexthopId }) => nexthopId < 2)
        for (const [kind, family] of [
          ['routes4', 4],
          ['routes6', 6]
        ] as const) {
          const own = routes.filter((entry) => entry.family === family)
          const [one, other] = [single, parts].map((state) => state.beginReplace(kind, round === 0))
          for (let attempt = 0; attempt < 1 + random(2); attempt++) {
            if (attempt > 0) for (const replacement of [one, other]) replacement?.again()
            for (const entry of own) one?.add(add(copyOf(entry)))
            const part = partOf(random, family, own)
            const cut = random(own.length + 1)
            other?.addPart(part, 0, cut)
            other?.addPart(part, cut, own.length)
          }
          const changes = [noChanges(), noChanges()]
          for (const [at, replacement] of [one, other].entries()) {
            for (const _ of replacement?.finish(changes[at] ?? noChanges()) ?? []);
            replacement?.drop()
          }
          t.same(changes[1]?.prefixes, changes[0]?.prefixes, `seed ${seed}`)
        }
        t.same(contents(parts), contents(single), `seed ${seed}`)
        for (const ifindex of [2, 3, 4])
          t.same(
            new Set(parts.routeUsers.throughDevice(ifindex)),
            new Set(single.routeUsers.throughDevice(ifindex)),
            `seed ${seed}`
          )
      }
    }
  }
)
