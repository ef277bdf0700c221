// The section .data.control: what the daemon tells the programs without a map
// look-up. Every write is one aligned field, so a program sees old or new.
// route_generations, once they were raised at the start, and masquerade_epoch belong to the writer of the maps.

import { randomInt } from 'node:crypto'
import type { Config } from '../config/config.js'
import { decodeControl } from '../maps/codec.js'
import { raiseGenerations } from '../maps/generations.js'
import { CODES, DEVICE_SLOTS, LAYOUT, STRUCTS } from '../maps/layout.js'
import type { BpfObject } from '../native.js'
import { readClock } from './clock.js'

const { offset } = STRUCTS.control
const sharedPod = STRUCTS.shared_pod.offset

function sharedRow(ifindex: number): number {
  return offset.shared + (ifindex & (DEVICE_SLOTS - 1)) * STRUCTS.shared_pod.size
}

const forEver = 0xffff_ffff_ffff_ffffn
const eventsPerSecond = 1000

type Settings = Pick<Config, 'snat' | 'lease'>

/** What is told besides drops. told: what the stages handle, and new flows; all: every packet. */
export type Monitored = 'nothing' | 'told' | 'all'

export class ControlBlock {
  /** The timer that ends the hot path with the lease runs; null: not tried yet, an earlier daemon's goes on. */
  private armed: boolean | null = null
  private watchesAll = false

  constructor(
    private readonly object: Pick<BpfObject, 'readControl' | 'writeControl' | 'testRun'>,
    readonly jiffiesPerSecond: number,
    private readonly warn: (text: string) => void
  ) {
    this.write32(offset.layout, LAYOUT)
    this.write32(offset.jiffies_per_second, jiffiesPerSecond)
    this.write32(offset.event_rate, eventsPerSecond)
    // an earlier daemon's stays: its pods' sockets keep their ports
    if (object.readControl().readUInt32LE(offset.port_key) === 0) this.write32(offset.port_key, randomInt(1, 2 ** 32))
  }

  get flags(): number {
    return this.object.readControl().readUInt32LE(offset.flags)
  }

  get isOn(): boolean {
    return (this.flags & CODES.CONTROL_ON) !== 0
  }

  /** What configuration says. The switch itself and monitoring stay as they are. */
  configure({ snat }: Settings): void {
    const { tcpOpening, tcpEstablished, tcpClosing, udpOneWay, udpReplied, icmp } = snat.timeouts
    const timeouts = [tcpOpening, tcpEstablished, tcpClosing, udpOneWay, udpReplied, icmp]
    timeouts.forEach((milliseconds, row) => this.write32(offset.timeout + 4 * row, this.jiffies(milliseconds)))
    this.setFlag(CODES.CONTROL_SNAT, snat.enabled)
    this.setFlag(CODES.CONTROL_DROP_PROTOCOLS, snat.otherProtocols === 'drop')
  }

  /**
   * Before there is a writer: an earlier daemon may have died between a change of the routes and raising them, and what
   * the programs remember of destinations is pinned.
   */
  raiseGenerations(): void {
    raiseGenerations(this.object)
  }

  /** Nothing makes or ends an entry of a flow: its packets come again. For a moment only. */
  pause(on: boolean): void {
    this.setFlag(CODES.CONTROL_PAUSED, on)
  }

  switchOn(on: boolean): void {
    this.setFlag(CODES.CONTROL_ON, on)
  }

  /** 'all' closes the hot path, which tells of no packet but the first of a flow: all that is forwarded costs more. */
  monitor(what: Monitored): void {
    this.watchesAll = what === 'all'
    this.setFlag(CODES.CONTROL_MONITOR, what !== 'nothing')
  }

  /** Packets that have a mark are the kernel's. */
  leaveMarks(on: boolean): void {
    this.setFlag(CODES.CONTROL_MARKS, on)
  }

  /** The stack may translate what passes it. Never taken back: who has made a nat chain may make another. */
  noteNatChain(): void {
    this.setFlag(CODES.CONTROL_NAT_CHAIN, true)
  }

  /** IPv4 link-local destinations are routed as any other. */
  routeLinkLocal(on: boolean): void {
    this.setFlag(CODES.CONTROL_LINK_LOCAL, on)
  }

  /** Packets with this mark are traced (bpf/trace.h); 0: none. */
  trace(mark: number): void {
    this.write32(offset.trace_mark, mark)
  }

  /** How many entries flows4 and flows6 may each have; in force at once. */
  limitFlows(most: number): void {
    this.write32(offset.flow_limit, most)
  }

