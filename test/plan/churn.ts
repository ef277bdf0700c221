// Random nodes and random changes to them, reproducible by seed.

import { hexMac, neighbourKey } from '../../src/address.js'
import { defaultPlanOptions, type PlanOptions } from '../../src/plan/options.js'
import { noChanges } from '../../src/state/changes.js'
import type { Changes, Link, NeighbourKey, Prefix, Route, Rule } from '../../src/state/types.js'
import {
  addObject,
  addPod,
  addRoutes,
  defaultRules,
  hex,
  interfaceAddress,
  key,
  leg,
  link,
  plainNode,
  podLink,
  route,
  rule,
  setNeighbour,
  type TestNode
} from './node.js'

export interface ChurnWorld {
  node: TestNode
  options: PlanOptions
  random: (below: number) => number
  /** Prefixes that the node translates. */
  translated: Set<Prefix>
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
  if (random(3) === 0)
    options.snatAddresses = [{ device: 'eth*' }, { prefix: key('192.0.2.8/29') }, { prefix: key('2001:db8::11') }]
  node.links.set(vrf, link(vrf, 'red', { kind: 'vrf', mac: null }))
  if (random(3) === 0) options.stackPrefixes = [key('10.96.0.0/12'), key('fd00:5::/32')]
  if (random(2) === 0) node.rules.push(...randomRules(random))
  options.multipathUseNeigh = random(2) === 0
  addObjects(node)
  for (let i = 10; i < 16; i++) addPod(node, i, random(2) ? [`10.1.0.${i}`, `fd00::${i}`] : [])
  node.links.set(10 + 16384, podLink(10 + 16384, 'far'))
  const world = { node, options, random, translated: new Set<Prefix>() }
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
  const changes = noChanges()
  for (let count = 1 + random(5); count > 0; count--) changeSomething(world, changes)
  return changes
}

function changeSomething(world: ChurnWorld, changes: Changes): void {
  const { random, node } = world
  switch (random(16)) {
    case 0:
    case 1:
      changes.links.add(changeLink(world))
      break
    case 2:
      changes.addresses.add(changeAddress(world))
      break
    case 3:
      changes.objects.add(changeObject(world))
      break
    case 4:
      if (random(3)) break
      node.rules.splice(0, node.rules.length, ...defaultRules(), ...(random(3) ? randomRules(random) : []))
      changes.rules = true
      break
    case 5:
    case 6:
    case 7:
    case 8:
      changes.neighbours.add(changeNeighbour(world))
      break
    default:
      changes.prefixes.add(changeRoute(world))
  }
}

/** Prefixes that are translated from now on, or no longer. */
export function churnTranslated(world: ChurnWorld): { added: Prefix[]; removed: Prefix[] } {
  const { random, translated } = world
  const diff = { added: [] as Prefix[], removed: [] as Prefix[] }
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

function changeRoute(world: ChurnWorld): Prefix {
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
  if (!host && random(4) === 0) fields.nexthopId = random(2) ? (six ? 21 : 20) : (six ? 210 : 200) + random(2)
  if (random(20) === 0) fields.tos = 8
  if (random(20) === 0) fields.unsupported = ['something']
  if (!host && random(4) === 0)
    fields.preferredSource = hex(six ? `2001:db8::${10 + random(4)}` : `192.0.2.${10 + random(4)}`)
  addRoutes(node, route(text, legs, fields))
  return prefix
}

function changeNeighbour({ node, random }: ChurnWorld): NeighbourKey {
  const device = devices[random(devices.length)] ?? 2
  const address =
    [`192.0.2.${1 + random(4)}`, `fd00:99::${1 + random(4)}`, `10.1.0.${2 + random(16)}`, `fd00::${10 + random(8)}`][
      random(4)
    ] ?? ''
  const name = neighbourKey(device, hex(address))
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

const vrf = 40
const changedLinks = [2, 2, 3, 3, vrf, 10 + 16384, 10, 11, 12, 13, 14, 15]

/** It appears, vanishes, goes down or up, is renamed, moves into a VRF or out of it, or gets another MTU, MAC or kind. */
function changeLink({ node, random }: ChurnWorld): number {
  const ifindex = changedLinks[random(changedLinks.length)] ?? 2
  const known = node.links.get(ifindex)
  const isPod = ifindex >= 10 && ifindex !== vrf
  if (!known) {
    const fresh = isPod ? podLink(ifindex, `pod${ifindex}`) : link(ifindex, `eth${ifindex}`)
    node.links.set(ifindex, ifindex === vrf ? { ...fresh, name: 'red', kind: 'vrf', mac: null } : fresh)
    return ifindex
  }
  const anew = (fields: Partial<Link>): void => void node.links.set(ifindex, { ...known, ...fields })
  switch (random(8)) {
    case 0:
      node.links.delete(ifindex)
      break
    case 1:
    case 2:
      anew({ up: !known.up })
      break
    case 3:
      anew({ name: `dev${random(100)}` })
      break
    case 4:
      anew({ master: known.master === 0 ? (random(2) ? vrf : 3) : 0 })
      break
    case 5:
      anew({ mtu: 1400 + random(3) * 50 })
      break
    case 6:
      anew({ mac: hexMac(`0200000003${(10 + random(5)).toString(16).padStart(2, '0')}`) })
      break
    default:
      if (isPod) anew(known.kind === 'veth' ? { kind: null, linkNamespace: null } : { kind: 'veth', linkNamespace: 0 })
      else anew({ carrier: !known.carrier })
  }
  return ifindex
}

/** One more address on a device, or one less; or another that is not usable. */
function changeAddress({ node, random }: ChurnWorld): number {
  const ifindex = [1, 2, 2, 3, 3, 11][random(6)] ?? 2
  const list = [...(node.addresses.get(ifindex) ?? [])]
  if (random(2) && list.length > 0) list.splice(random(list.length), 1)
  else {
    const text = random(2)
      ? [`192.0.2.${10 + random(4)}/24`, `198.51.100.${10 + random(4)}/24`, '10.1.0.12/32'][random(3)]
      : [`2001:db8::${10 + random(4)}/64`, `fd00:77::${random(4)}/64`][random(2)]
    list.push(
      interfaceAddress(ifindex, text ?? '', {
        usable: random(5) > 0,
        secondary: random(5) === 0,
        scope: random(6) === 0 ? 253 : 0
      })
    )
  }
  if (list.length > 0) node.addresses.set(ifindex, list)
  else node.addresses.delete(ifindex)
  return ifindex
}

/** A next hop object or group comes, goes or changes. */
function changeObject({ node, random }: ChurnWorld): number {
  const six = random(2) === 1
  const family = six ? 6 : 4
  const groupId = six ? 21 : 20
  const member = groupId * 10 + random(six ? 2 : 3)
  const id = random(3) ? member : groupId
  if (random(4) === 0) node.nexthopObjects.delete(id)
  else if (id === groupId) {
    const members = Array.from({ length: random(3) }, () => groupId * 10 + random(six ? 2 : 3))
    addObject(node, id, { family, group: [...new Set(members)].map((each) => ({ id: each, weight: 1 + random(3) })) })
  } else {
    const gateway = six ? `fd00:99::${1 + random(4)}` : `192.0.2.${1 + random(4)}`
    addObject(node, id, {
      family,
      nexthop: random(8) ? leg([2, 2, 3, 11][random(4)] ?? 2, gateway, { dead: random(8) === 0 }) : null,
      blackhole: random(10) === 0,
      unsupported: random(12) === 0 ? ['something'] : []
    })
  }
  return id
}
