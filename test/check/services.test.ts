// Rules that translate addresses, as kube-proxy and others write them, judged
// without a kernel: honoured where they are limited to destinations.

import t from 'tap'
import { hexPrefix } from '../../src/address.js'
import { parseIpsets } from '../../src/check/ipset.js'
import { parseSave } from '../../src/check/iptables-save.js'
import { judgeIpvs, parseIpvs } from '../../src/check/ipvs.js'
import type { NodeRules } from '../../src/check/node-rules.js'
import { defaultPolicy } from '../../src/check/policy.js'
import { judgeRules } from '../../src/check/rule-findings.js'
import type { RuleTable } from '../../src/check/ruleset.js'
import { asIpv6 } from './ipv6.js'
import { judged, judgeLines, recorded, savedTables, textsOf } from './rules.js'

/** Node n1 of the recorded rules. */
const n1: NodeRules = {
  pods: ['pod11', 'pod12', 'pod13'],
  uplinks: ['up0'],
  neverServed: [],
  stackPrefixes: [],
  own: [hexPrefix('c0a8640b/32'), hexPrefix('fd00016800000000000000000064000b/128')],
  podAddresses: [11, 12, 13].map((last) => hexPrefix(`0af401${last.toString(16).padStart(2, '0')}/32`)),
  snat: true
}

const iptables = recorded('kube-proxy-iptables.save')

const report = (tables: RuleTable[], everyRule = false) => judgeRules(tables, [], n1, defaultPolicy, everyRule)

/** Lines of the report, those about single rules left out. */
const lines = (tables: RuleTable[]): string[] =>
  report(tables)
    .findings.filter(({ rule }) => rule === null)
    .map(({ outcome, what }) => `${outcome}: ${what}`)

const bypassed = (tables: RuleTable[]): string[] => textsOf(judged(tables, n1), 'bypassed')

t.test('[K1] [K3] [C9] kube-proxy, iptables: nothing is bypassed, and its rules are one line', async (t) => {
  const tables = savedTables(iptables)
  t.same(bypassed(tables), [])
  t.same(lines(tables), [
    'pass: Service addresses of kube-proxy (iptables-nft): 24 destinations, left to the stack.',
    "pass: Ports of the node's own addresses translated by kube-proxy (iptables-nft): left to the stack.",
    'pass: 3 netfilter tables were read; the fast path bypasses none of their rules.'
  ])
  const { findings, classes } = report(tables)
  t.ok(findings.length < 30, `its rules are not listed: ${findings.length}`)
  const all = report(tables, true)
  t.equal(
    all.findings.filter(({ rule }) => rule !== null).length,
    Object.values(classes).reduce((sum, count) => sum + count),
    'unless every rule is asked for'
  )
})

t.test('[K1] [C9] kube-proxy, iptables, IPv6', async (t) => {
  const { tables } = parseSave(asIpv6(iptables), 'iptables-legacy', 'ip6')
  t.same(bypassed(tables), [])
  t.match(lines(tables)[0], /kube-proxy \(iptables-legacy\): 24 destinations/)
})

t.test('[K3] [C9] kube-proxy, iptables: source ranges of a LoadBalancer', async (t) => {
  const text = iptables
    .replace(':KUBE-SERVICES - [0:0]\n-A INPUT', ':KUBE-SERVICES - [0:0]\n-A INPUT')
    .replace(
      /^-A KUBE-SERVICES -d 10.96.0.250\/32 -p udp/m,
      '-A KUBE-PROXY-FIREWALL -d 198.51.100.30/32 -p tcp -m comment --comment "default/ranges:tcp traffic not accepted by KUBE-FW-62G2K226CYXYVRQA" -m tcp --dport 80 -j DROP\n$&'
    )
    .replace(
      '-A KUBE-MARK-MASQ -j MARK',
      '-A KUBE-FW-62G2K226CYXYVRQA -s 203.0.113.0/24 -m comment --comment "default/ranges:tcp loadbalancer IP" -j KUBE-EXT-62G2K226CYXYVRQA\n-A KUBE-SERVICES -d 198.51.100.30/32 -p tcp -m tcp --dport 80 -j KUBE-FW-62G2K226CYXYVRQA\n$&'
    )
    .replace(':KUBE-MARK-MASQ', ':KUBE-FW-62G2K226CYXYVRQA - [0:0]\n:KUBE-MARK-MASQ')
  t.not(text, iptables)
  t.same(bypassed(savedTables(text)), [])
  t.match(lines(savedTables(text))[0], /25 destinations/)
})

