// The programs count time in jiffies (reading them costs two instructions). The
// rate is a build-time constant of the kernel that it tells nobody, so it is
// measured: two readings of both clocks by the `expire` program, snapped to the
// rates kernels are built with.

import { STRUCTS } from '../maps/layout.js'
import type { BpfObject } from '../native.js'

const rates = [100, 200, 250, 300, 500, 1000]
const measureFor = 250

const { size, offset } = STRUCTS.expire_args

export interface Clock {
  jiffies: bigint
  /** CLOCK_MONOTONIC, ns, at the same moment. */
  time: bigint
}

export function readClock(object: Pick<BpfObject, 'testRun'>): Clock {
  const { context } = object.testRun('expire', { context: Buffer.alloc(size) })
  return { jiffies: context.readBigUInt64LE(offset.jiffies), time: context.readBigUInt64LE(offset.time) }
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
export async function measureJiffies(object: Pick<BpfObject, 'testRun'>): Promise<number> {
  const first = readClock(object)
  await new Promise((resolve) => setTimeout(resolve, measureFor))
  const second = readClock(object)
  const measured = (Number(second.jiffies - first.jiffies) * 1e9) / Number(second.time - first.time)
  return rates.reduce((best, rate) => (Math.abs(rate - measured) < Math.abs(best - measured) ? rate : best))
}
