// Entries of flows* by pod, as the programs keep them (bpf/account.h).

import { ACCOUNT_SLOTS, STRUCTS } from '../maps/layout.js'
import type { Family } from '../state/types.js'
import type { ReadMap } from './flow-reader.js'
import { type Maps, podsIn } from './live-flows.js'

export interface Usage {
  flows: Record<Family, number>
  /** Since the maps were made: flows through SNAT decided again, since their address or uplink was gone. */
  moved: number
}

export interface PodUsage {
  ifindex: number
  /** Of both families. */
  flows: number
}

const { account, usage } = STRUCTS
const zero = Buffer.alloc(4)

/** Opens its maps once: it is asked often. */
export class Accounts {
  private readonly all: ReadMap
  private readonly byPod: ReadMap

  constructor(private readonly maps: Maps) {
    this.all = maps.map('usage')
    this.byPod = maps.map('accounts')
  }

  get usage(): Usage {
    const row = this.all.lookup(zero)
    return {
      flows: { 4: count(row, usage.offset.flows4), 6: count(row, usage.offset.flows6) },
      moved: row?.readUInt32LE(usage.offset.moved) ?? 0
    }
  }

  of(podId: number): Record<Family, number> {
    const key = Buffer.alloc(4)
    key.writeUInt32LE(podId & (ACCOUNT_SLOTS - 1))
    const row = this.byPod.lookup(key)
    return { 4: count(row, account.offset.flows4), 6: count(row, account.offset.flows6) }
  }

  /** The local pods that have most, at most `most` of them; none without a flow. */
  largest(most: number): PodUsage[] {
    const flowsOf = new Map<number, number>()
    for (const { ifindex, id } of podsIn(this.maps).values()) {
      if (flowsOf.has(ifindex)) continue
      const flows = this.of(id)
      flowsOf.set(ifindex, flows[4] + flows[6])
    }
    return [...flowsOf]
      .map(([ifindex, flows]) => ({ ifindex, flows }))
      .filter(({ flows }) => flows > 0)
      .sort((one, other) => other.flows - one.flows)
      .slice(0, most)
  }
}

/** Signed, as the programs take it; below 0 it is shown as none. */
function count(row: Buffer | undefined | null, at: number): number {
  return Math.max(0, row?.readInt32LE(at) ?? 0)
}
