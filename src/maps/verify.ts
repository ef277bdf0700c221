// Compares the kernel's maps with what the writer put there, and writes them
// right.

import { toEnd } from '../slice.js'
import type { Family, Prefix } from '../state/types.js'
import type { MapAccess } from './access.js'
import { decodeControl } from './codec.js'
import { describeKey, describeValue } from './describe.js'
import type { DeviceRows } from './devices.js'
import type { ClassRow } from './keys.js'
import { STRUCTS } from './layout.js'
import type { MasqueradeRows } from './masquerade.js'
import { type Mirror, type RowDifference, restore } from './mirror.js'
import type { GroupRows, NexthopRows } from './nexthops.js'
import type { PodSourceRows } from './pod-sources.js'
import type { PodRows } from './pods.js'
import type { RouteRows } from './routes.js'

/** One row that is not as wanted, readable. null: no row, or an empty one. */
export interface MapDifference {
  map: string
  key: string
  have: Record<string, unknown> | null
  want: Record<string, unknown> | null
}

const families: readonly Family[] = [4, 6]

export interface Tables {
  access: MapAccess
  devices: DeviceRows
  pods: PodRows
  podSources: PodSourceRows
  nexthops: NexthopRows
  groups: GroupRows
  routes: RouteRows<Prefix>
  classRoutes: RouteRows<ClassRow>
  neighbours: Mirror
  masquerade: MasqueradeRows
}

interface Wrong {
  difference: MapDifference
  repair: () => void
}

/** In steps. In the order in which they are repaired: what is referred to before what refers. */
function* compareInSteps(tables: Tables): Generator<void, Wrong[]> {
  const found: Wrong[] = []
  const add = (name: string, rows: RowDifference[]): void => {
    const map = tables.access.map(name)
    for (const row of rows) {
      found.push({
        difference: {
          map: name,
          key: describeKey(name, row.key),
          have: describeValue(name, row.have),
          want: describeValue(name, row.want)
        },
        repair: () => restore(map, row)
      })
    }
  }
  add('neighbours', tables.neighbours.differences())
  add('snat_sources', tables.nexthops.sources.differences())
  add('nexthops', tables.nexthops.mirror.differences())
  add('groups', tables.groups.mirror.differences())
  for (const family of families) add(`routes${family}`, yield* tables.routes.differences(family))
  for (const family of families) add(`class_routes${family}`, yield* tables.classRoutes.differences(family))
  add('pods', tables.pods.pods.differences())
  add('pod_slots', tables.pods.slots.differences())
  add('pod_sources', tables.podSources.mirror.differences())
  add('devices', tables.devices.mirror.differences())
  if (!tables.masquerade.loaded()) return found
  add('masquerade', tables.masquerade.mirror.differences())
  const epoch = decodeControl(tables.access.readControl()).masqueradeEpoch
  const wanted = tables.masquerade.epoch()
  if (epoch !== wanted) {
    found.push({
      difference: { map: 'control', key: 'masquerade_epoch', have: { epoch }, want: { epoch: wanted } },
      repair: () => {
        const bytes = Buffer.alloc(4)
        bytes.writeUInt32LE(wanted)
        tables.access.writeControl(STRUCTS.control.offset.masquerade_epoch, bytes)
      }
    })
  }
  return found
}

/** What is wrong. repair: each row is written right at the end; throws NativeError, with the rest not yet repaired. */
export function* checkInSteps(tables: Tables, repair: boolean): Generator<void, MapDifference[]> {
  const wrong = yield* compareInSteps(tables)
  return repair ? repairAll(wrong) : wrong.map(({ difference }) => difference)
}

/** The same in steps. What is wrong may be written while it goes on: then all is compared again at its end, and repaired at once. */
export function* repairInSteps(tables: Tables, isWritten: () => boolean): Generator<void, MapDifference[]> {
  const wrong = yield* compareInSteps(tables)
  if (wrong.length === 0) return []
  return isWritten() ? toEnd(checkInSteps(tables, true)) : repairAll(wrong)
}

function repairAll(wrong: Wrong[]): MapDifference[] {
  for (const { repair } of wrong) repair()
  return wrong.map(({ difference }) => difference)
}
