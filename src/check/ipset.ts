// Sets of ipset(8) that iptables rules match by name.

import type { Prefix } from '../state/types.js'
import type { Condition } from './ruleset.js'

export interface IpSet {
  /** "ip", "net", "port", ...: the parts of a member, in order. */
  parts: string[]
  /** Each part of each member as text. */
  members: string[][]
  /** Members that are excluded again: then nothing is said about addresses. */
  exceptions: boolean
}

/** From what `ipset save` prints. Types without addresses and lists of sets stay without members. */
export function parseIpsets(text: string): Map<string, IpSet> {
  const sets = new Map<string, IpSet>()
  for (const line of text.split('\n')) {
    const [word, name = '', value = '', ...rest] = line.trim().split(/\s+/)
    if (word === 'create') {
      const [, parts = ''] = value.split(':')
      sets.set(name, { parts: parts.split(','), members: [], exceptions: false })
    } else if (word === 'add') {
      const set = sets.get(name)
      set?.members.push(value.split(','))
      if (set && rest.includes('nomatch')) set.exceptions = true
    }
  }
  return sets
}

/** `--match-set NAME dst,dst` as a condition on addresses, where it is one. */
export function setCondition(
  set: IpSet | undefined,
  directions: string,
  invert: boolean,
  prefixOf: (text: string) => Prefix | null
): Condition {
  const other: Condition = { kind: 'other' }
  if (!set || set.exceptions || set.members.length === 0) return other
  // a member may have a port besides: not to be in the set says nothing about the address alone
  if (invert && set.parts.length > 1) return other
  const sides = directions.split(',')
  const at = (side: string) =>
    set.parts.findIndex((part, index) => (part === 'ip' || part === 'net') && sides[index] === side)
  const [destination, source] = [at('dst'), at('src')]
  const index = destination >= 0 ? destination : source
  if (index < 0) return other
  const prefixes = set.members.map((member) => prefixOf(member[index] ?? ''))
  if (!prefixes.every((prefix) => prefix !== null)) return other
  return { kind: destination >= 0 ? 'destination' : 'source', prefixes, invert, ipset: true }
}
