// Sets of destinations as ranges of addresses. Addresses are hexadecimal of one
// length within a family, so text order is address order.

import { addressOf } from '../address.js'
import type { Address, Family } from '../state/types.js'

export interface Range {
  first: Address
  last: Address
}

/** 'all': no limit. Lists are in no order and may overlap. */
export type Ranges = 'all' | readonly Range[]

/** What a rule leaves of the destinations of each family. */
export interface Limit {
  readonly 4: Ranges
  readonly 6: Ranges
}

export const none: readonly Range[] = []
export const families: readonly Family[] = [4, 6]

export function intersect(a: Ranges, b: Ranges): Ranges {
  if (a === 'all') return b
  if (b === 'all' || a === b) return a
  const [few, many] = a.length < b.length ? [a, b] : [b, a]
  const found: Range[] = []
  for (const one of few) {
    for (const other of many) {
      let { first, last } = one
      if (other.first > first) first = other.first
      if (other.last < last) last = other.last
      if (first <= last) found.push(first === other.first && last === other.last ? other : { first, last })
    }
  }
  return found
}

export function isNothing(limit: Limit): boolean {
  return limit[4] !== 'all' && limit[4].length === 0 && limit[6] !== 'all' && limit[6].length === 0
}

/** Where the bits of `mask` say, an address has those of `value`; bits behind the first that does not matter are left open. */
export function masked(value: Uint8Array, mask: Uint8Array): Range | 'all' {
  let first = ''
  let last = ''
  let open = false
  for (let at = 0; at < value.length; at++) {
    const byte = value[at] as number
    const leading = open ? 0 : leadingOnes(mask[at] as number)
    if (leading < 8) open = true
    const kept = (0xff << (8 - leading)) & 0xff
    first += hexByte(byte & kept)
    last += hexByte((byte & kept) | (~kept & 0xff))
  }
  return leadingOnes(mask[0] as number) === 0 ? 'all' : { first: addressOf(first), last: addressOf(last) }
}

function leadingOnes(byte: number): number {
  let count = 0
  while (count < 8 && byte & (0x80 >> count)) count++
  return count
}

const hexBytes = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'))

function hexByte(byte: number): string {
  return hexBytes[byte] as string
}
