// What the node does not have of snat.addresses, in sentences.

import type { Plan } from '../plan/types.js'
import type { Family } from '../state/types.js'

/** six: IPv6 is masqueraded. */
export function lackingSources({ lackingSources: { entries, families } }: Plan, six: boolean): string[] {
  const dropped = noSourceOf(families, six)
  const missing = entries.length === 0 ? [] : [`snat.addresses: the node has no address for ${entries.join(', ')}`]
  return dropped === null ? missing : [dropped, ...missing]
}

/** Of the families that have no source at all; null: each has one. */
export function noSourceOf(families: readonly Family[], six: boolean): string | null {
  const names = families.filter((family) => family === 4 || six).map((family) => `IPv${family}`)
  if (names.length === 0) return null
  return `snat.addresses: the node has none of them for ${names.join(' and ')}; what is to be masqueraded over it is dropped`
}
