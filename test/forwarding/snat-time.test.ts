// SNAT over time: what changes under live flows, what must be forgotten and
// what must not.
// Mostly waits: for flows to end.

import t from 'tap'
import type { Status } from '../../src/control/api.js'
import type { FlowList } from '../../src/control/flow-api.js'
import { OUTSIDE } from '../lab/addresses.js'
import { NOT_MASQUERADED } from '../lab/netfilter.js'
import type { LabNode } from '../lab/node.js'
import { sleep, until } from '../lab/process.js'
import { captureAt, from } from './compare.js'
import { control, servedLab, status } from './served.js'

const families = ['v4', 'v6'] as const

async function flowsOf(node: LabNode, pod: string): Promise<FlowList['flows']> {
  return (await control(node).get<FlowList>('/v1/flows', { pod })).value.flows
}

t.test('[S12] a changed ip-masq-agent file: live flows keep their verdict, new ones get the new', async (t) => {
  const lab = await servedLab(t, { pods: 1 })
  const node = lab.node(0)
  const pod = node.pod(0)
  const policy = async (wanted: boolean) => {
    const excluded = (row: Status['masquerade']['policy'][number]) => row.prefix === '203.0.113.0/24' && !row.masquerade
    await until('the policy', async () => (await status(node)).masquerade.policy.some(excluded) === wanted, 5_000)
  }
  // whoever answers, the pod's own address reaches the outside, too
  await lab.router.ip(
    `route add 10.244.1.0/24 via ${node.address.v4}`,
    `route add fd00:244:1::/64 via ${node.address.v6}`
  )
  await lab.outside.ip('route add 10.244.1.0/24 via 203.0.113.1', 'route add fd00:244:1::/64 via 2001:db8:99::1')
  const all = families.flatMap((family) =>
    (['tcp', 'udp'] as const).map((protocol) => ({ protocol, address: OUTSIDE[family], port: 7 }))
  )
  const masked = await Promise.all(all.map((question) => pod.flow(question)))
  node.daemon.writeMasquerade({ nonMasqueradeCIDRs: [...NOT_MASQUERADED, '203.0.113.0/24', '2001:db8:99::/64'] })
  await policy(true)
  const plainFlows = await Promise.all(all.map((question) => pod.flow(question)))
  await sleep(200)
  node.daemon.writeMasquerade({ nonMasqueradeCIDRs: NOT_MASQUERADED })
  await policy(false)
  await sleep(200)
  for (const [index, question] of all.entries()) {
    const family = question.address === OUTSIDE.v4 ? 'v4' : 'v6'
    const [before, between] = [await masked[index]?.finish(), await plainFlows[index]?.finish()]
    const name = `${question.protocol} ${family}`
    t.match(
      before,
      { peer: node.address[family], error: null, received: before?.sent },
      `${name}: begun with SNAT, kept over both changes`
    )
    t.match(
      between,
      { peer: pod.address[family], error: null, received: between?.sent },
      `${name}: begun without, kept its own address`
    )
    t.equal((await pod.ask(question)).peer, node.address[family], `${name}: new, with SNAT again`)
  }
})

