// What kube-proxy 1.30 in mode ipvs sets up: virtual servers, their addresses on
// a dummy device that stays down, ipsets KUBE-* and a few iptables rules that
// match them, the same for any number of Services.

import type { Endpoint, NodeName, Plan, ServicePort } from './cluster.js'
import type { Ruleset } from './iptables-rules.js'
import { socketAddress } from './names.js'

export const DUMMY = 'kube-ipvs0'

export const IPVS_SYSCTLS = {
  'net.ipv4.vs.conntrack': 1,
  'net.ipv4.vs.conn_reuse_mode': 0,
  'net.ipv4.vs.expire_nodest_conn': 1,
  'net.ipv4.vs.expire_quiescent_template': 1
}

export interface IpvsState {
  /** On the dummy device. */
  addresses: Set<string>
  /** "-t 10.96.0.1:80" → its options and its servers. */
  servers: Map<string, { options: string; endpoints: Set<string> }>
  /** Entries by set, without the family's prefix. */
  sets: Map<SetName, Set<string>>
}

const SETS = {
  'LOOP-BACK': 'hash:ip,port,ip',
  'CLUSTER-IP': 'hash:ip,port',
  'LOAD-BALANCER': 'hash:ip,port',
  'LOAD-BALANCER-LOCAL': 'hash:ip,port',
  'LOAD-BALANCER-FW': 'hash:ip,port',
  'LOAD-BALANCER-SOURCE-CIDR': 'hash:ip,port,net',
  'EXTERNAL-IP': 'hash:ip,port',
  'EXTERNAL-IP-LOCAL': 'hash:ip,port',
  'NODE-PORT-TCP': 'bitmap:port range 0-65535',
  'NODE-PORT-LOCAL-TCP': 'bitmap:port range 0-65535',
  'NODE-PORT-UDP': 'bitmap:port range 0-65535',
  'NODE-PORT-LOCAL-UDP': 'bitmap:port range 0-65535',
  'HEALTH-CHECK-NODE-PORT': 'bitmap:port range 0-65535',
  'IPVS-IPS': 'hash:ip'
}

type SetName = keyof typeof SETS

/** ipset takes 31 characters; kube-proxy cuts what is longer. */
const setName = (plan: Plan, name: SetName) => `KUBE-${plan.family === 6 ? '6-' : ''}${name}`.slice(0, 31)

export function ipvsState(plan: Plan, node: NodeName, ports: readonly ServicePort[]): IpvsState {
  const state: IpvsState = { addresses: new Set(), servers: new Map(), sets: new Map() }
  for (const name of Object.keys(SETS)) state.sets.set(name as SetName, new Set())
  for (const port of ports) addPort(plan, node, state, port)
  return state
}

function addPort(plan: Plan, node: NodeName, state: IpvsState, port: ServicePort): void {
  const enter = (name: SetName, entry: string) => state.sets.get(name)?.add(entry)
  const key = (ip: string) => `${ip},${port.protocol}:${port.port}`
  // without one of its own, a Local address leads to any: pods of this node may use it,
  // and to others the answer comes from an address that they did not ask
  const outside = port.externalLocal && port.local.length > 0 ? port.local : port.endpoints
  for (const { ip, port: number } of port.local) enter('LOOP-BACK', `${ip},${port.protocol}:${number},${ip}`)
  addServer(state, port, { ip: port.clusterIp, port: port.port }, port.internalLocal ? port.local : port.endpoints)
  enter('CLUSTER-IP', key(port.clusterIp))
  if (port.externalIp !== null) {
    addServer(state, port, { ip: port.externalIp, port: port.port }, outside)
    enter(port.externalLocal ? 'EXTERNAL-IP-LOCAL' : 'EXTERNAL-IP', key(port.externalIp))
  }
  if (port.loadBalancer !== null) {
    addServer(state, port, { ip: port.loadBalancer, port: port.port }, outside)
    enter('LOAD-BALANCER', key(port.loadBalancer))
    if (port.externalLocal) enter('LOAD-BALANCER-LOCAL', key(port.loadBalancer))
    if (port.sourceRanges !== null) enter('LOAD-BALANCER-FW', key(port.loadBalancer))
    for (const range of port.sourceRanges ?? [])
      enter('LOAD-BALANCER-SOURCE-CIDR', `${key(port.loadBalancer)},${range}`)
  }
  for (const ip of [port.clusterIp, port.externalIp, port.loadBalancer]) {
    if (ip === null) continue
    state.addresses.add(ip)
    enter('IPVS-IPS', ip)
  }
  if (port.nodePort !== null) {
    addServer(state, port, { ip: plan.hosts[node], port: port.nodePort }, outside)
    const protocol = port.protocol === 'tcp' ? 'TCP' : 'UDP'
    enter(`NODE-PORT-${protocol}`, `${port.nodePort}`)
    if (port.externalLocal) enter(`NODE-PORT-LOCAL-${protocol}`, `${port.nodePort}`)
  }
  if (port.healthPort !== null) enter('HEALTH-CHECK-NODE-PORT', `${port.healthPort}`)
}

