// Keys of routes in the order in which they are written: so that no packet meets
// a shorter prefix's route while a longer one's is on its way.

/** The keys that pass, ordered by prefix length, 1: shorter ones first. In steps; null among them: many have been looked at since. */
export function* byLength(
  keys: Iterable<string | null>,
  passes: (key: string) => boolean,
  order: 1 | -1
): Generator<void, Iterable<string>> {
  const buckets: string[][] = []
  let done = 0
  for (const key of keys) {
    if (key === null || ++done % keysInStep === 0) yield
    if (key === null || !passes(key)) continue
    const length = Number(key.slice(key.indexOf('/') + 1))
    const bucket = buckets[length]
    if (bucket) bucket.push(key)
    else buckets[length] = [key]
  }
  if (order < 0) buckets.reverse()
  return each(buckets)
}

const keysInStep = 512

function* each(buckets: readonly (string[] | undefined)[]): Iterable<string> {
  for (const bucket of buckets) if (bucket) yield* bucket
}

/** Keys with what they have; keys that have nothing are left out. */
export function* withValues<Value>(
  keys: Iterable<string>,
  values: ReadonlyMap<string, Value>
): Iterable<[key: string, value: Value]> {
  for (const key of keys) {
    const value = values.get(key)
    if (value !== undefined) yield [key, value]
  }
}

/** "4-0123456789ab 0a000000/8" -> class and prefix; a row of a class route likewise. */
export function splitKey(key: string): [string, string] {
  const space = key.indexOf(' ')
  return [key.slice(0, space), key.slice(space + 1)]
}
