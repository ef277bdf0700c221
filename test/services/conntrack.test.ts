// Conntrack as administrators and agents treat it: entries deleted under
// traffic, connections not picked up in the middle, no liberal window.

import t from 'tap'
import { sleep } from '../lab/process.js'
import { LongFlows, MASQUERADED, PLAIN, TRANSLATED } from './flows.js'
import { FAMILIES } from './proxy.js'
import { differences, runCases } from './run-cases.js'
import { ServiceLab } from './service-lab.js'

const conntrack = (cluster: ServiceLab, ...words: string[]) =>
  Promise.all(cluster.nodes.map((node) => node.exec(['conntrack', ...words])))

/**
 * The kernel alone lets go on what it picks up again with the same addresses:
 * plain connections, and datagrams whose destination it translates and whose
 * source it does not. A masqueraded connection comes back with another port.
 */
const SURVIVORS = [
  { kinds: PLAIN, protocols: ['tcp', 'udp'] },
  { kinds: TRANSLATED.filter(({ masqueraded }) => !masqueraded), protocols: ['udp'] }
] as const

t.test('[K8] conntrack entries deleted under traffic', { timeout: 0 }, async (t) => {
  const cluster = await ServiceLab.create({ mode: 'iptables' })
  t.teardown(() => cluster.close())
  const open = (when: string) =>
    Promise.all(SURVIVORS.map(({ kinds, protocols }) => LongFlows.open(cluster, when, kinds, { protocols })))
  const silent = async (groups: LongFlows[]) => (await Promise.all(groups.map((flows) => flows.silent(3_000)))).flat()
  const deletions = [['-F'], ['-D', '-p', 'udp'], ['-D', '-p', 'tcp'], ['-D', '-f', 'ipv6'], ['-F']]
  const deleteAll = async (groups: LongFlows[], when: string) => {
    for (const words of deletions) {
      await conntrack(cluster, ...words)
      t.same(await silent(groups), [], `conntrack ${words.join(' ')}, ${when}: connections go on`)
    }
  }
  const older = await open('before hostroute was enabled')
  await deleteAll(older, 'by the kernel alone')
  const kernel = await runCases(cluster)
  t.same(kernel.wrong, [])

  await cluster.enable()
  const younger = await open('while hostroute was enabled')
  const masqueraded = await LongFlows.open(cluster, 'while hostroute was enabled', MASQUERADED)
  await deleteAll([...older, ...younger, masqueraded], 'with hostroute')
  t.same(differences(kernel, await runCases(cluster)), [])

  await cluster.disable()
  t.same(await silent([...older, ...younger, masqueraded]), [], 'and after it')
  t.same(await masqueraded.close(), [], 'those that hostroute masquerades lost nothing')
})

t.test('[K7] [K8] nf_conntrack_tcp_loose=0: nothing is picked up, nothing breaks', { timeout: 0 }, async (t) => {
  const cluster = await ServiceLab.create({ mode: 'iptables' })
  t.teardown(() => cluster.close())
  for (const node of cluster.nodes) await node.sysctl({ 'net.netfilter.nf_conntrack_tcp_loose': 0 })
  const kernel = await runCases(cluster)
  t.same(kernel.wrong, [], 'the kernel alone answers every case')
  const older = await LongFlows.open(cluster, 'before hostroute was enabled')
  await cluster.enable()
  t.same(differences(kernel, await runCases(cluster)), [], 'the same with hostroute')
  t.same(await older.silent(), [], 'connections from before go on')
  // so long that what conntrack remembers of them is out of every window
  await sleep(2_000)
  await cluster.disable()
  t.same(await older.silent(3_000), [], 'connections from before go on after it')
  t.same(differences(kernel, await runCases(cluster)), [], 'the same after it')
  t.same(await older.close(), [])
})

t.test('[K7] connections that conntrack must let in again, without a liberal window', { timeout: 0 }, async (t) => {
  const cluster = await ServiceLab.create({ mode: 'iptables' })
  t.teardown(() => cluster.close())
  for (const node of cluster.nodes) await node.sysctl({ 'net.netfilter.nf_conntrack_tcp_be_liberal': 0 })
  // quick ones whose window the kernel has scaled up, and slow ones
  const bulk = FAMILIES.map((family) => {
    const question = { from: 'p11', protocol: 'tcp', address: cluster.address('p21', family), port: 8080 } as const
    return cluster.traffic.open({ ...question, bytes: 30_000, interval: 5 })
  })
  await cluster.enable()
  const masqueraded = FAMILIES.map((family) => {
    const question = { from: 'p11', protocol: 'tcp', address: cluster.address('c', family), port: 8080 } as const
    return cluster.traffic.open({ ...question, bytes: 30_000, interval: 5 })
  })
  const slow = await LongFlows.open(cluster, 'while hostroute was enabled', [...PLAIN, ...MASQUERADED], {
    interval: 400
  })
  await sleep(2_000)
  for (let round = 0; round < 3; round++) {
    await cluster.disable()
    t.same(await slow.silent(4_000), [], `round ${round + 1}: slow connections go on`)
    await cluster.enable()
    t.same(await slow.silent(4_000), [], `round ${round + 1}: and back again`)
  }
  t.same(await slow.close(), [])
  for (const flow of [...bulk, ...masqueraded]) {
    const report = await flow.close(5_000)
    t.match(report, { error: '', received: report.sent }, 'bulk data loses nothing')
  }
})