t.test('[S16] a new pod with a used address inherits no flow', async (t) => {
  const lab = await servedLab(t, { pods: 2 })
  const node = lab.node(0)
  const old = node.pod(1)
  const { address } = old
  for (const family of families) {
    await old.askAll(
      (['tcp', 'udp'] as const).map((protocol) => ({ protocol, address: OUTSIDE[family], port: 7, localPort: 37_000 }))
    )
  }
  const before = await flowsOf(node, address.v4)
  const used = before.find(({ protocol }) => protocol === 'udp')
  t.ok(used?.natPort, `the old pod’s UDP flow has port ${used?.natPort}`)
  await node.removePod(old)
  const fresh = await node.addPod(2)
  t.equal(fresh.address.v4, address.v4, 'the same address')
  await until('served', async () =>
    (await status(node)).hooks.some((row) => row.device === fresh.hostDevice && row.served)
  )
  const [atPod = []] = await captureAt([[fresh, 'eth0']], `udp port 37000`, async () => {
    await lab.outside.run(
      ['socat', '-u', '-', `UDP4-SENDTO:${node.address.v4}:${used?.natPort},bind=${OUTSIDE.v4}:7777`],
      { input: 'stray' }
    )
    await lab.outside.run([
      process.execPath,
      '-e',
      `const s=require('dgram').createSocket({type:'udp4',reuseAddr:true});s.bind(0,()=>s.send('late',${used?.natPort},'${node.address.v4}',()=>s.close()))`
    ])
    await sleep(200)
  })
  t.strictSame(atPod, [], 'late answers to the old pod do not reach the new one')
  for (const family of families) {
    const answers = await fresh.askAll(
      (['tcp', 'udp'] as const).map((protocol) => ({ protocol, address: OUTSIDE[family], port: 7, localPort: 37_000 }))
    )
    t.match(
      answers,
      [
        { error: null, peer: node.address[family] },
        { error: null, peer: node.address[family] }
      ],
      `${family}: the same source port works at once`
    )
  }
  const [mine] = (await flowsOf(node, address.v4)).filter(({ protocol }) => protocol === 'udp')
  t.ok((mine?.age ?? 99) < 10, 'with an entry of its own')
})

t.test('[S18] [S1] idle flows end, flows in use never do, and a late packet is not sent out bare', async (t) => {
  const lab = await servedLab(t, { pods: 1 })
  const node = lab.node(0)
  const pod = node.pod(0)
  const timeouts = { udpOneWay: '1s', udpReplied: '1s', icmp: '1s', tcpClosing: '1s' }
  node.daemon.writeConfig({
    checks: 'off',
    guard: { mode: 'off' },
    snat: { masqueradeFiles: [node.daemon.masqueradeFile], timeouts },
    expireInterval: '500ms'
  })
  await control(node).post('/v1/reload')
  const steady = await Promise.all(
    families.map((family) => pod.flow({ protocol: 'udp', address: OUTSIDE[family], port: 7, interval: 800 }))
  )
  const echo = pod.startPing(OUTSIDE.v4, { interval: 900 })
  const [first] = (await flowsOf(node, pod.address.v4)).filter(({ protocol }) => protocol === 'udp')
  const idle = await pod.askAll([
    { protocol: 'udp', address: OUTSIDE.v4, port: 7, localPort: 38_000 },
    { protocol: 'tcp', address: OUTSIDE.v4, port: 7, localPort: 38_001 }
  ])
  t.match(idle, [{ error: null }, { error: null }])
  await until(
    'idle flows are gone',
    async () => {
      const left = await flowsOf(node, pod.address.v4)
      return !left.some(({ podPort }) => podPort === 38_000 || podPort === 38_001)
    },
    6_000
  )
  await sleep(1_500)
  const [still] = (await flowsOf(node, pod.address.v4)).filter(({ protocol }) => protocol === 'udp')
  t.match(
    still,
    { podPort: first?.podPort, natPort: first?.natPort },
    'the flow in use has kept its entry and its port'
  )
  t.ok((still?.age ?? 0) >= 2, `for ${still?.age} s, with a timeout of 1 s`)
  await echo.stop('SIGINT')
  t.notMatch(echo.stdout, /Unreachable/)
  for (const flow of steady) {
    const report = await flow.finish()
    t.equal(report.received, report.sent, `${report.sent} messages, all answered`)
  }
  // what is left of an ended connection: a FIN or RST that comes after its entry has gone
  const [wire = []] = await captureAt([[lab.router, 'n1u0']], 'tcp', async () => {
    const late = pod.start(['socat', '-t9', 'PIPE', `TCP4:${OUTSIDE.v4}:7,sourceport=38002`])
    await until('connected', async () =>
      (await flowsOf(node, pod.address.v4)).some(({ podPort }) => podPort === 38_002)
    )
    await late.stop('SIGKILL')
    await sleep(300)
  })
  t.strictSame(from(wire, pod.address.v4), [], 'nothing left with the pod’s own address')
})