  /** The device where programs send what they cannot finish; 0: there is none. */
  setDetour(ifindex: number): void {
    setDetourIn(this.object, ifindex)
  }

  setPortCount(count: number): void {
    this.write32(offset.port_count, count)
  }

  /** The programs leave all packets to the kernel. */
  get leaseIsOver(): boolean {
    return this.object.readControl().readBigUInt64LE(offset.lease) < this.now()
  }

  /** From now on for `milliseconds`; null: for ever. */
  renewLease(milliseconds: number | null): void {
    const until = milliseconds === null ? forEver : this.now() + BigInt(this.jiffies(milliseconds))
    this.write64(offset.lease, until)
    const { retval } = this.object.testRun('arm_lease', {})
    if (retval !== 0 && this.armed !== false)
      this.warn(
        `the kernel does not arm the timer of the lease (error ${-retval}): packets are forwarded all the same, by the slower of two paths; a later renewal tries again`
      )
    this.armed = retval === 0
    this.steer()
  }

  /**
   * The stack owns some flows that look like the fast path's, so flows are
   * looked up. For one of the causes in struct translating; while any holds, or
   * the programs have met such a flow themselves, it does.
   */
  setTranslating(cause: 'presumed' | 'configured' | 'known', holds: boolean): void {
    this.object.writeControl(offset.translating + STRUCTS.translating.offset[cause], Buffer.from([holds ? 1 : 0]))
  }

  /** Flows without an entry go to the stack; those that are known go on. */
  handOver(on: boolean): void {
    // so that also TCP in the middle of a flow is looked up
    if (on) this.setTranslating('presumed', true)
    this.setFlag(CODES.CONTROL_HAND_OVER, on)
  }

  /** Local pods reach the pod on this device through the stack, too: its packets to them are looked up. */
  markShared(ifindex: number): void {
    this.object.writeControl(sharedRow(ifindex) + sharedPod.delivered, Buffer.from([1]))
  }

  /**
   * The same until conntrack has been read, or the device's row is another's.
   * 'older': the pod may have flows from before the programs; 'new': it has just come.
   */
  presumeShared(ifindex: number, presumed: 'older' | 'new' | false): void {
    const value = presumed === false ? 0 : presumed === 'new' ? 1 : 2
    this.object.writeControl(sharedRow(ifindex) + sharedPod.presumed, Buffer.from([value]))
  }

  /** For a device that is new in its row. */
  clearShared(ifindex: number): void {
    this.object.writeControl(sharedRow(ifindex), Buffer.alloc(STRUCTS.shared_pod.size))
  }

  /** Once a round of expiry: for how much longer ACKs of openers are looked out for (bpf/types.h, struct shared_pod). */
  countDownOpenings(): void {
    this.object.testRun('count_down_openings', {})
  }

  read(): ReturnType<typeof decodeControl> {
    return decodeControl(this.object.readControl())
  }

  now(): bigint {
    return readClock(this.object).jiffies
  }

  private jiffies(milliseconds: number): number {
    return Math.max(1, Math.round((milliseconds * this.jiffiesPerSecond) / 1000))
  }

  private setFlag(flag: number, on: boolean): void {
    const flags = this.flags
    const next = on ? flags | flag : flags & ~flag
    if (next !== flags) this.write32(offset.flags, next)
    this.steer()
  }

  /** The hot path is for packets that nobody watches one by one, not in a pause, and only while a timer guards its lease. */
  private steer(): void {
    const asked = CODES.CONTROL_ON | CODES.CONTROL_PAUSED
    const plain = (this.flags & asked) === CODES.CONTROL_ON && !this.watchesAll
    if (!plain || this.armed === false) this.write32(offset.straight, 0)
    else if (this.armed) this.write32(offset.straight, 1)
  }

  private write32(at: number, value: number): void {
    this.object.writeControl(at, word(value))
  }

  private write64(at: number, value: bigint): void {
    const bytes = Buffer.alloc(8)
    bytes.writeBigUInt64LE(value)
    this.object.writeControl(at, bytes)
  }
}

type Section = Pick<BpfObject, 'readControl' | 'writeControl'>

/** Before there is a control block; it has the hot path steered anew. */
export function pauseIn(object: Section, on: boolean): void {
  const flags = object.readControl().readUInt32LE(offset.flags)
  if (on) object.writeControl(offset.straight, word(0))
  object.writeControl(offset.flags, word(on ? flags | CODES.CONTROL_PAUSED : flags & ~CODES.CONTROL_PAUSED))
}

export function setDetourIn(object: Section, ifindex: number): void {
  object.writeControl(offset.detour, word(ifindex))
}

function word(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value >>> 0)
  return bytes
}
