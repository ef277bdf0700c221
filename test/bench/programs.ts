// What the programs alone cost: packets through them by BPF_PROG_TEST_RUN, one
// run each, median, less what an empty program is said to take. Prints JSON:
// rows of { path, cost } in nanoseconds; on an exact clock, instructions.
//
//   node build/js/test/bench/programs.js [RUNS]

import '../bpf/namespace.js'
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { native } from '../../src/native.js'
import { encodePrefix, encodeRoute } from '../bpf/layout.js'
import { type DeviceName, devices, macBehind, type TestNode, testNode, to } from '../bpf/node.js'
import { median } from '../lab/measure.js'
import { ethernet, ip, type Transport, tcp, udp } from '../packets/packet.js'

export interface ProgramCost {
  path: string
  /** Nanoseconds a packet, less the empty program's. */
  cost: number
}

type Family = 4 | 6
/** A packet for one run; `round` lets every run be another flow. */
type MakeFrame = (round: number) => { device: DeviceName; frame: Buffer }

const root = fileURLToPath(new URL('../../../../', import.meta.url))
/** Tables as a small node, one with many networks, and one with a view of the Internet have them. */
const ROUTES = [10, 1_000, 100_000]
const PODS = 1_000
const runs = Number(process.argv[2] ?? 300)
const rows: ProgramCost[] = []

function duration(node: TestNode, make: MakeFrame, action: number): number {
  const once = (round: number) => {
    const { device, frame } = make(round)
    const program = device.startsWith('up') ? 'from_uplink' : 'from_pod'
    const { retval, duration } = node.object.testRun(program, {
      data: frame,
      ifindex: node.ifindexOf(device),
      repeat: 1
    })
    if (retval !== action) throw new Error(`from ${device}: the program said ${retval} instead of ${action}`)
    return duration
  }
  once(0)
  return median(Array.from({ length: runs }, (_, round) => once(round + 1)))
}

function emptyDuration(): number {
  const output = `${root}build/bench/empty.bpf.o`
  mkdirSync(`${root}build/bench`, { recursive: true })
  execFileSync(`${root}scripts/build-native`, ['--bpf', `${root}test/bench/empty.bpf.c`, output])
  const object = native().loadObject({ objectFile: output })
  const frame = fromPod(4, 'b', ack)(0).frame
  const times = Array.from({ length: runs }, () => object.testRun('empty', { data: frame, repeat: 1 }).duration)
  object.close()
  return median(times)
}

const payload = Buffer.alloc(64)
const ack = (round: number) => tcp({ sourcePort: 40_000, destinationPort: 80, flags: 'A', sequence: round }, payload)
const syn = (round: number) => tcp({ sourcePort: 30_000 + round, destinationPort: 80, flags: 'S' })
const datagram = () => udp({ sourcePort: 40_000, destinationPort: 53 }, payload)

function fromPod(family: Family, destination: string, content: (round: number) => Transport): MakeFrame {
  const { mac, podMac } = devices.a
  const target = destination === 'b' ? devices.b[`v${family}`] : destination
  return (round) => ({
    device: 'a',
    frame: ethernet(
      { source: podMac, destination: mac },
      ip({ source: devices.a[`v${family}`], destination: target }, content(round))
    )
  })
}

/** The remote's answer to the flow that `fromPod` opened, as it arrives: for the SNAT address and port. */
function answerTo(node: TestNode, family: Family): MakeFrame {
  const flow = node.flows(family).find(({ localPort, verdict }) => localPort === 40_000 && verdict === 'snat')
  if (!flow) throw new Error(`no flow with SNAT in flows${family}`)
  const content = tcp({ sourcePort: 80, destinationPort: flow.natPort, flags: 'A' }, payload)
  return fromUplink(to.external[family], flow.natAddress, family, () => content)
}

function fromUplink(source: string, destination: string, _family: Family, content: () => Transport): MakeFrame {
  const macs = { source: macBehind('up0'), destination: devices.up0.mac }
  return () => ({ device: 'up0', frame: ethernet(macs, ip({ source, destination }, content())) })
}

const SHOT_OR_STACK = { forward: 7 }

function measure(name: string, node: TestNode, make: MakeFrame): void {
  rows.push({ path: name, cost: duration(node, make, SHOT_OR_STACK.forward) - empty })
}

function addRoutes(node: TestNode, count: number): void {
  const keys: Buffer[] = []
  for (let number = 0; number < count; number++) {
    const [high, low] = [number >> 8, number & 255]
    keys.push(encodePrefix(`${8 + (high >> 8)}.${high & 255}.${low}.0/24`))
  }
  const value = encodeRoute({ nexthop: 0 })
  node.map('routes4').updateBatch(Buffer.concat(keys), Buffer.alloc(value.length * count, value), count)
}