t.test('[K5] [C9] a Service without endpoints: its reject is honoured, and its address is a destination', async (t) => {
  const filter = savedTables(iptables).filter(({ name }) => name === 'filter')
  t.same(bypassed(filter), [])
  t.match(lines(filter)[0], /kube-proxy \(iptables-nft\): 2 destinations/, '10.96.0.250 and 198.51.100.13')
  const foreign = savedTables(
    '*filter\n:FORWARD ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n-A FORWARD -j KUBE-SERVICES\n-A KUBE-SERVICES -d 10.96.0.250/32 -j REJECT\nCOMMIT'
  )
  t.same(bypassed(foreign), ['KUBE-SERVICES: -A KUBE-SERVICES -d 10.96.0.250/32 -j REJECT'], "not kube-proxy's table")
})

t.test('[C9] kube-proxy, altered: what loses its limit is bypassed', async (t) => {
  const alter = (from: string | RegExp, to: string) => {
    const text = iptables.replace(from, to)
    t.not(text, iptables)
    return bypassed(savedTables(text))
  }
  t.match(alter(/-A KUBE-SERVICES -d 10.96.0.12\/32 -p tcp/, '-A KUBE-SERVICES -p tcp'), [
    /KUBE-MARK-MASQ -j MARK/,
    /KUBE-SEP-.* -j DNAT --to-destination 10.244.1.12:8080/
  ])
  t.match(alter('-A KUBE-SERVICES -d 10.96.0.12/32 -p tcp', '-A KUBE-SERVICES ! -d 10.96.0.12/32 -p tcp'), [
    /-j MARK/,
    /-j DNAT/
  ])
  t.match(
    alter('-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS', '-m addrtype --dst-type UNICAST -j KUBE-NODEPORTS').join(
      '\n'
    ),
    /-j MARK --set-xmark.*\n.*-j DNAT/s
  )
  t.same(alter('-A KUBE-SERVICES -d 10.96.0.250/32 -p udp', '-A KUBE-SERVICES -p udp').length, 1, 'a reject for all')
  t.same(
    alter(
      '-m conntrack --ctstate INVALID -j DROP',
      '-m conntrack --ctstate INVALID -m nfacct --nfacct-name ct_state_invalid_dropped_pkts -j DROP'
    ),
    [],
    'the INVALID rule since Kubernetes 1.32'
  )
  t.same(
    alter('-A KUBE-SERVICES -d 10.96.0.250/32 -p udp', '-A KUBE-FORWARD -s 10.244.1.12/32 -j DROP\n$&'),
    ['KUBE-FORWARD: -A KUBE-FORWARD -s 10.244.1.12/32 -j DROP'],
    "somebody's rule in its chain"
  )
})

t.test('[C9] chains of kube-router and Calico are not taken for those of kube-proxy', async (t) => {
  const text = iptables.replace(
    '-A FORWARD -m conntrack --ctstate NEW',
    '-A FORWARD -j KUBE-ROUTER-FORWARD\n-A FORWARD -j cali-FORWARD\n-A KUBE-ROUTER-FORWARD -d 10.244.1.12/32 -j KUBE-POD-FW-HUCBYAQ4W3KUBLOK\n-A KUBE-POD-FW-HUCBYAQ4W3KUBLOK -j REJECT --reject-with icmp-port-unreachable\n-A cali-FORWARD -m comment --comment "cali:x" -j DROP\n$&'
  )
  const withChains = text.replace(
    ':KUBE-FORWARD - [0:0]',
    ':KUBE-FORWARD - [0:0]\n:KUBE-ROUTER-FORWARD - [0:0]\n:KUBE-POD-FW-HUCBYAQ4W3KUBLOK - [0:0]\n:cali-FORWARD - [0:0]'
  )
  const rules = judged(savedTables(withChains), n1)
  t.same(
    rules.filter((each) => each.class === 'bypassed').map((each) => each.owner),
    ['kube-router', 'Calico']
  )
  t.match(rules.find((each) => each.owner === 'kube-router' && each.class === 'bypassed')?.remedy, /NetworkPolicy/)
})