function addServer(
  state: IpvsState,
  { protocol, affinity }: ServicePort,
  address: { ip: string; port: number },
  endpoints: readonly Endpoint[]
): void {
  state.servers.set(`-${protocol[0]} ${socketAddress(address)}`, {
    options: affinity === null ? '-s rr' : `-s rr -p ${affinity}`,
    endpoints: new Set(endpoints.map(socketAddress))
  })
}

/** Input for ipvsadm -R. */
export function ipvsadmLines(after: IpvsState, before: IpvsState | null): string {
  const lines: string[] = []
  for (const [server, { options, endpoints }] of after.servers) {
    const old = before?.servers.get(server)
    if (!old) lines.push(`-A ${server} ${options}`)
    for (const each of endpoints) if (!old?.endpoints.has(each)) lines.push(`-a ${server} -r ${each} -m -w 1`)
    for (const each of old?.endpoints ?? []) if (!endpoints.has(each)) lines.push(`-d ${server} -r ${each}`)
  }
  for (const server of before?.servers.keys() ?? []) if (!after.servers.has(server)) lines.push(`-D ${server}`)
  return lines.map((line) => `${line}\n`).join('')
}

/** Commands of `ip` for the dummy device. */
export function addressCommands(plan: Plan, after: IpvsState, before: IpvsState | null): string[] {
  const bits = plan.family === 4 ? 32 : 128
  const change = (verb: string, one: Iterable<string>, other: Set<string> | undefined) =>
    [...one].filter((ip) => !other?.has(ip)).map((ip) => `addr ${verb} ${ip}/${bits} dev ${DUMMY}`)
  return [
    ...change('add', after.addresses, before?.addresses),
    ...change('del', before?.addresses ?? [], after.addresses)
  ]
}

/** Input for ipset restore. */
export function ipsetLines(plan: Plan, after: IpvsState, before: IpvsState | null): string {
  const lines: string[] = []
  for (const [name, entries] of after.sets) {
    const [full, type, old] = [setName(plan, name), SETS[name], before?.sets.get(name)]
    const family = type.startsWith('hash') ? ` family ${plan.family === 4 ? 'inet' : 'inet6'}` : ''
    if (!old) lines.push(`create ${full} ${type}${family}`)
    for (const entry of entries) if (!old?.has(entry)) lines.push(`add ${full} ${entry}`)
    for (const entry of old ?? []) if (!entries.has(entry)) lines.push(`del ${full} ${entry}`)
  }
  return lines.map((line) => `${line}\n`).join('')
}

/** Input for ipset restore that removes the sets. */
export function ipsetRemoval(plan: Plan): string {
  return Object.keys(SETS)
    .map((name) => `destroy ${setName(plan, name as SetName)}\n`)
    .join('')
}

const MARK = '0x4000/0x4000'