const empty = emptyDuration()
const node = testNode()
const plain = testNode({ flags: 1 })
// There they share slots with other addresses: rare, and 180 instructions dearer.
for (const each of [node, plain]) {
  each.setPod('a', devices.a.v4)
  each.setPod('b', devices.b.v6)
}
for (const family of [4, 6] as const) {
  const external = to.external[family]
  measure(`IPv${family} pod to pod`, node, fromPod(family, 'b', ack))
  measure(`IPv${family} pod to remote, known flow`, plain, fromPod(family, external, ack))
  measure(`IPv${family} pod to outside, SNAT, known flow`, node, fromPod(family, external, ack))
  measure(`IPv${family} pod to outside, SNAT, first packet`, node, fromPod(family, external, syn))
  const unknown = (round: number) => (family === 4 ? `198.200.${round >> 8}.${round & 255}` : `2001:db8:77::${round}`)
  measure(`IPv${family} pod to outside, SNAT, first packet, first to its address`, node, (round) =>
    fromPod(family, unknown(round), syn)(round)
  )
  measure(`IPv${family} uplink to pod, answer to SNAT`, node, answerTo(node, family))
  measure(
    `IPv${family} uplink to pod, no SNAT`,
    plain,
    fromUplink(external, devices.b[`v${family}`], family, () => ack(0))
  )
}
measure('IPv4 pod to outside, SNAT, known UDP flow', node, fromPod(4, to.external[4], datagram))
node.close()
for (const routes of ROUTES) {
  const node = testNode({ sizes: { routes4: 2 * Math.max(...ROUTES) } })
  addRoutes(node, routes)
  const name = `${routes.toLocaleString('en')} routes`
  measure(`IPv4 pod to outside, SNAT, known flow, ${name}`, node, fromPod(4, to.external[4], ack))
  measure(`IPv4 pod to outside, SNAT, first packet, ${name}`, node, fromPod(4, to.external[4], syn))
  node.close()
}
const crowded = testNode()
for (let pod = 0; pod < PODS; pod++) crowded.setPod('b', `10.1.${10 + (pod >> 8)}.${pod & 255}`)
crowded.setPod('a', devices.a.v4)
measure(`IPv4 pod to pod, ${PODS.toLocaleString('en')} pods`, crowded, fromPod(4, '10.1.12.34', ack))

// Where the node translates: nf_conntrack is there before the programs are loaded.
track(0)
const translating = testNode()
const translatingPlain = testNode({ flags: 1 })
for (const each of [translating, translatingPlain]) {
  each.setPod('a', devices.a.v4)
  each.setPod('b', devices.b.v4)
  each.setControl({ translating: true })
}
const inbound = fromUplink(to.external[4], devices.b.v4, 4, () => ack(0))
measure('IPv4 pod to pod, translating', translating, fromPod(4, 'b', ack))
translating.share('a', true)
measure('IPv4 pod to pod, translating, from a shared pod', translating, fromPod(4, 'b', ack))
translating.share('a', false)
translating.share('b', true)
measure('IPv4 pod to pod, translating, to a shared pod', translating, fromPod(4, 'b', ack))
measure('IPv4 uplink to pod, no SNAT, translating', translatingPlain, inbound)
for (const entries of [0, 100_000]) {
  if (entries > 0) track(entries)
  const name = `IPv4 pod to outside, SNAT, first packet, translating, ${entries.toLocaleString('en')} entries`
  for (const table of ['flows4', 'reverse4']) {
    const { keys, count } = translating.map(table).dump()
    if (count > 0) translating.map(table).deleteBatch(keys, count)
  }
  measure(name, translating, fromPod(4, to.external[4], syn))
}
console.log(JSON.stringify(rows))

/** Makes so many entries in this namespace's conntrack. */
function track(count: number): void {
  const command = (index: number) => {
    const address = `100.${64 + (index >> 16)}.${(index >> 8) & 255}.${index & 255}`
    const reply = `--reply-src 10.99.0.1 --reply-dst ${address} --reply-port-src 53 --reply-port-dst 1000`
    return `-I -p udp -t 600 --orig-src ${address} --orig-dst 10.99.0.1 --sport 1000 --dport 53 ${reply}`
  }
  const file = join(mkdtempSync(join(tmpdir(), 'hostroute-bench-')), 'entries')
  writeFileSync(file, Array.from({ length: Math.max(1, count) }, (_, index) => `${command(count + index)}\n`).join(''))
  execFileSync('conntrack', ['-R', file], { stdio: ['ignore', 'ignore', 'pipe'] })
  rmSync(dirname(file), { recursive: true })
}
