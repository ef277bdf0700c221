// `hostroute verify`: kernel against maps. The kernel's tables are dumped again,
// planned from nothing, and compared with the plan in force; then the maps with
// what was written into them.

import { formatAddress, formatPrefix } from '../address.js'
import type { VerifyDifference, VerifyReport } from '../control/api.js'
import { comparePlans } from '../plan/change.js'
import { makePlan } from '../plan/planner.js'
import type { Plan } from '../plan/types.js'
import type { Node } from './node.js'

const mostReported = 300
const dumpWithin = 10_000

export async function verifyNode(node: Node, repair: boolean): Promise<VerifyReport> {
  const started = performance.now()
  await dumpAgain(node)
  const fresh = makePlan(node.sync.state, node.planOptions())
  const differences = [...planDifferences(node.planner.plan, fresh), ...mapDifferences(node, repair)]
  const repaired = repair && differences.length > 0
  if (repaired) node.replan()
  const { devices, pods, nexthops, routes, classRoutes, neighbours, masquerade } = fresh
  return {
    time: new Date().toISOString(),
    ok: differences.length === 0 || repaired,
    checked:
      devices.size + pods.size + nexthops.size + routes.size + classRoutes.size + neighbours.size + masquerade.length,
    differences: differences.slice(0, mostReported),
    total: differences.length,
    repaired,
    duration: Math.round(performance.now() - started) / 1000
  }
}

/** Resolves when the tables were read anew, or throws when that takes too long. */
async function dumpAgain(node: Node): Promise<void> {
  const before = node.sync.status().lastSync
  const giveUp = performance.now() + dumpWithin
  node.sync.resync()
  do {
    if (performance.now() > giveUp)
      throw new Error(
        'the kernel tables could not be read again within 10 s; `hostroute status` shows the state of the sync'
      )
    await new Promise((resolve) => setTimeout(resolve, 5))
  } while (node.sync.status().lastSync === before || node.sync.status().state !== 'synced')
}

function planDifferences(inForce: Plan, fresh: Plan): VerifyDifference[] {
  const change = comparePlans(inForce, fresh)
  const list = <K, V>(
    map: string,
    keys: Set<K>,
    have: Map<K, V>,
    want: Map<K, V>,
    name: (key: K) => string
  ): VerifyDifference[] =>
    [...keys].map((key) => difference(map, name(key), have.get(key) ?? null, want.get(key) ?? null))
  return [
    ...list('devices', change.devices, inForce.devices, fresh.devices, String),
    ...list('pods', change.pods, inForce.pods, fresh.pods, formatAddress),
    ...list('nexthops', change.nexthops, inForce.nexthops, fresh.nexthops, String),
    ...list('routes', change.routes, inForce.routes, fresh.routes, formatPrefix),
    ...list('class_routes', change.classRoutes, inForce.classRoutes, fresh.classRoutes, nameOfClassRoute),
    ...list('neighbours', change.neighbours, inForce.neighbours, fresh.neighbours, String)
  ]
}

/** "4-0123456789ab 0a000000/8" */
function nameOfClassRoute(key: string): string {
  const space = key.indexOf(' ')
  return `${formatPrefix(key.slice(space + 1))} in class ${key.slice(0, space)}`
}

function mapDifferences({ datapath }: Node, repair: boolean): VerifyDifference[] {
  const found = (repair ? datapath?.writer.repair() : datapath?.writer.verify()) ?? []
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
