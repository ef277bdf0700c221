// The first two packets of one flow on two processors at once.

import { fileURLToPath } from 'node:url'
import t from 'tap'
import { OUTSIDE } from '../lab/addresses.js'
import { until } from '../lab/process.js'
import { from } from './compare.js'
import { servedLab } from './served.js'

const TWINS = fileURLToPath(new URL('./twins.js', import.meta.url))
const rounds = 200

t.test('[S11] two senders make the same flow at once: one flow, one port', async (t) => {
  const lab = await servedLab(t, { pods: 1 })
  const node = lab.node(0)
  for (const family of ['v4', 'v6'] as const) {
    const capture = await lab.outside.capture('eth0', 'udp dst port 7')
    await node.pod(0).run([process.execPath, TWINS, OUTSIDE[family], '7', '20000', `${rounds}`])
    await until(`${family}: all are seen`, () => capture.packets().length >= 2 * rounds)
    const packets = from(await capture.stop(), node.address[family])
    t.equal(packets.length, 2 * rounds, `${family}: every packet arrives, with the node’s address`)
    const ports = new Map<string, Set<number>>()
    for (const { packet } of packets) {
      const key = packet.payload.toString()
      ports.set(key, (ports.get(key) ?? new Set()).add(packet.l4?.sourcePort ?? 0))
    }
    t.equal(ports.size, rounds, `${family}: ${rounds} flows`)
    t.strictSame(
      [...ports].filter(([, each]) => each.size !== 1),
      [],
      `${family}: one port each`
    )
    const used = [...ports.values()].flatMap((each) => [...each])
    t.equal(new Set(used).size, used.length, `${family}: and no port twice`)
  }
})
