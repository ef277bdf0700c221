// hostroute begins and leaves under live connections, with kube-proxy's rule
// against invalid packets in place: none of them breaks.

import t, { type Test } from 'tap'
import { hexAddress } from '../../src/address.js'
import type { EnableResult } from '../../src/control/api.js'
import type { FlowList } from '../../src/control/flow-api.js'
import { control } from '../forwarding/served.js'
import { OUTSIDE, OUTSIDE_ROUTER } from '../lab/addresses.js'
import type { Lab } from '../lab/lab.js'
import type { LabNode } from '../lab/node.js'
import { until } from '../lab/process.js'
import { hex } from '../plan/node.js'
import { type Kind, Population } from './population.js'
import { act, invalid, MASQUERADE, strictNode } from './support.js'

t.setTimeout(300_000)

const service = { v4: '10.96.0.1', v6: 'fd00:96::1' }
/** Until the node's own rules are read, new connections to the Service need it. */
const config = { stackPrefixes: ['10.96.0.0/16', 'fd00:96::/112'] }
const direct: Kind[] = [
  { name: 'pod to pod', from: 'pod', to: 'near', count: 10 },
  { name: 'pod to another node', from: 'pod', to: 'far', count: 10 },
  { name: 'another node to pod', from: 'far', to: 'pod', count: 10 }
]
/** Opened from where the pods' own connections are masqueraded: who opened them decides. */
const inbound: Kind = { name: 'outside to pod', from: 'outside', to: 'pod', count: 10 }
const snat = (count: number): Kind => ({ name: 'SNAT', from: 'pod', to: 'outside', count })
const translated: Kind = { name: 'Service', from: 'pod', to: 'near', address: service, count: 10 }

/** The second node only has pods; the first has rules as a node with kube-proxy has. */
async function strictLab(t: Test): Promise<Lab> {
  const lab = await strictNode(t, { nodes: 2 })
  const node = lab.node(0)
  const [to4, to6] = [node.pod(1).address.v4, node.pod(1).address.v6]
  const dnat = `ip daddr ${service.v4} dnat ip to ${to4}\nip6 daddr ${service.v6} dnat ip6 to ${to6}`
  const chain = `chain prerouting {\ntype nat hook prerouting priority -100;\n${dnat}\n}`
  const { v4, v6 } = OUTSIDE_ROUTER
  await lab.outside.ip(`route add 10.244.1.0/24 via ${v4}`, `route add fd00:244:1::/64 via ${v6}`)
  await lab.router.ip(
    `route add 10.244.1.0/24 via ${node.address.v4}`,
    `route add fd00:244:1::/64 via ${node.address.v6}`
  )
  await node.run(['nft', '-f', '-'], { input: `${MASQUERADE}\ntable inet services {\n${chain}\n}\n` })
  return lab
}

async function snatFlows(node: LabNode): Promise<number> {
  return (await control(node).get<FlowList>('/v1/flows', { verdict: 'snat' })).value.total
}

t.test('[K7] disable under 1,000 connections through SNAT loses none', async (t) => {
  const lab = await strictLab(t)
  const node = lab.node(0)
  await node.startDaemon({ config })
  const population = await Population.open(t, lab, [snat(250), inbound, ...direct])
  population.ping(lab, [OUTSIDE.v4, OUTSIDE.v6, node.pod(1).address.v4])
  await until('pings are through SNAT, too', async () => (await snatFlows(node)) === 1002)
  const stop = population.chat()
  const { handedBack } = await node.daemon.json<EnableResult>('disable', '--force')
  t.match(handedBack, { continues: 1002, cannot: 0, reasons: [] })
  t.match(node.daemon.log, '1,002 connections through SNAT continue through the stack; 0 cannot.')
  t.equal(await stop(), 0, 'everybody was answered all the time')
  await population.goOn('server')
  for (const { sent, lost } of await population.endPings()) t.strictSame(lost, [], `of ${sent} pings none is lost`)
  t.equal(await invalid(node), 0, 'no packet was invalid')
})

t.test(
  '[K6] [K7] none breaks at enabling, at roll-back, or when a daemon is gone and hostroute is removed',
  async (t) => {
    const lab = await strictLab(t)
    const node = lab.node(0)
    const before = await Population.open(t, lab, [snat(10), translated, inbound, ...direct])
    before.ping(lab, [OUTSIDE.v4, OUTSIDE.v6, service.v4, service.v6, node.pod(1).address.v4])
    await node.startDaemon({ config })
    t.match(node.daemon.log, /conntrack translates \d+ of \d+ connections: they stay with the stack/)
    await before.goOn('server')
    await before.goOn('clients')

    const during = await Population.open(t, lab, [snat(10), translated, inbound, ...direct], 200)
    await node.daemon.json<EnableResult>('enable', '--confirm-within', '5s')
    await until('it is rolled back', () => node.daemon.log.includes('detached;'))
    t.match(node.daemon.log, /4\d connections through SNAT continue through the stack; 0 cannot/)
    await Promise.all([before.goOn('clients'), during.goOn('server')])

    await node.daemon.json<EnableResult>('enable')
    await Promise.all([before.goOn('server'), during.goOn('clients')])
    const last = await Population.open(t, lab, [snat(10), inbound, ...direct], 300)
    const removed = await node.daemon.removeAfterKill()
    t.match(removed, '40 connections through SNAT continue through the stack; 0 cannot')
    await Promise.all([before.goOn('clients'), during.goOn('server'), last.goOn('server')])
    for (const { sent, lost } of await before.endPings()) t.strictSame(lost, [], `of ${sent} pings none is lost`)
    t.equal(await invalid(node), 0, 'no packet was invalid')
  }
)

