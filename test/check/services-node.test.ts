// `hostroute check` on nodes whose rules translate addresses: the rules are
// loaded by the real programs into a namespace that looks like node n1 of the
// recorded ones.
//
// Takes up to 240 s: every case loads the programs into the kernel once more.

import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { asIpv6 } from './ipv6.js'
import { checkIn, type Options, refusing } from './namespace.js'
import { recorded } from './rules.js'

t.setTimeout(240_000)

const directory = mkdtempSync(join(tmpdir(), 'hr-check-services-'))
t.teardown(() => rmSync(directory, { recursive: true }))

let files = 0
function file(text: string): string {
  const path = join(directory, String(files++))
  writeFileSync(path, text)
  return path
}

const device = (name: string) => `ip link add ${name} type veth peer name ${name}p netns $POD
ip link set ${name} up && nsenter --net=/proc/$POD/ns/net ip link set ${name}p up`

const n1 = `
ip link set lo up
ip link add up0 type veth peer name up0p
ip link set up0 up && ip link set up0p up
ip addr add 192.168.100.11/24 dev up0 && ip route add default via 192.168.100.1
ip addr add fd00:168::64:b/64 dev up0 nodad && ip -6 route add default via fd00:168::64:1
${[11, 12, 13].map((pod) => `${device(`pod${pod}`)}\nip route add 10.244.1.${pod}/32 dev pod${pod}\nip -6 route add fd00:244::1:${pod.toString(16)}/128 dev pod${pod}`).join('\n')}
echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
`

const check = (rules: string, options: Options = {}) => checkIn(`${n1}\n${rules}`, options).report

/** Lines that sum up what is translated. */
const translated = (report: ReturnType<typeof check>) =>
  report.findings.filter(({ code }) => code.startsWith('rules-translated')).map(({ what }) => what)

const iptables = file(recorded('kube-proxy-iptables.save'))
const iptables6 = file(asIpv6(recorded('kube-proxy-iptables.save')))
const nftables = recorded('kube-proxy-nftables.nft')
const v4Tables = nftables.slice(0, nftables.indexOf('table ip6 kube-proxy'))
/** Its own table alone, for both families. */
const v4Proxy = v4Tables.slice(v4Tables.indexOf('table ip kube-proxy'))

t.test('[K1] [K3] [K5] [C4] [C9] kube-proxy, iptables by nft and by legacy, both families', async (t) => {
  for (const backend of ['nft', 'legacy']) {
    // the agent's own chain is among the rules, and masquerades IPv6
    const rules = `iptables-${backend}-restore < ${iptables}; ip6tables-${backend}-restore < ${iptables6}`
    const report = check(rules, { config: 'snat:\n  masqueradeIPv6: true\n' })
    t.same(refusing(report), [], backend)
    t.same(translated(report), [
      `Service addresses of kube-proxy (iptables-${backend}): 48 destinations, left to the stack.`,
      `Ports of the node's own addresses translated by kube-proxy (iptables-${backend}): left to the stack.`
    ])
    t.equal(report.rules.bypassed, 0)
    t.ok(report.rules['host-only'] > 500)
  }
})

t.test('[K1] [K3] [K5] [C4] [C9] kube-proxy, nftables, both families', async (t) => {
  const both = file(`${v4Tables}\n${asIpv6(v4Proxy)}`)
  const report = check(`nft -f ${both}`)
  t.same(refusing(report), [])
  t.same(translated(report), [
    'Service addresses of kube-proxy (nftables): 48 destinations, left to the stack.',
    "Ports of the node's own addresses translated by kube-proxy (nftables): left to the stack."
  ])
  t.equal(report.rules.bypassed, 0)
})

