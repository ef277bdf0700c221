// Hand-made rules of many kinds, written by nft and iptables, read from the kernel.

import t from 'tap'
import { enterNamespace } from '../netlink/namespace.js'
import { flush, nft, tool, watch } from './node.js'

enterNamespace(import.meta.url)

interface Case {
  name: string
  rules: () => void
  found: string[]
  /** What an unbounded rule's text and place match. */
  unbounded?: RegExp[]
}

/** In a chain at hook prerouting. */
function inIp(rule: string, more = '', hook = 'type nat hook prerouting priority dstnat'): () => void {
  return () => nft(`table ip t { ${more}\n chain pre { ${hook}; policy accept; ${rule}\n } }`)
}

function inInet(rule: string, more = ''): () => void {
  return () => nft(`table inet t { ${more}\n chain pre { type nat hook prerouting priority 5; ${rule}\n } }`)
}

function iptables(...rules: string[]): () => void {
  return () => {
    for (const rule of rules) tool(`iptables-nft -t ${rule}`)
  }
}

function legacy(...rules: string[]): () => void {
  return () => {
    for (const rule of rules) tool(`iptables-legacy -t ${rule}`)
  }
}

const bothIptables = (name: string, rules: string[], found: string[], unbounded?: RegExp[]): Case[] =>
  [
    { name: `iptables-nft: ${name}`, rules: iptables(...rules), found },
    { name: `iptables-legacy: ${name}`, rules: legacy(...rules), found }
  ].map((each) => (unbounded ? { ...each, unbounded } : each))

