import t from 'tap'
import { hexAddress } from '../../src/address.js'
import { noChanges } from '../../src/state/changes.js'
import type { StateMessage } from '../../src/state/messages.js'
import { State } from '../../src/state/state.js'
import type { Address, Link, Route, RouteNexthop } from '../../src/state/types.js'
import { randomSource } from '../plan/churn.js'

type Random = (below: number) => number

function pick<T>(random: Random, ...of: T[]): T {
  return of[random(of.length)] as T
}

function randomRoute(random: Random): Route {
  const four = random(2) === 0
  const gateway = (): Address | null =>
    random(3) === 0 ? null : hexAddress(`${four ? 'c000020' : '20010db800000000000000000000000'}${random(4)}`)
  const nexthops: RouteNexthop[] = Array.from({ length: 1 + random(2) }, () => ({
    ifindex: 1 + random(4),
    gateway: gateway(),
    weight: 1,
    dead: random(8) === 0,
    onlink: false,
    encap: false
  }))
  return {
    family: four ? 4 : 6,
    destination: four ? hexAddress(`0a0${random(4)}0000`) : hexAddress(`20010db80${random(4)}0000000000000000000000`),
    prefixLength: four ? 16 : 48,
    table: pick(random, 254, 254, 100, 255),
    type: 1,
    metric: random(2),
    tos: 0,
    protocol: 3,
    scope: pick(random, 0, 253, 254),
    nexthops,
    nexthopId: random(4) === 0 ? 1 + random(3) : 0,
    preferredSource:
      random(3) === 0 ? (four ? hexAddress('c0000209') : hexAddress('20010db8000000000000000000000009')) : null,
    mtu: 0,
    unsupported: []
  }
}

function randomLink(random: Random): Link {
  const ifindex = 1 + random(4)
  return {
    ifindex,
    name: `d${ifindex}`,
    kind: null,
    type: 1,
    mac: null,
    mtu: 1500,
    up: random(3) > 0,
    carrier: random(3) > 0,
    link: 0,
    linkNamespace: null,
    master: random(6) === 0 ? 9 : 0,
    netkitMode: null,
    netkitPrimary: false,
    bridgeNetfilter: false
  }
}

function randomMessage(random: Random): StateMessage {
  const removed = random(3) === 0
  const id = 1 + random(3)
  switch (random(8)) {
    case 0: {
      const link = randomLink(random)
      return { kind: 'link', removed: random(4) === 0, link, running: link.carrier && random(4) > 0 }
    }
    case 1: {
      const [nexthop = null] = randomRoute(random).nexthops
      const group = id === 3 ? [{ id: 1 + random(2), weight: 1 }] : []
      const object = { id, family: 4, blackhole: false, group, unsupported: [] } as const
      return {
        kind: 'nexthop',
        removed,
        object: { ...object, group, unsupported: [], nexthop: id === 3 ? null : nexthop }
      }
    }
    case 2: {
      const local = hexAddress(`c000020${random(3) === 0 ? 9 : random(4)}`)
      const address = { ifindex: 1 + random(4), family: 4, address: local, local } as const
      return {
        kind: 'address',
        removed,
        address: { ...address, prefixLength: 24, scope: 0, secondary: false, usable: true }
      }
    }
    default:
      return {
        kind: 'route',
        removed,
        replace: random(3) === 0,
        append: random(3) === 0,
        route: randomRoute(random)
      }
  }
}

/** All that the index says, and what a look at all routes says. */
function compared(state: State): [unknown, unknown] {
  const scan = (fits: (route: Route) => boolean): string[] =>
    [...state.routes4, ...state.routes6].flatMap(([key, routes]) => (routes.some(fits) ? [key] : [])).sort()
  const gateways = [
    null,
    ...[0, 1, 2, 3].flatMap((last) => [
      hexAddress(`c000020${last}`),
      hexAddress(`20010db800000000000000000000000${last}`)
    ])
  ]
  const said: unknown[] = []
  const found: unknown[] = []
  for (let number = 0; number < 6; number++) {
    said.push(
      [...new Set(state.routeUsers.throughDevice(number))].sort(),
      [...state.routeUsers.byObject(number)].sort(),
      ...gateways.map((gateway) => [...state.routeUsers.throughGateway(number, gateway)].sort()),
      [...state.routeUsers.gatewaysOn(number)].sort(),
      state.routeUsers.hasDead(number)
    )
    const isDead = ({ nexthopId, nexthops }: Route) =>
      nexthopId === 0 && nexthops.some(({ ifindex, dead }) => ifindex === number && dead)
    const uses = ({ nexthopId, nexthops }: Route, wanted: Address | null) =>
      nexthopId === 0 && nexthops.some(({ ifindex, gateway }) => ifindex === number && gateway === wanted)
    found.push(
      scan(({ nexthopId, nexthops }) => nexthopId === 0 && nexthops.some(({ ifindex }) => ifindex === number)),
      scan(({ nexthopId }) => nexthopId === number && number > 0),
      ...gateways.map((gateway) => scan((route) => uses(route, gateway))),
      gateways.filter((gateway) => gateway !== null && scan((route) => uses(route, gateway)).length > 0).sort(),
      scan(isDead).length > 0
    )
  }
  for (const table of [100, 255]) {
    said.push([...state.routeUsers.inTable(table)].sort())
    found.push(scan((route) => route.table === table))
  }
  for (const source of [hexAddress('c0000209'), hexAddress('20010db8000000000000000000000009')]) {
    said.push(state.routeUsers.prefers(source), [...state.routeUsers.preferring(source)].sort())
    const prefers = scan(({ preferredSource }) => preferredSource === source)
    found.push(prefers.length > 0, prefers)
  }
  return [said, found]
}

t.test('after any event, replayed or not, and any dump the index says what a look at all routes says', async (t) => {
  for (let seed = 1; seed <= 40; seed++) {
    const random = randomSource(seed)
    const state = new State()
    for (let step = 0; step < 150; step++) {
      if (random(30) === 0) {
        const kind = pick(random, 'routes4', 'routes6', 'nexthops', 'links')
        const dumped = Array.from({ length: 40 }, () => ({ ...randomMessage(random), removed: false }))
        state.replaceAll(kind, dumped as StateMessage[])
      } else state.apply(randomMessage(random), noChanges(), random(4) === 0)
      const [said, found] = compared(state)
      if (JSON.stringify(said) !== JSON.stringify(found)) {
        t.strictSame(said, found, `seed ${seed} step ${step}`)
        return
      }
    }
  }
  t.pass('40 nodes, 150 events each')
})
