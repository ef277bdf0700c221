// A plan from nothing meets a million prefixes whose routes differ in nothing but
// their destination. The first of a kind is planned as any other; the rest get
// what it got, where that cannot depend on the destination:
//
//   - the prefix is no host's (those may be pods), and nothing covers it
//   - its one route leads to one gateway of its own family, or is left to the stack
//
// Holds while the state stands still, thus within one plan.

import type { Route } from '../state/types.js'
import type { PlanChange } from './change.js'
import { isKernelsOwn } from './cover.js'
import { coveredBy } from './covering.js'
import { familyEnabled, splitPrefix } from './options.js'
import type { WantedRoute } from './types.js'
import { planPrefix } from './world.js'
import type { World } from './world-types.js'

type KindOf = (prefix: string) => Route | null

export function countUses({ uses, state }: World, prefixes: Iterable<string>, kindOf: KindOf): void {
  const known = new Map<Route, number | number[] | undefined>()
  for (const prefix of prefixes) {
    const kind = kindOf(prefix)
    const { address, length } = splitPrefix(prefix)
    if (!kind || length === address.length * 4 || isKernelsOwn(address, length)) uses.refresh(prefix, state)
    else if (known.has(kind)) uses.add(prefix, known.get(kind))
    else {
      uses.refresh(prefix, state)
      known.set(kind, uses.usesOf(prefix))
    }
  }
}

/** Plans prefixes that have no plan yet. */
export function planPrefixes(world: World, prefixes: Iterable<string>, kindOf: KindOf, change: PlanChange): void {
  const known = new Map<Route, WantedRoute | null>()
  for (const prefix of prefixes) {
    const kind = kindOf(prefix)
    if (!kind || !isPlain(world, prefix)) {
      planPrefix(world, prefix, change)
      continue
    }
    const wanted = known.get(kind)
    if (!wanted) {
      planPrefix(world, prefix, change)
      if (wanted === undefined) known.set(kind, shared(kind, world.plan.routes.get(prefix)))
      continue
    }
    world.plan.routes.set(prefix, wanted)
    if (wanted.action === 'nexthop') world.nexthops.acquire(wanted.nexthop, change)
  }
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
