// What kube-proxy 1.30 in mode iptables writes, and ip-masq-agent beside it, in
// the form in which iptables-save shows it. Compared with recorded files by
// rules.test.ts.

import type { Endpoint, Plan, ServicePort } from './cluster.js'
import { iptablesNames, socketAddress } from './names.js'

export type TableName = 'filter' | 'nat' | 'mangle'

/** One table: rules of chains of its own, and those that lead into them from the built-in chains. */
export interface Table {
  chains: string[]
  /** Each begins with "-A CHAIN". */
  rules: string[]
}

export type Ruleset = Partial<Record<TableName, Table>>

const BUILT_IN: Record<TableName, string[]> = {
  filter: ['INPUT', 'FORWARD', 'OUTPUT'],
  nat: ['PREROUTING', 'INPUT', 'OUTPUT', 'POSTROUTING'],
  mangle: ['PREROUTING', 'INPUT', 'FORWARD', 'OUTPUT', 'POSTROUTING']
}

const MARK = '0x4000/0x4000'
const comment = (words: string) => `-m comment --comment "${words}"`
const host = (plan: Plan, ip: string) => `${ip}/${plan.family === 4 ? 32 : 128}`

class TableRules implements Table {
  readonly #chains: Set<string>
  readonly rules: string[] = []

  constructor(...chains: string[]) {
    this.#chains = new Set(chains)
  }

