// Connections whose entries conntrack has lost get them again, and go on with
// the translation that their remote knows. No hostroute here: the kernel alone.

import t from 'tap'
import { protocols } from '../../src/conntrack/entry.js'
import { OUTSIDE } from '../lab/addresses.js'
import { act, invalid, listed, liveFlows, MASQUERADE, open, paused, serve, strictNode } from './support.js'

t.setTimeout(300_000)

const families = ['v4', 'v6'] as const
/** An emulated machine is slow. */
const count = process.env['HOSTROUTE_VM'] ? 50 : 1000

t.test(`[K7] ${count} connections through SNAT continue with entries made by netlink`, async (t) => {
  const lab = await strictNode(t)
  const node = lab.node(0)
  const pod = node.pod(0)
  await node.run(['nft', '-f', '-'], { input: MASQUERADE })
  for (const family of families) {
    for (const protocol of ['tcp', 'udp'] as const) {
      await t.test(`${protocol}, IP${family}`, async (t) => {
        const port = protocol === 'tcp' ? 9 : 10
        const server = await serve(t, lab.outside, port)
        const clients = await open(t, pod, protocol, OUTSIDE[family], count, port)
        t.equal(await clients.speak(), count, 'all are open')
        const peers = await server.list()
        t.ok(
          peers.every(({ peer }) => peer === node.address[family]),
          'translated'
        )
        // drawn at random, a port may be the connection's own
        t.ok(peers.filter(({ port, own }) => port !== own).length > count * 0.9, 'to other ports')
        for (const first of ['client', 'server'] as const) {
          const flows = liveFlows(pod.address[family], OUTSIDE[family], protocols[protocol], peers, port)
          const done = await paused(node, async () => {
            await node.run(['conntrack', '-F'])
            t.strictSame(await listed(node), [], 'the entries are gone')
            return act(node, { verb: 'handBack', flows })
          })
          t.match(done.result, { continues: count, cannot: [] }, `handed back in ${done.milliseconds.toFixed()} ms`)
          t.ok(process.env['HOSTROUTE_VM'] || done.milliseconds < 1000, 'in less than a second')
          const entries = await listed(node, '-p', protocol)
          t.equal(entries.filter((line) => line.includes('[ASSURED]')).length, count, 'conntrack(8) lists them')
          const one = first === 'client' ? clients : server
          const other = first === 'client' ? server : clients
          t.equal(await one.speak(), count, `the ${first}s speak first: all are answered`)
          t.equal(await other.speak(), count, 'the other side is answered, too')
          if (protocol === 'tcp') t.equal(await one.blow(100_000), count, 'and data flows')
        }
        t.equal(await invalid(node), 0, 'no packet was invalid')
        await clients.stop()
        await server.stop()
      })
    }
  }
})
