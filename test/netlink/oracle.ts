// `ip -j` as the oracle: State and iproute2 must tell the same. Both sides
// become sorted lines of text; what differs is returned line by line.

import { execFileSync } from 'node:child_process'
import { formatAddress, formatMac, formatPrefix, parseAddress, prefixKey } from '../../src/address.js'
import type { NodeState, Prefix, Route, RouteNexthop } from '../../src/state/types.js'

// iproute2's JSON has no types worth writing down.
// biome-ignore lint/suspicious/noExplicitAny: see above
type Json = any

export type Oracle = Record<
  'links' | 'addresses' | 'nexthops' | 'routes4' | 'routes6' | 'rules4' | 'rules6' | 'neighbours',
  Json[]
>

const commands: Record<keyof Oracle, string> = {
  links: '-d link show',
  addresses: '-d addr show',
  nexthops: '-d nexthop show',
  routes4: '-d -4 route show table all',
  routes6: '-d -6 route show table all',
  rules4: '-d -4 rule show',
  rules6: '-d -6 rule show',
  neighbours: '-d neigh show nud all'
}

/** Asks ip in the namespace of the process. */
export function askOracle(kinds = Object.keys(commands) as (keyof Oracle)[]): Oracle {
  const oracle = {} as Oracle
  for (const kind of Object.keys(commands) as (keyof Oracle)[]) oracle[kind] = []
  for (const kind of kinds) {
    const args = ['-N', '-j', ...commands[kind].split(' ')]
    const text = execFileSync('ip', args, { encoding: 'utf8', maxBuffer: 1 << 29 })
    oracle[kind] = text.trim() === '' ? [] : (JSON.parse(text) as Json[]).filter((item) => Object.keys(item).length > 0)
  }
  return oracle
}

/** What differs, as lines "kind: only State has ..." or "kind: only ip has ...". */
export function differences(
  state: NodeState,
  oracle: Oracle,
  kinds = Object.keys(commands) as (keyof Oracle)[]
): string[] {
  const names = new Map<string, number>(oracle.links.map((link) => [link.ifname, link.ifindex]))
  if (oracle.links.length === 0) for (const link of state.links.values()) names.set(link.name, link.ifindex)
  const index = (name: string | undefined): number => (name === undefined ? 0 : (names.get(name) ?? -1))
  const sides: Record<keyof Oracle, () => [string[], string[]]> = {
    links: () => [linksOf(state), oracle.links.map((link) => linkLine(link, index))],
    addresses: () => [addressesOf(state), oracle.addresses.flatMap(addressLines)],
    nexthops: () => [nexthopsOf(state), oracle.nexthops.map((object) => nexthopLine(object, index))],
    routes4: () => [routesOf(state.routes4), oracle.routes4.map((route) => routeLine(4, route, index))],
    routes6: () => [routesOf(state.routes6), oracle.routes6.map((route) => routeLine(6, route, index))],
    rules4: () => [rulesOf(state, 4), oracle.rules4.map(ruleLine)],
    rules6: () => [rulesOf(state, 6), oracle.rules6.map(ruleLine)],
    neighbours: () => [
      neighboursOf(state),
      oracle.neighbours.filter(isNoMulticast).map((entry) => neighbourLine(entry, index))
    ]
  }
  return kinds.flatMap((kind) => {
    const [mine, theirs] = sides[kind]()
    return compare(kind, mine, theirs)
  })
}

function compare(kind: string, mine: string[], theirs: string[]): string[] {
  const count = new Map<string, number>()
  for (const line of mine) count.set(line, (count.get(line) ?? 0) + 1)
  for (const line of theirs) count.set(line, (count.get(line) ?? 0) - 1)
  const lines: string[] = []
  for (const [line, balance] of count) {
    if (balance > 0) lines.push(`${kind}: only State has ${line}`)
    if (balance < 0) lines.push(`${kind}: only ip has ${line}`)
  }
  return lines
}

function linksOf(state: NodeState): string[] {
  return [...state.links.values()].map((link) =>
    [
      link.ifindex,
      link.name,
      link.kind,
      link.mac && formatMac(link.mac),
      link.mtu,
      link.up,
      link.carrier,
      link.master,
      link.link,
      link.linkNamespace
    ].join(' ')
  )
}