t.test('[K7] [K8] disable with nf_conntrack_tcp_loose=0', async (t) => {
  const lab = await strictLab(t)
  const node = lab.node(0)
  await node.sysctl({ 'net.netfilter.nf_conntrack_tcp_loose': 0 })
  await node.startDaemon({ config })
  const population = await Population.open(t, lab, [snat(10), ...direct.filter(({ to }) => to !== 'near')])
  const { handedBack } = await node.daemon.json<EnableResult>('disable', '--force')
  t.match(handedBack, {
    continues: 40,
    cannot: 0,
    reasons: [/^nf_conntrack_tcp_loose is 0: TCP connections between pods/]
  })
  t.equal(handedBack?.reasons.length, 1)
  await population.goOn('server')
  await population.goOn('clients')
  t.equal(await invalid(node), 0, 'no packet was invalid')
})

t.test('[K7] at the end of the lease untranslated connections and those of the stack go on', async (t) => {
  const lab = await strictLab(t)
  const node = lab.node(0)
  const before = await Population.open(t, lab, [translated, ...direct])
  await node.startDaemon({ config })
  const during = await Population.open(t, lab, [translated, ...direct], 200)
  await before.goOn('clients')
  await node.daemon.kill('SIGKILL')
  await node.daemon.endLease()
  await Promise.all([before.goOn('server'), during.goOn('clients')])
  t.equal(await invalid(node), 0, 'no packet was invalid')
})

t.test('[K7] what the stack has had all along goes on when hostroute leaves, whoever speaks first', async (t) => {
  const lab = await strictLab(t)
  const node = lab.node(0)
  const outside = [`${OUTSIDE.v4}/32`, `${OUTSIDE.v6}/128`]
  await node.startDaemon({ config: { stackPrefixes: [...config.stackPrefixes, ...outside] } })
  const population = await Population.open(t, lab, [inbound])
  await node.daemon.json<EnableResult>('disable', '--force')
  await population.goOn('server')
  t.equal(await invalid(node), 0, 'no packet was invalid')
})

t.test('[K7] [K12] connections that begin while hostroute leaves a full table go on', async (t) => {
  const lab = await strictLab(t)
  const node = lab.node(0)
  await node.startDaemon({ config })
  const fill = {
    verb: 'fill',
    pod: hex(node.pod(1).address.v4),
    nat: hexAddress('c0a8640b'),
    count: 50_000
  } as const
  await act(node, fill)
  const populations: Population[] = []
  const leaving = node.daemon.json<EnableResult>('disable', '--force')
  let left = false
  const ended = leaving.finally(() => {
    left = true
  })
  for (let port = 1_000; !left; port += 10) populations.push(await Population.open(t, lab, [inbound], port))
  await ended
  t.ok(populations.length > 0, `${populations.length * 40} connections began meanwhile`)
  for (const population of populations) await population.goOn('server')
})

t.test('[K6] connections whose entries are gone when hostroute is enabled are taken up in the middle', async (t) => {
  const lab = await strictLab(t)
  const node = lab.node(0)
  // the pod's port stays as it is: else nobody could know it any more
  await node.run(['nft', 'delete', 'table', 'inet', 'masquerade_like'])
  await node.run(['nft', '-f', '-'], { input: MASQUERADE.replaceAll(' fully-random', '') })
  const farService: Kind = {
    ...translated,
    name: 'Service of another node',
    to: 'far',
    address: { v4: '10.96.0.2', v6: 'fd00:96::2' }
  }
  const far = lab.node(1).pod(0).address
  await node.run(['nft', '-f', '-'], {
    input: `add rule inet services prerouting ip daddr 10.96.0.2 dnat ip to ${far.v4}
      add rule inet services prerouting ip6 daddr fd00:96::2 dnat ip6 to ${far.v6}`
  })
  const population = await Population.open(t, lab, [
    { ...snat(5), protocols: ['tcp'] },
    translated,
    farService,
    ...direct
  ])
  await node.run(['conntrack', '-F'])
  await node.startDaemon({ config })
  await population.goOn('clients')
  t.equal(await invalid(node), 0, 'no packet was invalid')
})
