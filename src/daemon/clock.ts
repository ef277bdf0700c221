// The programs count time in jiffies (reading them costs two instructions). The
// rate is a build-time constant of the kernel that it tells nobody, so it is
// measured: two readings of both clocks by the `expire` program, snapped to the
// rates kernels are built with.

import { STRUCTS } from '../maps/layout.js'
import type { BpfObject } from '../native.js'

const rates = [100, 200, 250, 300, 500, 1000]
const measureFor = 250

export interface ExpireResult {
  jiffies: bigint
  /** CLOCK_MONOTONIC, ns, at the same moment. */
  time: bigint
  live: number
  liveSnat: number
  dying: number
  deleted: number
}

/** Runs the `expire` program once. family 0 only reads the clock. */
export function runExpire(object: Pick<BpfObject, 'testRun'>, family: 0 | 4 | 6, pressure = false): ExpireResult {
  const context = Buffer.alloc(40)
  context.writeUInt32LE(family, 0)
  context.writeUInt32LE(pressure ? 1 : 0, 4)
  const answer = object.testRun('expire', { context }).context
  return {
    jiffies: answer.readBigUInt64LE(8),
    time: answer.readBigUInt64LE(16),
    live: answer.readUInt32LE(24),
    liveSnat: answer.readUInt32LE(28),
    dying: answer.readUInt32LE(32),
    deleted: answer.readUInt32LE(36)
  }
}

/** Writes entries that were put into flows* from here into their pod's account. */
export function chargeFlows(object: Pick<BpfObject, 'testRun'>, family: 4 | 6, podId: number, entries: number): void {
  const context = Buffer.alloc(STRUCTS.charge_args.size)
  const { offset } = STRUCTS.charge_args
  context.writeUInt32LE(family, offset.family)
  context.writeUInt32LE(podId, offset.pod_id)
  context.writeInt32LE(entries, offset.entries)
  object.testRun('charge_flows', { context })
}

/** Jiffies a second. Takes a quarter of a second. */
export async function measureJiffies(object: BpfObject): Promise<number> {
  const first = runExpire(object, 0)
  await new Promise((resolve) => setTimeout(resolve, measureFor))
  const second = runExpire(object, 0)
  const measured = (Number(second.jiffies - first.jiffies) * 1e9) / Number(second.time - first.time)
  return rates.reduce((best, rate) => (Math.abs(rate - measured) < Math.abs(best - measured) ? rate : best))
}
