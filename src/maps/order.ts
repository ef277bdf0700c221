// Keys of routes in the order in which they are written: so that no packet meets
// a shorter prefix's route while a longer one's is on its way.

import type { ClassRouteKey } from '../plan/keys.js'
import { lengthOfKey, type RouteRowKey } from './keys.js'

/** The keys that pass, ordered by prefix length, 1: shorter ones first. In steps; null among them: many have been looked at since. */
export function* byLength<Key extends RouteRowKey | ClassRouteKey>(
  keys: Iterable<Key | null>,
  passes: (key: Key) => boolean,
  order: 1 | -1
): Generator<void, Iterable<Key>> {
  const buckets: Key[][] = []
  let done = 0
  for (const key of keys) {
    if (key === null || ++done % keysInStep === 0) yield
    if (key === null || !passes(key)) continue
    const length = lengthOfKey(key)
    const bucket = buckets[length]
    if (bucket) bucket.push(key)
    else buckets[length] = [key]
  }
  if (order < 0) buckets.reverse()
  return each(buckets)
}

const keysInStep = 512

function* each<Key>(buckets: readonly (Key[] | undefined)[]): Iterable<Key> {
  for (const bucket of buckets) if (bucket) yield* bucket
}

/** Keys with what they have; keys that have nothing are left out. */
export function* withValues<Key, Value>(
  keys: Iterable<Key>,
  values: ReadonlyMap<Key, Value>
): Iterable<[key: Key, value: Value]> {
  for (const key of keys) {
    const value = values.get(key)
    if (value !== undefined) yield [key, value]
  }
}
