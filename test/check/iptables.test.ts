import t from 'tap'
import { hexPrefix } from '../../src/address.js'
import { parseListing, parseSave, splitWords } from '../../src/check/iptables-save.js'
import { judged, judgeLines, recorded, savedTables, textsOf } from './rules.js'

const classOf = (table: string, line: string, change = {}) => judgeLines(table, [line], change)[0]?.class

t.test('[C9] ip-masq-agent: its rules are translatable or harmless', async (t) => {
  const rules = judged(savedTables(recorded('ip-masq-agent.save')))
  t.same(textsOf(rules, 'bypassed'), [])
  t.equal(textsOf(rules, 'translatable').length, 1)
  t.equal(rules.find((each) => each.class === 'translatable')?.owner, 'ip-masq-agent')
})

t.test('[C9] a MASQUERADE that hostroute would not do refuses', async (t) => {
  const line = '-A POSTROUTING -s 10.1.0.0/16 ! -d 10.0.0.0/8 -j MASQUERADE'
  t.equal(classOf('nat', line), 'translatable')
  t.equal(classOf('nat', line, { snat: false }), 'bypassed')
  t.equal(
    classOf('nat', '-A POSTROUTING -p tcp -m tcp --dport 25 -j MASQUERADE'),
    'bypassed',
    'its condition cannot be expressed'
  )
  t.equal(classOf('nat', '-A POSTROUTING -s 10.1.0.0/16 -o eth0 -j SNAT --to-source 192.0.2.9'), 'bypassed')
})

t.test(
  '[C9] [M1] rules that masquerade IPv6 refuse unless hostroute masquerades IPv6, the agent’s own ones, too',
  async (t) => {
    const lines = `*nat
:POSTROUTING ACCEPT [0:0]
:IP-MASQ-AGENT - [0:0]
-A POSTROUTING -m addrtype ! --dst-type LOCAL -j IP-MASQ-AGENT
-A IP-MASQ-AGENT -d fd00::/8 -j RETURN
-A IP-MASQ-AGENT -j MASQUERADE
COMMIT
`
    const { tables } = parseSave(lines, 'iptables-nft', 'ip6')
    const masquerading = (change: object) => judged(tables, change).find(({ text }) => text.endsWith('MASQUERADE'))
    t.match(masquerading({ snat: true, snat6: true }), { class: 'translatable', owner: 'ip-masq-agent' })
    t.match(masquerading({ snat: true, snat6: false }), {
      class: 'bypassed',
      why: /hostroute would not \(snat\.enabled, snat\.masqueradeIPv6\)/,
      remedy: /snat\.masqueradeIPv6: true/
    })
    t.equal(
      judged(savedTables(lines.replace('fd00::/8', '10.0.0.0/8')), { snat: true, snat6: false }).find(({ text }) =>
        text.endsWith('MASQUERADE')
      )?.class,
      'translatable',
      'IPv4 is as before'
    )
  }
)

t.test('[C9] Docker: only the FORWARD policy stands in the way', async (t) => {
  const rules = judged(savedTables(recorded('docker.save')), { stackPrefixes: [hexPrefix('ac110000/16')] })
  t.same(textsOf(rules, 'bypassed'), ['FORWARD: -P FORWARD DROP'])
  t.match(rules.find((each) => each.class === 'bypassed')?.remedy, /Docker/)
})

t.test('[C3] Istio ambient: rules for sockets of the node are host-only', async (t) => {
  const rules = judged(savedTables(recorded('istio-ambient.save')))
  t.same(textsOf(rules, 'bypassed'), [])
  t.match(textsOf(rules, 'host-only').join(), /169\.254\.7\.127/)
})

t.test('[C3] Istio in the host namespace: a redirection of pods refuses and is named', async (t) => {
  const rules = judged(savedTables(recorded('istio-redirect.save')))
  t.same(textsOf(rules, 'bypassed'), ['ISTIO_IN_REDIRECT: -A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006'])
  t.equal(rules.find((each) => each.class === 'bypassed')?.owner, 'Istio')
})

t.test('[C9] a firewall: what works on forwarded packets refuses, the rest does not', async (t) => {
  const rules = judged(savedTables(recorded('firewall.save')))
  t.same(textsOf(rules, 'bypassed'), [
    'BLOCKED: -A BLOCKED -j LOG --log-prefix "mail: "',
    'BLOCKED: -A BLOCKED -j REJECT --reject-with icmp-port-unreachable',
    'FORWARD: -A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu'
  ])
  t.same(textsOf(rules, 'host-only'), [
    'INPUT: -A INPUT -i lo -j ACCEPT',
    'INPUT: -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT',
    'INPUT: -P INPUT DROP',
    'PREROUTING: -A PREROUTING -i lo -j MARK --set-xmark 0x1/0xffffffff'
  ])
  t.match(textsOf(rules, 'harmless').join('\n'), /UNUSED -j DROP/, 'no base chain leads there')
})

t.test('[C9] policies: DROP refuses where forwarded packets meet it', async (t) => {
  const policy = (hook: string, rest = '') =>
    judged(savedTables(`*filter\n:${hook} DROP [0:0]\n${rest}COMMIT`)).map((each) => each.class)
  t.same(policy('FORWARD'), ['bypassed'])
  t.same(policy('INPUT'), ['host-only'])
  t.same(policy('OUTPUT'), ['host-only'])
  t.same(policy('FORWARD', '-A FORWARD -j ACCEPT\n'), ['harmless', 'host-only'], 'everything is accepted before')
  t.same(policy('FORWARD', '-A FORWARD -s 10.0.0.0/8 -j ACCEPT\n'), ['harmless', 'bypassed'])
})

