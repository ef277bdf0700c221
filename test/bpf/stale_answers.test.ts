// Random changes of the routes, written as the daemon writes them, between packets of old flows, new ones and
// fragments: each leaves as the longest prefix of that moment says. HOSTROUTE_SEED and HOSTROUTE_FRAMES repeat a run or
// lengthen it.
import './namespace.js'
import t from 'tap'
import { everything, hexMac, joinAddresses } from '../../src/address.js'
import { createWriter } from '../../src/maps/writer.js'
import { comparePlans, emptyPlan } from '../../src/plan/change.js'
import { classKey, classRouteKey, nexthopKey } from '../../src/plan/keys.js'
import type { Plan, WantedClassRoute, WantedDevice, WantedNexthop, WantedRoute } from '../../src/plan/types.js'
import type { Mac } from '../../src/state/types.js'
import { addressText, macText } from '../packets/bytes.js'
import { fragments, ip, udp } from '../packets/packet.js'
import { hex, key } from '../plan/node.js'
import { type Random, randomRounds } from './hot_path_ways.js'
import { Control } from './layout.js'
import { type DeviceName, devices, type Result, type TestNode, testNode } from './node.js'

type Family = 4 | 6
type Routes = Map<string, WantedClassRoute>

const families = [4, 6] as const
/** Packets per change. */
const packets = 60
const addresses = 20
const gateways = 8
const className = classKey(4, 'of-a')

function macOf(name: DeviceName): Mac {
  return hexMac(devices[name].mac.replaceAll(':', ''))
}

function pod(node: TestNode, ofClass: boolean): WantedDevice {
  return {
    ...uplink(node, 'up0'),
    ifindex: node.ifindexOf('a'),
    name: 'a',
    role: 'pod',
    mac: macOf('a'),
    addresses: [hex(devices.a.v4), hex(devices.a.v6)],
    class4: ofClass ? className : null,
    class6: ofClass ? className : null
  }
}

function uplink(node: TestNode, name: 'up0' | 'up1'): WantedDevice {
  return {
    ifindex: node.ifindexOf(name),
    name,
    role: 'uplink',
    kind: null,
    mtu: 1500,
    mac: macOf(name),
    addresses: [],
    sources: [],
    stack: [],
    class4: null,
    class6: null,
    strictReversePath: false
  }
}

/** The MAC says which it is. */
function nexthop(node: TestNode, number: number, snat: boolean): WantedNexthop {
  const name = number % 2 === 0 ? 'up0' : 'up1'
  const ifindex = node.ifindexOf(name)
  const gateway = hex(`192.0.2.${number + 1}`)
  const [snat4, snat6] = snat ? [hex(devices[name].v4), hex(devices[name].v6)] : [null, null]
  return {
    key: nexthopKey(ifindex, gateway, 1500, snat4 ?? '-', snat6 ?? '-'),
    ifindex,
    device: name,
    gateway,
    mac: hexMac(`0200000001${(number + 1).toString(16).padStart(2, '0')}`),
    macKnown: true,
    sourceMac: macOf(name),
    mtu: 1500,
    snat4,
    snat6,
    sources: joinAddresses([]),
    noSource: false
  }
}

/** Near to each other and far: most share their first bits with others. */
function someAddresses(family: Family, { below, pick }: Random): string[] {
  const made: Buffer[] = []
  while (made.length < addresses) {
    const bytes = Buffer.from(made.length > 0 && below(4) > 0 ? pick(made) : Buffer.alloc(family === 4 ? 4 : 16))
    for (let at = below(bytes.length); at < bytes.length; at++) bytes[at] = below(256)
    bytes[0] = family === 4 ? 11 + below(3) : 0x20 + below(3)
    made.push(bytes)
  }
  return made.map(addressText)
}

function longest(routes: Routes, address: string): WantedClassRoute | null {
  for (let length = address.includes(':') ? 128 : 32; length >= 0; length--) {
    const found = routes.get(key(`${address}/${length}`))
    if (found) return found
  }
  return null
}

/** What the tables say now: the MACs that may be the next hop's, or a reason. */
function expected(plan: Plan, address: string, ofClass: boolean): { reason: string } | { macs: string[] } {
  const inClass = new Map([...plan.classRoutes].map(([name, found]) => [name.slice(className.length + 1), found]))
  let found = ofClass ? longest(inClass, address) : null
  if (!found || found.action === 'main') found = longest(plan.routes, address)
  if (!found || found.action === 'main') return { reason: 'no-route' }
  if (found.action === 'stack') return { reason: found.reason }
  const keys = found.action === 'nexthop' ? [found.nexthop] : found.legs.map((leg) => leg.nexthop)
  return { macs: keys.map((each) => macText(Buffer.from(plan.nexthops.get(each)?.mac ?? '', 'hex'))) }
}

