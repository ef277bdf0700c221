// Sets of changes: made, joined, asked.

import type { Changes } from './types.js'

export function noChanges(): Changes {
  return {
    all: false,
    prefixes: new Set(),
    neighbours: new Set(),
    links: new Set(),
    addresses: new Set(),
    objects: new Set(),
    rules: false
  }
}

export function hasChanges(changes: Changes): boolean {
  return Object.values(changes).some((part) => (part instanceof Set ? part.size > 0 : part))
}

/** Adds `from` to `into`. */
export function mergeChanges(into: Changes, from: Changes): void {
  into.all ||= from.all
  into.rules ||= from.rules
  for (const key of from.prefixes) into.prefixes.add(key)
  for (const key of from.neighbours) into.neighbours.add(key)
  for (const ifindex of from.links) into.links.add(ifindex)
  for (const ifindex of from.addresses) into.addresses.add(ifindex)
  for (const id of from.objects) into.objects.add(id)
}

/** Takes everything out. */
export function clearChanges(changes: Changes): void {
  Object.assign(changes, noChanges())
}
