// One client port, used through a Service and directly towards its backend: the
// kernel tells the two apart by another source port for the second.

import t from 'tap'
import { until } from '../lab/process.js'
import type { Family, HostName, Plan } from './cluster.js'
import { labPlan, POD_PORT, PROTOCOLS } from './cluster.js'
import { FAMILIES } from './proxy.js'
import { ServiceLab } from './service-lab.js'

interface Pair {
  from: HostName
  to: HostName
  /** A translated destination that leads to the same backend and keeps the client's address. */
  service: (plan: Plan) => { address: string; port: number }
}

const PAIRS: readonly Pair[] = [
  { from: 'p11', to: 'p12', service: (plan) => ({ address: plan.service(0, 12), port: 80 }) },
  { from: 'p11', to: 'p21', service: (plan) => ({ address: plan.service(0, 21), port: 80 }) },
  { from: 'd', to: 'p12', service: ({ hosts }) => ({ address: hosts.n1, port: 30_112 }) }
]

let port = 20_000

/** Those that were not answered by the backend, in words. */
async function clash(cluster: ServiceLab, { from, to, service }: Pair, family: Family): Promise<string[]> {
  const plan = labPlan(family)
  const direct = { address: plan.hosts[to], port: POD_PORT }
  const wrong: string[] = []
  for (const protocol of PROTOCOLS) {
    for (const order of [
      [service(plan), direct],
      [direct, service(plan)]
    ]) {
      port += 1
      for (const target of order) {
        const { outcome, server } = await cluster.traffic.ask({ from, protocol, localPort: port, ...target })
        const which = target === direct ? 'direct' : 'through the Service'
        const place = target === order[0] ? 'first' : 'second'
        if (server !== to) wrong.push(`IPv${family} ${protocol} ${from} → ${to}, ${which}, ${place}: ${outcome}`)
      }
    }
  }
  return wrong
}

/** A connection through a Service that goes on while its port is used directly, too. */
async function alive(cluster: ServiceLab, { from, to, service }: Pair, family: Family): Promise<string[]> {
  const plan = labPlan(family)
  const wrong: string[] = []
  for (const protocol of PROTOCOLS) {
    port += 1
    const first = cluster.traffic.open({ from, protocol, localPort: port, ...service(plan) })
    const name = `IPv${family} ${protocol} ${from} → ${to}`
    await until(`${name}: an answer`, async () => (await first.look()).received > 0)
    const { outcome, server } = await cluster.traffic.ask({
      ...{ from, protocol, localPort: port, address: plan.hosts[to], port: POD_PORT }
    })
    if (server !== to) wrong.push(`${name}, direct: ${outcome}`)
    const { sent, received, error } = await first.close()
    if (sent !== received || error !== '') wrong.push(`${name}: ${received} of ${sent} came back ${error}`)
  }
  return wrong
}

t.test('[K1] [K3] one client port, through a Service and directly', { timeout: 0 }, async (t) => {
  const cluster = await ServiceLab.create({ mode: 'iptables' })
  t.teardown(() => cluster.close())
  const all = async () => {
    const wrong: string[] = []
    for (const family of FAMILIES)
      for (const pair of PAIRS)
        wrong.push(...(await clash(cluster, pair, family)), ...(await alive(cluster, pair, family)))
    return wrong
  }
  t.same(await all(), [], 'by the kernel alone')
  await cluster.enable()
  t.same(await all(), [], 'with hostroute')
  await cluster.disable()
  t.same(await all(), [], 'after it')
})
