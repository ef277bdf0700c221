// Prefix keys ("0a000000/8") compared.

import { maskAddress } from '../address.js'

/** `inner` lies in `outer`, or is the same. */
export function inside(inner: string, outer: string): boolean {
  const [address = '', length = ''] = inner.split('/')
  const [around = '', aroundLength = ''] = outer.split('/')
  return (
    address.length === around.length &&
    Number(length) >= Number(aroundLength) &&
    maskAddress(address, Number(aroundLength)) === around
  )
}

/** Many prefixes, asked often: the work of an answer does not grow with them. */
export interface PrefixSet {
  readonly size: number
  /** One of the prefixes is `prefix`, or lies around it. */
  covers(prefix: string): boolean
  /** They have addresses in common. */
  meets(prefix: string): boolean
}

export function prefixSet(keys: Iterable<string>): PrefixSet {
  const all = new Set(keys)
  /** By digits of the address: the lengths there are, longest first. */
  const lengths = new Map<number, number[]>()
  for (const key of all) {
    const slash = key.indexOf('/')
    const known = lengths.get(slash) ?? []
    const length = Number(key.slice(slash + 1))
    if (!known.includes(length)) lengths.set(slash, [...known, length])
  }
  const covers = (prefix: string): boolean => {
    const slash = prefix.indexOf('/')
    const address = prefix.slice(0, slash)
    const length = Number(prefix.slice(slash + 1))
    return (lengths.get(slash) ?? []).some(
      (each) => each <= length && all.has(`${each === length ? address : maskAddress(address, each)}/${each}`)
    )
  }
  const meets = (prefix: string): boolean => {
    if (covers(prefix)) return true
    const slash = prefix.indexOf('/')
    if (Number(prefix.slice(slash + 1)) === slash * 4) return false
    for (const each of all) if (inside(each, prefix)) return true
    return false
  }
  return { size: all.size, covers, meets }
}

/** The fewest prefixes that hold exactly these addresses; null: not a range. */
export function rangePrefixes(first: string, last: string): string[] | null {
  if (first.length !== last.length) return null
  const bits = first.length * 4
  let low = BigInt(`0x${first}`)
  const high = BigInt(`0x${last}`)
  if (low > high) return null
  const found: string[] = []
  while (low <= high) {
    let size = 0
    while (size < bits && (low >> BigInt(size)) % 2n === 0n && low + (1n << BigInt(size + 1)) - 1n <= high) size++
    found.push(`${low.toString(16).padStart(first.length, '0')}/${bits - size}`)
    low += 1n << BigInt(size)
  }
  return found
}