const portmap = `*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:CNI-DN-0123456789abcdef01234 - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-HOSTPORT-MASQ - [0:0]
:CNI-HOSTPORT-SETMARK - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ
-A CNI-DN-0123456789abcdef01234 -s 10.244.1.0/24 -p tcp -m tcp --dport 31080 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-0123456789abcdef01234 -s 127.0.0.1/32 -p tcp -m tcp --dport 31080 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-0123456789abcdef01234 -p tcp -m tcp --dport 31080 -j DNAT --to-destination 10.244.1.13:8080
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \\"pods\\" id: \\"1\\"" -m multiport --dports 31080 -j CNI-DN-0123456789abcdef01234
-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
-A CNI-HOSTPORT-SETMARK -m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark 0x2000/0x2000
COMMIT
`

t.test('[K4] [C9] portmap and docker -p', async (t) => {
  t.same(bypassed(savedTables(portmap)), [])
  t.same(
    lines(savedTables(portmap))[0],
    "pass: Ports of the node's own addresses translated by portmap: left to the stack."
  )
  const docker = savedTables(recorded('docker.save')).filter(({ name }) => name === 'nat')
  t.same(textsOf(judged(docker, { ...n1, neverServed: ['docker0'] }), 'bypassed'), [])
  t.match(lines(docker)[0], /translated by Docker: left to the stack/)
})

t.test('[K4] [C9] hand-made rules with a destination are honoured', async (t) => {
  const honoured = [
    '-A PREROUTING -d 198.51.100.7/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.244.2.21:8080',
    '-A PREROUTING -d 198.51.100.0/28 -j NETMAP --to 10.244.2.0/28',
    '-A PREROUTING -i up0 -d 192.168.100.11/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.244.1.12:8080',
    '-A PREROUTING -d 169.254.169.254/32 -p tcp -j REDIRECT --to-ports 8181',
    '-A PREROUTING -m iprange --dst-range 198.51.100.7-198.51.100.9 -j DNAT --to-destination 10.244.2.21',
    '-A POSTROUTING -m conntrack --ctstate DNAT -j SNAT --to-source 192.168.100.11'
  ]
  for (const line of honoured) t.same(judgeLines('nat', [line], n1)[0]?.class, 'host-only', line)
  t.match(
    lines(savedTables(`*nat\n:PREROUTING ACCEPT [0:0]\n${honoured[0]}\nCOMMIT`))[0],
    /Translated by iptables-nft ip nat, PREROUTING: 1 destination \(198\.51\.100\.7\), left to the stack\./
  )
  const rules = judgeLines('filter', ['-A FORWARD -d 198.51.100.7/32 -j DROP'], n1)
  t.same(rules[0]?.class, 'bypassed', 'no rule translates it')
})

t.test('[K4] [C9] rules that translate packets to anywhere refuse, with a remedy that works', async (t) => {
  const refused: [line: string, limited: string][] = [
    [
      '-A PREROUTING -i pod11 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 3128',
      '-A PREROUTING -i pod11 -d 198.51.100.7/32 -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 3128'
    ],
    [
      '-A PREROUTING -p tcp -j REDIRECT --to-ports 15006',
      '-A PREROUTING -p tcp -m addrtype --dst-type LOCAL -j REDIRECT --to-ports 15006'
    ],
    [
      '-A PREROUTING ! -d 10.0.0.0/8 -p tcp -j DNAT --to-destination 192.168.100.9:3128',
      '-A PREROUTING -d 198.51.100.0/24 -p tcp -j DNAT --to-destination 192.168.100.9:3128'
    ],
    [
      '-A PREROUTING -i up0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.244.1.12:8080',
      '-A PREROUTING -i up0 -d 192.168.100.11/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.244.1.12:8080'
    ],
    [
      '-A PREROUTING -d 0.0.0.0/0 -p udp -m udp --dport 53 -j DNAT --to-destination 10.96.0.10',
      '-A PREROUTING -d 198.51.100.53/32 -p udp -m udp --dport 53 -j DNAT --to-destination 10.96.0.10'
    ]
  ]
  for (const [line, limited] of refused) {
    const [rule] = judgeLines('nat', [line], n1)
    t.equal(rule?.class, 'bypassed', line)
    t.match(rule?.why, /to any destination/)
    t.match(rule?.remedy, /Limit the rule to the addresses it is meant for/)
    t.equal(judgeLines('nat', [limited], n1)[0]?.class, 'host-only', 'limited as advised')
  }
  const device = judgeLines('nat', ['-A PREROUTING -i pod11 -p tcp -j REDIRECT'], {
    ...n1,
    pods: ['pod12'],
    neverServed: ['pod11']
  })
  t.equal(device[0]?.class, 'host-only', 'its device left out of pods.devices, as advised')
})