function linkLine(link: Json, index: (name: string) => number): string {
  const parent = link.link_index ?? (link.link ? index(link.link) : 0)
  const mac = /^(..:){5}..$/.test(link.address ?? '') ? link.address : null
  const has = (flag: string): boolean => link.flags.includes(flag)
  const master = link.master ? index(link.master) : 0
  const kind = link.linkinfo?.info_kind
  return [
    link.ifindex,
    link.ifname,
    kind,
    mac,
    link.mtu,
    has('UP'),
    has('LOWER_UP'),
    master,
    parent,
    link.link_netnsid
  ].join(' ')
}

function addressesOf(state: NodeState): string[] {
  return [...state.addresses.values()].flat().map((entry) => {
    const peer = entry.address === entry.local ? '' : formatAddress(entry.address)
    const { ifindex, prefixLength, scope, secondary, usable } = entry
    return [ifindex, formatAddress(entry.local), peer, prefixLength, scope, secondary, usable].join(' ')
  })
}

function addressLines(device: Json): string[] {
  return device.addr_info.map((entry: Json) => {
    const secondary = entry.family === 'inet' && entry.secondary === true
    const usable = !((entry.tentative && !entry.optimistic) || entry.deprecated || entry.dadfailed)
    const scope = scopes[entry.scope] ?? Number(entry.scope)
    return [device.ifindex, entry.local, entry.address ?? '', entry.prefixlen, scope, secondary, usable].join(' ')
  })
}

const scopes: Record<string, number> = { global: 0, site: 200, link: 253, host: 254, nowhere: 255 }

function hopText(hop: RouteNexthop): string {
  const gateway = hop.gateway ? formatAddress(hop.gateway) : '-'
  return `[${hop.ifindex} ${gateway} ${hop.weight} ${hop.dead ? 'dead' : ''}${hop.onlink ? 'onlink' : ''}${hop.encap ? 'encap' : ''}]`
}

function hopOf(hop: Json, index: (name: string) => number): string {
  const flags: string[] = hop.flags ?? []
  const dead = flags.includes('dead') || flags.includes('linkdown') ? 'dead' : ''
  const onlink = flags.includes('onlink') ? 'onlink' : ''
  const gateway = hop.gateway ?? hop.via?.host ?? '-'
  return `[${index(hop.dev)} ${gateway} ${hop.weight ?? 1} ${dead}${onlink}${hop.encap ? 'encap' : ''}]`
}

function routesOf(table: ReadonlyMap<Prefix, readonly Route[]>): string[] {
  return [...table].flatMap(([key, routes]) =>
    routes.map((route) => {
      // An object's next hops are compared with the objects.
      const hops = route.nexthopId === 0 ? route.nexthops.map(hopText).join('') : ''
      const source = route.preferredSource ? formatAddress(route.preferredSource) : '-'
      const { table, type, metric, tos, protocol, scope, nexthopId, mtu } = route
      // ip -j shows the tunnel's "dst" in the place of the route's.
      const prefix = hops.includes('encap') ? '?' : formatPrefix(key)
      const line = [prefix, table, type, metric, tos, protocol, scope, nexthopId, mtu, source, hops].join(' ')
      return prefixKey(route.destination, route.prefixLength) === key ? line : `${line} under the wrong key`
    })
  )
}

const types = [
  'unspec',
  'unicast',
  'local',
  'broadcast',
  'anycast',
  'multicast',
  'blackhole',
  'unreachable',
  'prohibit',
  'throw'
]

function routeLine(family: 4 | 6, route: Json, index: (name: string) => number): string {
  const all = family === 4 ? '0.0.0.0/0' : '::/0'
  const full: string =
    route.dst === 'default' ? all : route.dst.includes('/') ? route.dst : `${route.dst}/${family === 4 ? 32 : 128}`
  const type = types.includes(route.type) ? types.indexOf(route.type) : Number(route.type)
  const table = route.table === undefined ? 254 : Number(route.table)
  const single = route.dev !== undefined && type < 6 ? [route] : []
  const hops: Json[] = route.nhid === undefined ? (route.nexthops ?? single) : []
  const mtu = route.metrics?.[0]?.mtu ?? 0
  const scope = Number(scopes[route.scope] ?? route.scope ?? 0)
  const tos = Number(route.tos ?? 0)
  const fields = [table, type, route.metric ?? 0, tos, Number(route.protocol), scope, route.nhid ?? 0, mtu]
  return [
    hops.some((hop) => hop.encap) ? '?' : full,
    ...fields,
    route.prefsrc ?? '-',
    hops.map((hop) => hopOf(hop, index)).join('')
  ].join(' ')
}

