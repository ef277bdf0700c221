// Entries of flows* by pod, as the programs keep them (bpf/account.h).

import { ACCOUNT_SLOTS, STRUCTS } from '../maps/layout.js'
import type { Family } from '../state/types.js'
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

/** Signed, as the programs take it; shown as none. */
function count(row: Buffer | undefined | null, at: number): number {
  return Math.max(0, row?.readInt32LE(at) ?? 0)
}

export function readUsage(maps: Maps): Usage {
  const row = maps.map('usage').lookup(Buffer.alloc(4))
  return {
    flows: { 4: count(row, usage.offset.flows4), 6: count(row, usage.offset.flows6) },
    moved: row?.readUInt32LE(usage.offset.moved) ?? 0
  }
}

export function readAccount(maps: Maps, podId: number): Record<Family, number> {
  const key = Buffer.alloc(4)
  key.writeUInt32LE(podId & (ACCOUNT_SLOTS - 1))
  const row = maps.map('accounts').lookup(key)
  return { 4: row?.readInt32LE(account.offset.flows4) ?? 0, 6: row?.readInt32LE(account.offset.flows6) ?? 0 }
}

/** The local pods that have most, at most `most` of them; none without a flow. */
export function largest(maps: Maps, most: number): PodUsage[] {
  const flowsOf = new Map<number, number>()
  for (const { ifindex, id } of podsIn(maps).values()) {
    if (flowsOf.has(ifindex)) continue
    const flows = readAccount(maps, id)
    flowsOf.set(ifindex, flows[4] + flows[6])
  }
  return [...flowsOf]
    .map(([ifindex, flows]) => ({ ifindex, flows }))
    .filter(({ flows }) => flows > 0)
    .sort((one, other) => other.flows - one.flows)
    .slice(0, most)
}