const cases: Case[] = [
  { name: 'one address', rules: inIp('ip daddr 192.0.2.7 tcp dport 80 dnat to 10.0.0.1'), found: ['192.0.2.7'] },
  { name: 'a prefix that ends within a byte', rules: inIp('ip daddr 10.16.0.0/12 redirect'), found: ['10.16.0.0/12'] },
  { name: 'a prefix of whole bytes', rules: inIp('ip daddr 10.0.0.0/8 redirect'), found: ['10.0.0.0/8'] },
  {
    name: 'a range becomes prefixes',
    rules: inIp('ip daddr 192.0.2.6-192.0.2.9 redirect'),
    found: ['192.0.2.6/31', '192.0.2.8/31']
  },
  {
    name: 'source and destination compared at once',
    rules: inIp('ip saddr 10.1.1.1 ip daddr 192.0.2.7 redirect'),
    found: ['192.0.2.7']
  },
  {
    name: 'an anonymous set',
    rules: inIp('ip daddr { 192.0.2.7, 192.0.2.9 } tcp dport { 80, 443 } redirect'),
    found: ['192.0.2.7', '192.0.2.9']
  },
  {
    name: 'an interval set, also to the end of all addresses',
    rules: inIp(
      'ip daddr @s redirect',
      'set s { type ipv4_addr; flags interval; elements = { 192.0.2.0/25, 192.0.2.130, 224.0.0.0-255.255.255.255 }; }'
    ),
    found: ['192.0.2.0/25', '192.0.2.130', '224.0.0.0/3']
  },
  {
    name: 'a concatenation with intervals',
    rules: inIp(
      'ip daddr . meta l4proto . th dport @s redirect',
      'set s { type ipv4_addr . inet_proto . inet_service; flags interval; elements = { 192.0.2.0/24 . tcp . 80-90, 198.51.100.1 . udp . 53 }; }'
    ),
    found: ['192.0.2.0/24', '198.51.100.1']
  },
  {
    name: 'the destination is not the first part of the key',
    rules: inIp(
      'meta l4proto . th dport . ip daddr vmap @m',
      'chain x { redirect\n }\n map m { type inet_proto . inet_service . ipv4_addr : verdict; elements = { tcp . 80 . 192.0.2.7 : goto x, udp . 53 . 192.0.2.8 : accept }; }'
    ),
    found: ['192.0.2.7']
  },
  {
    name: 'a map of new destinations',
    rules: inIp('dnat to ip daddr map { 192.0.2.7 : 10.0.0.1, 192.0.2.8 : 10.0.0.2 }'),
    found: ['192.0.2.7', '192.0.2.8']
  },
  {
    name: 'a verdict map with intervals',
    rules: inIp('ip daddr vmap { 192.0.2.0/24 : jump x, 198.51.100.0/24 : drop }', 'chain x { redirect\n }'),
    found: ['192.0.2.0/24']
  },
  {
    name: 'limits of nested chains intersect',
    rules: inIp(
      'ip daddr 10.0.0.0/8 jump x',
      'chain x { ip daddr 10.1.0.0/16 redirect\n ip daddr 192.0.2.7 redirect\n }'
    ),
    found: ['10.1.0.0/16']
  },
  {
    name: 'a jump to a chain that does not translate',
    rules: inIp(
      'ip daddr 192.0.2.7 jump x\n ip daddr 192.0.2.8 jump y',
      'chain x { counter\n }\n chain y { counter jump x\n }'
    ),
    found: []
  },
  {
    name: 'addresses of the node',
    rules: inIp('fib daddr type local tcp dport 30080 dnat to 10.0.0.1'),
    found: []
  },
  {
    name: 'a set of types of own addresses',
    rules: inIp('fib daddr type { local, broadcast } tcp dport 30080 dnat to 10.0.0.1'),
    found: []
  },
  {
    name: 'a set that packets fill',
    rules: inIp('ip daddr @s redirect', 'set s { type ipv4_addr; size 100; flags dynamic; elements = { 192.0.2.7 }; }'),
    found: [],
    unbounded: [/^ip t pre: daddr @s redirect/]
  },
  {
    name: 'other priorities, several tables',
    rules: () => {
      inIp('ip daddr 192.0.2.7 redirect', '', 'type nat hook prerouting priority -150')()
      nft('table ip u { chain late { type nat hook prerouting priority 300; ip daddr 192.0.2.8 redirect\n } }')
    },
    found: ['192.0.2.7', '192.0.2.8']
  },
  {
    name: 'other hooks and what nothing leads to',
    rules: () => {
      nft('table ip t { chain out { type nat hook output priority -100; ip daddr 192.0.2.7 redirect\n } }')
      nft('table ip t { chain alone { ip daddr 192.0.2.8 redirect\n } }')
    },
    found: []
  },
  {
    name: 'source NAT',
    rules: () =>
      nft('table ip t { chain post { type nat hook postrouting priority 100; ip daddr 192.0.2.7 masquerade\n } }'),
    found: []
  },
  {
    name: 'inet: both families',
    rules: inInet(
      'ip daddr 192.0.2.7 redirect\n ip6 daddr 2001:db8::7 redirect\n ip6 daddr 2001:db8:1::/48 dnat ip6 to fd00::1'
    ),
    found: ['192.0.2.7', '2001:db8:1::/48', '2001:db8::7']
  },
  {
    name: 'inet: one family whole, the other by address',
    rules: inInet('meta nfproto ipv4 redirect\n ip6 daddr 2001:db8::7 redirect'),
    found: ['2001:db8::7'],
    unbounded: [/^inet t pre: redirect/]
  },
  {
    name: 'ip6 prefix',
    rules: () =>
      nft('table ip6 t { chain pre { type nat hook prerouting priority 0; ip6 daddr 2001:db8::/33 redirect\n } }'),
    found: ['2001:db8::/33']
  },
  {
    name: 'tproxy, and a destination written without conntrack',
    rules: inIp(
      'ip daddr 192.0.2.7 tcp dport 80 tproxy to 127.0.0.1:3128\n ip daddr 192.0.2.8 ip daddr set 10.0.0.1',
      '',
      'type filter hook prerouting priority mangle'
    ),
    found: ['192.0.2.7', '192.0.2.8']
  },
  {
    name: 'unbounded: a proxy for all of one pod',
    rules: inIp('iifname "pod1" tcp dport 80 redirect to :3128'),
    found: [],
    unbounded: [/^ip t pre: iifname pod1 l4proto tcp dport 80 redirect$/]
  },
  {
    name: 'unbounded: all but a prefix, also through a jump',
    rules: inIp('ip daddr != 10.0.0.0/8 jump x\n ip daddr 192.0.2.7 redirect', 'chain x { tcp dport 80 redirect\n }'),
    found: ['192.0.2.7'],
    unbounded: [/^ip t x: l4proto tcp dport 80 redirect$/]
  },
  {
    name: 'a mask that is no prefix: its leading part',
    rules: inIp('ip daddr & 255.255.0.255 == 10.1.0.7 redirect'),
    found: ['10.1.0.0/16']
  },
  ...bothIptables(
    'DNAT, REDIRECT and NETMAP',
    [
      'nat -A PREROUTING -d 192.0.2.7/32 -p tcp --dport 80 -j DNAT --to-destination 10.0.0.1:8080',
      'nat -A PREROUTING -d 192.0.2.64/26 -p tcp --dport 80 -j REDIRECT --to-ports 3128',
      'nat -A PREROUTING -d 198.51.100.0/24 -j NETMAP --to 10.9.9.0/24'
    ],
    ['192.0.2.64/26', '192.0.2.7', '198.51.100.0/24']
  ),
  ...bothIptables(
    'iprange, addrtype and a chain of its own',
    [
      'nat -N CNI-HOSTPORT-DNAT',
      'nat -N X',
      'nat -A X -p udp -j DNAT --to-destination 10.0.0.2',
      'nat -A CNI-HOSTPORT-DNAT -p tcp --dport 8080 -j DNAT --to-destination 10.0.0.1:80',
      'nat -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT',
      'nat -A PREROUTING -m iprange --dst-range 192.0.2.4-192.0.2.7 -g X'
    ],
    ['192.0.2.4/30']
  ),
  ...bothIptables(
    'unbounded and negated',
    [
      'nat -A PREROUTING -i pod1 -p tcp --dport 80 -j REDIRECT --to-ports 3128',
      'nat -A PREROUTING ! -d 10.0.0.0/8 -p udp --dport 53 -j DNAT --to-destination 10.0.0.1',
      'nat -A PREROUTING -m addrtype ! --dst-type LOCAL -p udp --dport 54 -j DNAT --to-destination 10.0.0.1'
    ],
    [],
    [/pod1.*REDIRECT|pod1.*redirect/, /53.*(DNAT|dnat)/, /addrtype.*(DNAT|dnat)/]
  ),
  ...bothIptables(
    'TPROXY of the mangle table',
    ['mangle -A PREROUTING -d 192.0.2.7/32 -p tcp --dport 80 -j TPROXY --on-port 3128 --on-ip 127.0.0.1'],
    ['192.0.2.7']
  ),
  ...bothIptables(
    'filters of others are none of ours; those of kube-proxy are for Services without endpoints',
    [
      'filter -A FORWARD -d 192.0.2.9/32 -j DROP',
      'filter -N KUBE-SERVICES',
      'filter -N KUBE-FORWARD',
      'filter -A FORWARD -j KUBE-FORWARD',
      'filter -A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES',
      'filter -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP',
      'filter -A KUBE-SERVICES -d 192.0.2.7/32 -p tcp --dport 80 -j REJECT',
      'filter -A KUBE-SERVICES -d 192.0.2.8/32 -p tcp --dport 80 -j DROP'
    ],
    ['192.0.2.7', '192.0.2.8']
  )
]

for (const { name, rules, found, unbounded = [] } of cases) {
  t.test(`[K4][K9] ${name}`, async (t) => {
    flush()
    rules()
    const { translated, list, problems } = await watch(t)
    t.strictSame(list(), found)
    const texts = translated.unbounded().map((rule) => `${rule.family} ${rule.table} ${rule.chain}: ${rule.text}`)
    t.equal(texts.length, unbounded.length, texts.join('; '))
    for (const wanted of unbounded)
      t.ok(
        texts.some((text) => wanted.test(text)),
        `${wanted} in ${texts.join('; ')}`
      )
    t.strictSame(problems, [])
  })
}
