// What `hostroute explain` says, held against what a real packet then does.

import t, { type Test } from 'tap'
import type { RouteAnswer } from '../../src/control/api.js'
import type { ExplainRequest, Explanation } from '../../src/control/explain-api.js'
import type { FlowList } from '../../src/control/flow-api.js'
import { OUTSIDE } from '../lab/addresses.js'
import type { LabNode } from '../lab/node.js'
import { until } from '../lab/process.js'
import { control, counted, servedLab } from './served.js'

type Question = ExplainRequest & { [key: string]: string | number }

const bad = {
  v4: { blackhole: '10.66.0.1', small: '198.51.100.9', stack: '198.18.0.9', spoofed: '10.99.0.1' },
  v6: { blackhole: 'fd66::1', small: '2001:db8:51::9', stack: '2001:db8:18::9', spoofed: 'fd99::1' }
} as const

async function explain(node: LabNode, request: ExplainRequest): Promise<Explanation> {
  return (await control(node).get<Explanation>('/v1/explain', { ...(request as Question) })).value
}

const stage = ({ stages }: Explanation, name: string): string =>
  stages
    .filter((row) => row.stage === name)
    .map(({ found }) => found)
    .join('; ')

interface Case {
  name: string
  request: ExplainRequest
  reason: string
  /** Where it is counted. */
  device: string
  /** What the explanation holds besides the reason. */
  told?: object
  /** Sends such a packet. */
  real: () => Promise<unknown>
}

/** Asks, looks that the question itself was not counted, sends, and looks that it came as told. */
async function holds(
  t: Test,
  node: LabNode,
  { name, request, reason, device, told, real }: Case
): Promise<Explanation> {
  // the kernel confirms neighbours only when packets ask for it
  await until(`${name}: the explanation is ${reason}`, async () => {
    const found = (await explain(node, request)).reason === reason
    if (!found) await real()
    return found
  })
  const before = await counted(node, reason, device)
  const answer = await explain(node, request)
  t.match(answer, { reason, ...told }, `${name}: ${answer.summary}`)
  t.equal(await counted(node, reason, device), before, `${name}: the question is not counted`)
  await real()
  await until(`${name}: counted as ${reason}`, async () => (await counted(node, reason, device)) > before, 5_000)
  return answer
}

