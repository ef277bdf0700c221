// What can stand in the way of a connection that is handed back, and what is
// said when the kernel would not translate. The kernel alone, without hostroute.

import t from 'tap'
import { noAddress } from '../../src/address.js'
import { protocols } from '../../src/conntrack/entry.js'
import type { LiveFlow } from '../../src/conntrack/hand-back.js'
import { OUTSIDE } from '../lab/addresses.js'
import { readPing } from '../lab/host.js'
import { until } from '../lab/process.js'
import {
  act,
  type Connections,
  hex,
  invalid,
  listed,
  liveFlows,
  MASQUERADE,
  open,
  paused,
  serve,
  strictNode,
  unseen
} from './support.js'

const families = ['v4', 'v6'] as const

t.test('[K7] pings through SNAT continue', async (t) => {
  const lab = await strictNode(t)
  const node = lab.node(0)
  const pod = node.pod(0)
  await node.run(['nft', '-f', '-'], { input: MASQUERADE })
  for (const family of families) {
    const protocol = family === 'v4' ? protocols.icmp : protocols.icmp6
    const ping = pod.startPing(OUTSIDE[family], { interval: 200, arguments: ['-e', '4711'] })
    t.teardown(() => ping.stop())
    await until('it is answered', () => readPing(ping.stdout).received > 2)
    // another identifier outside, as when two pods have the same
    const flow: LiveFlow = {
      family: family === 'v4' ? 4 : 6,
      protocol,
      pod: hex(pod.address[family]),
      podPort: 4711,
      remote: hex(OUTSIDE[family]),
      remotePort: 0,
      nat: { address: hex(node.address[family]), port: 815 },
      opener: 'pod',
      stage: 'established'
    }
    const done = await paused(node, async () => {
      await node.run(['conntrack', '-F'])
      return act(node, { verb: 'handBack', flows: [flow] })
    })
    t.match(done.result, { continues: 1, cannot: [] })
    const before = readPing(ping.stdout).received
    await until('it goes on', () => readPing(ping.stdout).received > before + 2)
    const lines = await listed(node)
    t.equal(lines.length, 1, 'by the one entry')
    t.match(lines[0], /id=4711 .*id=815/, 'which conntrack(8) lists with both identifiers')
    await ping.stop('SIGINT')
  }
})

t.test('[K7] entries that are in the way', async (t) => {
  const lab = await strictNode(t)
  const node = lab.node(0)
  const pod = node.pod(0)
  const server = await serve(t, lab.outside)
  await node.run(['nft', '-f', '-'], { input: MASQUERADE })
  const clients = await open(t, pod, 'tcp', OUTSIDE.v4, 4)
  const flows = liveFlows(pod.address.v4, OUTSIDE.v4, protocols.tcp, await server.list())
  t.match((await act(node, { verb: 'handBack', flows })).result, { continues: 4, cannot: [] }, 'the same translation')

  const wrong = flows.map((flow) => ({ ...flow, nat: { address: flow.nat?.address ?? noAddress, port: 1 } }))
  const { result } = await act(node, { verb: 'handBack', flows: wrong })
  t.match(
    result,
    { continues: 0, cannot: wrong.map((flow) => ({ flow, why: 'clash' })) },
    'another translation clashes'
  )
  t.equal(await clients.speak(), 4, 'and is left as it is')

  const untranslated = flows.map((flow) => ({ ...flow, nat: null }))
  const opening = flows.map((flow): LiveFlow => ({ ...flow, nat: null, opener: 'remote', stage: 'opening' }))
  const toNode = opening.map((flow, index): LiveFlow => {
    const { address = noAddress, port = 0 } = flows[index]?.nat ?? {}
    return { ...flow, pod: address, podPort: port }
  })
  for (const [what, obstacle] of Object.entries({ untranslated, 'opened by the remote': toNode })) {
    const done = await paused(node, async () => {
      await node.run(['conntrack', '-F'])
      const made = await act(node, { verb: 'handBack', flows: obstacle })
      t.match(made.result, { continues: 4, cannot: [] }, `${what}: made`)
      t.equal((await listed(node)).length, 4)
      return act(node, { verb: 'handBack', flows })
    })
    t.match(done.result, { continues: 4, cannot: [] }, 'replaced')
    t.equal((await listed(node)).length, 4)
    t.equal(await clients.speak(), 4, 'clients are answered')
    t.equal(await server.speak(), 4, 'servers, too')
  }
  t.equal(await invalid(node), 0)
})