t.test('[K4] [C9] an address of a pod that is translated refuses: the fast path delivers there', async (t) => {
  for (const address of ['10.244.1.12/32', '10.244.1.0/24']) {
    const [rule] = judgeLines('nat', [`-A PREROUTING -d ${address} -p tcp -j DNAT --to-destination 10.244.2.21`], n1)
    t.equal(rule?.class, 'bypassed')
    t.match(rule?.why, /addresses of pods of this node/)
    t.match(rule?.remedy, /an address that no pod has/)
  }
})

t.test('[C9] what the daemon does not find is not honoured; stackPrefixes is the remedy, and enough', async (t) => {
  const line = '-A PREROUTING -d 198.51.100.7/32 -p tcp -j DNAT --to-destination 10.244.2.21'
  t.equal(judgeLines('nat', [line], { ...n1, translated: [hexPrefix('c6336407/32')] })[0]?.class, 'host-only')
  const [rule] = judgeLines('nat', [line], { ...n1, translated: [] })
  t.equal(rule?.class, 'bypassed')
  t.match(rule?.remedy, /put them into stackPrefixes/)
  const left = { ...n1, translated: [], stackPrefixes: [hexPrefix('c6336400/24')] }
  t.equal(judgeLines('nat', [line], left)[0]?.class, 'host-only')
})

t.test('[C9] sets of ipset: their addresses as they are; the daemon does not follow them', async (t) => {
  const sets = parseIpsets(`create LAN hash:net family inet hashsize 1024 maxelem 65536
add LAN 198.51.100.0/24
create EXCEPT hash:net family inet
add EXCEPT 198.51.100.0/24
add EXCEPT 198.51.100.8/32 nomatch
create PORTS bitmap:port range 0-65535
add PORTS 80
create PAIRS hash:ip,port family inet
add PAIRS 198.51.100.9,tcp:80
`)
  const classOf = (table: string, line: string, change: Partial<NodeRules> = {}) =>
    judged(
      parseSave(
        `*${table}\n:PREROUTING ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n${line}\nCOMMIT`,
        'iptables-nft',
        'ip',
        sets
      ).tables,
      { ...n1, ...change }
    )[0]
  const left = { stackPrefixes: [hexPrefix('c6336400/24')] }
  t.equal(classOf('filter', '-A FORWARD -m set --match-set LAN dst -j DROP')?.class, 'bypassed')
  t.equal(classOf('filter', '-A FORWARD -m set --match-set LAN dst -j DROP', left)?.class, 'host-only')
  t.equal(classOf('filter', '-A FORWARD -m set --match-set PAIRS dst,dst -j DROP', left)?.class, 'host-only')
  for (const match of [
    '! --match-set PAIRS dst,dst',
    '--match-set PORTS dst',
    '--match-set EXCEPT dst',
    '--match-set LAN src',
    '--match-set NONE dst'
  ])
    t.equal(classOf('filter', `-A FORWARD -m set ${match} -j DROP`, left)?.class, 'bypassed', match)
  const dnat = classOf('nat', '-A PREROUTING -m set --match-set LAN dst -p tcp -j DNAT --to-destination 10.244.2.21')
  t.equal(dnat?.class, 'bypassed')
  t.match(dnat?.remedy, /stackPrefixes/)
  t.equal(
    classOf('nat', '-A PREROUTING -m set --match-set LAN dst -p tcp -j DNAT --to-destination 10.244.2.21', left)?.class,
    'host-only',
    'as advised'
  )
})

const ipvs = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A60000C:0050 rr
  -> 0AF4010C:1F90      Masq    1      0          0
UDP  0A60000A:0035 rr
  -> 0AF4010C:1F90      Masq    1      0          0
  -> 0AF40215:1F90      Masq    1      0          0
TCP  [fd00:0096:0000:0000:0000:0000:0000:000c]:0050 rr
TCP  0A60000C:0051 rr persistent 600
FWM  00000007 rr
  -> C0A80009:0000      Route   1      0          0