function nexthopsOf(state: NodeState): string[] {
  return [...state.nexthopObjects.values()].map((object) => {
    const group = object.group.map((member) => `${member.id},${member.weight}`).join('/')
    return [object.id, object.nexthop ? hopText(object.nexthop) : '', object.blackhole, group].join(' ')
  })
}

function nexthopLine(object: Json, index: (name: string) => number): string {
  const group = (object.group ?? []).map((member: Json) => `${member.id},${member.weight ?? 1}`).join('/')
  const hop = object.dev !== undefined ? hopOf(object, index) : ''
  return [object.id, hop, object.blackhole !== undefined, group].join(' ')
}

function rulesOf(state: NodeState, family: 4 | 6): string[] {
  return state.rules
    .filter((rule) => rule.family === family)
    .map((rule) => {
      const source = rule.source === null ? 'all' : `${formatAddress(rule.source)}/${rule.sourceLength}`
      const destination =
        rule.destination === null ? '' : `${formatAddress(rule.destination)}/${rule.destinationLength}`
      const mark = rule.mark === 0 && rule.markMask === 0 ? '' : `${rule.mark}/${rule.markMask}`
      const table = rule.action === 1 && !rule.l3mdev ? rule.table : ''
      const { priority, invert, iif, oif, suppressPrefixLength, tos, l3mdev, unsupported } = rule
      const extra = unsupported.length > 0 || rule.goto !== 0 || rule.uidRange ? 'extra' : ''
      return [
        priority,
        invert,
        source,
        destination,
        iif,
        oif,
        mark,
        table,
        suppressPrefixLength,
        tos,
        l3mdev,
        extra
      ].join(' ')
    })
}

function ruleLine(rule: Json): string {
  const prefix = (address: string, length: number | undefined): string => {
    return `${address}/${length ?? ((parseAddress(address)?.length ?? 0) === 8 ? 32 : 128)}`
  }
  const source = rule.src === 'all' ? 'all' : prefix(rule.src, rule.srclen)
  const destination = rule.dst === undefined || rule.dst === 'all' ? '' : prefix(rule.dst, rule.dstlen)
  const mark = rule.fwmark === undefined ? '' : `${Number(rule.fwmark)}/${Number(rule.fwmask ?? 0xffffffff)}`
  const extra =
    rule.goto !== undefined ||
    rule.ipproto !== undefined ||
    rule.sport !== undefined ||
    rule.dport !== undefined ||
    rule.dport_start !== undefined ||
    rule.uid_start !== undefined
      ? 'extra'
      : ''
  const invert = rule.not !== undefined
  const table = rule.table === undefined || rule.l3mdev !== undefined ? '' : Number(rule.table)
  const suppress = rule.suppress_prefixlen ?? -1
  const tos = Number(rule.tos ?? 0)
  const l3mdev = rule.l3mdev !== undefined
  return [
    rule.priority,
    invert,
    source,
    destination,
    rule.iif,
    rule.oif,
    mark,
    table,
    suppress,
    tos,
    l3mdev,
    extra
  ].join(' ')
}

const neighbourStates = ['INCOMPLETE', 'REACHABLE', 'STALE', 'DELAY', 'PROBE', 'FAILED', 'NOARP', 'PERMANENT']

function neighboursOf(state: NodeState): string[] {
  return [...state.neighbours.values()].map((entry) => {
    const states = neighbourStates.filter((_, bit) => (entry.state & (1 << bit)) !== 0)
    const mac = entry.mac === null ? '' : formatMac(entry.mac)
    const router = (entry.flags & 0x80) !== 0
    return [entry.ifindex, formatAddress(entry.address), mac, states.join(','), router, entry.managed].join(' ')
  })
}

/** State keeps none of these: src/netlink/neighbour.ts. */
function isNoMulticast(entry: Json): boolean {
  return !/^(22[4-9]|23\d|ff)/.test(entry.dst)
}

function neighbourLine(entry: Json, index: (name: string) => number): string {
  const mac = /^(..:){5}..$/.test(entry.lladdr ?? '') ? entry.lladdr : ''
  const states = (entry.state as string[]).filter((state) => state !== 'NONE').join(',')
  return [index(entry.dev), entry.dst, mac, states, entry.router !== undefined, entry.managed !== undefined].join(' ')
}
