import t from 'tap'
import { neighbourKey, noAddress } from '../../src/address.js'
import { makePlan } from '../../src/plan/planner.js'
import type { Plan, WantedClassRoute, WantedDevice } from '../../src/plan/types.js'
import type { Address, Route, RouteNexthop, Rule } from '../../src/state/types.js'
import { type ChurnWorld, randomSource, startChurn } from './churn.js'
import { hex, key } from './node.js'

// The oracle walks every rule and every route for every packet, the slow way:
// table local first (an address of the node is the stack's wherever local is
// asked), then by the rules; longest prefix; lowest metric; first of equals.

function bits(address: string): string {
  return [...address].map((digit) => Number.parseInt(digit, 16).toString(2).padStart(4, '0')).join('')
}

function covers(prefix: string, address: string): boolean {
  const [network = '', length] = prefix.split('/')
  return network.length === address.length && bits(address).startsWith(bits(network).slice(0, Number(length)))
}

interface Sent {
  source: string
  iif: string
  destination: string
  dport53: boolean
}

function inTable(world: ChurnWorld, id: number, address: string): Route | null {
  const table = address.length === 8 ? world.node.routes4 : world.node.routes6
  let best: Route | null = null
  for (const [prefix, routes] of table) {
    if (!covers(prefix, address)) continue
    for (const candidate of routes) {
      if (candidate.table !== id) continue
      const better =
        !best ||
        candidate.prefixLength > best.prefixLength ||
        (candidate.prefixLength === best.prefixLength && candidate.metric < best.metric)
      if (better) best = candidate
    }
  }
  return best
}

function matches(rule: Rule, { source, iif, destination, dport53 }: Sent): boolean {
  const within = (address: string, prefix: string | null, length: number) =>
    length === 0 || covers(`${prefix}/${length}`, address)
  const all =
    rule.oif === null &&
    (rule.iif === null || rule.iif === iif) &&
    (rule.mark & rule.markMask) === 0 &&
    within(source, rule.source, rule.sourceLength) &&
    within(destination, rule.destination, rule.destinationLength) &&
    (rule.unsupported.length === 0 || dport53)
  return all !== rule.invert
}

function kernelRoute(world: ChurnWorld, sent: Sent): Route | null {
  const family = sent.destination.length === 8 ? 4 : 6
  const local = inTable(world, 255, sent.destination)
  if (local) return local
  const rules = world.node.rules.filter((rule) => rule.family === family).sort((a, b) => a.priority - b.priority)
  for (let at = 0; at < rules.length; at++) {
    const rule = rules[at] as Rule
    if (!matches(rule, sent)) continue
    if (rule.action === 2) {
      const target = rules.findIndex(({ priority }) => priority === rule.goto)
      if (target > at) at = target - 1
      continue
    }
    if (rule.action !== 1) return null
    const found = inTable(world, rule.table, sent.destination)
    if (!found || found.type === 9) continue
    if (found.type < 6 && found.prefixLength <= rule.suppressPrefixLength) continue
    return found
  }
  return null
}

/** Longest prefix, the slow way. */
function longest<T>(table: Map<string, T>, address: string): T | undefined {
  let best: string | null = null
  for (const prefix of table.keys()) {
    if (covers(prefix, address) && (best === null || Number(prefix.split('/')[1]) > Number(best.split('/')[1])))
      best = prefix
  }
  return best === null ? undefined : table.get(best)
}

/** Where the maps send a packet: 'pod 10', 'stack', or its legs "2/c0000201 3/onlink". */
function planned(plan: Plan, device: WantedDevice, address: Address): string {
  const family = address.length === 8 ? 4 : 6
  if (device.stack.some((entry) => entry.family === family)) return 'stack'
  const key = family === 4 ? device.class4 : device.class6
  let found: WantedClassRoute | undefined = { action: 'main' }
  if (key !== null) {
    const own = [...plan.classRoutes].filter(([name]) => name.startsWith(`${key} `))
    found = longest(new Map(own.map(([name, route]) => [name.slice(name.indexOf(' ') + 1), route])), address)
    if (!found) throw new Error(`class ${key} says nothing about ${address}`)
  }
  if (found.action === 'main') {
    const pod = plan.pods.get(address)
    if (pod) return pod.mac ? `pod ${pod.ifindex}` : 'stack'
    found = longest(plan.routes, address)
  }
  if (!found || !('nexthop' in found || 'legs' in found)) return 'stack'
  const keys = found.action === 'nexthop' ? [found.nexthop] : found.legs.map((entry) => entry.nexthop)
  return keys.map((name) => name.split('/').slice(0, 2).join('/')).join(' ')
}

