// [K12] Many: queries, new connections, Services, conntrack entries.

import { writeFileSync } from 'node:fs'
import t from 'tap'
import { until } from '../lab/process.js'
import { labPlan, type Service } from './cluster.js'
import { LongFlows, MASQUERADED, TRANSLATED } from './flows.js'
import { FAMILIES } from './proxy.js'
import { runCases } from './run-cases.js'
import { ALL_SERVICES, ServiceLab } from './service-lab.js'

t.test('[K1] [K12] DNS over UDP and new connections at a high rate, through Services', { timeout: 0 }, async (t) => {
  const cluster = await ServiceLab.create({ mode: 'nftables' })
  t.teardown(() => cluster.close())
  const [dns, near, far] = ['10.96.0.10', '10.96.0.12', 'fd00:96::21']
  const load = async (when: string) => {
    const queries = { from: 'p11', protocol: 'udp', address: dns, port: 53, timeout: 3_000 } as const
    const connections = { ...queries, protocol: 'tcp', port: 80 } as const
    const one = await cluster.traffic.rate(queries, 8_000, 4_000)
    t.match(one, { answered: 8_000, refused: 0, timeout: 0, other: 0 }, `${when}: every query is answered`)
    t.same(
      Object.keys(one.servers)
        .map((each) => each.split(' ')[0])
        .sort(),
      ['p12', 'p21'],
      'by both backends'
    )
    // in all rounds together fewer than half of the client ports: beyond that connect() searches for long
    for (const address of [near, far]) {
      const two = await cluster.traffic.rate({ ...connections, address }, 2_500, 5_000)
      t.match(two, { answered: 2_500, refused: 0, timeout: 0, other: 0 }, `${when}: every connection is answered`)
      t.comment(`${when}: 2,500 connections to ${address} took ${Math.round(two.milliseconds)} ms`)
    }
  }
  await load('by the kernel alone')
  await cluster.enable()
  await load('with hostroute')
  await cluster.disable()
  await load('after it')
})

t.test('[K9] [K12] 4,000 ports of Services more, and 100,000 conntrack entries', { timeout: 0 }, async (t) => {
  const cluster = await ServiceLab.create({ mode: 'nftables' })
  t.teardown(() => cluster.close())
  // two protocols, two families; more take nft minutes to write
  const many: Service[] = Array.from({ length: 1_000 }, (_, index) => ({
    name: `many-${index}`,
    cluster: [100 + (index >> 7), 1 + (index & 127)],
    backends: [index % 2 === 0 ? 'p12' : 'p21']
  }))
  const [n1] = cluster.nodes
  const [proxy] = cluster.proxies
  if (!n1 || !proxy) throw new Error('the lab has no node')
  await proxy.write([...ALL_SERVICES, ...many])
  await fillConntrack(cluster)
  const older = await LongFlows.open(cluster, 'before hostroute was enabled', [...MASQUERADED, ...TRANSLATED])
  const start = performance.now()
  await n1.startDaemon({ timeout: 100_000 })
  t.comment(`enabled in ${Math.round(performance.now() - start)} ms`)
  t.same(await older.silent(), [], 'connections from before go on')
  t.same((await runCases(cluster)).wrong, [])
  const sample = many.filter((_, index) => index % 25 === 0)
  const reachable = async (services: readonly Service[]) => {
    const asks = FAMILIES.flatMap((family) =>
      services.map((service) => {
        const address = labPlan(family).service(...service.cluster)
        return { from: 'p11', protocol: 'tcp', address, port: 80, timeout: 500 } as const
      })
    )
    return (await cluster.traffic.askAll(asks)).filter(({ outcome }) => outcome === 'answered').length
  }
  t.equal(await reachable(sample), 2 * sample.length, 'a sample of the Services works')
  const fresh: Service = { name: 'fresh', cluster: [7, 1], backends: ['p12'] }
  await proxy.write([...ALL_SERVICES, ...many, fresh])
  const took = await until('one more Service works', async () => (await reachable([fresh])) === 2, 20_000)
  t.comment(`one more Service worked ${Math.round(took)} ms after its rules were written`)
  await proxy.write([...ALL_SERVICES, ...sample])
  t.same(await older.silent(), [], 'connections go on')
  const disabling = performance.now()
  await n1.hostroute(['disable', '--force'], 60_000)
  t.comment(`disabled in ${Math.round(performance.now() - disabling)} ms`)
  t.same(await older.close(), [], 'and lost nothing')
})

/** Half of them translated. */
async function fillConntrack(cluster: ServiceLab): Promise<void> {
  const file = `${cluster.lab.directory}/entries`
  const lines = Array.from({ length: 100_000 }, (_, index) => {
    const [a, b, c] = [(index >> 16) & 255, (index >> 8) & 255, index & 255]
    const tuple = `-s 10.244.1.2 -d 10.200.${a}.${b} -p udp --sport ${10_000 + c} --dport 53`
    const reply = index % 2 === 0 ? `-r 10.201.${a}.${b} -q 10.244.1.2` : `-r 10.200.${a}.${b} -q 10.244.1.2`
    return `-I ${tuple} ${reply} --reply-port-src 53 --reply-port-dst ${10_000 + c} -t 600 -u SEEN_REPLY,ASSURED`
  })
  writeFileSync(file, `${lines.join('\n')}\n`)
  await cluster.nodes[0]?.run(['conntrack', '-R', file], { timeout: 60_000 })
  const count = Number(await cluster.nodes[0]?.run(['conntrack', '-C']))
  if (count < 100_000) throw new Error(`conntrack holds ${count} entries only`)
}
