// `hostroute verify`: kernel against maps. The kernel's tables are read again,
// beside the sync, so that what it may have lost shows; planned from nothing, and
// compared with the plan in force; then the maps with what was written into them.
// All that in slices: there may be a million routes.

import { formatAddress, formatPrefix } from '../address.js'
import type { VerifyDifference, VerifyReport } from '../control/api.js'
import { readState } from '../netlink/read-state.js'
import { comparingPlans } from '../plan/change.js'
import { type ClassRouteKey, splitClassRouteKey } from '../plan/keys.js'
import { makingPlan } from '../plan/planner.js'
import type { Plan } from '../plan/types.js'
import { inSlices } from '../slice.js'
import type { NodeView, PlanSource } from './node-view.js'

const mostReported = 300
const patience = 10_000
const sliceMilliseconds = 4
/**
 * Milliseconds before the kernel is asked again about what differs: events may be
 * on their way, and of a neighbour that is asked for first no event tells for 3 s.
 */
const secondLooks = [300, 1000, 3000]

/** What of the node a comparison needs. */
export type Verified = Pick<NodeView, 'plan' | 'datapath'>

export async function verifyNode(node: Verified, source: PlanSource, repair: boolean): Promise<VerifyReport> {
  const started = performance.now()
  let { fresh, differences } = await compareWithKernel(node, source)
  for (const pause of secondLooks) {
    if (differences.length === 0) break
    await new Promise((resolve) => setTimeout(resolve, pause))
    const again = await compareWithKernel(node, source)
    fresh = again.fresh
    // by their text: there are as many as there are routes where much changes at once
    const still = new Set(again.differences.map((one) => JSON.stringify(one)))
    differences = differences.filter((one) => still.has(JSON.stringify(one)))
  }
  const found = [...differences, ...(await source.inTurn(() => mapDifferences(node, repair)))]
  const repaired = repair && found.length > 0
  if (repaired) {
    await source.replan()
    if (differences.length > 0) source.resync()
  }
  const { devices, pods, nexthops, routes, classRoutes, neighbours } = fresh
  const policy = node.datapath?.writer.fill().masquerade ?? 0
  return {
    time: new Date().toISOString(),
    ok: found.length === 0 || repaired,
    checked: devices.size + pods.size + nexthops.size + routes.size + classRoutes.size + neighbours.size + policy,
    differences: found.slice(0, mostReported),
    total: found.length,
    repaired,
    duration: Math.round(performance.now() - started) / 1000
  }
}

/** The kernel's tables, read by themselves and planned from nothing, and where the plan in force is another. */
async function compareWithKernel(
  { plan }: Verified,
  source: PlanSource
): Promise<{ fresh: Plan; differences: VerifyDifference[] }> {
  const state = await readState(patience)
  const fresh = await inSlices(makingPlan(state, source.options(), source.translated), sliceMilliseconds)
  return { fresh, differences: await source.inTurn(() => planDifferences(plan, fresh)) }
}

function* planDifferences(inForce: Plan, fresh: Plan): Generator<void, VerifyDifference[]> {
  const change = yield* comparingPlans(inForce, fresh)
  const list = <K, V>(
    map: string,
    keys: Set<K>,
    have: Map<K, V>,
    want: Map<K, V>,
    name: (key: K) => string
  ): VerifyDifference[] =>
    [...keys].flatMap((key) => {
      const [found, wanted] = [have.get(key) ?? null, want.get(key) ?? null]
      return isAskedNow(found, wanted) ? [] : [difference(map, name(key), found, wanted)]
    })
  return [
    ...list('devices', change.devices, inForce.devices, fresh.devices, String),
    ...list('pods', change.pods, inForce.pods, fresh.pods, formatAddress),
    ...list('nexthops', change.nexthops, inForce.nexthops, fresh.nexthops, String),
    ...list('routes', change.routes, inForce.routes, fresh.routes, formatPrefix),
    ...list('class_routes', change.classRoutes, inForce.classRoutes, fresh.classRoutes, nameOfClassRoute),
    ...list('neighbours', change.neighbours, inForce.neighbours, fresh.neighbours, String)
  ]
}

/** A neighbour that was stale and is asked now: no event tells that (DELAY), and until one does the kernel is asked. */
function isAskedNow(found: unknown, wanted: unknown): boolean {
  const vouched = JSON.stringify(found, (name, value) => (name === 'known' || name === 'macKnown' ? true : value))
  return vouched === JSON.stringify(wanted)
}

function nameOfClassRoute(routeKey: ClassRouteKey): string {
  const { key, prefix } = splitClassRouteKey(routeKey)
  return `${formatPrefix(prefix)} in class ${key}`
}

function* mapDifferences({ datapath }: Verified, repair: boolean): Generator<void, VerifyDifference[]> {
  const found = datapath ? yield* datapath.writer.checking(repair) : []
  return found.map(({ map, key, have, want }) => difference(map, key, have, want))
}

function difference(map: string, key: string, have: unknown, want: unknown): VerifyDifference {
  const kind = have === null ? 'missing' : want === null ? 'unexpected' : 'different'
  return {
    map,
    key,
    kind,
    wanted: want === null ? null : JSON.stringify(want),
    found: have === null ? null : JSON.stringify(have)
  }
}
