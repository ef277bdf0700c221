import { get as httpGet } from 'node:http'
import t from 'tap'
import type { Status } from '../../src/control/api.js'
import { Failure } from '../../src/control/failure.js'
import type { FlowRow } from '../../src/control/flow-api.js'
import { ago, fakeNode, fakeStatus, fakeTop } from '../control/fake.js'
import { start } from './run.js'

function body(socketPath: string, path: string): Promise<string> {
  return new Promise((resolve) => {
    httpGet({ socketPath, path }, (response) => {
      let text = ''
      response.on('data', (chunk) => {
        text += String(chunk)
      })
      response.on('end', () => resolve(text))
    })
  })
}

t.test('status says in the first line how it is, then the rest', async (t) => {
  const { ask } = await start(t)
  const { code, out, err } = await ask('status')
  t.equal(err, '')
  t.equal(code, 0)
  t.equal(
    out,
    `● hostroute 0.1.0 on node-1 is enabled: it routes for 2 pod addresses on 2 devices.
  Not valid, and so not in force: /etc/config/ip-masq-more; see below

Packets
                    PACKETS    BYTES      NOW
  forwarded       1,234,567  1.1 GiB  1,500/s  12.0 Mbit/s
  left to kernel        321  313 KiB    0.3/s   2.0 kbit/s
  dropped                 5  4.9 KiB        -            -

Devices
  DEVICE  ROLE    KIND      PROGRAMS           STATE
  tun0    uplink  tun       -                  not served: it has no MAC address
  vetha   pod     veth      from_pod (tcx)     served
  eth0    uplink  physical  from_uplink (tcx)  served

Left to the kernel
  IPv6 from vetha to fd00:7::/64: ip rule 1000: from all dport 53 lookup 100: the maps do not know "dport 53"

Services: 43 addresses from kube-proxy, nftables

Rules that translate without naming a destination; the fast path bypasses them
  ip nat PREROUTING, handle 7: iifname vetha tcp dport 80 redirect

Maps
                        USED         OF
  pods                     2     16,384  <1 %
  devices                  2      1,024  <1 %
  routes IPv4             12  1,048,576  <1 %
  routes IPv6              3  1,048,576  <1 %
  class routes IPv4       12     65,536  <1 %
  next hops                2     16,384  <1 %
  neighbours               5     65,536  <1 %
  flows IPv4         250,000    262,144  95 %
  flows IPv6               0    262,144   0 %
  Most flows: vetha 240,000, vethb 10,000
  33,512 SNAT ports towards each remote

Masquerading
  /etc/config/ip-masq-agent: in force, read 2 min ago
  /etc/config/ip-masq-more:3:3: nonMasqueradeCIDRs: found 5
  IPv6 is not masqueraded: no file names an IPv6 prefix (snat.masqueradeIPv6: auto)
  1 prefix keeps the pod's address; see: hostroute snat policy

Daemon
  process        pid 4711, up 2 h 4 min
  kernel         6.18.0, libbpf 1.4, network namespace 4:4026531840
  sync           synced, last dump 1 min ago, 1,234 events, 1 dump
  lease          the programs go on for 10 min without the daemon
  guard          iptables writes are refused, by fmod_ret; 3 so far; see: hostroute guard status
  detour         hostroute0, for what the programs cannot finish: 12 cut into fragments, 3,400 held, 5 dropped
  configuration  /etc/hostroute/config.yaml (not there: defaults)

Last errors
  30 s ago       sync: events were lost, dumping again
`
  )
})

t.test('status: files that are not valid are named at the top', async (t) => {
  const { configuration, masquerade } = fakeStatus()
  const top = async (some: Partial<Status>) =>
    (await (await start(t, {}, some)).ask('status')).out.split('\n\n')[0]?.split('\n').slice(1)
  const files = masquerade.files.filter(({ error }) => error === null)
  t.same(await top({ masquerade: { ...masquerade, files } }), [], 'none')
  t.same(await top({ masquerade: { ...masquerade, enabled: false } }), [], 'files that nobody follows')
  t.same(await top({ configuration: { ...configuration, error: 'config.yaml:1:1: log: no' } }), [
    `  Not valid, and so not in force: ${configuration.path}, /etc/config/ip-masq-more; see below`
  ])
})

