// hostroute first, kube-proxy later, as at boot; Services that come and go.
// Mostly waits: for connections that must be refused or time out.

import t from 'tap'
import { until } from '../lab/process.js'
import { POD_PORT, type Service } from './cluster.js'
import { LongFlows, TRANSLATED } from './flows.js'
import type { Mode } from './proxy.js'
import { runCases } from './run-cases.js'
import { ALL_SERVICES, ServiceLab } from './service-lab.js'

/** How soon a Service has to work after its rules are written: a second try succeeds. */
const SOON = 2_000

for (const mode of ['iptables', 'iptables-legacy', 'nftables'] as Mode[]) {
  t.test(`[K9] hostroute first, rules in mode ${mode} later: every case works`, { timeout: 0 }, async (t) => {
    const cluster = await ServiceLab.create({ mode, rules: false })
    t.teardown(() => cluster.close())
    await cluster.enable()
    const early = (['p11', 'p21'] as const).flatMap((from) =>
      ['10.96.0.12', 'fd00:96::12'].map(
        (address) => ({ from, protocol: 'udp', address, port: 80, timeout: 300 }) as const
      )
    )
    const reached = async () =>
      (await cluster.traffic.askAll(early)).filter(({ outcome }) => outcome === 'answered').length
    t.equal(await reached(), 0, 'no Service yet')
    await cluster.writeRules()
    const all = async () => (await reached()) === early.length
    const after = await until('pods that asked too early reach the Service', all, SOON)
    t.comment(`Services work ${Math.round(after)} ms after their rules were written`)
    t.same((await runCases(cluster)).wrong, [])

    const fresh: Service = { name: 'fresh', cluster: [7, 1], backends: ['p12', 'p21'], externalIp: 30 }
    const asks = (['10.96.7.1', 'fd00:96::7:1', '198.51.100.30', '2001:db8:51::30'] as const).flatMap((address) =>
      (['tcp', 'udp'] as const).map((protocol) => ({ from: 'p11', protocol, address, port: 80, timeout: 300 }))
    )
    const answers = async () => (await cluster.traffic.askAll(asks)).map(({ outcome }) => outcome)
    t.notOk((await answers()).includes('answered'), 'a Service that does not exist answers nobody')
    const flows = await LongFlows.open(cluster, 'before Services came and went', TRANSLATED)
    await cluster.writeRules([...ALL_SERVICES, fresh])
    await until('a new Service works', async () => (await answers()).every((each) => each === 'answered'), SOON)
    await cluster.writeRules()
    await until('a Service that is gone answers nobody', async () => !(await answers()).includes('answered'), SOON)
    await cluster.writeRules([...ALL_SERVICES, fresh])
    await until(
      'it works when it comes again',
      async () => (await answers()).every((each) => each === 'answered'),
      SOON
    )
    t.same(await flows.silent(), [], 'connections through other Services go on')
    t.same(await flows.close(), [])

    await cluster.removeRules()
    const direct = { from: 'p11', protocol: 'tcp', address: cluster.address('p21', 4), port: POD_PORT } as const
    t.equal((await cluster.traffic.ask(direct)).outcome, 'answered', 'pods reach each other without any rules')
    t.notOk((await answers()).includes('answered'))
  })
}
