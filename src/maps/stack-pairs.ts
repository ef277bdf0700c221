// Rows of the map stack_pairs: two IPv4 addresses between which a flow is the
// stack's. bpf/owner.h, pair_of(), computes the same.

import type { BpfMap } from '../native.js'
import type { Address } from '../state/types.js'

const set = Buffer.from([1])

export function stackPairRow(one: Address, other: Address): number {
  const mixed = (address: Address) => Math.imul(Number.parseInt(address, 16), 0x9e3779b1)
  return ((mixed(one) ^ mixed(other)) >>> 16) & 0xffff
}

/** So that owners4 is asked about flows between them. */
export function markStackPair(map: BpfMap, one: Address, other: Address): void {
  const key = Buffer.alloc(4)
  key.writeUInt32LE(stackPairRow(one, other))
  map.update(key, set)
}