t.test('status: a limit of flows that is not in force', async (t) => {
  const { counts } = fakeStatus()
  const problem = 'limits.flows is 9, but the flow tables were made for 4: 4 are in force'
  const { ask } = await start(t, {}, { counts: { ...counts, flowLimit: { configured: 9, inForce: 4, problem } } })
  t.match((await ask('status')).out, `262,144   0 %\n  ${problem}\n  Most flows`)
})

t.test('status: a node that is not well exits with 2 and says why', async (t) => {
  const degraded = await start(
    t,
    {},
    { mode: 'degraded', why: 'the map routes4 is full: 5 routes go through the kernel' }
  )
  const first = await degraded.ask('status')
  t.equal(first.code, 2)
  t.match(
    first.out,
    '● hostroute 0.1.0 on node-1 is degraded: the map routes4 is full: 5 routes go through the kernel.\n'
  )
  const disabled = await start(t, {}, { mode: 'disabled' })
  const second = await disabled.ask('status')
  t.equal(second.code, 2)
  t.match(second.out, "is disabled: all packets take the kernel's own way.\n  Enable it with: hostroute enable")
  const unconfirmed = await start(t, {}, { confirmBefore: ago(-45) })
  t.match(
    (await unconfirmed.ask('status')).out,
    /Not confirmed: it is undone in 4\d s unless you run: hostroute confirm/
  )
})

t.test('pods', async (t) => {
  const { ask } = await start(t)
  t.equal(
    (await ask('pods')).out,
    `ADDRESS   DEVICE  MAC                 MTU  STATE
10.1.0.2  vetha   02:00:00:00:00:02  1500  ready
fd00::2   vetha   -                  1500  waiting for its MAC: through the kernel meanwhile
`
  )
  const empty = await start(t, { pods: () => [] })
  t.match((await empty.ask('pods')).out, /^No pod is known: /)
})

t.test('routes, and one address', async (t) => {
  const { ask, node } = await start(t)
  t.equal(
    (await ask('routes', '--family', '4', '--within', '0.0.0.0/0', '--limit', '3')).out,
    `PREFIX       WHERE                                                       SNAT
0.0.0.0/0    via 192.0.2.1 dev eth0                                      192.0.2.10
10.5.0.0/16  via 192.0.2.1 dev eth0 weight 1, on-link dev eth1 weight 3  192.0.2.10, 198.51.100.10
10.6.0.0/16  kernel: blackhole                                           -

IPv4 from vetha asks main for 10.0.0.0/8, 100, main:
PREFIX      WHERE                      SNAT
0.0.0.0/0   via 198.51.100.1 dev eth1  192.0.2.10
10.0.0.0/8  the node's own routes      -
… and 1 more; raise --limit or filter
`
  )
  t.equal(node.calls.at(-1), 'routes {"family":4,"within":"0.0.0.0/0","limit":3}')
  t.equal(
    (await ask('routes', 'get', '203.0.113.7')).out,
    `203.0.113.7 from 10.1.0.2 via 192.0.2.1 dev eth0 lladdr 02:00:00:00:00:09 mtu 1500 snat 192.0.2.10 (route 0.0.0.0/0, masqueraded by 0.0.0.0/0)
`
  )
})

