// ip rules as clouds, VPNs and CNIs make them, on a node with two uplinks. The
// kernel is asked where each packet goes (`ip route get ... from ... iif ...`);
// captures behind both uplinks say where it went.

import t from 'tap'
import type { VerifyReport } from '../../src/control/api.js'
import { OUTSIDE } from '../lab/addresses.js'
import { readPing } from '../lab/host.js'
import type { Lab } from '../lab/lab.js'
import type { LabNode, LabPod } from '../lab/node.js'
import { until } from '../lab/process.js'
import { captureAt } from './compare.js'
import { control, counted, servedLab, status } from './served.js'

const families = ['v4', 'v6'] as const
type FamilyName = (typeof families)[number]

interface Setup {
  name: string
  /** `ip` words after "rule add" and "route add"; UP0 and UP1 are the gateways, POD1 and POD2 addresses. */
  rules: string[]
  routes: string[]
  /** Pods whose packets to the destinations hostroute forwards in part, at least so many of them. */
  forwarded: number
  /** Texts that status has to have about rules. */
  left?: RegExp[]
}

const RANGE = { v4: '198.18', v6: '2001:db8:18' }
/** X.1 to X.6 stand for the destinations that the setups tell apart. */
const target = (family: FamilyName, number: number): string =>
  family === 'v4' ? `${RANGE.v4}.${number}.9` : `${RANGE.v6}:${number}::9`
const prefix = (family: FamilyName, number: number): string =>
  family === 'v4' ? `${RANGE.v4}.${number}.0/24` : `${RANGE.v6}:${number}::/64`
const targets = [1, 2, 3, 4, 5, 6]

const setups: Setup[] = [
  {
    name: 'a second interface’s pod by its source (AWS)',
    rules: [
      'to POD1 lookup main pref 512',
      'to POD2 lookup main pref 512',
      'fwmark 0x80/0x80 lookup main pref 1024',
      'from POD1 lookup 102 pref 1536'
    ],
    routes: ['default via UP1 dev up1 table 102', 'X3 via UP0 dev up0 table 102'],
    forwarded: 12
  },
  {
    name: 'all but the host’s own routes into a table (wg-quick)',
    rules: ['lookup main suppress_prefixlength 0 pref 32764', 'not fwmark 0xca6c lookup 102 pref 32765'],
    routes: ['default via UP1 dev up1 table 102', 'X2 via UP0 dev up0', 'unreachable X4', 'throw X5'],
    forwarded: 9
  },
  {
    name: 'a table for all before main, with holes',
    rules: ['lookup 102 pref 5270'],
    routes: [
      'X1 via UP1 dev up1 table 102',
      'throw X2 table 102',
      'blackhole X3 table 102',
      'X4 via UP1 dev up1 table 102 mtu 1300'
    ],
    forwarded: 10
  },
  {
    name: 'by the device they come in by, goto, and rules that end the way',
    rules: [
      'iif pod1 to X1 lookup 102 pref 100',
      'to X2 unreachable pref 101',
      'goto 104 pref 102',
      'lookup 102 pref 103',
      'to X3 lookup 102 pref 104'
    ],
    routes: ['X1 via UP1 dev up1 table 102', 'X3 via UP1 dev up1 table 102', 'X4 via UP1 dev up1 table 102'],
    forwarded: 10
  },
  {
    name: 'a rule by port: only where its table answers',
    rules: ['ipproto udp dport 53 lookup 102 pref 100', 'to X4 tos 0x10 lookup 103 pref 101'],
    routes: ['X1 via UP1 dev up1 table 102', 'X4 via UP1 dev up1 table 103'],
    forwarded: 8,
    left: [/^100: from all ipproto udp dport 53 lookup 102$/, /^101: from all to .* tos 0x10 lookup 103$/]
  },
  {
    name: 'several legs and metrics in a table',
    rules: ['from POD1 to X1 lookup 102 pref 100', 'from POD1 to X2 lookup 102 pref 101'],
    routes: [
      'X1 via UP1 dev up1 metric 20 table 102',
      'X1 via UP0 dev up0 metric 30 table 102',
      'X2 table 102 nexthop via UP1 dev up1'
    ],
    forwarded: 12
  }
]

async function ip(node: LabNode, family: FamilyName, ...commands: string[]): Promise<void> {
  await node.run(['ip', family === 'v6' ? '-6' : '-4', '-batch', '-'], { input: `${commands.join('\n')}\n` })
}

