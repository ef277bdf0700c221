// What kube-proxy 1.30 in mode nftables writes: one table of each family, with
// the form in which `nft list` shows it. Compared with recorded files by
// rules.test.ts.

import type { Endpoint, Family, NodeName, Plan, ServicePort } from './cluster.js'
import { nftNames, socketAddress } from './names.js'

export interface NftTable {
  family: 'ip' | 'ip6'
  /** Declarations of sets and maps by name. */
  sets: Map<string, string>
  /** Elements by set or map. */
  elements: Map<string, Set<string>>
  /** Rules by chain; those of base chains begin with their "type" line. */
  chains: Map<string, string[]>
}

const BASE_CHAINS = {
  'filter-prerouting': ['filter hook prerouting priority dstnat - 10', 'ct state new jump firewall-check'],
  'filter-input': [
    'filter hook input priority -110',
    'ct state new jump nodeport-endpoints-check',
    'ct state new jump service-endpoints-check'
  ],
  'filter-forward': [
    'filter hook forward priority -110',
    'ct state new jump service-endpoints-check',
    'ct state new jump cluster-ips-check'
  ],
  'filter-output': [
    'filter hook output priority -110',
    'ct state new jump service-endpoints-check',
    'ct state new jump firewall-check'
  ],
  'filter-output-post-dnat': ['filter hook output priority -90', 'ct state new jump cluster-ips-check'],
  'nat-prerouting': ['nat hook prerouting priority dstnat', 'jump services'],
  'nat-output': ['nat hook output priority -100', 'jump services'],
  'nat-postrouting': ['nat hook postrouting priority srcnat', 'jump masquerading']
}

const MARK = '0x00004000'
const ip = (family: Family) => (family === 4 ? 'ip' : 'ip6')

function fixedChains(family: Family): [string, string[]][] {
  const daddr = `${ip(family)} daddr`
  const keyed = 'meta l4proto . th dport vmap'
  const reject = 'reject comment "Reject traffic to invalid ports of ClusterIPs"'
  return [
    ...Object.entries(BASE_CHAINS).map(([name, [hook, ...rules]]): [string, string[]] => [
      name,
      [`type ${hook}; policy accept;`, ...rules]
    ]),
    ['nodeport-endpoints-check', [`${daddr} @nodeport-ips ${keyed} @no-endpoint-nodeports`]],
    ['service-endpoints-check', [`${daddr} . ${keyed} @no-endpoint-services`]],
    ['firewall-check', [`${daddr} . ${keyed} @firewall-ips`]],
    ['services', [`${daddr} . ${keyed} @service-ips`, `${daddr} @nodeport-ips ${keyed} @service-nodeports`]],
    [
      'masquerading',
      [`meta mark & ${MARK} == 0x00000000 return`, `meta mark set meta mark ^ ${MARK}`, 'masquerade fully-random']
    ],
    ['cluster-ips-check', [`${daddr} @cluster-ips ${reject}`]],
    ['mark-for-masquerade', [`meta mark set meta mark | ${MARK}`]],
    ['reject-chain', ['reject']]
  ]
}

function fixedSets(family: Family): [string, string][] {
  const address = family === 4 ? 'ipv4_addr' : 'ipv6_addr'
  const byAddress = `map { type ${address} . inet_proto . inet_service : verdict; }`
  const byPort = 'map { type inet_proto . inet_service : verdict; }'
  return [
    ['cluster-ips', `set { type ${address}; }`],
    ['nodeport-ips', `set { type ${address}; }`],
    ['no-endpoint-services', byAddress],
    ['no-endpoint-nodeports', byPort],
    ['firewall-ips', byAddress],
    ['service-ips', byAddress],
    ['service-nodeports', byPort]
  ]
}

export function nftRules(plan: Plan, node: NodeName, ports: readonly ServicePort[]): NftTable {
  const table: NftTable = {
    family: ip(plan.family),
    sets: new Map(fixedSets(plan.family)),
    elements: new Map([['nodeport-ips', new Set([plan.hosts[node]])]]),
    chains: new Map(fixedChains(plan.family))
  }
  for (const port of ports) addPort(plan, table, port)
  return table
}

function push(chains: NftTable['chains'], name: string, ...rules: string[]): void {
  const chain = chains.get(name)
  if (chain) chain.push(...rules)
  else chains.set(name, rules)
}

function insert(elements: NftTable['elements'], name: string, ...words: string[]): void {
  const set = elements.get(name) ?? new Set()
  for (const word of words) set.add(word)
  elements.set(name, set)
}

function addPort(plan: Plan, table: NftTable, port: ServicePort): void {
  insert(table.elements, 'cluster-ips', port.clusterIp)
  const outside = [port.externalIp, port.loadBalancer].filter((each) => each !== null)
  const key = (address: string) => `${address} . ${port.protocol} . ${port.port}`
  const name = `comment "${port.name}"`
  if (port.endpoints.length === 0) {
    for (const address of [port.clusterIp, ...outside]) {
      insert(table.elements, 'no-endpoint-services', `${key(address)} ${name} : goto reject-chain`)
    }
    if (port.nodePort !== null) {
      const words = `${port.protocol} . ${port.nodePort} ${name} : goto reject-chain`
      insert(table.elements, 'no-endpoint-nodeports', words)
    }
    return
  }
  const names = nftNames(port)
  insert(
    table.elements,
    'service-ips',
    `${key(port.clusterIp)} : goto ${port.internalLocal ? names.local : names.service}`,
    ...outside.map((address) => `${key(address)} : goto ${names.external}`)
  )
  if (port.nodePort !== null) {
    insert(table.elements, 'service-nodeports', `${port.protocol} . ${port.nodePort} : goto ${names.external}`)
  }
  if (port.externalLocal && port.local.length === 0) {
    for (const address of outside) insert(table.elements, 'no-endpoint-services', `${key(address)} ${name} : drop`)
    if (port.nodePort !== null) {
      insert(table.elements, 'no-endpoint-nodeports', `${port.protocol} . ${port.nodePort} ${name} : drop`)
    }
  }
  addFirewall(table, port)
  addChains(plan, table, port, outside.length > 0 || port.nodePort !== null)
}