t.test('[K5] [C9] kube-proxy, nftables, altered: what loses its limit is bypassed', async (t) => {
  const text = v4Proxy
    .replace('ip daddr @cluster-ips reject', 'reject')
    .replace('ip daddr . meta l4proto . th dport vmap @service-ips', 'tcp dport 80 dnat to 10.244.1.12:8080')
  const found = check(`nft -f ${file(text)}`).findings.filter(({ code }) => code === 'rule-bypassed')
  const texts = found.map(({ rule }) => rule?.text ?? '')
  t.ok(texts.some((each) => each.startsWith('reject')))
  t.ok(texts.some((each) => each.startsWith('tcp dport 80 dnat to 10.244.1.12:8080')))
})

t.test('[K4] [C4] [C9] portmap, docker -p and DNAT made by hand, together', async (t) => {
  const report = check(`
ip link add docker0 type bridge && ip link set docker0 up && ip addr add 172.17.0.1/16 dev docker0
iptables-nft-restore < ${file(recorded('docker.save').replace(':FORWARD DROP', ':FORWARD ACCEPT'))}
iptables-nft -t nat -N CNI-HOSTPORT-DNAT; iptables-nft -t nat -N CNI-DN-0123456789abcdef01234
iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
iptables-nft -t nat -A CNI-HOSTPORT-DNAT -p tcp -m multiport --dports 31080 -j CNI-DN-0123456789abcdef01234
iptables-nft -t nat -A CNI-DN-0123456789abcdef01234 -p tcp --dport 31080 -j DNAT --to-destination 10.244.1.13:8080
nft -f - <<END
table ip cni_hostport {
  chain hostports { tcp dport 31081 dnat to 10.244.1.13:8080; }
  chain prerouting {
    type nat hook prerouting priority dstnat
    fib daddr type local jump hostports
  }
}
table ip byhand {
  map forwarded { type ipv4_addr . inet_service : ipv4_addr . inet_service; elements = { 198.51.100.7 . 80 : 10.244.2.21 . 8080 } }
  chain prerouting {
    type nat hook prerouting priority dstnat
    dnat ip to ip daddr . tcp dport map @forwarded
    ip daddr 198.51.100.16-198.51.100.19 tcp dport 80 redirect to :8080
    ip daddr { 198.51.100.8, 198.51.100.9 } dnat to 10.244.2.22
    iifname "up0" fib daddr type local tcp dport 2222 dnat to 10.244.1.12:22
  }
  chain forward {
    type filter hook forward priority 0
    ip daddr 198.51.100.8 drop
    ct status dnat log
  }
}
END`)
  t.same(refusing(report), [])
  t.same(translated(report), [
    'Translated by nft ip byhand, prerouting: 4 destinations (198.51.100.7, 198.51.100.16/30, 198.51.100.8, 198.51.100.9), left to the stack.',
    "Ports of the node's own addresses translated by Docker, portmap, nft ip byhand, prerouting: left to the stack."
  ])
})

t.test('[K4] [C9] [C11] what translates packets to anywhere refuses; following the advice passes', async (t) => {
  const redirect = 'iptables-nft -t nat -A PREROUTING -i pod11 -p tcp --dport 80 -j REDIRECT --to-ports 3128'
  const native = (limit: string) =>
    `nft 'table ip x { chain c { type nat hook prerouting priority -100; iifname "pod11" ${limit} tcp dport 80 redirect to :3128; }; }'`
  const set = `ipset create LAN hash:net && ipset add LAN 198.51.100.0/24
iptables-nft -t nat -A PREROUTING -m set --match-set LAN dst -j DNAT --to-destination 10.244.2.21`
  const policy = 'version: 1\naccepted: [policy-bypassed]\n'
  const before = check([redirect, native(''), set, 'iptables-nft -P FORWARD DROP'].join('\n'), { policy })
  t.same(refusing(before), ['rule-bypassed', 'rule-bypassed', 'rule-bypassed'])
  const about = (text: string) => before.findings.find(({ rule }) => rule?.text.includes(text))
  for (const text of ['-j REDIRECT', 'redirect to'])
    t.match(about(text), { why: /any destination/, remedy: /-d ADDRESS.*pods\.devices/ })
  t.match(about('--match-set LAN'), { remedy: /stackPrefixes/ })
  t.match(about('-P FORWARD DROP'), { outcome: 'warning', remedy: null }, 'no advice for what the policy accepts')

  const stack = 'stackPrefixes: [198.51.100.0/24]\n'
  const limited = [redirect.replace('-p tcp', '-d 198.51.100.0/24 -p tcp'), native('ip daddr 198.51.100.0/24'), set]
  t.same(refusing(check(limited.join('\n'), { config: stack })), [], 'limited, and the set in stackPrefixes')
  const others = `pods: {devices: [pod12, pod13]}\n${stack}`
  t.same(refusing(check([redirect, native(''), set].join('\n'), { config: others })), [], 'its pod left out')
})

