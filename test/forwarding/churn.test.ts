// Routes come and go, as under BGP, while flows go through SNAT: those that go elsewhere stay on the hot path, as their
// entries say the generation of their slot.

import t from 'tap'
import { slotsOf } from '../../src/maps/generations.js'
import { ROUTE_SLOTS, STRUCTS } from '../../src/maps/layout.js'
import { native } from '../../src/native.js'
import { OUTSIDE, routerAddress } from '../lab/addresses.js'
import type { LabNode } from '../lab/node.js'
import { sleep, until } from '../lab/process.js'
import { hex, key } from '../plan/node.js'
import { servedLab } from './served.js'

t.setTimeout(180_000)

const rounds = 20
const routesInRound = 20

/** What the daemon's maps say: of each slot, and of the flow to `remote`. */
function readMaps(node: LabNode) {
  const open = (name: string) => native().openPinnedMap(`${node.daemon.pinDirectory}/${name}`)
  const control = open('control')
  const flows = { 4: open('flows4'), 6: open('flows6') }
  const generations = (): number[] => {
    const bytes = control.lookup(Buffer.alloc(4)) ?? Buffer.alloc(STRUCTS.control.size)
    const { route_generations: first } = STRUCTS.control.offset
    return Array.from({ length: ROUTE_SLOTS }, (_, slot) => bytes.readUInt32LE(first + slot * 4))
  }
  const flowTo = (remote: string): { generation: number; slot: number } | null => {
    const family = remote.includes(':') ? 6 : 4
    const { offset } = STRUCTS[`tuple${family}`]
    const { keys, values, count } = flows[family].dump()
    const size = keys.length / Math.max(count, 1)
    for (let row = 0; row < count; row++) {
      const digits = keys.toString('hex', row * size + offset.remote, row * size + offset.local_port)
      if (digits !== hex(remote)) continue
      const at = row * STRUCTS.flow.size
      return {
        generation: values.readUInt32LE(at + STRUCTS.flow.offset.generation),
        slot: values.readUInt16LE(at + STRUCTS.flow.offset.slot) / 4
      }
    }
    return null
  }
  const close = () => {
    for (const map of [control, flows[4], flows[6]]) map.close()
  }
  return { generations, flowTo, close }
}

for (const family of [4, 6] as const) {
  const remote = OUTSIDE[`v${family}`]
  const router = routerAddress(0)[`v${family}`]
  const [slot = 0] = slotsOf(key(remote))

  t.test(`[F15] IPv${family}: a flow through SNAT stays on the hot path while other routes come and go`, async (t) => {
    const lab = await servedLab(t, { pods: 1 })
    const node = lab.node(0)
    const maps = readMaps(node)
    t.teardown(() => maps.close())
    const flow = await node.pod(0).flow({ protocol: 'udp', address: remote, port: 7, interval: 5 })
    const isCurrent = () => maps.flowTo(remote)?.generation === maps.generations()[slot]
    await until('the flow has its answer', () => isCurrent())
    t.equal(maps.flowTo(remote)?.slot, slot)

    const before = maps.generations()
    const prefixes = Array.from({ length: 1000 }, (_, number) =>
      family === 4 ? `10.${200 + (number >> 8)}.${number & 255}.0/24` : `fd00:200:${number.toString(16)}::/48`
    ).filter((prefix) => !slotsOf(key(prefix)).includes(slot))
    let stayed = 0
    for (let round = 0; round < rounds; round++) {
      const some = prefixes.slice(round * routesInRound, (round + 1) * routesInRound)
      await node.ip(...some.map((prefix) => `route add ${prefix} via ${router}`))
      await sleep(100)
      if (isCurrent()) stayed++
      await node.ip(...some.map((prefix) => `route del ${prefix} via ${router}`))
    }
    const slots = prefixes.slice(0, rounds * routesInRound).flatMap((prefix) => slotsOf(key(prefix)))
    const raised = () => slots.every((each) => maps.generations()[each] !== before[each])
    await until('all changes are published', raised)
    t.equal(stayed, rounds)
    t.equal(maps.generations()[slot], before[slot], 'its slot was never raised')
    t.equal(maps.flowTo(remote)?.generation, before[slot], 'it was never decided again')

    await node.ip(`route add ${prefixOf(remote)} via ${router}`)
    await until('a route of its own ends its answer', () => maps.generations()[slot] !== before[slot])
    await until('and it has another', () => isCurrent())
    const report = await flow.finish()
    t.equal(report.received, report.sent, 'nothing was lost')
  })
}

/** The /24 or /64 of the address. */
function prefixOf(address: string): string {
  return address.includes(':') ? address.replace(/::.*/, '::/64') : address.replace(/\.\d+$/, '.0/24')
}
