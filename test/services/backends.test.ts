// Backends that go while connections to them last.
// Mostly waits: for connections that must be refused.

import t, { type Test } from 'tap'
import { until } from '../lab/process.js'
import { type Family, labPlan, type Service } from './cluster.js'
import { FAMILIES, type Mode } from './proxy.js'
import { ALL_SERVICES, ServiceLab } from './service-lab.js'
import type { Flow } from './traffic.js'

const moving = (backends: Service['backends']): Service => ({
  name: 'moving',
  cluster: [7, 2],
  backends,
  nodePort: 30702
})

/** kube-proxy does it for UDP when a backend is gone: conntrack would hold on to it. */
async function forgetUdp(cluster: ServiceLab, family: Family, service: string, backend: string): Promise<void> {
  const filter = ['--orig-dst', service, '--dst-nat', backend, '-p', 'udp', '-f', family === 4 ? 'ipv4' : 'ipv6']
  await Promise.all(cluster.nodes.map((node) => node.exec(['conntrack', '-D', ...filter])))
}

/** The same is asked of the kernel alone and of a node with hostroute. */
function backendGoes(t: Test, mode: Mode, hostroute: boolean): void {
  const by = hostroute ? 'with hostroute' : 'by the kernel alone'
  t.test(`[K5] a backend goes under long connections, mode ${mode}, ${by}`, { timeout: 0 }, async (t) => {
    const cluster = await ServiceLab.create({ mode, services: [...ALL_SERVICES, moving(['p12'])] })
    t.teardown(() => cluster.close())
    if (hostroute) await cluster.enable()
    for (const family of FAMILIES) {
      const plan = labPlan(family)
      const service = plan.service(7, 2)
      const ask = { from: 'p11', address: service, port: 80 }
      await cluster.writeRules([...ALL_SERVICES, moving(['p12'])])
      const tcp = cluster.traffic.open({ ...ask, protocol: 'tcp' })
      const udp = cluster.traffic.open({ ...ask, protocol: 'udp' })
      const outside = cluster.traffic.open({ from: 'd', address: plan.hosts.n1, port: 30702, protocol: 'tcp' })
      for (const flow of [tcp, udp, outside]) await until('answers', async () => (await flow.look()).received > 5)
      t.equal((await tcp.look()).server, 'p12')

      await cluster.writeRules([...ALL_SERVICES, moving(['p21'])])
      await forgetUdp(cluster, family, service, plan.hosts.p12)
      t.equal((await cluster.traffic.ask({ ...ask, protocol: 'tcp' })).server, 'p21', 'new connections find the other')
      await movesTo(udp, 'p21')
      for (const flow of [tcp, outside]) {
        const { received } = await flow.look()
        await until('more answers', async () => (await flow.look()).received > received + 5)
        t.match(await flow.look(), { server: 'p12', error: '' }, 'an old TCP connection keeps its backend')
      }

      await cluster.writeRules([...ALL_SERVICES, moving([])])
      await forgetUdp(cluster, family, service, plan.hosts.p21)
      const refused = await cluster.traffic.ask({ ...ask, protocol: 'tcp', timeout: 3_000 })
      t.equal(refused.outcome, 'refused', 'without endpoints new connections are refused')
      await until('UDP is refused', async () => (await udp.look()).error === 'refused')
      t.match(await tcp.close(), { server: 'p12', error: '' })
      t.match(await outside.close(), { server: 'p12', error: '' })
      await udp.close(0)
    }
  })
}

async function movesTo(flow: Flow, server: string): Promise<void> {
  await until(`UDP moves to ${server}`, async () => (await flow.look()).server === server, 3_000)
}

for (const mode of ['iptables', 'nftables'] as Mode[]) {
  backendGoes(t, mode, false)
  backendGoes(t, mode, true)
}