function filledIn(words: string, node: LabNode, family: FamilyName): string {
  const [up0, up1] = node.uplinks
  return words
    .replace('UP0', up0?.router[family] ?? '')
    .replace('UP1', up1?.router[family] ?? '')
    .replace(/POD(\d)/g, (_, number) => node.pod(Number(number) - 1).address[family])
    .replace(/X(\d)/g, (_, number) => prefix(family, Number(number)))
}

/** By "pod address": the device that the kernel would send by; absent where it does not forward. */
async function kernelSays(node: LabNode, family: FamilyName): Promise<Map<string, string>> {
  const asked = node.pods.flatMap((pod) =>
    targets.map((number) => ({ source: pod.address[family], address: target(family, number), iif: pod.hostDevice }))
  )
  const input = asked.map(({ source, address, iif }) => `route get ${address} from ${source} iif ${iif}\n`).join('')
  const argv = ['ip', '-json', '-force', family === 'v6' ? '-6' : '-4', '-batch', '-']
  const { stdout, stderr } = await node.exec(argv, { input })
  const failed = new Set([...stderr.matchAll(/Command failed -:(\d+)/g)].map((match) => Number(match[1])))
  const answers = stdout.split('\n').filter((line) => line.startsWith('['))
  const found = new Map<string, string>()
  asked.forEach(({ source, address }, index) => {
    if (failed.has(index + 1)) return
    const [row] = JSON.parse(answers.shift() ?? '[]') as { dev?: string; type?: string }[]
    if (row?.dev && row.dev !== 'lo' && (row.type ?? 'unicast') === 'unicast')
      found.set(`${source} ${address}`, row.dev)
  })
  return found
}

/** By "pod address": the uplink that each echo request left by. */
async function leaves(lab: Lab, node: LabNode, family: FamilyName): Promise<Map<string, string>> {
  const filter = family === 'v4' ? 'icmp[icmptype] == icmp-echo' : 'icmp6 and ip6[40] == 128'
  const places = node.uplinks.map(({ device }, index) => ({ device, port: `n1u${index}` }))
  const pings = node.pods.flatMap((pod) => targets.map((number) => ({ pod, address: target(family, number) })))
  const captures = await captureAt(
    places.map(({ port }) => [lab.router, port]),
    filter,
    () => Promise.all(pings.map(({ pod, address }) => pod.ping(address, { count: 1, wait: 300 })))
  )
  const found = new Map<string, string>()
  captures.forEach((packets, index) => {
    for (const { packet } of packets)
      if (packet.ip) found.set(`${packet.ip.source} ${packet.ip.destination}`, places[index]?.device ?? '')
  })
  return found
}

async function inStep(node: LabNode): Promise<void> {
  await until('in step', async () => (await control(node).get<VerifyReport>('/v1/verify')).value.ok)
}

t.test('[F9] [F10] [F8] packets of pods go where the kernel’s rules and tables lead', async (t) => {
  const lab = await servedLab(t, { uplinks: 2 }, { config: { snat: { enabled: false } } })
  const node = lab.node(0)
  await lab.router.ip(
    'link add drop0 type veth peer name drop1',
    'link set drop0 up',
    `route add blackhole ${RANGE.v4}.0.0/16`,
    `route add blackhole ${RANGE.v6}::/48`
  )
  for (const family of families) {
    // The gateways are resolved before anything is counted.
    for (const { router } of node.uplinks) await node.ping(router[family], { count: 1 })
    for (const setup of setups) {
      const rules = setup.rules.map((words) => filledIn(words, node, family))
      const routes = setup.routes.map((words) => filledIn(words, node, family))
      await ip(
        node,
        family,
        ...routes.map((words) => `route add ${words}`),
        ...rules.map((words) => `rule add ${words}`)
      )
      await inStep(node)
      const before = await counted(node, 'forwarded')
      const went = await leaves(lab, node, family)
      const forwarded = (await counted(node, 'forwarded')) - before
      const wanted = await kernelSays(node, family)
      t.strictSame(
        Object.fromEntries([...went].sort()),
        Object.fromEntries([...wanted].sort()),
        `${family}: ${setup.name}`
      )
      t.ok(wanted.size > 0, 'the kernel forwards some of them')
      t.ok(forwarded >= setup.forwarded, `${family}: ${setup.name}: ${forwarded} of 12 by the fast path`)
      const said = (await status(node)).stack.map(({ rule }) => rule ?? '')
      for (const text of setup.left ?? [])
        t.ok(
          said.some((each) => text.test(each)),
          `status names ${text}: ${said.join('; ')}`
        )
      await ip(
        node,
        family,
        ...rules.map((words) => `rule del ${words}`),
        ...routes.map((words) => `route del ${words}`)
      )
    }
  }
  await inStep(node)
  t.strictSame((await status(node)).stack, [], 'nothing is left of it')
})

