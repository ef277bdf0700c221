// Stale entries of untranslated connections: conntrack has seen how they began,
// and nothing of what the fast path carried. No hostroute here: a notrack rule
// stands for the fast path.

import t, { type Test } from 'tap'
import type { Lab } from '../lab/lab.js'
import type { LabNode } from '../lab/node.js'
import {
  act,
  addressesOf,
  type Connections,
  invalid,
  listed,
  open,
  podsOf,
  serve,
  strictNode,
  unseen
} from './support.js'

t.setTimeout(300_000)

const families = ['v4', 'v6'] as const
const count = process.env['HOSTROUTE_VM'] ? 5 : 20

interface Line {
  name: string
  clients: Connections
  server: Connections
}

/** From a pod to another of its node, and to one of another node. */
async function lines(t: Test, lab: Lab, port: number): Promise<Line[]> {
  const [one, two, far] = [lab.node(0).pod(0), lab.node(0).pod(1), lab.node(1).pod(0)]
  const opened = [two, far].flatMap((remote) =>
    families.map(async (family, index) => {
      const server = await serve(t, remote, port + index)
      const clients = await open(t, one, 'tcp', remote.address[family], count, port + index)
      return { name: `to ${remote.name}, IP${family}`, clients, server }
    })
  )
  return Promise.all(opened)
}

/** How many of all are answered, both sides having asked. */
async function answered(lines: Line[], first: 'clients' | 'server'): Promise<number> {
  const second = first === 'clients' ? 'server' : 'clients'
  const counts = lines.map(async (line) => Math.min(await line[first].speak(), await line[second].speak()))
  return (await Promise.all(counts)).reduce((sum, each) => sum + each, 0)
}

async function blow(lines: Line[]): Promise<void> {
  const some = lines.map(async ({ clients, server }) => [await clients.blow(600_000), await server.blow(600_000)])
  await Promise.all(some)
}

/** Entries that are there now; one that is made anew, even in the same place of memory, has no mark. */
async function mark(node: LabNode): Promise<void> {
  for (const family of families) await markFamily(node, family)
}

/** conntrack(8) 1.4.7 now and then takes an answer for another one's ("Protocol error"): it is asked again. */
async function markFamily(node: LabNode, family: string, tries = 10): Promise<void> {
  const argv = ['conntrack', '-U', '-f', `ip${family}`, '--mark', '7']
  const { status, stderr } = await node.exec(argv)
  if (status === 0) return
  if (tries === 1 || !stderr.includes('Protocol error')) throw new Error(`"${argv.join(' ')}": ${stderr}`)
  await markFamily(node, family, tries - 1)
}

async function marked(node: LabNode): Promise<number> {
  return (await listed(node)).filter((line) => line.includes(' mark=7 ')).length
}

t.test('[K7] connections that conntrack has not seen for a while continue once it has forgotten them', async (t) => {
  const all = 4 * count
  for (const loose of [1, 0]) {
    await t.test(`nf_conntrack_tcp_loose=${loose}`, async (t) => {
      const lab = await strictNode(t, { nodes: 2 })
      const node = lab.node(0)
      await node.sysctl({ 'net.netfilter.nf_conntrack_tcp_loose': loose })
      for (const first of ['clients', 'server'] as const) {
        await node.run(['conntrack', '-F'])
        const some = await lines(t, lab, 50)
        t.equal(await answered(some, 'clients'), all, 'all are open')
        await unseen(node, () => blow(some))
        await mark(node)
        t.equal(await marked(node), all)
        const { result } = await act(node, { verb: 'forget', pods: podsOf(node), node: addressesOf(node) })
        const changed = loose ? { deleted: all, liberal: 0 } : { deleted: 0, liberal: all }
        t.match(result, { ...changed, read: all, failed: {} }, 'all entries are told to forget')
        t.equal(await marked(node), loose ? 0 : all, 'conntrack(8) sees the same')
        const before = await invalid(node)
        t.equal(await answered(some, first), all, `${first} speak first: all go on`)
        await blow(some)
        t.equal(await answered(some, first), all, 'also after much data')
        t.equal(await invalid(node), before, 'no packet was invalid')
        for (const { clients, server } of some) await Promise.all([clients.stop(), server.stop()])
      }

      const left = await lines(t, lab, 20)
      const before = await invalid(node)
      await unseen(node, () => blow(left))
      t.ok((await answered(left, 'clients')) < all, 'left alone, they stall')
      t.ok((await invalid(node)) > before, 'because their packets are invalid')
    })
  }
})