t.test('explain: the packet, the verdict, the stages, what to do', async (t) => {
  const { ask, node } = await start(t)
  const answer = await ask(
    'explain',
    '--from',
    '10.1.0.2:40000',
    '--to',
    '203.0.113.7:443',
    '--ttl',
    '9',
    '--flags',
    's'
  )
  t.equal(
    answer.out,
    `10.1.0.2:40000 → 203.0.113.7:443  tcp S, 40 bytes, TTL 64, in by vetha
Dropped: no free SNAT port towards this remote.

  device    vetha is a pod's: from_pod decides
  next hop  192.0.2.1 on eth0, MTU 1500

→ widen snat.ports, shorten snat.timeouts, or have the pods reuse connections; hostroute snat --remote ADDRESS
`
  )
  t.equal(answer.code, 0)
  t.equal(
    node.calls.at(-1),
    'explain {"from":"10.1.0.2","fromPort":40000,"to":"203.0.113.7","toPort":443,"ttl":9,"flags":"S"}'
  )
  await ask(
    'explain',
    '--from',
    '[FD00::2]:53',
    '--to',
    '[fd00::3]:53',
    '--proto',
    'udp',
    '--device',
    'eth0',
    '--size',
    '900'
  )
  t.equal(
    node.calls.at(-1),
    'explain {"from":"fd00::2","fromPort":53,"to":"fd00::3","toPort":53,"protocol":"udp","device":"eth0","size":900}'
  )
  await ask('explain', '--from', 'vetha', '--to', 'fd00::3', '--source-port', '7')
  t.equal(node.calls.at(-1), 'explain {"from":"vetha","fromPort":7,"to":"fd00::3"}')
})

t.test('what can be asked only while hostroute is enabled exits with 2', async (t) => {
  const refuse = () => {
    throw new Failure('disabled', 'hostroute is disabled: see hostroute enable')
  }
  const { ask } = await start(t, { explain: refuse, routeGet: refuse })
  const told = { code: 2, out: '', err: 'hostroute: hostroute is disabled: see hostroute enable\n' }
  t.match(await ask('explain', '--from', '10.1.0.2', '--to', '203.0.113.7'), told)
  t.match(await ask('routes', 'get', '203.0.113.7'), told)
})

t.test('next hops and neighbours', async (t) => {
  const { ask } = await start(t)
  t.equal(
    (await ask('nexthops')).out,
    `ID  DEVICE  GATEWAY    MAC                STATE   MTU  SNAT        ROUTES
 0  eth0    192.0.2.1  02:00:00:00:00:09  known  1500  192.0.2.10   1,200
`
  )
  for (const name of ['neighbors', 'neighbours']) t.equal((await ask(name)).out, 'No neighbour is in the maps.\n')
})

t.test('snat shows flows and the policy', async (t) => {
  const { ask, node } = await start(t)
  t.equal(
    (await ask('snat')).out,
    `PROTO  POD             SOURCE OUTSIDE   REMOTE            STATE          IDLE        AGE
tcp    10.1.0.2:40000  192.0.2.10:1024  203.0.113.7:443   established  250 ms  1 h 1 min
udp    [fd00::2]:5353  direct           [2001:db8::1]:53  one-way         2 s        2 s
`
  )
  t.equal(node.calls.at(-1), 'flows {"verdict":"snat"} 1000')
  await ask('snat', '--all', '--pod', 'FD00::2', '--protocol', 'UDP', '--limit', '7')
  t.equal(node.calls.at(-1), 'flows {"protocol":"udp","pod":"fd00::2"} 7')
  await ask('snat', '--limit', 'all')
  t.equal(node.calls.at(-1), 'flows {"verdict":"snat"} null')
  await ask('snat', '--json')
  t.equal(node.calls.at(-1), 'flows {"verdict":"snat"} null')
  t.equal(
    (await ask('snat', 'policy')).out,
    `The longest prefix that covers the destination decides.
DESTINATION  SOURCE                  FROM
0.0.0.0/0    masquerade              default
10.0.0.0/8   keep the pod's address  /etc/config/ip-masq-agent
/etc/config/ip-masq-more:3:3: nonMasqueradeCIDRs: found 5
`
  )
  t.equal(
    (await ask('snat', 'policy', 'test', '10.1.2.3')).out,
    "10.1.2.3 keeps the pod's address: 10.0.0.0/8, nonMasqueradeCIDRs in /etc/config/ip-masq-agent, line 2.\n"
  )
  await ask('snat', 'policy', 'test', 'FD00::0:1')
  t.equal(node.calls.at(-1), 'masqueradeTest fd00::1')
  t.match(await ask('snat', 'policy', 'test', '10.1.2.0/24'), {
    code: 64,
    err: /10\.1\.2\.0\/24 is not an IPv4 or IPv6 address/
  })
})