  get chains(): string[] {
    return [...this.#chains]
  }

  /** Words before the match on the protocol come first, as iptables-save prints them. */
  add(chain: string, ...words: string[]): void {
    if (chain.startsWith('KUBE-')) this.#chains.add(chain)
    this.rules.push(['-A', chain, ...words.filter((word) => word !== '')].join(' '))
  }
}

export function iptablesRules(plan: Plan, ports: readonly ServicePort[]): Ruleset {
  const filter = filterRules(plan, ports)
  const nat = new TableRules('KUBE-PROXY-CANARY', 'KUBE-NODEPORTS', 'KUBE-POSTROUTING', 'KUBE-SERVICES')
  nat.add('PREROUTING', comment('kubernetes service portals'), '-j KUBE-SERVICES')
  nat.add('OUTPUT', comment('kubernetes service portals'), '-j KUBE-SERVICES')
  nat.add('POSTROUTING', comment('kubernetes postrouting rules'), '-j KUBE-POSTROUTING')
  nat.add('KUBE-MARK-MASQ', `-j MARK --set-xmark ${MARK}`)
  nat.add('KUBE-POSTROUTING', `-m mark ! --mark ${MARK} -j RETURN`)
  nat.add('KUBE-POSTROUTING', '-j MARK --set-xmark 0x4000/0x0')
  nat.add('KUBE-POSTROUTING', comment('kubernetes service traffic requiring SNAT'), '-j MASQUERADE --random-fully')
  for (const port of ports) if (port.endpoints.length > 0) translate(plan, nat, port)
  const last = 'kubernetes service nodeports; NOTE: this must be the last rule in this chain'
  nat.add('KUBE-SERVICES', comment(last), '-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS')
  return { mangle: new TableRules('KUBE-PROXY-CANARY'), filter, nat }
}

function filterRules(plan: Plan, ports: readonly ServicePort[]): TableRules {
  const fixed = ['EXTERNAL-SERVICES', 'FIREWALL', 'FORWARD', 'NODEPORTS', 'PROXY-CANARY', 'PROXY-FIREWALL', 'SERVICES']
  const filter = new TableRules(...fixed.map((name) => `KUBE-${name}`))
  const fresh = '-m conntrack --ctstate NEW'
  const balancer = [fresh, comment('kubernetes load balancer firewall'), '-j KUBE-PROXY-FIREWALL']
  const services = [fresh, comment('kubernetes service portals'), '-j KUBE-SERVICES']
  const external = [fresh, comment('kubernetes externally-visible service portals'), '-j KUBE-EXTERNAL-SERVICES']
  filter.add('INPUT', '-j KUBE-FIREWALL')
  filter.add('INPUT', ...balancer)
  filter.add('INPUT', comment('kubernetes health check service ports'), '-j KUBE-NODEPORTS')
  filter.add('INPUT', ...external)
  filter.add('FORWARD', ...balancer)
  filter.add('FORWARD', comment('kubernetes forwarding rules'), '-j KUBE-FORWARD')
  filter.add('FORWARD', ...services)
  filter.add('FORWARD', ...external)
  filter.add('OUTPUT', '-j KUBE-FIREWALL')
  filter.add('OUTPUT', ...balancer)
  filter.add('OUTPUT', ...services)
  if (plan.family === 4) {
    const local = '! -s 127.0.0.0/8 -d 127.0.0.0/8'
    const known = '-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP'
    filter.add('KUBE-FIREWALL', local, comment('block incoming localnet connections'), known)
  }
  filter.add('KUBE-FORWARD', '-m conntrack --ctstate INVALID -j DROP')
  filter.add('KUBE-FORWARD', comment('kubernetes forwarding rules'), `-m mark --mark ${MARK} -j ACCEPT`)
  const established = '-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT'
  filter.add('KUBE-FORWARD', comment('kubernetes forwarding conntrack rule'), established)
  for (const port of ports) {
    if (port.healthPort !== null) {
      const words = comment(`${port.name} health check node port`)
      filter.add('KUBE-NODEPORTS', '-p tcp', words, `-m tcp --dport ${port.healthPort} -j ACCEPT`)
    }
    if (port.endpoints.length === 0) refuse(plan, filter, port)
    else if (port.externalLocal && port.local.length === 0) ignoreOutside(plan, filter, port)
    if (port.loadBalancer !== null && port.sourceRanges !== null) {
      const words = comment(`${port.name} traffic not accepted by ${iptablesNames(port).firewall}`)
      filter.add('KUBE-PROXY-FIREWALL', ...to(plan, port.loadBalancer, port, port.port, words), '-j DROP')
    }
  }
  return filter
}

/** Matches on destination, protocol and port. */
function to(plan: Plan, ip: string, { protocol }: ServicePort, number: number, words: string): string[] {
  return [`-d ${host(plan, ip)} -p ${protocol}`, words, `-m ${protocol} --dport ${number}`]
}

function toNodePort({ protocol }: ServicePort, number: number, words: string): string[] {
  return [`-p ${protocol}`, words, '-m addrtype --dst-type LOCAL', `-m ${protocol} --dport ${number}`]
}

const outsideAddresses = (port: ServicePort) => [port.externalIp, port.loadBalancer].filter((each) => each !== null)

function refuse(plan: Plan, filter: TableRules, port: ServicePort): void {
  const words = comment(`${port.name} has no endpoints`)
  const reject = `-j REJECT --reject-with ${plan.family === 4 ? 'icmp-port-unreachable' : 'icmp6-port-unreachable'}`
  filter.add('KUBE-SERVICES', ...to(plan, port.clusterIp, port, port.port, words), reject)
  for (const ip of outsideAddresses(port)) {
    filter.add('KUBE-EXTERNAL-SERVICES', ...to(plan, ip, port, port.port, words), reject)
  }
  if (port.nodePort !== null) {
    filter.add('KUBE-EXTERNAL-SERVICES', ...toNodePort(port, port.nodePort, words), reject)
  }
}

function ignoreOutside(plan: Plan, filter: TableRules, port: ServicePort): void {
  const words = comment(`${port.name} has no local endpoints`)
  for (const ip of outsideAddresses(port)) {
    filter.add('KUBE-EXTERNAL-SERVICES', ...to(plan, ip, port, port.port, words), '-j DROP')
  }
  if (port.nodePort !== null) {
    filter.add('KUBE-EXTERNAL-SERVICES', ...toNodePort(port, port.nodePort, words), '-j DROP')
  }
}

function translate(plan: Plan, nat: TableRules, port: ServicePort): void {
  const names = iptablesNames(port)
  const clusterChain = port.internalLocal ? names.local : names.service
  const cluster = comment(`${port.name} cluster IP`)
  nat.add('KUBE-SERVICES', ...to(plan, port.clusterIp, port, port.port, cluster), `-j ${clusterChain}`)
  const outside = outsideAddresses(port).length > 0 || port.nodePort !== null
  if (outside) fromOutside(plan, nat, port)
  const masquerade = [`! -s ${plan.podRange}`, ...to(plan, port.clusterIp, port, port.port, cluster)]
  nat.add(clusterChain, ...masquerade, '-j KUBE-MARK-MASQ')
  if (!port.internalLocal) choose(nat, port, names.service, port.endpoints)
  if (port.internalLocal || (outside && port.externalLocal && port.local.length > 0)) {
    choose(nat, port, names.local, port.local)
  }
  for (const endpoint of port.internalLocal ? port.local : port.endpoints) toEndpoint(plan, nat, port, endpoint)
}

/** Node port, LoadBalancer and external address. */
function fromOutside(plan: Plan, nat: TableRules, port: ServicePort): void {
  const names = iptablesNames(port)
  if (port.externalIp !== null) {
    const words = comment(`${port.name} external IP`)
    nat.add('KUBE-SERVICES', ...to(plan, port.externalIp, port, port.port, words), `-j ${names.external}`)
  }
  if (port.loadBalancer !== null) {
    const words = comment(`${port.name} loadbalancer IP`)
    const chain = port.sourceRanges === null ? names.external : names.firewall
    nat.add('KUBE-SERVICES', ...to(plan, port.loadBalancer, port, port.port, words), `-j ${chain}`)
    for (const range of port.sourceRanges ?? []) nat.add(chain, `-s ${range}`, words, `-j ${names.external}`)
    if (port.sourceRanges !== null) {
      nat.add(chain, comment(`other traffic to ${port.name} will be dropped by KUBE-PROXY-FIREWALL`))
    }
  }
  if (port.nodePort !== null) {
    const words = [`-p ${port.protocol}`, comment(port.name), `-m ${port.protocol} --dport ${port.nodePort}`]
    nat.add('KUBE-NODEPORTS', ...words, `-j ${names.external}`)
  }
  const chain = names.external
  const traffic = (start: string) => comment(`${start} ${port.name} external destinations`)
  if (!port.externalLocal) {
    nat.add(chain, traffic('masquerade traffic for'), '-j KUBE-MARK-MASQ')
    nat.add(chain, `-j ${names.service}`)
    return
  }
  nat.add(chain, `-s ${plan.podRange}`, traffic('pod traffic for'), `-j ${names.service}`)
  const local = '-m addrtype --src-type LOCAL'
  nat.add(chain, traffic('masquerade LOCAL traffic for'), local, '-j KUBE-MARK-MASQ')
  nat.add(chain, traffic('route LOCAL traffic for'), local, `-j ${names.service}`)
  if (port.local.length > 0) nat.add(chain, `-j ${names.local}`)
}

/** One of the endpoints at random; with affinity the one that the client had before. */
function choose(nat: TableRules, port: ServicePort, chain: string, endpoints: readonly Endpoint[]): void {
  const names = iptablesNames(port)
  const words = (endpoint: Endpoint) => comment(`${port.name} -> ${socketAddress(endpoint)}`)
  if (port.affinity !== null) {
    for (const endpoint of endpoints) {
      const target = names.endpoint(endpoint)
      const recent = `-m recent --rcheck --seconds ${port.affinity} --reap --name ${target} ${recentMask(endpoint)}`
      nat.add(chain, words(endpoint), recent, `-j ${target}`)
    }
  }
  for (const [index, endpoint] of endpoints.entries()) {
    const left = endpoints.length - index
    const chance = left > 1 ? `-m statistic --mode random --probability ${probability(left)}` : ''
    nat.add(chain, words(endpoint), chance, `-j ${names.endpoint(endpoint)}`)
  }
}

/** As the kernel keeps it: in units of 2^-31. */
function probability(left: number): string {
  return (Math.round(2 ** 31 / left) / 2 ** 31).toFixed(11)
}

const recentMask = ({ ip }: Endpoint) =>
  `--mask ${ip.includes(':') ? 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff' : '255.255.255.255'} --rsource`

function toEndpoint(plan: Plan, nat: TableRules, port: ServicePort, endpoint: Endpoint): void {
  const chain = iptablesNames(port).endpoint(endpoint)
  const words = comment(port.name)
  nat.add(chain, `-s ${host(plan, endpoint.ip)}`, words, '-j KUBE-MARK-MASQ')
  const recent = port.affinity === null ? '' : `-m recent --set --name ${chain} ${recentMask(endpoint)}`
  const target = `-j DNAT --to-destination ${socketAddress(endpoint)}`
  nat.add(chain, `-p ${port.protocol}`, words, recent, `-m ${port.protocol}`, target)
}

export function masqueradeAgentRules(plan: Plan): Ruleset {
  const chain = 'IP-MASQ-AGENT'
  const last = 'ip-masq-agent: outbound traffic is subject to MASQUERADE'
  return {
    nat: {
      chains: [chain],
      rules: [
        `-A POSTROUTING ${comment('ip-masq-agent').replaceAll('"', '')} -m addrtype ! --dst-type LOCAL -j ${chain}`,
        ...plan.notMasqueraded.map((prefix) => `-A ${chain} -d ${prefix} -j RETURN`),
        `-A ${chain} ${comment(last)} -j MASQUERADE`
      ]
    }
  }
}

/** As iptables-save prints a namespace in which only these have been written. */
export function savedForm(...rulesets: Ruleset[]): string {
  const tables: TableName[] = ['mangle', 'filter', 'nat']
  return tables
    .flatMap((name) => {
      const written = rulesets.flatMap((ruleset) => ruleset[name] ?? [])
      if (written.length === 0) return []
      const builtIn = BUILT_IN[name].map((chain) => `:${chain} ACCEPT [0:0]`)
      const own = [...new Set(written.flatMap(({ chains }) => chains))].map((chain) => `:${chain} - [0:0]`)
      return [`*${name}`, ...builtIn, ...own, ...written.flatMap(({ rules }) => rules), 'COMMIT', '']
    })
    .join('\n')
}

/**
 * Input for iptables-restore --noflush that replaces `before` by `after` in one
 * step and leaves others' rules alone: own chains are emptied and filled again,
 * those not used any more are deleted, jumps from built-in chains stay.
 */
export function replacement(after: Ruleset, before: Ruleset | null): string {
  const tables: TableName[] = ['mangle', 'filter', 'nat']
  return tables
    .flatMap((name) => {
      const [wanted, old] = [after[name], before?.[name]]
      if (!wanted) return []
      const stale = old?.chains.filter((chain) => !wanted.chains.includes(chain)) ?? []
      const there = new Set(old?.rules)
      const rules = wanted.rules.filter((rule) => isOwn(wanted, rule) || !there.has(rule))
      const chains = [...wanted.chains, ...stale].map((chain) => `:${chain} - [0:0]`)
      return [`*${name}`, ...chains, ...rules, ...stale.map((chain) => `-X ${chain}`), 'COMMIT', '']
    })
    .join('\n')
}

/** Input for iptables-restore --noflush that removes all of it. */
export function removal(written: Ruleset): string {
  return Object.entries(written)
    .flatMap(([name, table]) => [
      `*${name}`,
      ...table.chains.map((chain) => `:${chain} - [0:0]`),
      ...table.rules.filter((rule) => !isOwn(table, rule)).map((rule) => rule.replace(/^-A/, '-D')),
      ...table.chains.map((chain) => `-X ${chain}`),
      'COMMIT',
      ''
    ])
    .join('\n')
}

const isOwn = ({ chains }: Table, rule: string) => chains.includes(rule.split(' ', 2)[1] ?? '')
