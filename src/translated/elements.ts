// Elements of a set or map -> which destinations its look-ups let through, and
// for a verdict map where each of them goes.

import { addressBefore, addressOf, netmask } from '../address.js'
import type { Family } from '../state/types.js'
import { type Limit, masked, type Range, type Ranges } from './ranges.js'
import type { Chain, KeyField, Lookup } from './ruleset.js'

export const anything: Limit = { 4: 'all', 6: 'all' }
export const nothing: Limit = { 4: [], 6: [] }

/** Types of the node's own addresses (RTN_*): such destinations are the stack's in any case. */
const ownTypes: ReadonlySet<number> = new Set([2, 3, 4, 5])

export function isOwnType(type: number): boolean {
  return ownTypes.has(type)
}

/** What is left of the destinations when a look-up has to find something. */
export function limitOf({ set, field }: Lookup): Limit {
  if (!field || set.dynamic) return anything
  if (field.kind === 'type') {
    for (const key of set.elements.keys()) if (!isOwnType(typeIn(key, field.at))) return anything
    return nothing
  }
  const found: Range[] = []
  for (const [range] of ranges({ set, field })) {
    if (range === 'all') return { ...nothing, [field.family]: 'all' }
    found.push(range)
  }
  return { ...nothing, [field.family]: found }
}

/** Where a verdict map leads, and which destinations. What leads nowhere is left out. */
export function* verdictsOf(lookup: Lookup): Generator<[Limit, Chain]> {
  const { set, field } = lookup
  if (!field) {
    for (const chain of set.elements.values()) if (chain) yield [anything, chain]
    return
  }
  if (field.kind === 'type') {
    for (const [key, chain] of set.elements)
      if (chain) yield [isOwnType(typeIn(key, field.at)) ? nothing : anything, chain]
    return
  }
  for (const [range, chain] of ranges({ set, field }))
    if (chain) yield [limitTo(field.family, range === 'all' ? 'all' : [range]), chain]
}

function limitTo(family: Family, only: Ranges): Limit {
  return family === 4 ? { 4: only, 6: nothing[6] } : { 4: nothing[4], 6: only }
}

function typeIn(key: string, at: number): number {
  return key === '*' ? -1 : Number.parseInt(key.slice(at * 2, at * 2 + 2), 16)
}

type Destination = KeyField & { kind: 'destination' }

function* ranges({ set, field }: { set: Lookup['set']; field: Destination }): Generator<[Range | 'all', Chain | null]> {
  const digits = field.family === 4 ? 8 : 32
  const from = field.at * 2
  if (set.interval && !set.concatenated) {
    if (field.mask || from !== 0) for (const chain of set.elements.values()) yield ['all', chain]
    else yield* intervals(set.elements, digits)
    return
  }
  for (const [key, chain] of set.elements) {
    if (key === '*') {
      yield ['all', chain]
      continue
    }
    const first = addressOf(key.slice(from, from + digits))
    const dash = key.indexOf('-')
    if (field.mask) yield [dash < 0 ? masked(Buffer.from(first, 'hex'), field.mask) : 'all', chain]
    else if (dash < 0) yield [{ first, last: first }, chain]
    else yield [{ first, last: addressOf(key.slice(dash + 1 + from, dash + 1 + from + digits)) }, chain]
  }
}

/** An interval goes from its start to before the next start or end; the last one may have no end. */
function* intervals(
  elements: ReadonlyMap<string, Chain | null>,
  digits: number
): Generator<[Range | 'all', Chain | null]> {
  const edges = [...elements.keys()].filter((key) => key.length === digits || key.length === digits + 4).sort()
  for (let at = 0; at < edges.length; at++) {
    const edge = edges[at] as string
    if (edge.length > digits) continue // an end
    let next = at + 1
    while (edges[next]?.slice(0, digits) === edge) next++
    const stop = edges[next]?.slice(0, digits)
    const last = stop === undefined ? netmask(digits === 8 ? 4 : 6, digits * 4) : addressBefore(addressOf(stop))
    yield [{ first: addressOf(edge), last }, elements.get(edge) ?? null]
  }
  if (elements.has('*')) yield ['all', elements.get('*') ?? null]
}