t.test('snat top: remotes near their limit, and the pods that use most', async (t) => {
  const { ask, node } = await start(t)
  t.equal(
    (await ask('snat', 'top', '--count', '3')).out,
    `Remotes by flows through SNAT, of 33,512 ports towards each
  PROTO  REMOTE             SOURCE OUTSIDE   FLOWS  OF PORTS
  udp    10.0.0.10:53       192.0.2.10      30,500    91.0 %
  tcp    [2001:db8::1]:443  2001:db8::10        12     0.0 %

Pods by flows
  POD       DEVICE   FLOWS    SNAT    NEW
  10.1.0.2  vetha   30,900  30,600  250/s

Pods by new flows per second, over the last 10 s
  POD       DEVICE   FLOWS    SNAT    NEW
  fd00::2   -          100      12  300/s
  10.1.0.2  vetha   30,900  30,600  250/s
`
  )
  t.equal(node.calls.at(-1), 'flowTop 3')
  const idle = { ...fakeTop, podsByNewFlows: [], remotes: [], uncertainty: 61 }
  const { out } = await (await start(t, { flowTop: async () => idle })).ask('snat', 'top')
  t.match(out, /^None of 31,000 flows goes through SNAT\./)
  t.match(out, /No pod has opened a flow in the last 10 s\./)
  t.match(out, /up to 61 flows are missing in a row/)
  const none = await start(t, { flowTop: async () => ({ ...idle, flows: 0 }) })
  t.equal((await none.ask('snat', 'top')).out, 'There are no flows.\n')
})

t.test('a list longer than what is shown says so, in columns that grow', async (t) => {
  const { ask } = await start(t, {
    async *flows() {
      const [row] = (await fakeNode().flows({}, null).next()).value as FlowRow[]
      for (let part = 0; part < 6; part++)
        yield Array.from({ length: 256 }, () => ({ ...row!, pod: part < 5 ? row!.pod : 'fd00:1111:2222::3333' }))
      return { total: 2000 }
    }
  })
  const lines = (await ask('snat', '--limit', '5000')).out.trimEnd().split('\n')
  t.equal(lines.length, 1 + 6 * 256 + 1)
  t.equal(lines.at(-1), '… and 464 more; raise --limit or filter')
  t.match(lines[1], /^tcp {4}10\.1\.0\.2:40000 {2}192/)
  t.match(lines.at(-2), /^tcp {4}\[fd00:1111:2222::3333\]:40000 {2}192/)
})

