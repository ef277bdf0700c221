// Transport checksums after SNAT, with real sockets, for the kinds in which the
// kernel hands packets to the programs: to be completed by the sender's device
// (offload), final, and verified by GRO. The fourth, a sum by the device, no
// veth has: test/bpf/hot_path.test.ts makes it.

import { execFileSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { native } from '../../src/native.js'
import { OUTSIDE } from '../lab/addresses.js'
import type { LabPacket } from '../lab/capture.js'
import type { LabHost } from '../lab/host.js'
import { Lab } from '../lab/lab.js'
import type { LabNode } from '../lab/node.js'
import { until } from '../lab/process.js'
import { onesSum, pseudoHeader } from '../packets/bytes.js'
import { plain } from './served.js'

const root = fileURLToPath(new URL('../../../../', import.meta.url))
const objectFile = `${root}build/test/checksum_state.bpf.o`
const NATIVE = fileURLToPath(new URL('../../src/native.js', import.meta.url))
const STATES = ['none', 'unnecessary', 'complete', 'partial'] as const
type State = (typeof STATES)[number]
const DEVICES = ['pod1', 'up0'] as const
const MESSAGES = 8

/** Attaches the counting program before the daemon's; it stays with its pins. */
async function countStates(lab: Lab, node: LabNode): Promise<void> {
  mkdirSync(`${root}build/test`, { recursive: true })
  execFileSync(`${root}scripts/build-native`, ['--bpf', `${root}test/forwarding/checksum_state.bpf.c`, objectFile])
  for (const device of DEVICES) {
    const directory = `${lab.directory}/bpf/${device}`
    mkdirSync(directory)
    const [link] = await node.ipJson<{ ifindex: number }>('link', 'show', 'dev', device)
    const script = `import { native } from ${JSON.stringify(NATIVE)}
      const options = { objectFile: ${JSON.stringify(objectFile)}, programs: ['count_states'], pinDirectory: ${JSON.stringify(directory)} }
      native().loadObject(options).attachTcx('count_states', ${link?.ifindex}, ${JSON.stringify(`${directory}/link`)})`
    await node.run([process.execPath, '--input-type=module', '-e', script])
  }
}

function readStates(lab: Lab, device: (typeof DEVICES)[number]): Record<State, number> {
  const map = native().openPinnedMap(`${lab.directory}/bpf/${device}/states`)
  const { values } = map.dump()
  map.close()
  return Object.fromEntries(STATES.map((state, at) => [state, values.readUInt32LE(at * 4)])) as Record<State, number>
}

/** Turns a device's offloads on or off. */
async function offload(host: LabHost, device: string, features: Record<string, boolean>): Promise<void> {
  const words = Object.entries(features).flatMap(([name, on]) => [name, on ? 'on' : 'off'])
  await host.run(['ethtool', '-K', device, ...words])
}

/** Flows of every kind out of the pod, each of several messages; all of them answered. */
async function talk(t: Test, pod: LabHost): Promise<void> {
  const questions = (['v4', 'v6'] as const).flatMap((family) =>
    (['tcp', 'udp'] as const).map((protocol) => ({ protocol, address: OUTSIDE[family], port: 7, interval: 5 }))
  )
  const flows = await Promise.all(questions.map((question) => pod.flow(question)))
  const lines = Array.from({ length: MESSAGES }, (_, index) => `echo ${index}; sleep 0.02`).join('; ')
  // SO_NO_CHECK
  const bare = await pod.run(['sh', '-c', `(${lines}) | socat -t 1 - UDP4:${OUTSIDE.v4}:7,setsockopt-int=1:11:1`])
  for (let index = 0; index < MESSAGES; index++) t.match(bare, `\n${index}\n`, `UDP without checksum, message ${index}`)
  for (const [index, flow] of flows.entries()) {
    const { sent, received, error } = await flow.finish()
    const { protocol, address } = questions[index] as (typeof questions)[number]
    t.match({ received, error }, { received: sent, error: null }, `${protocol} to ${address}: ${sent} messages`)
    t.ok(sent >= MESSAGES, 'more than the first packets')
  }
}

/** The field holds the sum of the pseudo header alone: what a device that completes it expects. */
function isPartial({ packet, frame }: LabPacket): boolean {
  const { ip, l4 } = packet
  if (!ip || !l4) return false
  const header = packet.etherType === 0x0800 ? frame.subarray(26, 34) : frame.subarray(22, 54)
  const half = header.length / 2
  const sum = pseudoHeader(header.subarray(0, half), header.subarray(half), ip.protocol, ip.length - ip.headerLength)
  return l4.checksum === onesSum(sum)
}

function judge(t: Test, where: string, packets: LabPacket[], right: (packet: LabPacket) => boolean): void {
  const ours = packets.filter(({ packet: { l4 } }) => l4?.protocol === 'tcp' || l4?.protocol === 'udp')
  const kinds = new Map<string, LabPacket[]>()
  for (const each of ours) {
    const { ip, l4 } = each.packet
    const kind = `${l4?.protocol} ${ip?.family}${l4?.checksum === 0 && ip?.family === 4 ? ' without checksum' : ''}`
    kinds.set(kind, [...(kinds.get(kind) ?? []), each])
  }
  for (const [kind, each] of kinds) {
    const wrong = kind.endsWith('without checksum') ? [] : each.filter((packet) => !right(packet))
    t.equal(wrong.length, 0, `${where}: ${each.length} of ${kind}`)
  }
  for (const kind of ['tcp 4', 'tcp 6', 'udp 4', 'udp 6'])
    t.ok((kinds.get(kind)?.length ?? 0) >= MESSAGES, `${where}: ${kind}`)
}

const final = ({ packet }: LabPacket) => packet.l4?.checksumOk === true

interface Case {
  name: string
  /** Offload of whoever sends, and GRO on the uplink. */
  tx: boolean
  gro: boolean
  /** What has to be seen on the pod's device and on the uplink. */
  seen: [State, State]
}

const cases: Case[] = [
  { name: 'left to the sender’s device', tx: true, gro: false, seen: ['partial', 'partial'] },
  { name: 'final', tx: false, gro: false, seen: ['none', 'none'] },
  { name: 'final, and verified on receive', tx: false, gro: true, seen: ['none', 'unnecessary'] }
]

t.test('[S4] checksums after SNAT', async (t) => {
  const lab = await Lab.create({ nodes: 1, pods: 1 })
  t.teardown(() => lab.close())
  const node = lab.node(0)
  const pod = node.pod(0)
  await countStates(lab, node)
  await Promise.all([node.startDaemon({ config: plain }), lab.outside.echo(7)])
  for (const family of ['v4', 'v6'] as const) {
    const reached = async () => (await pod.ping(OUTSIDE[family], { count: 1 })).received === 1
    await until(`the way outside, ${family}`, reached, 15_000)
  }
  // what leaves the node and reaches the outside is final whatever the pod did
  await offload(node, 'up0', { tx: false, tso: false, gso: false })
  for (const { name, tx, gro, seen } of cases) {
    await t.test(name, async (t) => {
      await offload(pod, 'eth0', { tx, tso: false, gso: false })
      await offload(lab.outside, 'eth0', { tx, tso: false, gso: false })
      await offload(lab.router, 'n1u0', { tx, tso: false, gso: false })
      await offload(node, 'up0', { gro })
      const before = DEVICES.map((device) => readStates(lab, device))
      const outside = await lab.outside.capture('eth0', `src ${node.address.v4} or src ${node.address.v6}`)
      const inside = await pod.capture('eth0', `src ${OUTSIDE.v4} or src ${OUTSIDE.v6}`)
      await talk(t, pod)
      const arrived = await outside.stop()
      judge(t, 'outside', arrived, final)
      const bare = arrived.filter(({ packet: { ip, l4 } }) => ip?.family === 4 && l4?.checksum === 0)
      t.ok(bare.length > 0, `${bare.length} arrived without checksum`)
      judge(t, 'in the pod', await inside.stop(), tx ? isPartial : final)
      for (const [index, device] of DEVICES.entries()) {
        const [state, now] = [seen[index] as State, readStates(lab, device)]
        const more = now[state] - (before[index]?.[state] ?? 0)
        t.ok(more >= 4 * MESSAGES, `${more} packets of this kind on ${device}`)
      }
    })
  }
})
