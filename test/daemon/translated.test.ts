// The daemon and translated destinations: in the maps before the programs are
// attached, followed by event, said in status and metrics.

import t from 'tap'
import type { RouteList, Status } from '../../src/control/api.js'
import { control, plain, servedLab, status } from '../forwarding/served.js'
import { Lab } from '../lab/lab.js'
import type { LabNode } from '../lab/node.js'
import { until } from '../lab/process.js'

const rules = (addresses: string[]) => `
table ip kube-proxy
delete table ip kube-proxy
table ip kube-proxy {
  map service-ips {
    type ipv4_addr . inet_proto . inet_service : verdict
    elements = { ${addresses.map((address) => `${address} . tcp . 80 : goto service`).join(', ')} }
  }
  chain service {
    meta l4proto tcp dnat to 10.1.1.2:8080
  }
  chain nat-prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr . meta l4proto . th dport vmap @service-ips
  }
}
`

async function whyStack(node: LabNode, address: string): Promise<string | null> {
  const { value } = await control(node).get<RouteList>(`/v1/routes?within=${address}/32`)
  return value.routes.find(({ prefix }) => prefix === `${address}/32`)?.why ?? null
}

const shown = async (node: LabNode): Promise<Status['translated']['rows']> => (await status(node)).translated.rows

t.test('[K9] Service addresses are the stack’s from the start, and as they come and go', async (t) => {
  const lab = await Lab.create({ nodes: 1 })
  t.teardown(() => lab.close())
  const node = lab.node(0)
  await node.run(['nft', '-f', '-'], { input: rules(['10.96.0.10', '10.96.0.11']) })
  await node.startDaemon({ config: plain })
  t.strictSame(await shown(node), [{ who: 'kube-proxy', kind: 'nftables', addresses: 2, prefixes: 0 }])
  t.match(await whyStack(node, '10.96.0.10'), /translated by the node's own rules/)
  const printed = (await node.hostroute(['status'])).stdout
  t.match(printed, 'Services: 2 addresses from kube-proxy, nftables')
  await node.run([
    'nft',
    'add',
    'element',
    'ip',
    'kube-proxy',
    'service-ips',
    '{ 10.96.0.12 . tcp . 80 : goto service }'
  ])
  await until('the new address is in the maps', async () => (await whyStack(node, '10.96.0.12')) !== null)
  await node.run(['nft', '-f', '-'], { input: rules(['10.96.0.12', '10.96.0.13']) })
  await until('the old ones are not', async () => (await whyStack(node, '10.96.0.10')) === null)
  t.strictSame(await shown(node), [{ who: 'kube-proxy', kind: 'nftables', addresses: 2, prefixes: 0 }])
  t.equal((await node.hostroute(['verify'])).status, 0, 'the maps are in step')
  await node.run(['nft', 'delete', 'table', 'ip', 'kube-proxy'])
  await until('none is left', async () => (await shown(node)).length === 0)
})

t.test('[K4] a rule that names no destination is told', async (t) => {
  const lab = await servedLab(t)
  const node = lab.node(0)
  const input = `table ip proxy {
  chain pre {
    type nat hook prerouting priority dstnat;
    iifname "${node.pod(0).hostDevice}" tcp dport 80 redirect to :3128
  }
}
`
  await node.run(['nft', '-f', '-'], { input })
  await until('it is in status', async () => (await status(node)).translated.unbounded.length === 1)
  t.match(
    (await status(node)).translated.unbounded[0],
    /^ip proxy pre, handle \d+: iifname \S+ l4proto tcp dport 80 redirect$/
  )
})