/** As an association between two pods has it. */
async function sctpEntry(node: LabNode, source: string, destination: string): Promise<void> {
  const ends = ['--orig-src', source, '--orig-dst', destination, '--sport', '5000', '--dport', '5000']
  const verification = ['--orig-vtag', '1', '--reply-vtag', '2']
  const rest = ['--state', 'ESTABLISHED', '-t', '200', '-u', 'ASSURED,SEEN_REPLY']
  await node.run(['conntrack', '-I', '-p', 'sctp', ...ends, ...verification, ...rest])
}

t.test('[K7] what is not stale is not forgotten', async (t) => {
  const lab = await strictNode(t)
  const node = lab.node(0)
  const [one, two] = [node.pod(0), node.pod(1)]
  await node.run(['nft', '-f', '-'], {
    input: `table inet nat_like {
      chain prerouting {
        type nat hook prerouting priority -100;
        ip daddr 10.96.0.1 dnat ip to ${two.address.v4}
        ip6 daddr fd00:96::1 dnat ip6 to ${two.address.v6}
      }
    }`
  })
  await Promise.all([serve(t, two, 9), serve(t, node, 9)])
  const kinds = {
    translated: ['10.96.0.1', 'fd00:96::1'],
    'with the node itself': [node.address.v4, node.address.v6],
    stale: [two.address.v4, two.address.v6]
  }
  for (const addresses of Object.values(kinds)) {
    for (const address of addresses) {
      for (const protocol of ['tcp', 'udp'] as const)
        t.equal(await (await open(t, one, protocol, address, 5)).speak(), 5)
    }
  }
  t.equal((await listed(node)).length, 60)
  const question = { verb: 'forget', pods: podsOf(node), node: addressesOf(node) } as const
  t.match((await act(node, { ...question, idle: 60 })).result, { read: 60, deleted: 0 }, 'none is idle')
  await sctpEntry(node, one.address.v4, two.address.v4)
  t.match((await act(node, question)).result, { read: 61, deleted: 10, liberal: 0, failed: {} })
  const left = await listed(node)
  t.equal(left.length, 51)
  t.ok(
    left.every(
      (line) =>
        !line.startsWith('tcp') ||
        [...kinds.translated, ...kinds['with the node itself']].some((each) => line.includes(`dst=${each} `))
    ),
    'conntrack(8) lists the others, and what is not TCP'
  )
})

t.test('[K7] half a handshake, and entries that have been idle', async (t) => {
  const lab = await strictNode(t)
  const node = lab.node(0)
  const [one, two] = [node.pod(0), node.pod(1)]
  await node.sysctl({ 'net.netfilter.nf_conntrack_tcp_loose': 0 })
  await serve(t, two, 9)
  // conntrack sees the SYN alone
  await node.run(['nft', '-f', '-'], {
    input: `table inet half {
      chain early { type filter hook prerouting priority -300; tcp flags & (syn | ack) != syn notrack; }
    }`
  })
  const clients = await open(t, one, 'tcp', two.address.v4, count)
  t.ok((await listed(node)).every((line) => line.includes('SYN_SENT')))
  await node.run(['nft', 'delete', 'table', 'inet', 'half'])
  const question = { verb: 'forget', pods: podsOf(node), node: addressesOf(node) } as const
  t.match((await act(node, question)).result, { read: count, liberal: count, failed: {} })
  t.equal(await clients.speak(), count, 'with nf_conntrack_tcp_loose=0 the entries are completed')
  t.equal(await invalid(node), 0)

  await node.sysctl({ 'net.netfilter.nf_conntrack_tcp_loose': 1 })
  // as if it had been opened an hour ago
  await node.sysctl({ 'net.netfilter.nf_conntrack_tcp_timeout_established': 432_000 - 3_600 })
  const other = await open(t, one, 'tcp', two.address.v6, count)
  await node.sysctl({ 'net.netfilter.nf_conntrack_tcp_timeout_established': 432_000 })
  const lines = await listed(node, '-f', 'ipv6')
  t.equal(lines.length, count)
  t.match(
    (await act(node, { ...question, idle: 60 })).result,
    { read: 2 * count, deleted: count },
    'an entry that no packet has passed for long is forgotten; one that tracks no window needs no forgetting'
  )
  t.equal(await other.speak(), count, 'and made again by the next packet')
  t.equal(await invalid(node), 0)
})
