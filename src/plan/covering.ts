// What the node's prefixes are covered by, and what has to be planned anew when
// that changes. See cover.ts.

import { familyOfPrefix, splitPrefix } from '../address.js'
import type { Address, NodeState, Prefix } from '../state/types.js'
import { type Cover, type Covered, contains, createCover, isKernelsOwn } from './cover.js'
import type { PlanOptions } from './options.js'
import { TABLE_LOCAL } from './routes.js'
import type { World } from './world-types.js'

const keysInStep = 1024

export interface Covers {
  cover: Cover
  /** Prefixes of the cover that come from table local. */
  localCover: Set<Prefix>
  /** Destinations that the node translates: cover what is inside them, too. */
  translated: Cover
}

const configured: Covered = { reason: 'policy', why: 'left to the kernel by configuration' }
const insideLocal: Covered = { reason: 'route', why: 'inside a route of table local' }
const translatedDestination: Covered = {
  reason: 'translated-destination',
  why: "translated by the node's own rules"
}

export function readCovers(state: NodeState, options: PlanOptions, destinations: Iterable<Prefix>): Covers {
  const cover = createCover()
  const localCover = new Set<Prefix>()
  const translated = createCover()
  for (const prefix of options.stackPrefixes) cover.add(prefix, configured)
  for (const prefix of destinations) translated.add(prefix, translatedDestination)
  for (const prefix of state.routeUsers.inTable(TABLE_LOCAL)) {
    if (!coversOthers(prefix)) continue
    localCover.add(prefix)
    cover.add(prefix, insideLocal)
  }
  return { cover, localCover, translated }
}

export function coveredBy({ cover, translated }: Covers, address: Address, length: number): Covered | null {
  return translated.find(address, length) ?? cover.find(address, length)
}

/** A route of table local for such a prefix answers for what is inside it. */
function coversOthers(prefix: Prefix): boolean {
  const { address, length } = splitPrefix(prefix)
  return length < address.length * 4 && !isKernelsOwn(address, length)
}

/** Takes in whether a prefix has a route of table local; `prefixes` as in moveTranslated. In steps. */
export function* moveLocal(world: World, prefix: Prefix, prefixes: Set<Prefix>): Generator<void> {
  if (!coversOthers(prefix)) return
  const { state, cover, localCover, options } = world
  const routes = (familyOfPrefix(prefix) === 4 ? state.routes4 : state.routes6).get(prefix)
  const local = routes?.some(({ table }) => table === TABLE_LOCAL) ?? false
  if (local === localCover.has(prefix)) return
  if (local) {
    localCover.add(prefix)
    cover.add(prefix, insideLocal)
  } else {
    localCover.delete(prefix)
    if (!options.stackPrefixes.includes(prefix)) cover.remove(prefix)
  }
  yield* addInside(world, prefix, prefixes)
}

/**
 * Takes in whether a prefix is translated; adds what has to be planned anew to
 * `prefixes` and the world's dirty sets. A single address costs the same however
 * many others there are; for a shorter prefix all routes are looked through, in steps.
 */
export function* moveTranslated(
  world: World,
  prefix: Prefix,
  translated: boolean,
  prefixes: Set<Prefix>
): Generator<void> {
  if (translated === world.translated.prefixes.has(prefix)) return
  if (translated) world.translated.add(prefix, translatedDestination)
  else world.translated.remove(prefix)
  prefixes.add(prefix)
  const { address, length } = splitPrefix(prefix)
  if (length < address.length * 4) {
    yield* addInside(world, prefix, prefixes)
    return
  }
  const place = world.places.get(address)
  if (place) world.dirtyDevices.add(place.ifindex)
}

function* addInside(world: World, prefix: Prefix, prefixes: Set<Prefix>): Generator<void> {
  const { state, places, cover, translated, dirtyDevices, dirtyPods } = world
  const { address, length, family } = splitPrefix(prefix)
  // cheap, for there may be a million
  const digits = address.slice(0, length >> 2)
  let done = 0
  for (const known of [family === 4 ? state.routes4 : state.routes6, cover.prefixes, translated.prefixes]) {
    for (const inner of known.keys()) {
      if (++done % keysInStep === 0) yield
      if (!inner.startsWith(digits)) continue
      const { address: other, length: longer } = splitPrefix(inner)
      if (longer > length && contains(address, length, other)) prefixes.add(inner)
    }
  }
  for (const [other, { ifindex }] of places) {
    if (!contains(address, length, other)) continue
    dirtyDevices.add(ifindex)
    dirtyPods.add(other)
  }
}
