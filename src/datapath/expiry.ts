// The end of idle flows: one round marks them, a later one deletes those that no
// packet has revived (bpf/expire.h).

import { STRUCTS } from '../maps/layout.js'
import type { BpfObject } from '../native.js'
import type { Family } from '../state/types.js'
import { walkFlows } from './flow-walk.js'

const { size, offset } = STRUCTS.expire_args

export interface ExpiryResult {
  /** Flows kept, of all verdicts. */
  live: number
  /** Of them through SNAT. */
  liveSnat: number
  /** Newly marked. */
  dying: number
  deleted: number
}

/** The program on keys of flow_keys*, whose result is added to those before. */
export class Expiry {
  private context: Buffer = Buffer.alloc(size)

  /** pressure: the timeouts of flows never answered are halved. */
  constructor(
    private readonly object: Pick<BpfObject, 'testRun'>,
    family: Family,
    pressure: boolean
  ) {
    this.context.writeUInt32LE(family, offset.family)
    this.context.writeUInt32LE(pressure ? 1 : 0, offset.pressure)
  }

  /** Returns how many flows it has deleted. */
  run(count: number): number {
    const before = this.result.deleted
    this.context.writeUInt32LE(count, offset.count)
    this.context = this.object.testRun('expire', { context: this.context }).context
    return this.result.deleted - before
  }

  get result(): ExpiryResult {
    const number = (at: number) => this.context.readUInt32LE(at)
    return {
      live: number(offset.live),
      liveSnat: number(offset.live_snat),
      dying: number(offset.dying),
      deleted: number(offset.deleted)
    }
  }
}

export async function expireFlows(
  object: Pick<BpfObject, 'map' | 'testRun'>,
  family: Family,
  pressure: boolean
): Promise<ExpiryResult> {
  const expiry = new Expiry(object, family, pressure)
  await walkFlows(object, family, (count) => expiry.run(count))
  return expiry.result
}
