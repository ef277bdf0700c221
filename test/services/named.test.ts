// Whose a flow is, as explain says it: for both directions of every connection
// through a Service, a NodePort, an external address or a hostPort.

import t from 'tap'
import { controlClient } from '../../src/control/client.js'
import type { Explanation } from '../../src/control/explain-api.js'
import { LongFlows, TRANSLATED } from './flows.js'
import { socketAddress } from './names.js'
import { ServiceLab } from './service-lab.js'

interface Tuple {
  source: string
  destination: string
  sourcePort: number
  destinationPort: number
}

t.test('[K1] [K2] [K3] explain names what conntrack makes of a connection', { timeout: 0 }, async (t) => {
  const cluster = await ServiceLab.create({ mode: 'nftables' })
  t.teardown(() => cluster.close())
  const [n1] = cluster.nodes
  if (!n1) throw new Error('the lab has no node')
  await cluster.enable()
  const flows = await LongFlows.open(cluster, 'with hostroute', TRANSLATED)
  const own = [n1.address.v4, n1.address.v6]
  let asked = 0
  for (const family of ['ipv4', 'ipv6']) {
    for (const [original, reply] of entriesOf(await n1.run(['conntrack', '-L', '-f', family, '-p', 'tcp']))) {
      const into = `${end(original.destination, original.destinationPort)} → ${end(reply.source, reply.sourcePort)}`
      for (const { source, sourcePort, destination, destinationPort } of [original, reply]) {
        // what the node itself sends never comes through hostroute
        if (own.includes(source)) continue
        const question = { from: source, fromPort: sourcePort, to: destination, toPort: destinationPort, flags: 'A' }
        const { summary } = (await controlClient(n1.daemon.socket).get<Explanation>('/v1/explain', question)).value
        const text = `${end(source, sourcePort)} → ${end(destination, destinationPort)}`
        t.ok(summary.includes(`conntrack translates this flow (${into}`), text, { summary })
        asked++
      }
    }
  }
  t.ok(asked > 3 * TRANSLATED.length, 'in both families, and from both ends but the node')
  t.same(await flows.close(), [], 'and asking has disturbed none')
})

const end = (ip: string, port: number) => socketAddress({ ip, port })

/** What is translated. */
function entriesOf(list: string): [Tuple, Tuple][] {
  return list.split('\n').flatMap((line) => {
    const found = [...line.matchAll(/src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+)/g)].map(
      ([, source = '', destination = '', sourcePort, destinationPort]): Tuple => ({
        ...{ source, destination },
        ...{ sourcePort: Number(sourcePort), destinationPort: Number(destinationPort) }
      })
    )
    const [original, reply] = found
    return original && reply && original.destination !== reply.source ? [[original, reply]] : []
  })
}