t.test('[F1] [F3] [F8] [F17] [P1] [P2] [S12] explain agrees with the packet that follows', async (t) => {
  const lab = await servedLab(
    t,
    { nodes: 2, pods: 3, counters: false },
    { config: { pods: { devices: ['pod1', 'pod2'] }, stackPrefixes: ['198.18.0.0/15', '2001:db8:18::/48'] } }
  )
  const [node, far] = [lab.node(0), lab.node(1).pod(0)]
  const [pod, near] = [node.pod(0), node.pod(1)]
  const { router } = node.uplinks[0]!
  await node.ip(
    'route add blackhole 10.66.0.0/16',
    'route add blackhole fd66::/32',
    `route add 198.51.100.0/24 via ${router.v4} mtu 1300`,
    `route add 2001:db8:51::/48 via ${router.v6} mtu 1300`
  )
  for (const family of ['v4', 'v6'] as const) {
    const ours = pod.address[family]
    const [outside, nat] = [OUTSIDE[family], node.address[family]]
    const places = bad[family]
    const ping =
      (address: string, ...words: string[]) =>
      () =>
        pod.ping(address, { count: 1, wait: 300, arguments: words })
    await pod.ping(outside, { count: 1 })
    await pod.ip(`addr add ${places.spoofed}/${family === 'v4' ? 32 : '128 nodad preferred_lft 0'} dev eth0`)
    await until('the maps have the routes', async () =>
      stage(await explain(node, { from: ours, to: places.blackhole }), 'route').includes('blackhole')
    )
    const overUplink = { device: 'up0', nextHop: router[family], mac: '02:04:00:00:00:00' }
    const cases: Case[] = [
      {
        name: 'a pod of this node',
        request: { from: 'pod1', to: near.address[family] },
        reason: 'to-pod',
        device: 'pod1',
        told: { verdict: 'forwarded', out: { device: 'pod2', mac: near.mac }, nat: null, in: { program: 'from_pod' } },
        real: ping(near.address[family])
      },
      {
        name: 'outside',
        request: { from: ours, to: outside },
        reason: 'to-uplink',
        device: 'pod1',
        told: {
          out: overUplink,
          nat: { what: 'source', address: nat, drawn: true },
          route: family === 'v4' ? '0.0.0.0/0' : '::/0'
        },
        real: ping(outside)
      },
      {
        name: 'a pod of another node',
        request: { from: ours, to: far.address[family], toPort: 80 },
        reason: 'to-uplink',
        device: 'pod1',
        told: { out: { nextHop: lab.node(1).address[family] }, nat: null, masquerade: { masquerade: false } },
        real: ping(far.address[family])
      },
      {
        name: 'on-link',
        request: { from: ours, to: lab.node(1).address[family] },
        reason: 'to-uplink',
        device: 'pod1',
        told: { out: { device: 'up0', nextHop: lab.node(1).address[family] } },
        real: ping(lab.node(1).address[family])
      },
      {
        name: 'TTL 1',
        request: { from: ours, to: outside, ttl: 1 },
        reason: 'ttl',
        device: 'pod1',
        told: { verdict: 'stack', out: null },
        real: ping(outside, '-t', '1')
      },
      {
        name: 'too big',
        request: { from: ours, to: places.small, size: 1428 },
        reason: 'mtu',
        device: 'pod1',
        told: { verdict: 'stack' },
        real: ping(places.small, '-s', '1400', '-M', 'do')
      },
      {
        name: 'a spoofed source',
        request: { from: places.spoofed, to: outside, device: 'pod1' },
        reason: 'drop-spoof',
        device: 'pod1',
        told: { verdict: 'drop' },
        real: ping(outside, '-I', places.spoofed)
      },
      {
        name: 'a blackhole',
        request: { from: ours, to: places.blackhole },
        reason: 'route',
        device: 'pod1',
        told: { verdict: 'stack', summary: /blackhole/ },
        real: ping(places.blackhole)
      },
      {
        name: 'a prefix left to the kernel by configuration',
        request: { from: ours, to: places.stack },
        reason: 'policy',
        device: 'pod1',
        told: { verdict: 'stack' },
        real: ping(places.stack)
      },
      {
        name: 'from another node to a pod',
        request: { from: far.address[family], to: ours },
        reason: 'to-pod',
        device: 'up0',
        told: { in: { device: 'up0', program: 'from_uplink' }, out: { device: 'pod1', mac: pod.mac } },
        real: () => far.ping(ours, { count: 1 })
      }
    ]
    for (const each of cases) await holds(t, node, { ...each, name: `${each.name}, ${family}` })
    await liveFlow(t, node, family)
    await t.test(`a device that is not served, ${family}`, async (t) => {
      const answer = await explain(node, { from: node.pod(2).address[family], to: outside })
      t.match(answer, { verdict: 'stack', reason: 'not-served', in: { device: 'pod3', program: null } })
      const before = await counted(node, 'forwarded')
      await node.pod(2).ping(outside, { count: 1, wait: 200 })
      t.equal(await counted(node, 'forwarded', 'pod3'), 0)
      t.equal(await counted(node, 'forwarded'), before, 'no program has seen it')
    })
  }
  await t.test('routes get is the same in one line', async (t) => {
    const { stdout } = await node.hostroute(['routes', 'get', OUTSIDE.v4])
    t.match(
      stdout,
      `${OUTSIDE.v4} from ${pod.address.v4} via ${router.v4} dev up0 lladdr 02:04:00:00:00:00 mtu 1500 snat ${node.address.v4}`
    )
    const answer = (await control(node).get<RouteAnswer>('/v1/routes/get', { address: bad.v4.blackhole, from: 'pod2' }))
      .value
    t.match(answer, { verdict: 'stack', from: near.address.v4, reason: 'route', route: { prefix: '10.66.0.0/16' } })
  })
  await t.test('[F6] no route', async (t) => {
    await node.ip('route del 0.0.0.0/0')
    await until('no route', async () => (await explain(node, { from: 'pod1', to: OUTSIDE.v4 })).reason === 'no-route')
    await holds(t, node, {
      name: 'no route',
      request: { from: 'pod1', to: OUTSIDE.v4 },
      reason: 'no-route',
      device: 'pod1',
      real: () => pod.ping(OUTSIDE.v4, { count: 1, wait: 200 })
    })
  })
  await t.test('what cannot be asked is a sentence and the right exit status', (t) => refusals(t, node))
})