`

t.test('[K1] [C9] IPVS: services and their addresses; without conntrack it refuses until it is told', async (t) => {
  const services = parseIpvs(ipvs)
  t.same(
    services.map(({ protocol, destination }) => `${protocol} ${destination}`),
    ['TCP 0a60000c/32', 'UDP 0a60000a/32', `TCP fd000096${'0'.repeat(22)}0c/128`, 'TCP 0a60000c/32', 'FWM null']
  )
  t.same(services[1]?.servers, { translated: 2, other: 0 })
  const judge = (value: string | null, list = services) => judgeIpvs(list, 'kube-proxy (ipvs)', () => value)
  t.match(judge('1'), [
    { outcome: 'pass', what: 'Service addresses of kube-proxy (ipvs): 3 destinations, left to the stack.' }
  ])
  t.match(judge('0'), [{ outcome: 'refuse', code: 'ipvs-conntrack', remedy: /sysctl -w net\.ipv4\.vs\.conntrack=1/ }])
  t.match(judge(null), [{ outcome: 'refuse', remedy: /CONFIG_IP_VS_NFCT/ }])
  t.match(judge('0', parseIpvs('TCP  0A60000C:0050 rr\n')), [{ outcome: 'warning' }], 'no server yet')
  t.match(
    judge('0', parseIpvs('TCP  0A60000C:0050 rr\n  -> C0A80009:0050      Route   1 0 0\n')),
    [{ outcome: 'pass' }],
    'direct routing translates nothing'
  )
  t.same(judge('0', []), [])
})

/** What kube-proxy 1.30 writes in mode ipvs. */
const ipvsRules = `*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-LOAD-BALANCER - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-NODE-PORT -p tcp -m comment --comment "Kubernetes nodeport TCP port for masquerade purpose" -m set --match-set KUBE-NODE-PORT-TCP dst -j KUBE-MARK-MASQ
-A KUBE-POSTROUTING -m comment --comment "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose" -m set --match-set KUBE-LOOP-BACK dst,dst,src -j MASQUERADE
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-SERVICES -s 127.0.0.0/8 -j RETURN
-A KUBE-SERVICES -m comment --comment "Kubernetes service lb portal" -m set --match-set KUBE-LOAD-BALANCER dst,dst -j KUBE-LOAD-BALANCER
-A KUBE-SERVICES ! -s 10.244.0.0/16 -m comment --comment "Kubernetes service cluster ip + port for masquerade purpose" -m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
-A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT
COMMIT
*filter
:FORWARD ACCEPT [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SOURCE-RANGES-FIREWALL - [0:0]
-A FORWARD -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-PROXY-FIREWALL -m comment --comment "Kubernetes service load balancer ip + port for load balancer with sourceRange" -m set --match-set KUBE-LOAD-BALANCER-FW dst,dst -j KUBE-SOURCE-RANGES-FIREWALL
-A KUBE-SOURCE-RANGES-FIREWALL -j DROP
COMMIT
`

t.test('[K1] [K3] [C9] kube-proxy, ipvs: its rules mark and filter packets to IPVS addresses', async (t) => {
  const sets = parseIpsets(`create KUBE-CLUSTER-IP hash:ip,port family inet
add KUBE-CLUSTER-IP 10.96.0.12,tcp:80
create KUBE-LOAD-BALANCER hash:ip,port family inet
add KUBE-LOAD-BALANCER 10.96.0.10,udp:53
create KUBE-LOAD-BALANCER-FW hash:ip,port family inet
add KUBE-LOAD-BALANCER-FW 10.96.0.10,udp:53
create KUBE-LOOP-BACK hash:ip,port,ip family inet
add KUBE-LOOP-BACK 10.244.1.12,tcp:8080,10.244.1.12
`)
  const judge = (known: typeof sets, text = ipvsRules) =>
    judgeRules(parseSave(text, 'iptables-nft', 'ip', known).tables, parseIpvs(ipvs), n1, defaultPolicy, true)
  const refusing = (found: ReturnType<typeof judge>) =>
    found.findings.filter(({ outcome, code }) => outcome === 'refuse' && code !== 'ipvs-conntrack')
  t.same(refusing(judge(sets)), [])
  t.equal(judge(sets).classes.bypassed, 0)
  t.equal(judge(sets).classes.translatable, 0)
  t.ok(judge(new Map()).classes.bypassed > 0, 'sets that cannot be read')
  const all = ipvsRules.replace(' -m set --match-set KUBE-LOAD-BALANCER-FW dst,dst', '')
  t.equal(judge(sets, all).classes.bypassed, 1, 'a drop for all')
})
