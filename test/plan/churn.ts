// Random nodes and random changes to them, reproducible by seed.

import { defaultPlanOptions, type PlanOptions } from '../../src/plan/options.js'
import type { Changes, Route, Rule } from '../../src/state/types.js'
import {
  addObject,
  addPod,
  addRoutes,
  defaultRules,
  everything,
  hex,
  key,
  leg,
  link,
  plainNode,
  podLink,
  route,
  rule,
  setNeighbour,
  some,
  type TestNode
} from './node.js'

export interface ChurnWorld {
  node: TestNode
  options: PlanOptions
  random: (below: number) => number
  /** Prefixes that the node translates. */
  translated: Set<string>
}

/** Mulberry32. */
export function randomSource(seed: number): (below: number) => number {
  let state = seed >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}

export function startChurn(seed: number): ChurnWorld {
  const random = randomSource(seed)
  const node = plainNode()
  const options = { ...defaultPlanOptions }
  if (random(3) === 0) options.stackPrefixes = [key('10.96.0.0/12'), key('fd00:5::/32')]
  if (random(2) === 0) node.rules.push(...randomRules(random))
  options.multipathUseNeigh = random(2) === 0
  addObjects(node)
  for (let i = 10; i < 16; i++) addPod(node, i, random(2) ? [`10.1.0.${i}`, `fd00::${i}`] : [])
  node.links.set(10 + 16384, podLink(10 + 16384, 'far'))
  const world = { node, options, random, translated: new Set<string>() }
  for (let i = 0; i < 40; i++) changeRoute(world)
  return world
}

/** Groups of next hop objects: 20 for IPv4, 21 for IPv6. */
function addObjects(node: TestNode): void {
  for (const [family, id, legs] of [
    [4, 20, [leg(2, '192.0.2.1'), leg(3, '192.0.2.2'), leg(2, '192.0.2.3')]],
    [6, 21, [leg(2, 'fd00:99::1'), leg(3, 'fd00:99::2')]]
  ] as const) {
    for (const [index, nexthop] of legs.entries()) addObject(node, id * 10 + index, { family, nexthop })
    addObject(node, id, { family, group: legs.map((_, index) => ({ id: id * 10 + index, weight: 1 + index })) })
  }
}

/** One to five rules, in the order of their priorities. */
function randomRules(random: ChurnWorld['random']): Rule[] {
  const rules: Rule[] = []
  for (let priority = 100; priority < 105; priority++) {
    if (random(3) === 0) continue
    const family = random(3) ? 4 : 6
    const four = family === 4
    const fields: Partial<Rule> = {}
    if (random(2) === 0) {
      const whole = random(2) === 0
      fields.source = four
        ? whole
          ? hex(`10.1.0.${10 + random(6)}`)
          : hex('10.1.0.8')
        : hex(`fd00::${10 + random(6)}`)
      fields.sourceLength = four ? (whole ? 32 : 29) : 128
    }
    if (random(3) === 0) {
      fields.destination = four ? hex(`10.${random(4)}.0.0`) : hex(`fd00:${random(4)}::`)
      fields.destinationLength = four ? 16 : 32
    }
    if (random(6) === 0) fields.iif = random(3) ? `pod${10 + random(6)}` : 'eth1'
    if (random(8) === 0) Object.assign(fields, { mark: random(2), markMask: 1 })
    if (random(8) === 0) fields.invert = true
    if (random(8) === 0) fields.unsupported = ['dport 53']
    if (random(12) === 0) fields.action = 6 + random(3)
    if (random(12) === 0) Object.assign(fields, { action: 2, goto: 101 + random(5) })
    if (random(4) === 0) fields.suppressPrefixLength = random(2) * 16
    rules.push(rule(family, priority, [100, 101, 254][random(3)] ?? 100, fields))
  }
  return rules
}

/** One to five changes, told as the state tells them. */
export function churn(world: ChurnWorld): Changes {
  const { random } = world
  if (random(12) === 0) return changeLink(world)
  if (random(15) === 0) {
    world.node.rules.splice(0, world.node.rules.length, ...defaultRules(), ...randomRules(random))
    return everything
  }
  const prefixes: string[] = []
  const neighbours: string[] = []
  for (let count = 1 + random(5); count > 0; count--) {
    if (random(3) === 0) neighbours.push(changeNeighbour(world))
    else prefixes.push(changeRoute(world))
  }
  return some(prefixes, neighbours)
}

