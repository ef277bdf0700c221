// What hostroute would do with a packet: the real programs, their maps filled
// by the real chain netlink → state → plan → writer, a made packet through
// BPF_PROG_TEST_RUN. Where a packet went is read from the MACs written into it:
// every next hop has its own.

import { addressIn, everything, formatAddress, hexAddress, hexPrefix } from '../../src/address.js'
import { parseConfig } from '../../src/config/config.js'
import { measureJiffies } from '../../src/datapath/clock.js'
import { ControlBlock } from '../../src/datapath/control-block.js'
import { decodeCounter } from '../../src/maps/codec.js'
import { STRUCTS } from '../../src/maps/layout.js'
import { createWriter, type Writer } from '../../src/maps/writer.js'
import { type BpfMap, type BpfObject, native } from '../../src/native.js'
import { type Sync, startSync } from '../../src/netlink/sync.js'
import { type NexthopKey, splitNexthopKey } from '../../src/plan/keys.js'
import { defaultPlanOptions, type PlanOptions } from '../../src/plan/options.js'
import { createPlanner, type Planner } from '../../src/plan/planner.js'
import { REASON_MAX, REASONS } from '../../src/reasons.js'
import { encodeTuple } from '../bpf/layout.js'
import { macText } from '../packets/bytes.js'
import { echo, ethernet, ipv4, ipv6, type Transport, tcp, udp } from '../packets/packet.js'
import type { Question } from './kernel.js'
import { deviceMac, neighbours } from './topology.js'

export type Verdict =
  | { kind: 'stack' }
  | { kind: 'drop' }
  /** nexthop: null where only the device can be told. */
  | { kind: 'forward'; device: string; nexthop: string | null; source: string }

const REDIRECT = 7
const SHOT = 2
const UNSPEC = -1
const PORTS = 4000
const PROTOCOLS = { udp: 17, tcp: 6, icmp: 1 } as const

const nexthopByMac = new Map(neighbours().map(({ mac, device, address }) => [mac, { device, address }]))

const options: PlanOptions = {
  ...defaultPlanOptions
}
const masquerade = [
  { prefix: everything[4], masquerade: true },
  { prefix: hexPrefix('0a000000/8'), masquerade: false },
  { prefix: everything[6], masquerade: true },
  { prefix: hexPrefix(`fc${'0'.repeat(30)}/7`), masquerade: false }
]

export class Programs {
  readonly #planner: Planner
  readonly #sync: Sync
  #applied: string | null = null
  #marker = 0

  private constructor(
    readonly object: BpfObject,
    readonly writer: Writer,
    control: ControlBlock,
    /** What went wrong beside the packets. */
    readonly complaints: string[],
    multipathUseNeigh: boolean
  ) {
    this.#planner = createPlanner({ ...options, multipathUseNeigh })
    this.#sync = startSync({
      onChanges: (changes) => {
        const change = this.#planner.update(this.#sync.state, changes)
        control.leaveMarks(this.#planner.plan.marks)
        this.complaints.push(...writer.apply(this.#planner.plan, change).warnings)
        this.#applied = this.#markerOf(this.#marker)
      },
      log: (level, message) => {
        if (level !== 'info') this.complaints.push(message)
      }
    })
  }

  static async open(multipathUseNeigh: boolean): Promise<Programs> {
    const object = native().loadObject({ sizes: { counters: 64 * REASON_MAX } })
    const control = new ControlBlock(object, await measureJiffies(object), console.error)
    control.configure(parseConfig('', 'defaults'))
    const ports = object.map('snat_ports')
    const key = Buffer.alloc(4)
    const value = Buffer.alloc(ports.info.valueSize)
    for (let row = 0; row < PORTS; row++) {
      key.writeUInt32LE(row)
      value.writeUInt16LE(20_000 + row)
      ports.update(key, value)
    }
    control.setPortCount(PORTS)
    control.limitFlows(262_144)
    control.renewLease(null)
    control.switchOn(true)
    const writer = createWriter(object)
    writer.masquerade.write(masquerade)
    return new Programs(object, writer, control, [], multipathUseNeigh)
  }

  async close(): Promise<void> {
    await this.#sync.close()
    this.object.close()
  }

  get state(): Sync['state'] {
    return this.#sync.state
  }

  get plan() {
    return this.#planner.plan
  }

  /** The table in which settle() leaves its marks; nobody looks routes up there. */
  static readonly markTable = 4999

  #markerOf(number: number): string | null {
    const hexadecimal = (0xc612_0000 + number).toString(16)
    return this.#sync.state.routes4.has(hexPrefix(`${hexadecimal}/32`)) ? hexadecimal : null
  }

