// Random but realistic routing tables, as `ip` commands. A line may start with
// `-6 `, where the words alone do not say the family, or with `far `: the other
// ends of the devices. The kernel may refuse a line (a route that exists, a
// gateway that is nowhere): then it is no part of the table.

import {
  destinations,
  FOREIGN,
  LINK_LOCAL_ROUTERS,
  neighbours,
  others,
  pods,
  prefixes,
  routers,
  TAG,
  type UplinkPlan,
  uplinks,
  vrf
} from './topology.js'

export type Random = (below: number) => number
type Family = 4 | 6

export const pick = <T>(random: Random, list: readonly T[]): T => list[random(list.length)]!
const one = (random: Random, of: number): boolean => random(of) === 0
const OWN_TABLES = [100, 101, 102]

/** What a case is made of, drawn once so that most tables are plain and some are strange. */
export interface Mood {
  rules: boolean
  strangeRules: boolean
  objects: boolean
  tos: boolean
  links: boolean
}

export function drawMood(random: Random): Mood {
  return {
    rules: one(random, 3),
    strangeRules: one(random, 12),
    objects: one(random, 3),
    tos: one(random, 8),
    links: one(random, 6)
  }
}

/** The first table of a case. */
export function firstTable(random: Random, mood: Mood): string[] {
  const commands: string[] = []
  for (const family of [4, 6] as const) {
    if (!one(random, 10)) commands.push(defaultRoute(random, family))
    if (mood.objects) commands.push(...objects(random, family))
    if ((mood.objects && one(random, 2)) || one(random, 6))
      for (let count = 1 + random(6); count > 0; count--) commands.push(routerChange(random, family))
    for (let count = 4 + random(14); count > 0; count--) commands.push(route(random, mood, family))
  }
  if (mood.rules) commands.push(...rules(random, mood))
  return commands
}

/** What changes in it later. */
export function nextChange(random: Random, mood: Mood): string[] {
  const commands: string[] = []
  for (let count = 1 + random(6); count > 0; count--) {
    const family = pick(random, [4, 6] as const)
    const prefix = pick(random, prefixes[family])
    switch (random(mood.links ? 8 : 6)) {
      case 0:
        commands.push(`route del ${prefix}`)
        break
      case 1:
        commands.push(`${family === 6 ? '-6 ' : ''}route flush exact ${prefix} proto ${TAG}`)
        break
      case 2:
        if (mood.objects) commands.push(...objectChange(random, family))
        break
      case 3:
        if (mood.rules) commands.push(...ruleChange(random, mood, family))
        break
      case 6:
      case 7:
        commands.push(...linkChange(random))
        break
      default:
        commands.push(route(random, mood, family))
    }
  }
  return commands
}

function defaultRoute(random: Random, family: Family): string {
  const [prefix, uplink] = [prefixes[family][0], pick(random, uplinks.slice(0, 3))]
  return `route replace ${prefix} via ${router(random, uplink, family)} dev ${uplink.device} proto ${TAG}`
}

function router(random: Random, uplink: UplinkPlan, family: Family): string {
  if (family === 6 && one(random, 3)) return pick(random, LINK_LOCAL_ROUTERS)
  return `${family === 4 ? uplink.v4 : uplink.v6}${pick(random, routers.slice(0, one(random, 6) ? 4 : 3))}`
}

function route(random: Random, mood: Mood, family: Family): string {
  const own = mood.rules && one(random, 3) ? `table ${pick(random, OWN_TABLES)}` : ''
  const table = one(random, 16) ? `table ${vrf.table}` : own
  const metric = one(random, 2) ? '' : `metric ${pick(random, [10, 50, 100, 1024])}`
  const tos = mood.tos && family === 4 && one(random, 3) ? `tos ${pick(random, ['0x08', '0x10', '0x1c'])}` : ''
  const mtu = one(random, 6) ? `mtu ${pick(random, [1280, 1300, 1400, 'lock 1400', 9000])}` : ''
  const source = family === 4 && one(random, 12) ? `src ${pick(random, uplinks).v4}${pick(random, [10, 11])}` : ''
  const verb = pick(random, ['add', 'add', 'add', 'replace', 'replace', 'append', 'prepend'])
  const prefix = pick(random, prefixes[family])
  const [type, way] = target(random, mood, family)
  const words = ['route', verb, type, prefix, tos, table, 'proto', `${TAG}`, metric]
  // metrics and source belong before the next hops
  if (type === '') words.push(source, mtu, way)
  return words.filter(Boolean).join(' ')
}

