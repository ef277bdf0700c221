// Neighbours. Entries of a device vanish with it.

import { neighbourKey } from '../address.js'
import { sameFact } from './equal.js'
import type { Changes, Neighbour, NeighbourKey } from './types.js'

export type NeighbourTable = Map<NeighbourKey, Neighbour>

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
  const present = new Set<NeighbourKey>()
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