t.test('[C9] conditions that no packet of the fast path meets', async (t) => {
  const hostOnly = [
    ['filter', '-A FORWARD -i docker0 -j DROP'],
    ['filter', '-A FORWARD ! -i docker0 -o docker0 -j DROP'],
    ['filter', '-A FORWARD -m mark --mark 0x4000/0x4000 -j DROP'],
    ['filter', '-A FORWARD -m physdev --physdev-is-bridged -j DROP'],
    ['nat', '-A PREROUTING -d 192.0.2.2/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.1.0.2'],
    ['nat', '-A PREROUTING -m addrtype --dst-type LOCAL -j DNAT --to-destination 10.1.0.2'],
    ['nat', '-A POSTROUTING -m addrtype --src-type LOCAL -j SNAT --to-source 192.0.2.2'],
    ['mangle', '-A PREROUTING -d 224.0.0.0/4 -j TTL --ttl-set 1']
  ]
  for (const [table = '', line = ''] of hostOnly) t.equal(classOf(table, line), 'host-only', line)
})

t.test('[C9] conditions that look like the above and are not', async (t) => {
  const bypassed = [
    ['filter', '-A FORWARD -i eth0 -j DROP'],
    ['filter', '-A FORWARD -i veth+ -j DROP'],
    ['filter', '-A FORWARD -i veth99 -j DROP'],
    ['filter', '-A FORWARD ! -i docker0 -j DROP'],
    ['filter', '-A FORWARD -m mark ! --mark 0x4000/0x4000 -j DROP'],
    ['filter', '-A FORWARD -m connmark --mark 0x1 -j DROP'],
    ['filter', '-A FORWARD -m comment --comment "KUBE-FORWARD -m mark --mark 0x1/0x1" -j DROP'],
    ['filter', '-A FORWARD -m comment --comment "a -j ACCEPT" -j DROP'],
    ['filter', '-A FORWARD -s 0.0.0.0/0 -j NFQUEUE --queue-num 0'],
    ['filter', '-A FORWARD -d 10.0.0.0/255.0.255.0 -j DROP'],
    ['raw', '-A PREROUTING -d 192.0.2.2/32 -j DROP'],
    ['raw', '-A PREROUTING -m addrtype --dst-type LOCAL -j DROP'],
    ['mangle', '-A PREROUTING -j MARK --set-xmark 0x1/0xffffffff'],
    ['mangle', '-A POSTROUTING -j NOBODYKNOWS --this']
  ]
  for (const [table = '', line = ''] of bypassed) t.equal(classOf(table, line), 'bypassed', line)
  const answer = classOf('raw', '-A PREROUTING -d 192.0.2.2/32 -j DROP', { snat: false })
  t.equal(answer, 'host-only', 'without SNAT no answer is addressed to the node')
})

t.test('[C9] a chain reached both ways is judged by the worse one', async (t) => {
  const rules = judgeLines('filter', ['-A INPUT -j both_ways', '-A FORWARD -j both_ways', '-A both_ways -j DROP'])
  t.same(textsOf(rules, 'bypassed'), ['both_ways: -A both_ways -j DROP'])
  const loop = judgeLines('filter', [
    '-A FORWARD -j one_x',
    '-A one_x -j two_x',
    '-A two_x -j one_x',
    '-A two_x -j DROP'
  ])
  t.same(textsOf(loop, 'bypassed'), ['two_x: -A two_x -j DROP'], 'a loop ends')
})

t.test('[C4] ebtables and arptables concern no packet that hostroute takes', async (t) => {
  const bridge = parseSave(
    '*filter\n:INPUT ACCEPT\n:FORWARD DROP\n-A FORWARD -p IPv4 -j DROP\n',
    'ebtables-nft',
    'bridge'
  )
  const arp = parseSave('*filter\n:INPUT ACCEPT\n-A INPUT -j DROP -s 10.0.0.1\n', 'arptables-nft', 'arp')
  t.same(
    judged([...bridge.tables, ...arp.tables]).map((each) => each.class),
    ['host-only', 'host-only', 'host-only']
  )
})

t.test('[C4] what iptables-save cannot show is told, what is no rule is refused', async (t) => {
  t.same(parseSave("# Table `filter' is incompatible, use 'nft' tool.\n", 'iptables-nft', 'ip').incompatible, [
    'filter'
  ])
  t.throws(() => parseSave('*filter\n:FORWARD ACCEPT [0:0]\nsomething else\n', 'iptables-nft', 'ip'), /something else/)
  t.throws(() => parseSave('*filter\n-A FORWARD -j DROP\n', 'iptables-nft', 'ip'), /not named before/)
  t.same(splitWords('-A X --comment "a \\"b\\" c" -j Y'), ['-A', 'X', '--comment', 'a "b" c', '-j', 'Y'])
})

t.test('[C4] listings of the legacy tools that have no list of their own to trust', async (t) => {
  const bridge = parseListing(
    'Bridge table: filter\n\nBridge chain: FORWARD, entries: 1, policy: DROP\n-p IPv4 -j own\n\nBridge chain: own, entries: 1, policy: RETURN\n-j DROP\n',
    'ebtables-legacy',
    'bridge',
    'filter'
  )
  t.same(textsOf(judged([bridge]), 'host-only'), [
    'FORWARD: -A FORWARD -p IPv4 -j own',
    'FORWARD: -P FORWARD DROP',
    'own: -A own -j DROP'
  ])
  const arp = parseListing(
    'Chain INPUT (policy ACCEPT)\n-j DROP -s 10.9.0.2 \n\nChain own (1 references)\n',
    'arptables-legacy',
    'arp',
    'filter'
  )
  t.same(textsOf(judged([arp]), 'host-only'), ['INPUT: -A INPUT -j DROP -s 10.9.0.2'])
  t.equal(arp.chains.get('own')?.hook, null)
})