/** The legs the kernel uses: where it looks at neighbours, those without a failed one, or else the first. */
function usedLegs({ node, options }: ChurnWorld, { family, nexthopId, nexthops }: Route): RouteNexthop[] {
  const object = node.nexthopObjects.get(nexthopId)
  const members = object?.group.map(({ id }) => node.nexthopObjects.get(id)?.nexthop as RouteNexthop) ?? []
  const all = nexthopId === 0 ? nexthops : object?.nexthop ? [object.nexthop] : members
  const alive = all.filter((entry) => !entry.dead)
  if (alive.length < 2 || !(nexthopId > 0 || (family === 4 && options.multipathUseNeigh))) return alive
  const failed = ({ ifindex, gateway }: RouteNexthop) =>
    [1, 32].includes(node.neighbours.get(neighbourKey(ifindex, gateway ?? noAddress))?.state ?? 128)
  const used = alive.filter((entry) => !failed(entry))
  return used.length > 0 ? used : alive.slice(0, 1)
}

/** Whether the packet went where the route leads. */
function wrong(got: string, expected: Route | null, world: ChurnWorld): string | null {
  const alive = expected ? usedLegs(world, expected) : []
  const wanted = got.startsWith('pod')
    ? alive.map((entry) => `pod ${entry.ifindex}`)
    : alive.map((entry) => `${entry.ifindex}/${entry.gateway ?? 'onlink'}`)
  if (expected?.type !== 1 || expected.tos !== 0 || expected.unsupported.length > 0)
    return `${got} instead of ${JSON.stringify(expected)}`
  return got === wanted.join(' ') ? null : `${got} instead of ${wanted.join(' ')}`
}

t.test(
  '[F7][F8][F9][F10][F11] what the maps send anywhere goes where the kernel’s own rules and tables send it, on random nodes',
  async (t) => {
    const counts = { checked: 0, forwarded: 0, byClass: 0, inbound: 0 }
    for (let seed = 100; seed < 220; seed++) {
      const world = startChurn(seed)
      const plan = makePlan(world.node, world.options)
      const random = randomSource(seed)
      const pods = [...plan.devices.values()].filter((device) => device.addresses.length > 0)
      for (let i = 0; i < 150; i++) {
        const destination = hex(
          random(4) === 0
            ? `fd00:${random(2) ? 0 : random(8)}::${10 + random(9)}`
            : ([`10.1.0.${random(20)}`, `10.${random(110)}.${random(4)}.9`, `203.0.113.${random(9)}`][random(3)] ?? '')
        )
        const device = pods[random(pods.length)]
        const source = device?.addresses.find((address) => address.length === destination.length)
        if (!device || !source) continue
        const sent = { source, iif: device.name, destination, dport53: random(2) === 0 }
        const got = planned(plan, device, destination)
        counts.checked++
        if (got === 'stack') continue
        counts.forwarded++
        if ((source.length === 8 ? device.class4 : device.class6) !== null) counts.byClass++
        const fault = wrong(got, kernelRoute(world, sent), world)
        if (fault) return t.fail(`seed ${seed}: ${JSON.stringify(sent)}: ${fault}`)
      }
      for (const pod of [...plan.pods.values()].flatMap((each) => Array.from({ length: 6 }, () => each))) {
        if (pod.mac === null) continue
        const source = hex(
          pod.address.length === 8
            ? ([`10.1.0.${8 + random(2)}`, `10.${random(8)}.9.9`, '8.8.8.8'][random(3)] ?? '')
            : `fd00:${random(4)}::99`
        )
        if (plan.pods.has(source)) continue
        const iif = random(2) ? 'eth0' : 'eth1'
        const sent = { source, iif, destination: pod.address, dport53: random(2) === 0 }
        const fault = wrong(`pod ${pod.ifindex}`, kernelRoute(world, sent), world)
        counts.inbound++
        if (fault) return t.fail(`seed ${seed}: inbound ${JSON.stringify(sent)}: ${fault}`)
      }
    }
    t.comment(JSON.stringify(counts))
    t.ok(counts.forwarded > counts.checked / 8, 'not all by the stack')
    t.ok(counts.byClass > 200 && counts.inbound > 200, 'classes and inbound packets are among them')
  }
)

t.test('[Y9] whatever routes are added, an inexpressible prefix is in the maps itself', async (t) => {
  for (let seed = 200; seed < 240; seed++) {
    const world = startChurn(seed)
    const plan = makePlan(world.node, world.options)
    for (const [prefix, routes] of [...world.node.routes4, ...world.node.routes6]) {
      if (routes.every(({ table }) => table < 253)) continue
      if (prefix === key('fe80::/64') || prefix === key('ff00::/8')) continue
      if (!plan.routes.has(prefix)) return t.fail(`seed ${seed}: ${prefix} is not in the plan`)
    }
  }
  t.pass('every prefix of 40 nodes')
})