/** Route type ('' for unicast) and its next hops. */
function target(random: Random, mood: Mood, family: Family): [type: string, way: string] {
  const uplink = pick(random, uplinks)
  const { device } = uplink
  if (mood.objects && one(random, 4)) return ['', `nhid ${objectId(random, family)}`]
  const kind = random(24)
  if (kind < 3) return [pick(random, ['blackhole', 'unreachable', 'prohibit', 'throw']), '']
  if (kind < 6)
    return ['', Array.from({ length: 2 + random(one(random, 8) ? 14 : 3) }, () => leg(random, family)).join(' ')]
  if (kind === 9) return ['', `via ${FOREIGN[family]} dev ${device} onlink`]
  if (kind === 10 && family === 4) return ['', `via inet6 ${router(random, uplink, 6)} dev ${device}`]
  if (kind < 13) return ['', `dev ${device}`]
  if (kind === 13) return ['', `dev ${pick(random, others)}`]
  if (kind === 16 && one(random, 2)) return ['', `via ${router(random, vrf.uplink, family)} dev ${vrf.uplink.device}`]
  if (kind === 14 && one(random, 4)) return ['', `dev ${pick(random, pods).device}`]
  if (kind === 15 && one(random, 3)) return ['', 'dev lo']
  return ['', `via ${router(random, uplink, family)} dev ${device}`]
}

function leg(random: Random, family: Family): string {
  const uplink = pick(random, uplinks)
  const weight = one(random, 2) ? '' : ` weight ${1 + random(one(random, 5) ? 255 : 6)}`
  const way = family === 4 && one(random, 10) ? '' : ` via ${router(random, uplink, family)}`
  return `nexthop${way} dev ${uplink.device}${weight}`
}

/** IPv4: 10 to 15 single, 20 to 22 groups; IPv6: 60 more. */
function objectId(random: Random, family: Family): number {
  return (one(random, 2) ? 10 + random(6) : 20 + random(3)) + (family === 4 ? 0 : 60)
}

function objects(random: Random, family: Family): string[] {
  const offset = family === 4 ? 0 : 60
  const single = Array.from({ length: 6 }, (_, index) => object(random, family, 10 + offset + index))
  return [...single, ...Array.from({ length: 3 }, (_, index) => group(random, offset, 20 + offset + index))]
}

function object(random: Random, family: Family, id: number): string {
  const uplink = pick(random, uplinks)
  if (one(random, 12)) return `${family === 6 ? '-6 ' : ''}nexthop replace id ${id} blackhole proto ${TAG}`
  if (family === 4 && one(random, 8))
    return `nexthop replace id ${id} via ${router(random, uplink, 6)} dev ${uplink.device} proto ${TAG}`
  return `nexthop replace id ${id} via ${router(random, uplink, family)} dev ${uplink.device} proto ${TAG}`
}

function group(random: Random, offset: number, id: number): string {
  const members = new Set(Array.from({ length: 1 + random(4) }, () => 10 + offset + random(6)))
  const list = [...members].map((member) => (one(random, 2) ? `${member}` : `${member},${1 + random(9)}`))
  return `nexthop replace id ${id} group ${list.join('/')} proto ${TAG}`
}

function objectChange(random: Random, family: Family): string[] {
  const offset = family === 4 ? 0 : 60
  if (one(random, 3)) return [routerChange(random, family)]
  if (one(random, 3)) return [`nexthop del id ${objectId(random, family)}`]
  return [
    one(random, 2) ? object(random, family, 10 + offset + random(6)) : group(random, offset, 20 + offset + random(3))
  ]
}

