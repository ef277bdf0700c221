// A plan from nothing meets a million prefixes whose routes differ in nothing but
// their destination. The first of a kind is planned as any other; the rest get
// what it got, where that cannot depend on the destination:
//
//   - the prefix is no host's (those may be pods), and nothing covers it
//   - its one route leads to one gateway of its own family, or is left to the stack
//
// Holds while the state stands still, thus within one plan. Who has got nothing
// from another goes by its key, as in an update; the rest are never strings.

import type { PrefixColumn } from '../prefix-map.js'
import { RouteTable } from '../state/route-table.js'
import type { Family, Route } from '../state/types.js'
import type { PlanChange } from './change.js'
import { isKernelsOwn } from './cover.js'
import { coveredBy } from './covering.js'
import { familyEnabled, splitPrefix } from './options.js'
import { RouteMap } from './route-map.js'
import type { WantedRoute } from './types.js'
import { planPrefix } from './world.js'
import type { World } from './world-types.js'

type Table = World['state']['routes4']
type KindOf = (prefix: string) => Route | null
/** true: the prefix at this place got what others of its kind have. */
type Give = (kind: Route, column: PrefixColumn, at: number) => boolean

export function countUses({ uses, state }: World, table: Table, kindOf: KindOf): void {
  const known = new Map<Route, number | number[] | undefined>()
  const special = specialBegins([])
  const give: Give = (kind, column, at) => {
    if (!known.has(kind) || !isOrdinary(special, column, at)) return false
    uses.addAs(column, at, known.get(kind))
    return true
  }
  for (const prefix of keysBut(table, give)) {
    uses.refresh(prefix, state)
    const kind = kindOf(prefix)
    const { address, length } = splitPrefix(prefix)
    if (kind && length < address.length * 4 && !isKernelsOwn(address, length)) known.set(kind, uses.usesOf(prefix))
  }
}

/** Plans prefixes that have no plan yet. */
export function planPrefixes(world: World, table: Table, kindOf: KindOf, change: PlanChange): void {
  const { plan, nexthops, options, cover, translated } = world
  const known = new Map<Route, WantedRoute | null>()
  const special = specialBegins([...cover.prefixes.keys(), ...translated.prefixes.keys()])
  const give: Give = (kind, column, at) => {
    const wanted = known.get(kind)
    if (!wanted || !isOrdinary(special, column, at) || !(plan.routes instanceof RouteMap)) return false
    if (!familyEnabled(options, column.family)) return false
    plan.routes.addAs(column, at, wanted)
    if (wanted.action === 'nexthop') nexthops.acquire(wanted.nexthop, change)
    return true
  }
  for (const prefix of keysBut(table, give)) {
    const kind = kindOf(prefix)
    const plain = kind && isPlain(world, prefix) ? kind : null
    const wanted = plain && known.get(plain)
    if (wanted) {
      plan.routes.set(prefix, wanted)
      if (wanted.action === 'nexthop') nexthops.acquire(wanted.nexthop, change)
      continue
    }
    planPrefix(world, prefix, change)
    if (plain && wanted === undefined) known.set(plain, shared(plain, plan.routes.get(prefix)))
  }
}

function keysBut(table: Table, give: Give): Iterable<string> {
  return table instanceof RouteTable ? table.keysBut(give) : table.keys()
}

/** By family and the first 16 bits of an address, 1: there may be something that needs a closer look. */
type Begins = Record<Family, Uint8Array>

/** Multicast, link-local and what is inside these prefixes or around them. */
function specialBegins(prefixes: Iterable<string>): Begins {
  const begins = { 4: new Uint8Array(2 ** 16), 6: new Uint8Array(2 ** 16) }
  begins[4].fill(1, 0xe000, 0xf000)
  begins[4][0xa9fe] = 1
  begins[6].fill(1, 0xfe80, 0xfec0)
  begins[6].fill(1, 0xff00)
  for (const prefix of prefixes) {
    const { address, length, family } = splitPrefix(prefix)
    const count = 2 ** Math.max(0, 16 - length)
    const first = Math.floor(Number.parseInt(address.slice(0, 4), 16) / count) * count
    begins[family].fill(1, first, first + count)
  }
  return begins
}

/** No host's prefix, nor the default route, and nothing special. */
function isOrdinary(special: Begins, { family, words, lengths }: PrefixColumn, at: number): boolean {
  const length = (lengths[at] as number) - 1
  if (length === 0 || length === (family === 4 ? 32 : 128)) return false
  const first = words[family === 4 ? at : at * 4] as number
  return special[family][first >>> 16] === 0
}

function isPlain(world: World, prefix: string): boolean {
  const { address, length, family } = splitPrefix(prefix)
  if (length === 0 || length === address.length * 4) return false
  return (
    familyEnabled(world.options, family) && !isKernelsOwn(address, length) && coveredBy(world, address, length) === null
  )
}

/** What all of the kind get; null: it depends on the destination. */
function shared({ family, nexthopId, nexthops }: Route, wanted: WantedRoute | undefined): WantedRoute | null {
  if (!wanted || nexthopId !== 0 || nexthops.length > 1) return null
  const [hop] = nexthops
  if (hop && hop.gateway?.length !== (family === 4 ? 8 : 32)) return null
  return wanted
}
