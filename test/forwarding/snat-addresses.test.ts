// Source addresses for SNAT by configuration, with real connections: shared by
// the pods, removed, changed by reload, and none of them there.

import t from 'tap'
import { OUTSIDE } from '../lab/addresses.js'
import type { LabNode, LabPod } from '../lab/node.js'
import { until } from '../lab/process.js'
import { counted, plain, servedLab, status } from './served.js'

const families = ['v4', 'v6'] as const
const listed = {
  v4: ['192.168.100.201', '192.168.100.202', '192.168.100.203'],
  v6: ['fd00:168:100::c1', 'fd00:168:100::c2', 'fd00:168:100::c3']
}
const prefixes = ['192.168.100.192/26', 'fd00:168:100::c0/122']
const masquerade = { masqueradeIPv6: true }

const addresses = (verb: string, [v4, v6]: [string, string]) => [
  `addr ${verb} ${v4}/24 dev up0`,
  `addr ${verb} ${v6}/64 dev up0${verb === 'add' ? ' nodad' : ''}`
]

async function reload(node: LabNode, snat: object): Promise<void> {
  node.daemon.writeConfig({ ...plain, snat: { ...masquerade, ...snat } })
  const outcome = await node.hostroute(['reload'])
  if (outcome.status !== 0) throw new Error(outcome.stdout)
}

/** What the outside sees of the pod, in one connection or datagram each. */
async function seen(pod: LabPod, family: 'v4' | 'v6'): Promise<string[]> {
  const question = { address: OUTSIDE[family], port: 7 }
  const answers = await pod.askAll([
    { ...question, protocol: 'tcp' },
    { ...question, protocol: 'tcp' },
    { ...question, protocol: 'udp' },
    { ...question, protocol: 'udp', localPort: 9999 }
  ])
  return [...new Set(answers.map(({ peer, error }) => peer ?? String(error)))]
}

t.test('[S14] several addresses share the pods, each of which keeps its own', async (t) => {
  const lab = await servedLab(t, { pods: 8 }, { config: { snat: masquerade } })
  const node = lab.node(0)
  const pairs = listed.v4.map((v4, index): [string, string] => [v4, listed.v6[index] ?? ''])
  await node.ip(...pairs.flatMap((pair) => addresses('add', pair)))
  await reload(node, { addresses: prefixes })
  await until('all are in use', async () => {
    const { stdout } = await node.hostroute(['nexthops'])
    return [...listed.v4, ...listed.v6].every((address) => stdout.includes(address))
  })
  for (const family of families) {
    const of = new Map<LabPod, string>()
    for (const pod of node.pods) {
      const peers = await seen(pod, family)
      t.equal(peers.length, 1, `${family}: ${peers.join()}`)
      t.ok(listed[family].includes(peers[0] ?? ''))
      of.set(pod, peers[0] ?? '')
    }
    t.ok(new Set(of.values()).size > 1, `${family}: ${[...of.values()].join(', ')}`)

    const [pod] = node.pods as [LabPod]
    const gone = of.get(pod) ?? ''
    await node.ip(`addr del ${gone}/${family === 'v4' ? 24 : 64} dev up0`)
    await until('another takes its place', async () => (await seen(pod, family))[0] !== gone)
    const after = await Promise.all(node.pods.map((each) => seen(each, family)))
    t.ok(
      after.every(([peer]) => listed[family].includes(peer ?? '') && peer !== gone),
      'of those that are left'
    )
    const kept = node.pods.filter((each, index) => of.get(each) !== gone && after[index]?.[0] === of.get(each))
    t.ok(kept.length > 0, 'and others keep what they have')
  }
  t.equal((await node.hostroute(['verify'])).status, 0)

  // by reload: new flows only
  const [pod] = node.pods as [LabPod]
  const before = (await seen(pod, 'v4'))[0]
  const flow = await pod.flow({ protocol: 'tcp', address: OUTSIDE.v4, port: 7 })
  await reload(node, { addresses: [node.address.v4] })
  await until('the one address', async () => (await seen(pod, 'v4'))[0] === node.address.v4)
  const report = await flow.finish()
  t.match(report, { peer: before, error: null }, 'the connection has kept its address')
  t.equal(report.received, report.sent, 'without a loss')
})

t.test('[S14] while none of the addresses is there nothing leaves with another, nor with the pod’s', async (t) => {
  const missing = '192.168.100.250'
  const lab = await servedLab(t, { pods: 1 }, { config: { snat: masquerade } })
  const node = lab.node(0)
  await reload(node, { addresses: [missing] })
  const pod = node.pod(0)
  const capture = await lab.outside.capture('eth0', 'icmp')
  t.equal((await pod.ping(OUTSIDE.v4, { count: 3, wait: 300 })).received, 0)
  t.equal((await capture.stop()).length, 0)
  t.equal(await counted(node, 'drop-source'), 3)
  t.equal((await pod.ping(OUTSIDE.v6, { count: 3 })).received, 3, 'IPv6 is not named')
  const told = await status(node)
  t.equal(told.mode, 'degraded')
  t.match(told.why, /snat\.addresses: the node has none of them for IPv4/)
  t.match(told.masquerade.warnings, [told.why, `snat.addresses: the node has no address for ${missing}`])
  t.match((await node.hostroute(['drops'])).stdout, /drop-source {2}3 packets[\s\S]*ip address add/)
  t.match(
    (await node.hostroute(['explain', '--from', 'pod1', '--to', OUTSIDE.v4])).stdout,
    /none of the addresses in snat.addresses/
  )

  await node.ip(`addr add ${missing}/24 dev up0`)
  await until('the address is there', async () => (await pod.ping(OUTSIDE.v4, { count: 1, wait: 300 })).received === 1)
  t.equal((await status(node)).mode, 'enabled')
  await reload(node, { addresses: ['up0'] })
  const { peer } = await pod.ask({ protocol: 'tcp', address: OUTSIDE.v4, port: 7 })
  t.ok([missing, node.address.v4].includes(peer ?? ''), `${peer}: by device`)
})