/** Prefixes that are translated from now on, or no longer. */
export function churnTranslated(world: ChurnWorld): { added: string[]; removed: string[] } {
  const { random, translated } = world
  const diff = { added: [] as string[], removed: [] as string[] }
  for (let count = random(3); count > 0; count--) {
    const prefix = key(random(4) ? randomHost(world) : randomPrefix(world))
    if (prefix.endsWith('/0') || diff.added.includes(prefix) || diff.removed.includes(prefix)) continue
    if (translated.delete(prefix)) diff.removed.push(prefix)
    else {
      translated.add(prefix)
      diff.added.push(prefix)
    }
  }
  return diff
}

/** Of a Service, a pod, or anybody. */
function randomHost({ random }: ChurnWorld): string {
  const last = 2 + random(16)
  switch (random(5)) {
    case 0:
      return `10.1.0.${last}`
    case 1:
      return `fd00::${last}`
    case 2:
      return `fd00:5::${last}`
    case 3:
      return `10.${random(8)}.3.${last}`
    default:
      return `10.96.0.${last}`
  }
}

const devices = [1, 2, 2, 2, 3, 3, 10, 11, 12, 13, 14, 15, 10 + 16384, 99]

function randomPrefix({ random }: ChurnWorld): string {
  if (random(3) === 0)
    return random(2) ? `fd00::${10 + random(8)}` : `fd00:${random(8)}::/${[0, 16, 32, 48][random(4)]}`
  switch (random(5)) {
    case 0:
      return `10.1.0.${2 + random(16)}`
    case 1:
      return `10.${random(8)}.0.0/16`
    case 2:
      return `10.${96 + random(3)}.${random(3)}.0/24`
    case 3:
      return '0.0.0.0/0'
    default:
      return `10.0.0.0/${8 + random(3)}`
  }
}

function changeRoute(world: ChurnWorld): string {
  const { node, random } = world
  const text = randomPrefix(world)
  const prefix = key(text)
  const six = prefix.length > 12
  const table = six ? node.routes6 : node.routes4
  if (random(3) === 0 && table.has(prefix)) {
    table.delete(prefix)
    return prefix
  }
  if (random(2) === 0) table.delete(prefix)
  const host = prefix.endsWith(six ? '/128' : '/32')
  const legs = Array.from({ length: random(6) === 0 ? 2 : 1 }, () => {
    const device = devices[random(devices.length)] ?? 2
    const gateway =
      host && random(8) ? null : random(5) ? (six ? `fd00:99::${1 + random(4)}` : `192.0.2.${1 + random(4)}`) : null
    return leg(device, gateway, { dead: random(12) === 0, weight: 1 + random(3) })
  })
  const fields: Partial<Route> = { metric: random(3) * 10, mtu: random(6) === 0 ? 1400 : 0 }
  if (random(12) === 0) fields.type = 6 + random(4)
  if (random(20) === 0) Object.assign(fields, { table: 255, type: 2 })
  if (random(4) === 0) fields.table = 100 + random(2)
  if (!host && random(4) === 0) fields.nexthopId = six ? 21 : 20
  if (random(20) === 0) fields.tos = 8
  if (random(20) === 0) fields.unsupported = ['something']
  addRoutes(node, route(text, legs, fields))
  return prefix
}

function changeNeighbour({ node, random }: ChurnWorld): string {
  const device = devices[random(devices.length)] ?? 2
  const address =
    [`192.0.2.${1 + random(4)}`, `fd00:99::${1 + random(4)}`, `10.1.0.${2 + random(16)}`, `fd00::${10 + random(8)}`][
      random(4)
    ] ?? ''
  const name = `${device}/${hex(address)}`
  if (random(4) === 0) {
    node.neighbours.delete(name)
    return name
  }
  return setNeighbour(
    node,
    device,
    address,
    `0200000002${(10 + random(5)).toString(16).padStart(2, '0')}`,
    [1, 2, 4, 8, 16, 32, 64, 128][random(8)] ?? 2
  )
}

function changeLink({ node, random }: ChurnWorld): Changes {
  const ifindex = 10 + random(6)
  if (random(3) === 0) node.links.delete(ifindex)
  else
    node.links.set(
      ifindex,
      random(4) ? podLink(ifindex, `pod${ifindex}`) : link(ifindex, `port${ifindex}`, { up: random(2) === 0 })
    )
  return everything
}
