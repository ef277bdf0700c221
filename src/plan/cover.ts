// Prefixes that decide for everything inside them, whatever more specific
// routes say: prefixes left to the stack by configuration, destinations that the
// node translates, and short routes of table local, which the kernel asks before main.
// (While no ip rule was ever added the kernel merges local and main into one
// trie, and a longer route of main wins there. "Stack" is right in both cases.)

import { hexPrefix, splitPrefix } from '../address.js'
import type { Address, Prefix } from '../state/types.js'
import type { StackReason } from './types.js'

export interface Covered {
  reason: StackReason
  why: string
}

export interface Cover {
  add(prefix: Prefix, covered: Covered): void
  remove(prefix: Prefix): void
  /** What covers the prefix, itself or a shorter one; null: nothing does. */
  find(address: Address, length: number): Covered | null
  readonly prefixes: ReadonlyMap<Prefix, Covered>
}

export function createCover(): Cover {
  const prefixes = new Map<Prefix, Covered>()
  const byLength = { 4: new Map<number, Map<string, Covered>>(), 6: new Map<number, Map<string, Covered>>() }
  return {
    prefixes,
    add(prefix, covered) {
      const { address, length, family } = splitPrefix(prefix)
      const lengths = byLength[family]
      const known = lengths.get(length) ?? new Map<string, Covered>()
      lengths.set(length, known)
      const bits = leadingBits(address, length)
      if (known.has(bits)) return
      known.set(bits, covered)
      prefixes.set(prefix, covered)
    },
    remove(prefix) {
      const { address, length, family } = splitPrefix(prefix)
      const known = byLength[family].get(length)
      known?.delete(leadingBits(address, length))
      if (known?.size === 0) byLength[family].delete(length)
      prefixes.delete(prefix)
    },
    find(address, length) {
      let best: Covered | null = null
      let bestLength = 0
      for (const [shorter, known] of byLength[address.length === 8 ? 4 : 6]) {
        if (shorter > length) continue
        const covered = known.get(leadingBits(address, shorter))
        if (!covered || (best && !goesBefore(covered, shorter, best, bestLength))) continue
        best = covered
        bestLength = shorter
      }
      return best
    }
  }
}

/** What somebody wants goes before what a route says; else the wider prefix. */
function goesBefore(a: Covered, length: number, b: Covered, other: number): boolean {
  const [first, second] = [a.reason === 'route', b.reason === 'route']
  return first === second ? length < other : second
}

/** The first `length` bits, as a string that only the same bits make. */
export function leadingBits(address: Address, length: number): string {
  const digits = length >> 2
  const rest = length & 3
  const whole = address.slice(0, digits)
  if (rest === 0) return whole
  return whole + (Number.parseInt(address[digits] ?? '0', 16) >> (4 - rest))
}

export function contains(prefix: Address, length: number, address: Address): boolean {
  return prefix.length === address.length && leadingBits(prefix, length) === leadingBits(address, length)
}

/** What isKernelsOwn() says of prefixes inside. */
export const kernelsOwn: readonly Prefix[] = [
  hexPrefix('e0000000/4'),
  hexPrefix('a9fe0000/16'),
  hexPrefix(`ff${'0'.repeat(30)}/8`),
  hexPrefix(`fe80${'0'.repeat(28)}/10`)
]

/** Multicast and link-local: the programs hand these to the stack by themselves. */
export function isKernelsOwn(address: Address, length: number): boolean {
  if (address.length === 8) return (length >= 4 && address[0] === 'e') || (length >= 16 && address.startsWith('a9fe'))
  return (length >= 8 && address.startsWith('ff')) || (length >= 10 && /^fe[89ab]/.test(address))
}