t.test('[K7] a connection that is being opened or closed', async (t) => {
  const lab = await strictNode(t)
  const node = lab.node(0)
  const pod = node.pod(0)
  await node.run(['nft', '-f', '-'], { input: MASQUERADE })
  const flow = (podPort: number, stage: LiveFlow['stage'], protocol = 6): LiveFlow => ({
    family: 4,
    protocol,
    pod: hex(pod.address.v4),
    podPort,
    remote: hex(OUTSIDE.v4),
    remotePort: 9,
    nat: { address: hex(node.address.v4), port: podPort + 1 },
    opener: 'pod',
    stage
  })
  const flows = [flow(2000, 'opening'), flow(3000, 'closing'), flow(4000, 'opening', 17)]
  t.match(
    (await act(node, { verb: 'handBack', flows })).result,
    { continues: 2, cannot: [] },
    'a closed one does not count'
  )
  const lines = await listed(node)
  t.match(
    lines.find((line) => line.includes('sport=2000')),
    /ESTABLISHED .*\[UNREPLIED\]/
  )
  t.match(
    lines.find((line) => line.includes('sport=3000')),
    /TIME_WAIT .*\[ASSURED\]/
  )
  t.match(
    lines.find((line) => line.includes('sport=4000')),
    /\[UNREPLIED\]/
  )
  // the SYN is sent again, or its answer comes
  const server = await serve(t, lab.outside)
  const clients = pod.start(['socat', '-', `TCP4:${OUTSIDE.v4}:9,sourceport=2000`])
  t.teardown(() => clients.stop())
  await until('it is open', async () => (await server.list()).some(({ port }) => port === 2001))
  t.equal(await invalid(node), 0, 'with the port that was handed over')
})

t.test('[K7] a handshake that goes on by the fast path while it is handed back', async (t) => {
  const lab = await strictNode(t)
  const node = lab.node(0)
  const [one, two] = [node.pod(0), node.pod(1)]
  for (const first of ['client', 'server'] as const) {
    const port = first === 'client' ? 9 : 10
    const server = await serve(t, two, port)
    const clients: Connections[] = []
    await unseen(node, async () => {
      clients.push(await open(t, one, 'tcp', two.address.v4, 4, port))
    })
    const flows = liveFlows(one.address.v4, two.address.v4, protocols.tcp, await server.list(), port)
    const opening = flows.map((flow): LiveFlow => ({ ...flow, nat: null, stage: 'opening' }))
    t.match((await act(node, { verb: 'handBack', flows: opening })).result, { continues: 4, cannot: [] })
    const order = first === 'client' ? [...clients, server] : [server, ...clients]
    for (const side of order) t.equal(await side.speak(), 4, `the ${first}s speak first: all are answered`)
  }
  t.equal(await invalid(node), 0, 'no packet was invalid')
})

t.test('[K7] [K8] what cannot continue is said', async (t) => {
  const lab = await strictNode(t)
  const node = lab.node(0)
  const peers = [{ peer: node.address.v4, port: 30_000, own: 2000 }]
  const six = [{ peer: node.address.v6, port: 30_000, own: 2000 }]
  const pod = node.pod(0).address
  const flows = [...liveFlows(pod.v4, OUTSIDE.v4, 6, peers), ...liveFlows(pod.v6, OUTSIDE.v6, 6, six)]
  const handBack = async () => (await act(node, { verb: 'handBack', flows })).result
  t.match(await handBack(), { continues: 0, cannot: [{ why: 'no nat chain' }, { why: 'no nat chain' }] })
  await node.run(['nft', 'flush', 'ruleset'])
  await node.run(['iptables-legacy', '-t', 'nat', '-nL'])
  await node.run(['nft', 'add table ip6 some; add chain ip6 some nat { type nat hook postrouting priority 100; }'])
  await node.run(['conntrack', '-F'])
  t.match(await handBack(), { continues: 0, cannot: [{ why: 'not tracked' }, { why: 'not tracked' }] })
  await node.run(['iptables-legacy', '-t', 'nat', '-A', 'POSTROUTING', '-o', 'none', '-j', 'MASQUERADE'])
  await node.run(['conntrack', '-F'])
  t.match(await handBack(), { continues: 1, cannot: [{ why: 'not tracked', flow: { family: 6 } }] })
  await node.run(['nft', 'add rule ip6 some nat ct state new'])
  await node.run(['conntrack', '-F'])
  t.match(await handBack(), { continues: 2, cannot: [] })
  await node.run(['nft', 'flush chain ip6 some nat'])
  t.match(await handBack(), { continues: 2, cannot: [] }, 'entries of the family tell that it is tracked')
})
