// Sets of changes: made, joined, asked.

import type { Changes } from './types.js'

export function noChanges(): Changes {
  return { all: false, prefixes: new Set(), neighbours: new Set() }
}

export function hasChanges(changes: Changes): boolean {
  return changes.all || changes.prefixes.size > 0 || changes.neighbours.size > 0
}

/** Adds `from` to `into`. */
export function mergeChanges(into: Changes, from: Changes): void {
  if (from.all) into.all = true
  for (const key of from.prefixes) into.prefixes.add(key)
  for (const key of from.neighbours) into.neighbours.add(key)
}
