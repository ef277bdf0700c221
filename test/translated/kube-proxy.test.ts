// The rules that kube-proxy 1.30 has written in its modes, loaded into the
// kernel by the tools: the same Service addresses are found in each.

import t from 'tap'
import { enterNamespace } from '../netlink/namespace.js'
import { fixture, flush, inIpv6, nft, tool, watch } from './node.js'

enterNamespace(import.meta.url)

/** ClusterIPs (also of the Service without endpoints), LoadBalancer addresses and external IPs. */
const services = [
  ...[10, 11, 12, 21, 31, 32, 100, 200, 250].map((last) => `10.96.0.${last}`),
  ...[1, 2, 3, 4].flatMap((net) => [`10.96.${net}.12`, `10.96.${net}.21`]),
  '10.96.5.1',
  ...[10, 11, 12, 13, 20, 21].map((last) => `198.51.100.${last}`)
].sort()

/** The address of the node, which the nftables mode names. */
const own = '192.168.100.11'

const services6 = services.map((address) => inIpv6(address)).sort()

/** The IPv4 table of kube-proxy alone. */
const nftables = /^table ip kube-proxy \{[\s\S]*?^\}/m.exec(fixture('kube-proxy-nftables-n1.nft'))?.[0] ?? ''

const forms = [
  {
    name: 'nftables',
    four: () => nft(nftables),
    six: () => nft(inIpv6(nftables).replace('table ip ', 'table ip6 ')),
    own: [own]
  },
  {
    name: 'iptables-nft',
    four: () => tool('iptables-nft-restore', fixture('kube-proxy-iptables-n1.save')),
    six: () => tool('ip6tables-nft-restore', inIpv6(fixture('kube-proxy-iptables-n1.save'))),
    own: []
  },
  {
    name: 'iptables-legacy',
    four: () => tool('iptables-legacy-restore', fixture('kube-proxy-iptables-legacy-n1.save')),
    six: () => tool('ip6tables-legacy-restore', inIpv6(fixture('kube-proxy-iptables-legacy-n1.save'))),
    own: []
  }
]

for (const form of forms) {
  t.test(`[K9][K1] kube-proxy, ${form.name}: every Service address and nothing else, both families`, async (t) => {
    flush()
    form.four()
    form.six()
    const { translated, list, problems } = await watch(t)
    const count = services.length + form.own.length
    t.strictSame(list(), [...services, ...services6, ...form.own, ...form.own.map((each) => inIpv6(each))].sort())
    t.strictSame(translated.summary(), [{ who: 'kube-proxy', kind: form.name, addresses: 2 * count, prefixes: 0 }])
    t.strictSame(
      translated.summary((address) => address === 'c0a8640b')[0]?.addresses,
      2 * count - form.own.length,
      'the address of the node is not counted'
    )
    t.strictSame(translated.unbounded(), [])
    t.strictSame(problems, [])
  })
}

t.test('[K9] without rules there is nothing, and no legacy table is made by looking', async (t) => {
  flush()
  const { translated, list } = await watch(t)
  t.strictSame(list(), [])
  t.strictSame(translated.summary(), [])
})
