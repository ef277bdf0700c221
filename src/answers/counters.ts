// Packets by device and reason, and how fast they come. Rates cost nothing while
// nobody asks: they are the difference to the sample of the last question, or,
// if that was long ago, to one taken a moment earlier.

import type { PacketCounts } from '../control/api.js'
import type { DropRow } from '../control/packet-api.js'
import { decodeCounter } from '../maps/codec.js'
import { entries, indexKey } from '../maps/mirror.js'
import type { BpfMap } from '../native.js'
import { REASON_MAX, REASONS, type ReasonKind } from '../reasons.js'

export interface CountedDevice {
  name: string
  ifindex: number
  /** In counters. */
  row: number
}

interface Count {
  packets: number
  bytes: number
}

interface Sample {
  /** performance.now() */
  at: number
  /** by "ifindex/reason" */
  counts: Map<string, Count & { device: string; reason: number }>
}

const tooOld = 15_000
const tooYoung = 300

export class Counters {
  private last: Sample | null = null

  constructor(
    private readonly map: BpfMap,
    /** What is to be added: see bpf/maps.h, counted_before. */
    private readonly before: BpfMap,
    private readonly devices: () => CountedDevice[]
  ) {}

  /** All rows that have counted something, most packets first. */
  async rows(): Promise<DropRow[]> {
    let before = this.last
    if (!before || performance.now() - before.at > tooOld) {
      before = this.sample()
      await new Promise((resolve) => setTimeout(resolve, tooYoung))
    }
    const now = this.sample()
    if (now.at - before.at >= tooYoung) this.last = now
    const seconds = Math.max(0.001, (now.at - before.at) / 1000)
    const rows: DropRow[] = []
    for (const [key, { device, reason, packets, bytes }] of now.counts) {
      const { name = `reason ${reason}`, kind = 'stack' } = REASONS[reason] ?? {}
      const earlier = before.counts.get(key)
      const packetsPerSecond = Math.max(0, packets - (earlier?.packets ?? 0)) / seconds
      const bytesPerSecond = Math.max(0, bytes - (earlier?.bytes ?? 0)) / seconds
      rows.push({
        device,
        reason: name,
        class: kind,
        packets,
        bytes,
        packetsPerSecond: round(packetsPerSecond),
        bytesPerSecond: round(bytesPerSecond)
      })
    }
    return rows.sort((a, b) => b.packets - a.packets)
  }

  private sample(): Sample {
    const counts: Sample['counts'] = new Map()
    const before = new Map([...entries(this.before)].map(([key, value]) => [key.readUInt32LE(), value]))
    for (const { name, ifindex, row } of this.devices()) {
      for (let reason = 0; reason < REASONS.length; reason++) {
        const index = row * REASON_MAX + reason
        const count = sum([this.map.lookup(Buffer.from(indexKey(index), 'hex')), before.get(index)])
        if (count.packets > 0) counts.set(`${ifindex}/${reason}`, { ...count, device: name, reason })
      }
    }
    return { at: performance.now(), counts }
  }
}

/** Over the CPUs, too. */
function sum(values: (Buffer | null | undefined)[]): Count {
  const all = { packets: 0, bytes: 0 }
  for (const value of values) {
    for (let at = 0; value && at + 16 <= value.length; at += 16) {
      const { packets, bytes } = decodeCounter(value, at)
      all.packets += Number(packets)
      all.bytes += Number(bytes)
    }
  }
  return all
}

export function total(rows: readonly DropRow[], kind: ReasonKind): PacketCounts {
  const sum = { packets: 0, bytes: 0, packetsPerSecond: 0, bytesPerSecond: 0 }
  for (const row of rows) {
    if (row.class !== kind) continue
    sum.packets += row.packets
    sum.bytes += row.bytes
    sum.packetsPerSecond += row.packetsPerSecond
    sum.bytesPerSecond += row.bytesPerSecond
  }
  return sum
}

function round(value: number): number {
  return Math.round(value * 10) / 10
}