function someRoute(hops: readonly WantedNexthop[], { below, pick }: Random): WantedRoute {
  const turn = below(10)
  if (turn === 0) return { action: 'stack', reason: 'route', why: '', rule: null }
  if (turn > 3) return { action: 'nexthop', nexthop: pick(hops).key }
  const legs = [...new Set([pick(hops).key, pick(hops).key])].map((each) => ({ nexthop: each, weight: 1 }))
  return { action: 'group', legs }
}

/** The plan after some changes. Next hops are in it while a route has them, so their rows come and go. */
function changed(before: Plan, hops: readonly WantedNexthop[], all: readonly string[], random: Random): Plan {
  const { below, pick } = random
  const plan = { ...before, routes: new Map(before.routes), classRoutes: new Map(before.classRoutes) }
  for (let left = 1 + below(4); left > 0; left--) {
    const address = pick(all)
    const length = below(address.includes(':') ? 129 : 33)
    const prefix = key(`${address}/${length}`)
    const ofClass = below(3) === 0
    const [table, name] = ofClass ? [plan.classRoutes, classRouteKey(className, prefix)] : [plan.routes, prefix]
    if (below(3) > 0) {
      const route = ofClass && below(3) === 0 ? { action: 'main' } : someRoute(hops, random)
      ;(table as Routes).set(name, route as WantedClassRoute)
    } else {
      const names = [...table.keys()].filter((each) => !ofClass || !each.endsWith('/0'))
      if (names.length > 0) (table as Routes).delete(pick(names))
    }
  }
  const used = [...plan.routes.values(), ...plan.classRoutes.values()].flatMap((route) =>
    route.action === 'nexthop' ? [route.nexthop] : route.action === 'group' ? route.legs.map((leg) => leg.nexthop) : []
  )
  plan.nexthops = new Map(hops.filter((hop) => used.includes(hop.key)).map((hop) => [hop.key, hop]))
  return plan
}

for (const [words, snat, ofClass] of [
  ['with SNAT', true, false],
  ['without', false, false],
  ['by tables that rules choose', false, true]
] as const) {
  t.test(`[F7] no packet goes by an answer of before the change: ${words}`, async (t) => {
    const node = testNode({ flags: snat ? Control.on | Control.snat : Control.on })
    const { map, object } = node
    const writer = createWriter({
      map,
      readControl: () => object.readControl(),
      writeControl: (offset, bytes) => object.writeControl(offset, bytes)
    })
    const random = randomRounds(t)
    const hops = Array.from({ length: gateways }, (_, number) => nexthop(node, number, snat))
    const all = families.flatMap((family) => someAddresses(family, random))
    let plan: Plan = emptyPlan()
    for (const device of [pod(node, ofClass), uplink(node, 'up0'), uplink(node, 'up1')])
      plan.devices.set(device.ifindex, device)
    if (ofClass) {
      for (const family of families) {
        plan.classes.set(className, { key: className, family, label: '', devices: ['a'] })
        plan.classRoutes.set(classRouteKey(className, everything[family]), { action: 'main' })
      }
    }
    writer.apply(plan, 'all')

    const wrong = (destination: string, result: Result): string | null => {
      const want = expected(plan, destination, ofClass)
      if ('reason' in want) return result.reason === want.reason ? null : `${result.reason}, not ${want.reason}`
      const mac = result.packet.destinationMac
      return result.verdict === 'forward' && want.macs.includes(mac)
        ? null
        : `${result.reason} ${mac}, not ${want.macs}`
    }
    let forwarded = 0
    for (let step = 0; step < random.frames / 8; step++) {
      const next = changed(plan, hops, all, random)
      writer.apply(next, comparePlans(plan, next))
      plan = next
      for (let packet = 0; packet < packets; packet++) {
        const destination = random.pick(all)
        const source = devices.a[destination.includes(':') ? 'v6' : 'v4']
        // few ports, so that most flows are older than many changes
        const ports = { sourcePort: 5000 + random.below(12), destinationPort: 53 }
        const whole = ip({ source, destination }, udp(ports, Buffer.alloc(snat ? 8 : 900)))
        const piece = snat || random.below(3) > 0 ? whole : fragments(whole, 400, 7)[random.below(2)]
        const result = node.send('a', piece as typeof whole)
        const text = wrong(destination, result)
        if (text) t.fail(`step ${step}: ${destination} ${text}`)
        if (result.verdict === 'forward') forwarded++
      }
    }
    t.ok(forwarded > 1000, `${forwarded} packets were forwarded`)
    t.strictSame(writer.verify(), [])
    node.close()
  })
}
