// Walks of the flow tables in slices, by programs in the kernel (bpf/flow_batch.h):
// neither the kernel nor the event loop is held up, however many flows there are.

import { setTimeout as sleep } from 'node:timers/promises'
import { FLOW_BATCH } from '../maps/layout.js'
import type { BpfObject } from '../native.js'
import { Slice } from '../netlink/slice.js'
import type { Family } from '../state/types.js'

const sliceMilliseconds = 4
/**
 * What was deleted the kernel frees at the end of a grace period, all at once and
 * with interrupts off: 300 ns each, and a grace period may last 300 ms.
 */
const deletedAtOnce = 2048
const freeMilliseconds = 40
const row = Buffer.alloc(4)

/** Walks use the same map and come one after the other. */
let last: Promise<unknown> = Promise.resolve()

/** `onBatch` runs a program on the first `count` keys of flow_keys* and returns how many flows it has deleted. Every flow that is there throughout is met once. */
export function walkFlows(object: Pick<BpfObject, 'map'>, family: Family, onBatch: (count: number) => number) {
  const walk = last.then(() => walkAlone(object, family, onBatch))
  last = walk.catch(() => {})
  return walk
}

async function walkAlone(object: Pick<BpfObject, 'map'>, family: Family, onBatch: (count: number) => number) {
  const slice = new Slice(sliceMilliseconds)
  let deleted = 0
  for (const count of flowBatches(object, family)) {
    deleted += onBatch(count)
    if (deleted >= deletedAtOnce) {
      deleted = 0
      await sleep(freeMilliseconds)
    }
    if (slice.due(true)) await slice.rest()
  }
}

/** Puts keys of all flows into flow_keys*, a batch at a time. */
export function* flowBatches(object: Pick<BpfObject, 'map'>, family: Family): Generator<number> {
  const flows = object.map(`flows${family}`)
  const batch = object.map(`flow_keys${family}`)
  const { keySize } = flows.info
  const room = Buffer.alloc(batch.info.valueSize)
  try {
    let position: Buffer | null = null
    do {
      const { keys, count, next } = flows.readBatch(position, FLOW_BATCH)
      // more when one hash bucket holds more
      for (let done = 0; done < count; done += FLOW_BATCH) {
        const part = Math.min(FLOW_BATCH, count - done)
        keys.copy(room, 0, done * keySize, (done + part) * keySize)
        batch.update(row, room)
        yield part
      }
      position = next
    } while (position !== null)
  } finally {
    flows.close()
    batch.close()
  }
}