/** Rules as clouds with several NICs make them: a table for each uplink, pods' sources lead to it. */
function rules(random: Random, mood: Mood): string[] {
  const commands: string[] = []
  for (const family of [4, 6] as const) {
    OWN_TABLES.forEach((table, index) => {
      const uplink = uplinks[index]!
      if (!one(random, 4))
        commands.push(
          `route replace ${prefixes[family][0]} via ${router(random, uplink, family)} dev ${uplink.device} table ${table} proto ${TAG}`
        )
    })
  }
  for (const family of [4, 6] as const)
    for (let count = random(4); count > 0; count--) commands.push(rule(random, mood, family))
  return commands
}

function rule(random: Random, mood: Mood, family: Family): string {
  const key = family === 4 ? 'v4' : 'v6'
  const words = [family === 6 ? '-6' : '', 'rule add pref', `${100 + random(40)}`]
  const full = family === 4 ? 32 : 128
  if (mood.strangeRules && one(random, 6)) words.push('not')
  const pod = pick(random, pods)
  const by = random(8)
  if (by < 3) words.push('from', `${pick(random, pod[key])}/${pick(random, [full, full, full - 8])}`)
  else words.push('from all')
  if (by === 3 || by === 4)
    words.push('to', one(random, 3) ? pick(random, destinations[family]) : pick(random, prefixes[family]))
  if (by === 5) words.push('iif', pick(random, [...pods, ...uplinks]).device)
  if (by === 6) words.push('fwmark', pick(random, ['0x1', '0x1/0x1', '0/0x1', '0x10/0xf0']))
  if (mood.strangeRules) {
    if (one(random, 5)) words.push(pick(random, ['ipproto udp dport 53', 'ipproto tcp', 'sport 1000-2000 ipproto udp']))
    if (one(random, 8) && family === 4) words.push('tos 0x10')
    if (one(random, 8)) words.push(pick(random, ['unreachable', 'blackhole', 'prohibit', 'nop']))
    else words.push('lookup', `${pick(random, [...OWN_TABLES, 254, 255])}`)
    if (one(random, 6)) words.push('suppress_prefixlength', `${pick(random, [0, 16, 24])}`)
  } else words.push('lookup', `${pick(random, OWN_TABLES)}`)
  return [...words, 'proto', `${TAG}`].filter(Boolean).join(' ')
}

function ruleChange(random: Random, mood: Mood, family: Family): string[] {
  if (one(random, 2)) return [rule(random, mood, family)]
  return [`${family === 6 ? '-6 ' : ''}rule del pref ${100 + random(40)}`]
}

function linkChange(random: Random): string[] {
  const { device } = pick(random, [...uplinks, ...uplinks, ...pods])
  const { device: veth, v4 } = pick(random, uplinks.slice(0, 3))
  switch (random(7)) {
    case 0:
    case 1:
      return [`link set ${device} down`]
    case 2:
      return [`link set ${device} up`]
    case 3:
      return [`link set ${device} mtu ${pick(random, [1280, 1400, 1500, 9000])}`]
    case 4:
      return [`far link set ${veth} ${pick(random, ['down', 'up'])}`]
    case 5:
      return [`addr del ${v4}${pick(random, [10, 11])}/24 dev ${veth}`]
    default:
      return [neighbourChange(pick(random, neighbours()), pick(random, ['stale', 'permanent', 'reachable']))]
  }
}

/** A router that is not there any more, or is there again. */
function routerChange(random: Random, family: Family): string {
  const uplink = pick(random, uplinks)
  const address = router(random, uplink, family)
  const known = neighbours().find((each) => each.device === uplink.device && each.address === address)
  return neighbourChange(known ?? pick(random, neighbours()), pick(random, ['failed', 'failed', 'permanent']))
}

function neighbourChange({ device, address, mac }: ReturnType<typeof neighbours>[number], state: string): string {
  return `neigh replace ${address} dev ${device} lladdr ${mac} nud ${state}`
}
