// Prefixes compared.

import { maskAddress, prefixesBetween, prefixKey, splitPrefix } from '../address.js'
import type { Address, Family, Prefix } from '../state/types.js'

/** `inner` lies in `outer`, or is the same. */
export function inside(inner: Prefix, outer: Prefix): boolean {
  const { address, length, family } = splitPrefix(inner)
  const { address: around, length: aroundLength, family: aroundFamily } = splitPrefix(outer)
  return family === aroundFamily && length >= aroundLength && maskAddress(address, aroundLength) === around
}

/** Many prefixes, asked often: the work of an answer does not grow with them. */
export interface PrefixSet {
  readonly size: number
  /** One of the prefixes is `prefix`, or lies around it. */
  covers(prefix: Prefix): boolean
  /** They have addresses in common. */
  meets(prefix: Prefix): boolean
}

export function prefixSet(prefixes: Iterable<Prefix>): PrefixSet {
  const all = new Set(prefixes)
  /** The lengths there are. */
  const lengths: Record<Family, number[]> = { 4: [], 6: [] }
  for (const prefix of all) {
    const { family, length } = splitPrefix(prefix)
    if (!lengths[family].includes(length)) lengths[family].push(length)
  }
  const covers = (prefix: Prefix): boolean => {
    const { address, length, family } = splitPrefix(prefix)
    return lengths[family].some(
      (each) => each <= length && all.has(prefixKey(each === length ? address : maskAddress(address, each), each))
    )
  }
  const meets = (prefix: Prefix): boolean => {
    if (covers(prefix)) return true
    const { address, length } = splitPrefix(prefix)
    if (length === address.length * 4) return false
    for (const each of all) if (inside(each, prefix)) return true
    return false
  }
  return { size: all.size, covers, meets }
}

/** The fewest prefixes that hold exactly these addresses; null: not a range. */
export function rangePrefixes(first: Address | null, last: Address | null): Prefix[] | null {
  if (first === null || last === null || first.length !== last.length || first > last) return null
  return prefixesBetween(first, last)
}