  /** An `ip` command to be run after all others; settled() then waits until its event has arrived. */
  nextMark(): string {
    this.#marker = (this.#marker + 1) & 0xffff
    const address = formatAddress(hexAddress((0xc612_0000 + this.#marker).toString(16)))
    return `route add unreachable ${address}/32 table ${Programs.markTable}`
  }

  /** true: everything up to the last mark is in the maps. */
  settled(): boolean {
    const mark = this.#markerOf(this.#marker)
    return mark !== null && this.#applied === mark && this.#sync.status().state === 'synced'
  }

  /** For the message when settled() stays false. */
  describe(): string {
    const mark = this.#markerOf(this.#marker)
    return JSON.stringify({ mark, applied: this.#applied, sync: this.#sync.status(), complaints: this.complaints })
  }

  /** Forgets all flows, so that each packet is judged by the tables alone. */
  forgetFlows(): void {
    for (const name of ['flows4', 'flows6', 'reverse4', 'reverse6']) {
      const map = this.object.map(name)
      const { keys, count } = map.dump()
      if (count > 0) map.deleteBatch(keys, count)
    }
  }

  /** The verdict on one packet of `length` bytes of L3. */
  run(question: Question, length: number): Verdict {
    const link = this.#link(question.input)
    const role = link === undefined ? undefined : this.plan.devices.get(link)?.role
    // no program is attached to other devices
    if (link === undefined || role === undefined) return { kind: 'stack' }
    const program = role === 'pod' ? 'from_pod' : 'from_uplink'
    const frame = makeFrame(question, length)
    const context = Buffer.alloc(192)
    context.writeUInt32LE(question.mark, 8)
    context.writeUInt32LE(link, 36)
    context.writeUInt32LE(link, 40)
    const { retval, data } = this.object.testRun(program, { data: frame, context })
    if (retval === UNSPEC) return { kind: 'stack' }
    if (retval === SHOT) return { kind: 'drop' }
    if (retval !== REDIRECT) throw new Error(`${program} returned ${retval}`)
    return this.#forwarded(question, frame, data)
  }

  #link(device: string): number | undefined {
    for (const [ifindex, { name }] of this.state.links) if (name === device) return ifindex
    return undefined
  }

  #forwarded(question: Question, sent: Buffer, data: Buffer): Verdict {
    const source = question.family === 4 ? data.subarray(26, 30) : data.subarray(22, 38)
    const seen = formatAddress(addressIn(source, 0, source.length))
    if (!data.subarray(0, 12).equals(sent.subarray(0, 12))) {
      const found = nexthopByMac.get(macText(data.subarray(0, 6)))
      const device = found?.device ?? `MAC ${macText(data.subarray(0, 6))}`
      if (found && deviceMac(found.device) !== macText(data.subarray(6, 12)))
        return { kind: 'forward', device: `${device} with a source MAC of another device`, nexthop: null, source: seen }
      return { kind: 'forward', device, nexthop: found?.address ?? null, source: seen }
    }
    // No MAC known: the kernel's neighbour entry is asked. The flow says for which next hop.
    const row = this.#nexthopOfFlow(question)
    if (!row) return { kind: 'forward', device: 'unknown', nexthop: null, source: seen }
    const { ifindex, gateway } = splitNexthopKey(row)
    return {
      kind: 'forward',
      device: this.state.links.get(ifindex)?.name ?? `${ifindex}`,
      nexthop: gateway === null ? question.destination : formatAddress(gateway),
      source: seen
    }
  }

  #nexthopOfFlow(question: Question): NexthopKey | undefined {
    const { family, protocol, source, destination, sourcePort, destinationPort } = question
    const key = encodeTuple({
      local: source,
      remote: destination,
      localPort: sourcePort,
      remotePort: protocol === 'icmp' ? 0 : destinationPort,
      protocol: protocol === 'icmp' && family === 6 ? 58 : PROTOCOLS[protocol]
    })
    const flow = this.object.map(`flows${family}`).lookup(key)
    return flow ? this.writer.nexthopKey(flow.readUInt16LE(STRUCTS.flow.offset.nexthop)) : undefined
  }

  /** Packets by reason since the object was loaded, all devices together. */
  reasons(): Map<string, number> {
    const counters: BpfMap = this.object.map('counters')
    const { values, count } = counters.dump()
    const size = values.length / Math.max(1, count)
    const found = new Map<string, number>()
    for (let row = 0; row < count; row++) {
      let packets = 0
      for (let at = 0; at < size; at += 16) packets += Number(decodeCounter(values, row * size + at).packets)
      const name = REASONS[row % REASON_MAX]?.name
      if (packets > 0 && name) found.set(name, (found.get(name) ?? 0) + packets)
    }
    return found
  }
}

function makeFrame(question: Question, length: number): Buffer {
  const { family, input, source, destination, tos, sourcePort } = question
  const room = Math.max(0, length - (family === 4 ? 20 : 40) - (question.protocol === 'tcp' ? 20 : 8))
  const content = transport(question, sourcePort, Buffer.alloc(room))
  const network =
    family === 4
      ? ipv4({ source, destination, tos }, content)
      : ipv6({ source, destination, trafficClass: tos }, content)
  return ethernet({ source: '02:ee:00:00:00:01', destination: deviceMac(input) }, network)
}

function transport({ protocol, destinationPort }: Question, sourcePort: number, payload: Buffer): Transport {
  if (protocol === 'udp') return udp({ sourcePort, destinationPort }, payload)
  if (protocol === 'tcp') return tcp({ sourcePort, destinationPort, flags: 'S' }, payload)
  return echo({ id: sourcePort }, payload)
}
