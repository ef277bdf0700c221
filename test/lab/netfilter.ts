// Two things in a node's netfilter: counters that show what it saw, and the
// rules of a node as it is without hostroute.

import type { LabHost } from './host.js'

const TABLE = 'hostroute_lab'

/** Packets from or to pods that passed the node's netfilter hooks. */
export interface HookCounts {
  prerouting: number
  forward: number
  postrouting: number
}

/**
 * Counts pods' packets in each hook, before any other chain looks at them.
 * Neighbour discovery is left out: it always belongs to the kernel.
 */
export async function installCounters(host: LabHost, range4: string, range6: string): Promise<void> {
  const match = [`ip saddr ${range4}`, `ip daddr ${range4}`, `ip6 saddr ${range6}`, `ip6 daddr ${range6}`]
  const chain = (hook: string) => `
    chain ${hook} {
      type filter hook ${hook} priority -400; policy accept;
      icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, nd-router-advert } accept
      ${match.map((each) => `${each} counter name ${hook} accept`).join('\n      ')}
    }`
  const hooks = ['prerouting', 'forward', 'postrouting']
  const counters = hooks.map((hook) => `counter ${hook} {}`).join('\n')
  await host.run(['nft', '-f', '-'], { input: `table inet ${TABLE} {\n${counters}${hooks.map(chain).join('')}\n}\n` })
}

export async function readCounters(host: LabHost): Promise<HookCounts> {
  interface Listing {
    nftables: { counter?: { name: keyof HookCounts; packets: number } }[]
  }
  const counts: HookCounts = { prerouting: 0, forward: 0, postrouting: 0 }
  const text = await host.run(['nft', '-j', 'list', 'counters', 'table', 'inet', TABLE])
  for (const { counter } of (JSON.parse(text) as Listing).nftables) if (counter) counts[counter.name] = counter.packets
  return counts
}

/** What ip-masq-agent leaves alone, and the lab's own IPv6 ranges. */
export const NOT_MASQUERADED = ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', 'fd00::/8']

/**
 * A node without hostroute: conntrack, an IP-MASQ-AGENT chain with MASQUERADE
 * for pods that leave the cluster, and `rules` filter rules that each
 * forwarded packet is compared with and none of which matches.
 */
export async function installLegacyRules(host: LabHost, range4: string, range6: string, rules: number): Promise<void> {
  const text = (range: string, family: 4 | 6, stranger: (index: number) => string) =>
    [
      '*nat',
      ':IP-MASQ-AGENT - [0:0]',
      `-A POSTROUTING -s ${range} -j IP-MASQ-AGENT`,
      ...notMasqueraded(family).map((prefix) => `-A IP-MASQ-AGENT -d ${prefix} -j RETURN`),
      '-A IP-MASQ-AGENT -j MASQUERADE',
      'COMMIT',
      '*filter',
      ...Array.from({ length: rules }, (_, index) => `-A FORWARD -s ${stranger(index)} -p tcp --dport 9 -j DROP`),
      'COMMIT',
      ''
    ].join('\n')
  await host.run(['iptables-restore'], { input: text(range4, 4, (i) => `198.18.${i >> 8}.${i & 255}/32`) })
  await host.run(['ip6tables-restore'], { input: text(range6, 6, (i) => `2001:db8:ffff::${i.toString(16)}/128`) })
}

function notMasqueraded(family: 4 | 6): string[] {
  return NOT_MASQUERADED.filter((prefix) => prefix.includes(':') === (family === 6))
}