/** loadBalancerSourceRanges */
function addFirewall(table: NftTable, port: ServicePort): void {
  if (port.loadBalancer === null || port.sourceRanges === null) return
  const { firewall } = nftNames(port)
  const element = `${port.loadBalancer} . ${port.protocol} . ${port.port} comment "${port.name}" : goto ${firewall}`
  insert(table.elements, 'firewall-ips', element)
  push(table.chains, firewall, `${table.family} saddr != { ${port.sourceRanges.join(', ')} } drop`)
}

function addChains(plan: Plan, table: NftTable, port: ServicePort, outside: boolean): void {
  const names = nftNames(port)
  const { family, chains } = table
  for (const endpoint of port.internalLocal ? port.local : port.endpoints) addEndpoint(table, port, endpoint)
  const masquerade = [
    `${family} daddr ${port.clusterIp} ${port.protocol} dport ${port.port}`,
    `${family} saddr != ${plan.podRange} jump mark-for-masquerade`
  ].join(' ')
  if (port.internalLocal) push(chains, names.local, masquerade)
  else push(chains, names.service, masquerade, ...choose(table, port, port.endpoints))
  if (port.internalLocal || (port.externalLocal && port.local.length > 0)) {
    push(chains, names.local, ...choose(table, port, port.local))
  }
  if (!outside) return
  if (!port.externalLocal) {
    push(chains, names.external, 'jump mark-for-masquerade', `goto ${names.service}`)
    return
  }
  push(
    chains,
    names.external,
    `${family} saddr ${plan.podRange} goto ${names.service} comment "short-circuit pod traffic"`,
    'fib saddr type local jump mark-for-masquerade comment "masquerade local traffic"',
    `fib saddr type local goto ${names.service} comment "short-circuit local traffic"`,
    ...(port.local.length > 0 ? [`goto ${names.local}`] : [])
  )
}

function choose({ family }: NftTable, port: ServicePort, endpoints: readonly Endpoint[]): string[] {
  const names = nftNames(port)
  const sticky = endpoints.map((each) => `${family} saddr @${names.affinity(each)} goto ${names.endpoint(each)}`)
  const verdicts = endpoints.map((each, index) => `${index} : goto ${names.endpoint(each)}`).join(', ')
  return [...(port.affinity === null ? [] : sticky), `numgen random mod ${endpoints.length} vmap { ${verdicts} }`]
}

function addEndpoint(table: NftTable, port: ServicePort, endpoint: Endpoint): void {
  const names = nftNames(port)
  const { family, chains, sets } = table
  const chain = names.endpoint(endpoint)
  push(chains, chain, `${family} saddr ${endpoint.ip} jump mark-for-masquerade`)
  if (port.affinity !== null) {
    const type = family === 'ip' ? 'ipv4_addr' : 'ipv6_addr'
    const set = names.affinity(endpoint)
    sets.set(set, `set { type ${type}; size 65535; flags dynamic,timeout; timeout ${port.affinity / 60}m; }`)
    push(chains, chain, `update @${set} { ${family} saddr }`)
  }
  push(chains, chain, `meta l4proto ${port.protocol} dnat to ${socketAddress(endpoint)}`)
}

/**
 * Input for `nft -f` that puts `after` in place of `before` in one transaction.
 * As kube-proxy 1.30 does it, the table and its chains stay and everything in
 * them is written anew.
 */
export function nftReplacement(after: NftTable, before: NftTable | null): string {
  const name = `${after.family} kube-proxy`
  const declare = (set: string, words: string) => words.replace(/^(set|map)/, `add $1 ${name} ${set}`)
  const lines = [`add table ${name}`]
  if (before) {
    lines.push(`flush table ${name}`)
    for (const [set, words] of before.sets) {
      if (!words.includes('dynamic')) lines.push(`flush ${words.split(' ', 1)[0]} ${name} ${set}`)
    }
  }
  for (const [set, words] of after.sets) if (!before?.sets.has(set)) lines.push(declare(set, words))
  for (const [chain, rules] of after.chains) {
    const type = rules[0]?.startsWith('type ') ? ` { ${rules[0]} }` : ''
    lines.push(`add chain ${name} ${chain}${type}`)
  }
  for (const [chain, rules] of after.chains) {
    for (const rule of rules) if (!rule.startsWith('type ')) lines.push(`add rule ${name} ${chain} ${rule}`)
  }
  for (const [set, elements] of after.elements) {
    if (elements.size > 0) lines.push(`add element ${name} ${set} { ${[...elements].join(', ')} }`)
  }
  const stale = (old: Map<string, unknown> | undefined, wanted: Map<string, unknown>) =>
    [...(old?.keys() ?? [])].filter((key) => !wanted.has(key))
  lines.push(...stale(before?.chains, after.chains).map((chain) => `delete chain ${name} ${chain}`))
  lines.push(...stale(before?.sets, after.sets).map((set) => `delete set ${name} ${set}`))
  return `${lines.join('\n')}\n`
}
