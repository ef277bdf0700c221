// A plan from nothing meets a million prefixes whose routes differ in nothing but
// their destination. The first of a kind is planned as any other; the rest get
// what it got, where that cannot depend on the destination:
//
//   - the prefix is no host's (those may be pods), and nothing covers it
//   - its one route leads to one gateway of its own family, or is left to the stack
//
// Holds while the state stands still, thus within one plan. Who has got nothing
// from another goes by its key, as in an update; the rest are never strings. In
// steps (src/slice.ts).

import { splitPrefix } from '../address.js'
import { PrefixBegins } from '../prefix-begins.js'
import type { PrefixColumn } from '../prefix-map.js'
import { RouteTable } from '../state/route-table.js'
import type { Prefix, Route } from '../state/types.js'
import type { PlanChange } from './change.js'
import { isKernelsOwn, kernelsOwn } from './cover.js'
import { coveredBy } from './covering.js'
import { familyEnabled } from './options.js'
import { RouteMap } from './route-map.js'
import type { WantedRoute } from './types.js'
import { planPrefix } from './world.js'
import type { World } from './world-types.js'

type Table = World['state']['routes4']
type KindOf = (prefix: Prefix) => Route | null
const keysInStep = 128

/** true: the prefix at this place got what others of its kind have. */
type Give = (kind: Route, column: PrefixColumn, at: number) => boolean

export function* countUses({ uses, state }: World, table: Table, kindOf: KindOf): Generator<void> {
  const known = new Map<Route, number | number[] | undefined>()
  const special = new PrefixBegins(kernelsOwn)
  if (table instanceof RouteTable)
    for (const { family, size } of Object.values(table.columns)) uses.reserve(size, family)
  const give: Give = (kind, column, at) => {
    if (!known.has(kind) || !isOrdinary(special, column, at)) return false
    uses.addAs(column, at, known.get(kind))
    return true
  }
  let done = 0
  for (const prefix of keysBut(table, give)) {
    if (prefix === null || ++done % keysInStep === 0) yield
    if (prefix === null) continue
    uses.refresh(prefix, state)
    const kind = kindOf(prefix)
    const { address, length } = splitPrefix(prefix)
    if (kind && length < address.length * 4 && !isKernelsOwn(address, length)) known.set(kind, uses.usesOf(prefix))
  }
}

/** Plans prefixes that have no plan yet. */
export function* planPrefixes(world: World, table: Table, kindOf: KindOf, change: PlanChange): Generator<void> {
  const { plan, nexthops, options, cover, translated } = world
  const known = new Map<Route, { wanted: WantedRoute | null; given: number }>()
  if (plan.routes instanceof RouteMap && table instanceof RouteTable)
    for (const { family, size } of Object.values(table.columns)) plan.routes.reserve(size, family)
  const special = new PrefixBegins([...kernelsOwn, ...cover.prefixes.keys(), ...translated.prefixes.keys()])
  const give: Give = (kind, column, at) => {
    const one = known.get(kind)
    if (!one?.wanted || !isOrdinary(special, column, at) || !(plan.routes instanceof RouteMap)) return false
    if (!familyEnabled(options, column.family)) return false
    plan.routes.addAs(column, at, one.wanted)
    one.given++
    return true
  }
  let done = 0
  for (const prefix of keysBut(table, give)) {
    if (prefix === null || ++done % keysInStep === 0) yield
    if (prefix === null) continue
    const kind = kindOf(prefix)
    const plain = kind && isPlain(world, prefix) ? kind : null
    const one = plain && known.get(plain)
    if (one?.wanted) {
      plan.routes.set(prefix, one.wanted)
      one.given++
      continue
    }
    planPrefix(world, prefix, change)
    if (plain && !one) known.set(plain, { wanted: shared(plain, plan.routes.get(prefix)), given: 0 })
  }
  for (const { wanted, given } of known.values())
    if (wanted?.action === 'nexthop' && given > 0) nexthops.acquire(wanted.nexthop, change, given)
}

/** null: many have been given something since. */
function keysBut(table: Table, give: Give): Iterable<Prefix | null> {
  return table instanceof RouteTable ? table.keysBut(give) : table.keys()
}

/** No host's prefix, nor the default route, and nothing special. */
function isOrdinary(special: PrefixBegins, column: PrefixColumn, at: number): boolean {
  const length = (column.lengths[at] as number) - 1
  return length > 0 && length < (column.family === 4 ? 32 : 128) && !special.has(column, at)
}

function isPlain(world: World, prefix: Prefix): boolean {
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