const command = fileURLToPath(new URL('./run-command.js', import.meta.url))

/** A kube-proxy with many Services, as it writes them. */
function manyServices(count: number): string {
  const hash = (index: number) =>
    index
      .toString(32)
      .toUpperCase()
      .replace(/[0189]/g, (digit) => 'WXYZ'[Number(digit) % 4] ?? '')
      .padStart(16, 'A')
  const chains = new Set<string>()
  const rules: string[] = []
  for (let index = 0; index < count; index++) {
    const [service, endpoint] = [`KUBE-SVC-${hash(index)}`, `KUBE-SEP-${hash(index)}`]
    if (chains.has(`:${service} - [0:0]`)) continue
    const address = `10.96.${index >> 8}.${index & 255}/32`
    chains.add(`:${service} - [0:0]`).add(`:${endpoint} - [0:0]`)
    rules.push(
      `-A KUBE-SERVICES -d ${address} -p tcp -m tcp --dport 80 -j ${service}`,
      `-A ${service} ! -s 10.244.0.0/16 -d ${address} -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ`,
      `-A ${service} -j ${endpoint}`,
      `-A ${endpoint} -p tcp -m tcp -j DNAT --to-destination 10.244.9.9:8080`
    )
  }
  return [
    '*nat',
    ':PREROUTING ACCEPT [0:0]',
    ...['KUBE-SERVICES', 'KUBE-NODEPORTS', 'KUBE-POSTROUTING', 'KUBE-MARK-MASQ'].map((name) => `:${name} - [0:0]`),
    ...chains,
    '-A PREROUTING -j KUBE-SERVICES',
    '-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000',
    ...rules,
    'COMMIT\n'
  ].join('\n')
}

t.test('[K12] [C9] [C10] thousands of Services are one line of the report', async (t) => {
  const rules = file(manyServices(2000))
  const services = manyServices(2000).match(/-A KUBE-SERVICES/g)?.length ?? 0
  t.ok(services > 1000)
  const script = `unshare --net sleep 60 & POD=$!
trap "kill $POD" EXIT
until [ "$(readlink /proc/$POD/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.02; done
${n1}
iptables-nft-restore < ${rules}
"$@"; STATUS=$?
"$@" --json | wc -c
exit $STATUS`
  const policy = file('version: 1\notherSystems: pass\naccepted: [kernel-bpffs]\n')
  const words = ['check', '--policy', policy, '--config', file('')]
  const { status, stdout } = spawnSync(
    'unshare',
    ['--net', 'sh', '-c', script, 'sh', process.execPath, command, ...words],
    {
      encoding: 'utf8'
    }
  )
  t.equal(status, 0, stdout)
  t.match(
    stdout,
    `ok       Service addresses of kube-proxy (iptables-nft): ${services} destinations, left to the stack.`
  )
  t.match(stdout, /Passed/)
  const lines = stdout.trimEnd().split('\n')
  t.ok(lines.length < 40, `${lines.length} lines`)
  t.ok(Number(lines.at(-1)) < 20_000, `${lines.at(-1)} bytes of JSON`)
})
