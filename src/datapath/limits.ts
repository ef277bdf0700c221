// What `limits` says and what the maps have: which of them have to be replaced,
// and whether what is in use fits into the new ones.

import type { Config } from '../config/config.js'
import { flowLimit } from '../config/flow-limit.js'
import type { Writer } from '../maps/writer.js'
import { REASON_MAX } from '../reasons.js'
import type { Usage } from './accounts.js'
import type { LoadedObject } from './live-object.js'

export type Limited = 'routes4' | 'routes6' | 'neighbours' | 'masquerade' | 'devices' | 'flows'

/** Flow tables that are so much larger than they need be are replaced by smaller ones: their buckets take memory. */
const tooLarge = 8

const mapsOf: Record<Limited, readonly string[]> = {
  routes4: ['routes4'],
  routes6: ['routes6'],
  neighbours: ['neighbours'],
  masquerade: ['masquerade'],
  devices: ['counters', 'counted_before'],
  flows: ['flows4', 'flows6', 'reverse4', 'reverse6']
}

/** max_entries by map. Devices: at least of so many rows of `counters`. */
export function sizesOf(config: Config, rows = 0): Record<string, number> {
  const { routes4, routes6, neighbours, masquerade, devices } = config.limits
  const flows = 2 * flowLimit(config) // room for a larger limit at run time; only used entries cost memory
  const counters = Math.max(devices, rows) * REASON_MAX
  return {
    routes4,
    routes6,
    neighbours,
    // the old policy and the new one
    masquerade: 2 * masquerade,
    flows4: flows,
    flows6: flows,
    reverse4: flows,
    reverse6: flows,
    counters,
    counted_before: counters
  }
}

export class LimitError extends Error {}

export interface InUse {
  fill: ReturnType<Writer['fill']>
  /** Rows of `counters`, by device. */
  rows: Iterable<number>
  usage: Usage
  /** Prefixes of the policy in force. */
  policy: number
}

/** What the maps have room for. */
export function capacities(object: LoadedObject): Record<Exclude<Limited, 'flows'> | 'flowRows', number> {
  const size = (name: string): number => {
    const map = object.map(name)
    try {
      return map.info.maxEntries
    } finally {
      map.close()
    }
  }
  return {
    routes4: size('routes4'),
    routes6: size('routes6'),
    neighbours: size('neighbours'),
    masquerade: Math.floor(size('masquerade') / 2),
    devices: Math.floor(size('counters') / REASON_MAX),
    flowRows: Math.min(...mapsOf.flows.map(size))
  }
}

export interface Resizing {
  /** Names of the maps that are to be replaced. */
  fresh: string[]
  sizes: Record<string, number>
}

/** Throws LimitError where what is in use does not fit. */
export function planResizing(config: Config, object: LoadedObject, inUse: InUse): Resizing {
  const have = capacities(object)
  const { limits } = config
  const flows = flowLimit(config)
  const rows = Math.max(0, ...[...inUse.rows].map((row) => row + 1))
  const { fill, usage, policy } = inUse
  const used: Record<Limited, [number, string]> = {
    routes4: [fill.routes4, 'IPv4 routes'],
    routes6: [fill.routes6, 'IPv6 routes'],
    neighbours: [fill.neighbours, 'neighbours'],
    masquerade: [policy, 'prefixes of the masquerade policy'],
    devices: [fill.devices, 'devices'],
    flows: [Math.max(usage.flows[4], usage.flows[6]), 'flows of a family']
  }
  const wanted: Record<Limited, number> = { ...limits, flows }
  const others: Record<Limited, boolean> = {
    routes4: have.routes4 !== limits.routes4,
    routes6: have.routes6 !== limits.routes6,
    neighbours: have.neighbours !== limits.neighbours,
    masquerade: have.masquerade !== limits.masquerade,
    devices: have.devices !== Math.max(limits.devices, rows),
    // a limit below what is in use is in force as it is, and its tables come when the flows have ended
    flows: flows > have.flowRows || (flows * tooLarge < have.flowRows && used.flows[0] <= flows)
  }
  const changed = (Object.keys(mapsOf) as Limited[]).filter((key) => others[key])
  const tooSmall = changed.filter((key) => used[key][0] > wanted[key])
  if (tooSmall.length > 0)
    throw new LimitError(
      tooSmall
        .map((key) => `limits.${key} is ${wanted[key]}, but ${used[key][0]} ${used[key][1]} are in use`)
        .join('; ')
    )
  return { fresh: changed.flatMap((key) => mapsOf[key]), sizes: sizesOf(config, rows) }
}