t.test(
  '[F9] [F11] [S14] pod to pod, SNAT and answers under a rule by source; the rule comes and goes under traffic',
  async (t) => {
    const lab = await servedLab(t, { uplinks: 2, counters: true })
    const node = lab.node(0)
    const [one, two] = [node.pod(0), node.pod(1)]
    const [up0, up1] = node.uplinks
    if (!up0 || !up1) throw new Error('two uplinks')
    await lab.outside
      .ip('route add 192.168.101.0/24 via 203.0.113.1', 'route add fd00:168:101::/64 via 2001:db8:99::1')
      .catch(() => {})
    for (const family of families) {
      await node.ping(up1.router[family], { count: 1 })
      const pods = family === 'v4' ? '10.244.0.0/16' : 'fd00:244::/32'
      await ip(
        node,
        family,
        `route add default via ${up1.router[family]} dev up1 table 102`,
        `rule add to ${pods} lookup main pref 90`
      )
      const peerOf = async (pod: LabPod) => (await pod.ask({ protocol: 'udp', address: OUTSIDE[family], port: 7 })).peer
      t.equal(await peerOf(one), up0.address[family], `${family}: without the rule`)
      const ping = one.startPing(two.address[family], { interval: 5 })
      await ip(node, family, `rule add from ${one.address[family]} lookup 102 pref 100`)
      await until('the rule is obeyed', async () => (await peerOf(one)) === up1.address[family])
      await inStep(node)
      const before = await node.readCounters()
      for (const protocol of ['tcp', 'udp'] as const) {
        const answers = await Promise.all(
          [one, two].map((pod) => pod.ask({ protocol, address: OUTSIDE[family], port: 7 }))
        )
        t.match(
          answers,
          [
            { peer: up1.address[family], echoed: 32, error: null },
            { peer: up0.address[family], echoed: 32, error: null }
          ],
          `${family} ${protocol}: each by its uplink, and the answers come back`
        )
      }
      t.equal((await one.ping(two.address[family], { count: 5 })).received, 5, `${family}: pod to pod`)
      t.equal((await node.readCounters()).forward, before.forward, `${family}: nothing through the forward hook`)
      await ip(node, family, `rule del from ${one.address[family]} lookup 102 pref 100`)
      await until('the rule is gone', async () => (await peerOf(one)) === up0.address[family])
      await ping.stop('SIGINT')
      const { sent, lost } = readPing(ping.stdout, 2)
      t.strictSame(lost, [], `${family}: ${sent} pings from pod to pod, none lost`)
      await ip(node, family, `route del default table 102`, `rule del to ${pods} lookup main pref 90`)
    }
  }
)

t.test(
  '[F9] a pod that rules may keep from being reached from outside is the kernel’s, and status says why',
  async (t) => {
    const lab = await servedLab(t, { uplinks: 2 })
    const node = lab.node(0)
    const [one, two] = [node.pod(0), node.pod(1)]
    const { router } = node.uplinks[1] ?? { router: { v4: '' } }
    await node.ip(
      `route add default via ${router.v4} dev up1 table 102`,
      `rule add from 198.18.0.0/16 to ${one.address.v4} lookup 102 pref 100`
    )
    await inStep(node)
    const rows = (await status(node)).stack
    t.match(rows, [{ family: 4, devices: [one.hostDevice], destinations: null }])
    t.equal(rows[0]?.rule, `100: from 198.18.0.0/16 to ${one.address.v4} lookup 102`)
    const outcome = await node.hostroute(['status'])
    t.match(outcome.stdout, /100: from 198\.18\.0\.0\/16 to 10\.244\.1\.2 lookup 102/)
    const before = await counted(node, 'policy', one.hostDevice)
    t.match(await one.ask({ protocol: 'tcp', address: OUTSIDE.v4, port: 7, timeout: 300 }), {}, 'asked')
    t.ok((await counted(node, 'policy', one.hostDevice)) > before, 'counted as policy')
    t.match(await two.ask({ protocol: 'tcp', address: OUTSIDE.v4, port: 7 }), { error: null }, 'the other is served')
  }
)