/** A TCP flow through SNAT, seen from both sides. */
async function liveFlow(t: Test, node: LabNode, family: 'v4' | 'v6'): Promise<void> {
  const [pod, outside] = [node.pod(0), OUTSIDE[family]]
  const flow = await pod.flow({ protocol: 'tcp', address: outside, port: 7, bytes: 10, interval: 20 })
  const find = async () =>
    (await control(node).get<FlowList>('/v1/flows', { protocol: 'tcp', remote: outside, verdict: 'snat' })).value.flows
  await until('the flow is established', async () => (await find()).some(({ state }) => state === 'established'))
  const [known] = (await find()).filter(({ state }) => state === 'established')
  const { podPort = 0, natPort = 0 } = known ?? {}
  const out = await explain(node, { from: 'pod1', fromPort: podPort, to: outside, toPort: 7, flags: 'A' })
  t.match(out, {
    reason: 'to-uplink',
    nat: { what: 'source', address: node.address[family], port: natPort, drawn: false }
  })
  t.match(stage(out, 'flow'), /^known: SNAT/)
  const back = await explain(node, {
    from: outside,
    fromPort: 7,
    to: node.address[family],
    toPort: natPort ?? 0,
    flags: 'A'
  })
  t.match(back, {
    reason: 'to-pod',
    in: { device: 'up0' },
    out: { device: 'pod1', mac: pod.mac },
    nat: { what: 'destination', address: pod.address[family], port: podPort }
  })
  const other = await explain(node, { from: outside, fromPort: 7, to: node.address[family], toPort: 1, flags: 'A' })
  t.match(other, { reason: 'node', verdict: 'stack' })
  t.equal((await find()).length, 1, 'questions leave no flow')
  const report = await flow.finish()
  t.equal(report.received, report.sent, 'the flow itself was not disturbed')
}

async function refusals(t: Test, node: LabNode): Promise<void> {
  const cases: [words: string[], status: number, message: RegExp][] = [
    [['explain', '--from', 'nopod', '--to', OUTSIDE.v4], 1, /there is no pod nopod/],
    [['explain', '--from', 'up0', '--to', OUTSIDE.v4], 1, /up0 is not the device of a pod/],
    [['explain', '--from', node.address.v4, '--to', OUTSIDE.v4], 1, /is this node's own/],
    [['explain', '--from', 'pod1', '--to', OUTSIDE.v4, '--device', 'no0'], 1, /there is no device no0/],
    [['explain', '--from', '10.244.1.2', '--to', OUTSIDE.v6], 1, /same IP version/],
    [['routes', 'get', OUTSIDE.v4, '--from', 'nopod'], 1, /there is no pod nopod/]
  ]
  for (const [words, status, message] of cases) {
    const outcome = await node.hostroute(words)
    t.equal(outcome.status, status, words.join(' '))
    t.match(outcome.stderr, message)
  }
  await control(node).post('/v1/disable', { force: true })
  for (const words of [
    ['explain', '--from', 'pod1', '--to', OUTSIDE.v4],
    ['routes', 'get', OUTSIDE.v4]
  ]) {
    const outcome = await node.hostroute(words)
    t.equal(outcome.status, 2, 'disabled')
    t.match(outcome.stderr, /^hostroute: hostroute is disabled .*takes the kernel's own way/)
  }
}
