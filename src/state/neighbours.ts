// Neighbours by "ifindex/address". Entries of a device vanish with it.

import { sameFact } from './equal.js'
import type { Address, Changes, Neighbour } from './types.js'

export type NeighbourTable = Map<string, Neighbour>

/** Key of NodeState.neighbours and Changes.neighbours. */
export function neighbourKey(ifindex: number, address: Address): string {
  return `${ifindex}/${address}`
}

export function applyNeighbour(table: NeighbourTable, removed: boolean, neighbour: Neighbour, changes: Changes): void {
  const key = neighbourKey(neighbour.ifindex, neighbour.address)
  if (removed) {
    if (table.delete(key)) changes.neighbours.add(key)
    return
  }
  const known = table.get(key)
  if (known && sameFact(known, neighbour)) return
  table.set(key, neighbour)
  changes.neighbours.add(key)
}

export function removeNeighboursOf(table: NeighbourTable, ifindex: number, changes: Changes): void {
  const start = `${ifindex}/`
  for (const key of table.keys()) {
    if (!key.startsWith(start)) continue
    table.delete(key)
    changes.neighbours.add(key)
  }
}

/** Applies a whole dump. */
export function replaceNeighbours(table: NeighbourTable, dumped: Neighbour[], changes: Changes): void {
  const present = new Set<string>()
  for (const neighbour of dumped) {
    present.add(neighbourKey(neighbour.ifindex, neighbour.address))
    applyNeighbour(table, false, neighbour, changes)
  }
  for (const key of table.keys()) {
    if (present.has(key)) continue
    table.delete(key)
    changes.neighbours.add(key)
  }
}
