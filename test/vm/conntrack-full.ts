// A full conntrack table. Inside a test machine, as nf_conntrack_max belongs to
// the first network namespace and counts in all of them.

import { writeFileSync } from 'node:fs'
import t from 'tap'
import type { EnableResult } from '../../src/control/api.js'
import { Population } from '../conntrack/population.js'
import { invalid, listed, MASQUERADE, strictNode } from '../conntrack/support.js'
import type { LabNode } from '../lab/node.js'
import { exec, until } from '../lab/process.js'

if (!process.env['HOSTROUTE_VM']) throw new Error('this test runs inside a test machine only: scripts/vm -- node FILE')

t.setTimeout(0)

const SERVICE = '10.96.0.1'

async function setMaximum(entries: number): Promise<void> {
  const outcome = await exec([
    'nsenter',
    '--net=/proc/1/ns/net',
    'sysctl',
    '-w',
    `net.netfilter.nf_conntrack_max=${entries}`
  ])
  if (outcome.status !== 0) throw new Error(outcome.stderr)
}

async function entries(node: LabNode): Promise<number> {
  return Number(await node.run(['conntrack', '-C']))
}

/** With entries that conntrack gives up for nobody, and no room for more. */
async function fill(node: LabNode, directory: string, firstPort: number): Promise<void> {
  const lines = Array.from(
    { length: 300 },
    (_, index) =>
      `-I -s 10.200.0.1 -d 10.201.0.1 -p udp --sport ${firstPort + index} --dport 53 -t 600 -u SEEN_REPLY,ASSURED`
  )
  writeFileSync(`${directory}/entries`, `${lines.join('\n')}\n`)
  await node.run(['conntrack', '-R', `${directory}/entries`], { timeout: 60_000 })
  // the comparison is for "more than"; fewer than there are, since some may end
  await setMaximum((await entries(node)) >> 1)
}

t.test('[K8] the conntrack table is full', { timeout: 0 }, async (t) => {
  const lab = await strictNode(t, { nodes: 2 })
  t.teardown(() => setMaximum(262_144))
  const [node, far] = [lab.node(0), lab.node(1)]
  const [client, near] = [node.pod(0), node.pod(1)]
  const dnat = `ip daddr ${SERVICE} dnat ip to ${near.address.v4}`
  const chain = `chain prerouting {\ntype nat hook prerouting priority -100;\n${dnat}\n}`
  await node.run(['nft', '-f', '-'], { input: `${MASQUERADE}\ntable inet services {\n${chain}\n}\n` })
  await Promise.all([near.echo(8080), far.pod(0).echo(8080)])
  const ask = async (address: string) =>
    (await client.askAll([{ protocol: 'tcp', address, port: 8080, timeout: 3000 }]))[0]?.error

  await fill(node, lab.directory, 10_000)
  t.ok(await ask(near.address.v4), 'by the kernel alone no pod reaches another')
  await setMaximum(262_144)
  await node.startDaemon({ timeout: 90_000 })
  t.equal(await ask(SERVICE), null, 'a Service answers')
  const service = { v4: SERVICE, v6: near.address.v6 }
  const before = await Population.open(t, lab, [
    { name: 'SNAT', from: 'pod', to: 'outside', count: 3 },
    { name: 'Service', from: 'pod', to: 'near', address: service, count: 3 }
  ])

  const areAssured = async () => {
    await before.speak()
    const found = await listed(node, '-f', 'ipv4', '-p', 'udp', '--orig-dst', SERVICE)
    return found.filter((line) => line.includes('[ASSURED]')).length === 3
  }
  // a full table gives up UDP that is not assured, and that takes packets more than 2 s after the first
  await until('conntrack takes UDP of the Service for streams', areAssured, 30_000, 500)

  await fill(node, lab.directory, 20_000)
  t.equal(await ask(near.address.v4), null, 'pods reach each other')
  t.equal(await ask(far.pod(0).address.v4), null, 'and those of another node')
  t.ok(await ask(SERVICE), 'a new connection to a Service needs an entry, with or without hostroute')
  await before.goOn('clients')

  const { handedBack } = await node.daemon.json<EnableResult>('disable', '--force')
  t.ok((handedBack?.cannot ?? 0) >= 12, 'those that the fast path masqueraded cannot be handed over', { handedBack })
  t.match(
    handedBack?.reasons.join('\n'),
    /the conntrack table is full \(ENOMEM\); raise net\.netfilter\.nf_conntrack_max/
  )
  await setMaximum(262_144)
  await node.daemon.json<EnableResult>('enable')
  t.equal(await ask(SERVICE), null, 'with room again, Services answer')
  t.equal(await ask(near.address.v4), null)
  t.comment(`${await invalid(node)} packets were invalid`)
})