t.test('the policy: a refused one, defaults beside an agent, pods, and what the policy does not decide', async (t) => {
  const agent = { path: '/k/ip-masq-agent', pod: 'kube-system/ip-masq-agent-x7k2p', present: false, kept: true }
  const masquerade: Status['masquerade'] = {
    ...fakeStatus().masquerade,
    refused: 'the masquerade policy is refused as a whole: it has 20000 prefixes',
    defaultsOnly: 'only the defaults of ip-masq-agent apply, because no file was found',
    files: [
      { ...agent, read: null, error: null, warnings: [] },
      { ...agent, path: '/f', pod: null, present: true, kept: false, read: null, error: null, warnings: [] }
    ],
    policy: [{ prefix: '10.0.0.0/8', masquerade: false, from: ['/k/ip-masq-agent'] }]
  }
  const answer = {
    address: '169.254.1.1',
    masquerade: true,
    prefix: '0.0.0.0/0',
    entries: [],
    origin: 'no list covers it more closely',
    instead: 'link-local destinations are left to the kernel',
    refused: masquerade.refused
  }
  const { ask } = await start(t, { masqueradeTest: () => answer }, { masquerade })
  const status = (await ask('status')).out
  t.match(status, /refused as a whole/)
  t.match(status, /^ {2}\/f: valid$/m, 'a file of it is not said to be in force')
  t.match(status, /only the defaults of ip-masq-agent apply/)
  t.match(status, /\/k\/ip-masq-agent \(kube-system\/ip-masq-agent-x7k2p\): gone with its pod; what it said stays/)
  t.match(status, /IPv6 is not masqueraded: no file names an IPv6 prefix/)
  const policy = (await ask('snat', 'policy')).out
  t.match(policy, /10\.0\.0\.0\/8 +keep the pod's address +\/k\/ip-masq-agent \(kube-system\/ip-masq-agent-x7k2p\)/)
  t.match(policy, /refused as a whole/)
  const metrics = (await ask('metrics')).out
  t.match(metrics, /^hostroute_masquerade_refused 1$/m)
  t.match(metrics, /^hostroute_masquerade_defaults_only 1$/m)
  t.equal(
    (await ask('snat', 'policy', 'test', '169.254.1.1')).out,
    `169.254.1.1 is not decided by the policy: link-local destinations are left to the kernel.
The policy itself says: masquerade, by 0.0.0.0/0, no list covers it more closely.
the masquerade policy is refused as a whole: it has 20000 prefixes
`
  )
})

t.test('drops are explained, with what to do', async (t) => {
  const { ask } = await start(t)
  t.equal(
    (await ask('drops')).out,
    `hostroute has dropped 5 packets.

drop-spoof  5 packets, now 0.5/s
  the source address is not the pod's own, nor allowed for its device by pods.sources
  from: vetha 4, vethb 1
  → find the pod with hostroute monitor --drops; it forges sources, or forwards or answers for others (VPN, nested containers, DSR): then allow these in pods.sources

Left to the kernel (delivered, on the slower way)

ttl  321 packets
  TTL or hop limit used up: the kernel answers (traceroute)
  from: eth0 321
  → if many: look for a routing loop
`
  )
  t.match(
    (await ask('drops', '--device', 'vethb')).out,
    /^hostroute has dropped 1 packet\.\n[\s\S]*Nothing was left to the kernel\.\n$/
  )
  const nosuch = /^hostroute: there is no device nosuch that hostroute serves: hostroute status lists them\n$/
  const none = await start(t, {
    drops: () => [],
    async *routes() {
      yield []
      return { classes: [], total: 0 }
    }
  })
  for (const command of ['drops', 'routes'])
    t.match(await none.ask(command, '--device', 'nosuch'), { code: 1, out: '', err: nosuch }, command)
  t.match(await ask('drops', '--device', 'nosuch'), { code: 1, out: '', err: nosuch })
  t.match(await none.ask('drops', '--device', 'vetha'), { code: 0, out: /^hostroute has dropped no packet\./ })
  t.equal((await none.ask('drops')).out, 'hostroute has dropped no packet.\n\nNothing was left to the kernel.\n')
})

t.test('--json prints exactly what the API answers', async (t) => {
  const fixed = fakeStatus()
  const { ask, socket } = await start(t, { status: () => fixed })
  const pairs: [string[], string][] = [
    [['status'], '/v1/status'],
    [['pods'], '/v1/pods'],
    [['routes'], '/v1/routes?limit=1000'],
    [['routes', 'get', 'fd00::1'], '/v1/routes/get?address=fd00::1'],
    [['explain', '--from', 'vetha', '--to', '192.0.2.7:80'], '/v1/explain?from=vetha&to=192.0.2.7&toPort=80'],
    [['nexthops'], '/v1/nexthops'],
    [['neighbors'], '/v1/neighbours'],
    [['snat'], '/v1/flows?verdict=snat&limit=all'],
    [['snat', '--limit', '7'], '/v1/flows?verdict=snat&limit=7'],
    [['snat', 'top'], '/v1/flows/top?count=10'],
    [['snat', 'policy'], '/v1/masquerade'],
    [['snat', 'policy', 'test', '10.1.0.9'], '/v1/masquerade/test?address=10.1.0.9'],
    [['drops'], '/v1/drops'],
    [['verify'], '/v1/verify'],
    [['metrics'], '/v1/metrics']
  ]
  const outputs = await Promise.all(pairs.map(([args]) => ask(...args, '--json')))
  for (const [index, [args, path]] of pairs.entries())
    t.equal(outputs[index]?.out, await body(socket, path), args.join(' '))
})