export function ipvsIptablesRules(plan: Plan): Ruleset {
  const match = (name: SetName, fields: string) => `-m set --match-set ${setName(plan, name)} ${fields}`
  const cluster = match('CLUSTER-IP', 'dst,dst')
  const balancer = match('LOAD-BALANCER', 'dst,dst')
  const external = (name: SetName) => [
    `-A KUBE-SERVICES ${match(name, 'dst,dst')} -m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL -j ACCEPT`,
    `-A KUBE-SERVICES ${match(name, 'dst,dst')} -m addrtype --dst-type LOCAL -j ACCEPT`
  ]
  const nodePorts = (protocol: 'TCP' | 'UDP') => {
    const start = `-A KUBE-NODE-PORT -p ${protocol.toLowerCase()}`
    return [
      `${start} ${match(`NODE-PORT-LOCAL-${protocol}`, 'dst')} -j RETURN`,
      `${start} ${match(`NODE-PORT-${protocol}`, 'dst')} -j KUBE-MARK-MASQ`
    ]
  }
  const nat = [
    '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
    '-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
    '-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING',
    `-A KUBE-POSTROUTING ${match('LOOP-BACK', 'dst,dst,src')} -j MASQUERADE`,
    `-A KUBE-POSTROUTING -m mark ! --mark ${MARK} -j RETURN`,
    '-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0',
    '-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully',
    `-A KUBE-SERVICES ${balancer} -j KUBE-LOAD-BALANCER`,
    `-A KUBE-LOAD-BALANCER ${match('LOAD-BALANCER-LOCAL', 'dst,dst')} -j RETURN`,
    '-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ',
    ...nodePorts('TCP'),
    ...nodePorts('UDP'),
    `-A KUBE-SERVICES ! -s ${plan.podRange} ${cluster} -j KUBE-MARK-MASQ`,
    `-A KUBE-SERVICES ${match('EXTERNAL-IP', 'dst,dst')} -j KUBE-MARK-MASQ`,
    ...external('EXTERNAL-IP'),
    ...external('EXTERNAL-IP-LOCAL'),
    '-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT',
    `-A KUBE-SERVICES ${cluster} -j ACCEPT`,
    `-A KUBE-SERVICES ${balancer} -j ACCEPT`,
    `-A KUBE-MARK-MASQ -j MARK --set-xmark ${MARK}`
  ]
  const own = ['LOAD-BALANCER', 'CLUSTER-IP', 'EXTERNAL-IP', 'EXTERNAL-IP-LOCAL'] as const
  const filter = [
    '-A INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER',
    '-A INPUT -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL',
    '-A INPUT -m comment --comment "kubernetes health check rules" -j KUBE-NODE-PORT',
    '-A FORWARD -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL',
    '-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD',
    `-A KUBE-PROXY-FIREWALL ${match('LOAD-BALANCER-FW', 'dst,dst')} -j KUBE-SOURCE-RANGES-FIREWALL`,
    `-A KUBE-SOURCE-RANGES-FIREWALL ${match('LOAD-BALANCER-SOURCE-CIDR', 'dst,dst,src')} -j RETURN`,
    '-A KUBE-SOURCE-RANGES-FIREWALL -j DROP',
    `-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark ${MARK} -j ACCEPT`,
    '-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT',
    `-A KUBE-NODE-PORT ${match('HEALTH-CHECK-NODE-PORT', 'dst')} -j ACCEPT`,
    ...own.map((name) => `-A KUBE-IPVS-FILTER ${match(name, 'dst,dst')} -j RETURN`),
    `-A KUBE-IPVS-FILTER ${match('HEALTH-CHECK-NODE-PORT', 'dst')} -j RETURN`,
    `-A KUBE-IPVS-FILTER -m conntrack --ctstate NEW ${match('IPVS-IPS', 'dst')} -j REJECT`
  ]
  const chains = (rules: string[]) =>
    [...new Set(rules.flatMap((rule) => rule.match(/KUBE-[A-Z-]+(?=( |$))/g) ?? []))].filter((name) =>
      rules.some((rule) => rule.startsWith(`-A ${name} `))
    )
  return { nat: { chains: chains(nat), rules: nat }, filter: { chains: chains(filter), rules: filter } }
}
