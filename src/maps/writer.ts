// Brings the maps to what the plan says, as a difference, in an order that is
// right for a packet at every moment:
//
//   next hops -> groups -> routes, those of classes too, longer prefixes first ->
//   pods -> what they may send with -> devices, then devices away -> pods away -> routes away, shorter
//   prefixes first -> control.route_generations raised (generations.ts) -> freed rows zeroed
//
// So a class is whole before a device has it, and gone only when none has it.
//
// Invariants
// - The maps are never emptied. At the start the writer reads them and matches
//   rows by content (next hops by identity, pods by device and address), so a
//   daemon that restarts writes real differences only.
// - A freed row is not used again before a later apply. Whatever led to it was
//   written, and its slots raised: no flow that remembers it sees a different next
//   hop there.
// - No family is ever served from a part of its table. What does not fit makes
//   the family go to the stack on every device first (`alarms` says why) until
//   a plan fits again. Only a pod's device for which there is no row is left out
//   alone, with its addresses (`leftOut`): all that it says and hears is the stack's. Where only old and new rows together do not fit, the old
//   ones leave first, with the family on the stack for that moment.
// - After a throw the maps hold something between the old plan and the new; the
//   next apply reads them and goes on from there. The same holds of an apply in
//   steps that has not been brought to its end; between its steps nothing but the
//   policy is written, and the plan must not change.

import { familyOf, neighbourKey, splitNeighbourKey } from '../address.js'
import type { PlanChange } from '../plan/change.js'
import { type ClassRouteKey, classRouteKey, type NexthopKey, splitClassRouteKey } from '../plan/keys.js'
import { RouteMap } from '../plan/route-map.js'
import type { Plan, WantedDevice } from '../plan/types.js'
import { eachOf, Slice, toEnd } from '../slice.js'
import type { Family, NeighbourKey, Prefix } from '../state/types.js'
import { CapacityError, isFull, type MapAccess } from './access.js'
import { createClassNumbers } from './classes.js'
import { decodeNeighbourKey, encodeNeighbour, encodeNeighbourKey } from './codec.js'
import { createDeviceRows } from './devices.js'
import { createGenerations } from './generations.js'
import { type ClassRow, classRow, familyOfKey, type RouteRowKey, splitClassRow } from './keys.js'
import { createMasqueradeRows, type MasqueradeRows } from './masquerade.js'
import { createMirror } from './mirror.js'
import { createGroupRows, createNexthopRows } from './nexthops.js'
import { byLength, withValues } from './order.js'
import { createPodSourceRows } from './pod-sources.js'
import { createPodRows } from './pods.js'
import { classRoutes, createRouteRows, nodeRoutes, type RouteRows } from './routes.js'
import { checkInSteps, type MapDifference, repairInSteps } from './verify.js'

export interface ApplyResult {
  /** Families left to the stack because something does not fit, and why. */
  alarms: { family: Family; why: string }[]
  /** What does not fit and does no harm: said, not acted on. */
  warnings: string[]
  /** Names of pods' devices for which there is no room. */
  leftOut: string[]
}

export interface Writer {
  /** change 'all': compare everything. Throws NativeError. */
  apply(plan: Plan, change: PlanChange | 'all'): ApplyResult
  /** The same in steps of a few milliseconds at most (src/slice.ts). */
  applying(plan: Plan, change: PlanChange | 'all'): Generator<void, ApplyResult>
  /** The masquerade policy: has nothing to do with the plan, and is written without one. */
  readonly masquerade: Pick<MasqueradeRows, 'write' | 'inForce'>
  /** Where the maps are not as the last apply left them. */
  verify(): MapDifference[]
  /** Writes the maps right; returns what was wrong. */
  repair(): MapDifference[]
  /** verify() or repair() in steps. No plan may be applied meanwhile. */
  checking(repair: boolean): Generator<void, MapDifference[]>
  /**
   * The same in slices, so that the event loop turns, and of large tables so slowly that it takes a small part
   * of the time; null: not now, the last time is too recent or goes on, or the maps are written as a whole.
   */
  repairSlowly(): Promise<MapDifference[] | null>
  /** Device's first row in `counters`, divided by REASON_MAX; by ifindex. */
  readonly counterRows: ReadonlyMap<number, number>
  /** Row of a next hop in `nexthops`, and back; undefined: none. */
  nexthopIndex(key: NexthopKey): number | undefined
  nexthopKey(index: number): NexthopKey | undefined
  fill(): Record<
    | 'devices'
    | 'pods'
    | 'nexthops'
    | 'groups'
    | 'routes4'
    | 'routes6'
    | 'classRoutes4'
    | 'classRoutes6'
    | 'neighbours'
    | 'masquerade',
    number
  >
}

const families: readonly Family[] = [4, 6]
const sliceMilliseconds = 4
/** Comparing takes 1/500 of the time at most. */
const pausesPerRepair = 500
/** Milliseconds of CPU that a comparison takes without pauses: most take no longer. */
const repairAtOnce = 100

/** What an attempt to apply works on. */
interface Attempt {
  change: PlanChange | 'all'
  /** Old rows leave before new ones come. */
  tight: boolean
  /** Families whose tables are not touched: they do not fit. */
  skip: Map<Family, string>
}

/** pause: so many milliseconds pass; for tests. */
export function createWriter(access: MapAccess, pause = delay): Writer {
  const nexthops = createNexthopRows(access)
  const groups = createGroupRows(access, nexthops)
  const generations = createGenerations(access)
  const noteRoute = (prefix: Prefix, lost: boolean): void => {
    if (lost) generations.noteAll()
    else generations.note(prefix)
  }
  const routes = createRouteRows(access, nexthops, groups, nodeRoutes, noteRoute)
  const ofClasses = createRouteRows(access, nexthops, groups, classRoutes, noteRoute)
  const classes = createClassNumbers()
  const pods = createPodRows(access)
  const podSources = createPodSourceRows(access)
  const devices = createDeviceRows(access)
  const masquerade = createMasqueradeRows(access)
  const neighbours = createMirror(access.map('neighbours'))
  const tables = {
    nexthops,
    groups,
    routes,
    classRoutes: ofClasses,
    pods,
    podSources,
    devices,
    masquerade,
    neighbours,
    access
  }
  let loaded = false
  /** The last apply threw. */
  let broken = false
  let left = new Map<Family, string>()
  /** Pods' devices without a row. */
  const leftOut = new Set<number>()
  let sizeWhenLeft = 0
  let applies = 0
  /** performance.now() before which maps are not compared by repairSlowly. */
  let repairNotBefore = 0

  function* load(plan: Plan): Generator<void> {
    leftOut.clear()
    generations.load()
    nexthops.load()
    yield
    const room = plan.routes instanceof RouteMap ? plan.routes.columns : null
    const users = [yield* routes.load(room), yield* ofClasses.load(null)]
    groups.load(users)
    pods.load()
    yield
    podSources.load()
    yield
    devices.load(pods.found())
    yield
    const numbers = new Set<number>()
    yield* eachOf(ofClasses.keys(), (key) => numbers.add(splitClassRow(key).number))
    classes.load(numbers)
    classes.adopt(devices.mirror.rows.values(), plan)
    neighbours.load()
    yield
  }

  function* addRoutes(plan: Plan, { change, skip }: Attempt): Generator<void> {
    if (change === 'all' && plan.routes instanceof RouteMap) {
      for (const family of families) if (!skip.has(family)) yield* routes.writeFamily(family, plan.routes)
    } else {
      const wanted = change === 'all' ? plan.routes.keys() : change.routes
      const ordered = yield* byLength(wanted, (key) => plan.routes.has(key) && !skip.has(familyOfKey(key)), -1)
      yield* routes.writeAll(withValues(ordered, plan.routes))
    }
    const ofClass = change === 'all' ? plan.classRoutes.keys() : change.classRoutes
    const passes = (key: ClassRouteKey) => plan.classRoutes.has(key) && !skip.has(familyOfKey(key))
    const ordered = yield* byLength(ofClass, passes, -1)
    yield* eachOf(withValues(ordered, plan.classRoutes), ([key, route]) => {
      const { key: name, prefix } = splitClassRouteKey(key)
      ofClasses.write(classRow(classes.numberOf(name), prefix), route)
    })
  }

  /** added: after addRoutes(). */
  function* removeRoutes(plan: Plan, { change, skip }: Attempt, added: boolean): Generator<void> {
    const beyond = change === 'all' ? routes.keysBeyond(plan.routes, added && skip.size === 0) : change.routes
    const gone = yield* byLength(beyond, (key) => !plan.routes.has(key) && !skip.has(familyOfKey(key)), 1)
    yield* eachOf(gone, (prefix) => routes.remove(prefix))
    const rows = change === 'all' ? ofClasses.keys() : rowsOf(change.classRoutes)
    const goneOfClasses = yield* byLength(rows, (row) => !isWanted(plan, row) && !skip.has(familyOfKey(row)), 1)
    yield* eachOf(goneOfClasses, (row) => ofClasses.remove(row))
    classes.prune(plan, skip)
  }

  /** Rows of the plan's keys, of classes that have a number. */
  const rowsOf = (keys: Iterable<ClassRouteKey>): ClassRow[] => {
    const rows: ClassRow[] = []
    for (const key of keys) {
      const { key: name, prefix } = splitClassRouteKey(key)
      const number = classes.known(name)
      if (number !== undefined) rows.push(classRow(number, prefix))
    }
    return rows
  }

  const isWanted = (plan: Plan, row: ClassRow): boolean => {
    const { number, prefix } = splitClassRow(row)
    const name = classes.keyOf(number)
    return name !== undefined && plan.classRoutes.has(classRouteKey(name, prefix))
  }

  /** Rows for devices that have none: an uplink's first, by which answers come back. */
  function* admit(plan: Plan, ifindexes: Iterable<number>): Generator<void> {
    const ofPods: number[] = []
    for (const ifindex of ifindexes) {
      const role = plan.devices.get(ifindex)?.role
      leftOut.delete(ifindex)
      if (role === 'pod') ofPods.push(ifindex)
      else if (role) devices.reserve(ifindex)
    }
    for (const ifindex of ofPods) {
      if (!devices.reserve(ifindex)) leftOut.add(ifindex)
      yield
    }
  }

  /** What was left out, and has room now. */
  function* admitAgain(plan: Plan, skipped: ReadonlySet<Family>): Generator<void> {
    const again = [...leftOut]
    yield* admit(plan, again)
    for (const ifindex of again) {
      const device = plan.devices.get(ifindex)
      if (!device || leftOut.has(ifindex)) continue
      const id = devices.podId(device)
      for (const address of device.addresses) {
        const pod = plan.pods.get(address)
        if (pod?.ifindex === ifindex && !skipped.has(familyOf(address))) pods.write(pod, id)
      }
      if (devices.write(device, skipped, classes.numberOf)) generations.noteAll()
    }
    if (generations.pending()) generations.raise()
  }

  const addPods = (plan: Plan, { change, skip }: Attempt): Generator<void> =>
    eachOf(change === 'all' ? plan.pods.keys() : change.pods, (address) => {
      const pod = plan.pods.get(address)
      const device = pod && plan.devices.get(pod.ifindex)
      if (pod && device && !leftOut.has(pod.ifindex) && !skip.has(familyOf(address)))
        pods.write(pod, devices.podId(device))
    })

  const removePods = (plan: Plan, { change }: Attempt): Generator<void> =>
    eachOf(change === 'all' ? [...pods.addresses()] : change.pods, (address) => {
      const wanted = plan.pods.get(address)
      if ((!wanted || leftOut.has(wanted.ifindex)) && pods.has(address)) pods.remove(address)
    })

  /** families: left to the stack on every device. */
  function* addDevices(
    plan: Plan,
    change: PlanChange | 'all',
    families: ReadonlySet<Family>,
    warnings: string[]
  ): Generator<void> {
    const ifindexes = change === 'all' || families.size > 0 ? plan.devices.keys() : change.devices
    const add = (device: WantedDevice): void => {
      if (device.role === 'pod') devices.podId(device)
      try {
        if (devices.write(device, families, classes.numberOf)) generations.noteAll()
      } catch (error) {
        if (!(error instanceof CapacityError) || families.size < 2) throw error
        warnings.push(error.message)
      }
    }
    yield* eachOf(ifindexes, (ifindex) => {
      const device = plan.devices.get(ifindex)
      if (device && !leftOut.has(ifindex)) add(device)
    })
  }

  const removeDevices = (plan: Plan, { change }: Attempt): Generator<void> =>
    eachOf(change === 'all' ? [...devices.rows.keys()] : change.devices, (ifindex) => {
      if (!plan.devices.has(ifindex)) devices.remove(ifindex)
    })

  /** Neighbours missing from the map cost speed only: the programs ask the kernel. */
  function* writeNeighbours(plan: Plan, { change }: Attempt, warnings: string[]): Generator<void> {
    const keys = change === 'all' ? new Set([...plan.neighbours.keys(), ...neighbourKeys()]) : change.neighbours
    const added: NeighbourKey[] = []
    yield* eachOf(keys, (key) => {
      if (plan.neighbours.has(key)) added.push(key)
      else neighbours.remove(neighbourRow(key))
    })
    let refused = 0
    yield* eachOf(withValues(added, plan.neighbours), ([key, { mac, known }]) => {
      try {
        neighbours.put(neighbourRow(key), encodeNeighbour(mac, known))
      } catch (error) {
        if (!isFull(error)) throw error
        refused++
      }
    })
    if (refused > 0) warnings.push(`${refused} neighbours do not fit: their packets ask the kernel`)
  }
  const neighbourKeys = (): NeighbourKey[] => {
    return [...neighbours.rows.keys()].map(planKeyOfNeighbour)
  }

  const settle = (): void => {
    nexthops.settle()
    groups.settle()
    devices.settle()
    classes.settle()
  }

  function* run(plan: Plan, attempt: Attempt, warnings: string[]): Generator<void> {
    const { change, tight, skip } = attempt
    const skipped = new Set(skip.keys())
    // Families that are to be served again wait until their tables are whole.
    const paused = new Set<Family>(tight ? [4, 6] : [...skipped, ...left.keys()])
    if (paused.size > 0) devices.pause(paused)
    if (tight) {
      yield* removeDevices(plan, attempt)
      yield* removePods(plan, attempt)
      yield* removeRoutes(plan, attempt, false)
      yield* releaseChanged(routes, skip, (prefix) => plan.routes.get(prefix)?.action === 'stack')
      yield* releaseChanged(ofClasses, skip, () => false)
      generations.noteAll()
      generations.raise()
      yield* nexthops.prune(plan)
      settle()
    }
    yield* admit(plan, change === 'all' ? plan.devices.keys() : change.devices)
    yield* writeNeighbours(plan, attempt, warnings)
    if (!skip.has(4) || !skip.has(6)) {
      const keys = change === 'all' ? plan.nexthops.keys() : change.nexthops
      yield* eachOf(withValues(keys, plan.nexthops), ([, wanted]) => nexthops.write(wanted))
    }
    yield* addRoutes(plan, attempt)
    yield* addPods(plan, attempt)
    const refused = yield* podSources.write(plan, change === 'all' ? undefined : change.devices)
    if (refused > 0) warnings.push(`${refused} prefixes of pods.sources do not fit: packets from them are dropped`)
    yield* addDevices(plan, change, paused, warnings)
    yield* removeDevices(plan, attempt)
    yield* removePods(plan, attempt)
    yield* removeRoutes(plan, attempt, true)
    // rows of their next hops may have been others' meanwhile
    if (paused.size > skipped.size) generations.noteAll()
    if (generations.pending()) generations.raise()
    yield* nexthops.prune(plan, change === 'all' ? undefined : change.nexthops)
    settle()
    if (paused.size > skipped.size) yield* addDevices(plan, 'all', skipped, warnings)
    if (leftOut.size > 0) yield* admitAgain(plan, skipped)
  }

  /** Removes routes that are to change, so that their groups become free. Only while the families are paused. */
  const releaseChanged = <Key extends RouteRowKey>(
    rows: RouteRows<Key>,
    skip: Attempt['skip'],
    stays: (key: Key) => boolean
  ): Generator<void> =>
    eachOf(rows.keys(), (key) => {
      if (!skip.has(familyOfKey(key)) && !(rows.isStack(key) && stays(key))) rows.remove(key)
    })

  /** Families whose tables cannot fit, known by counting. */
  const countFamilies = (plan: Plan): Map<Family, string> => {
    const found = new Map<Family, string>()
    if (plan.routes.size <= Math.min(routes.capacity(4), routes.capacity(6))) return found
    const counts = { 4: 0, 6: 0 }
    if (plan.routes instanceof RouteMap)
      for (const family of families) counts[family] = plan.routes.columns[family].size
    else for (const prefix of plan.routes.keys()) counts[familyOfKey(prefix)]++
    for (const family of families) {
      if (counts[family] > routes.capacity(family)) {
        found.set(family, `${counts[family]} IPv${family} routes, routes${family} takes ${routes.capacity(family)}`)
      }
    }
    return found
  }

  /** Runs with less and less until it fits. Each round takes a family away or is the last. */
  function* fit(plan: Plan, change: PlanChange | 'all', known: Map<Family, string>): Generator<void, string[]> {
    const attempt: Attempt = { change, tight: false, skip: new Map([...known, ...countFamilies(plan)]) }
    if (attempt.skip.size < left.size) attempt.change = 'all'
    for (;;) {
      const warnings: string[] = []
      try {
        yield* run(plan, attempt, warnings)
        left = attempt.skip
        return warnings
      } catch (error) {
        if (!(error instanceof CapacityError)) throw error
        if (attempt.tight)
          for (const family of error.families) if (!attempt.skip.has(family)) attempt.skip.set(family, error.message)
        attempt.change = 'all'
        attempt.tight = true
      }
    }
  }

  function* applying(plan: Plan, change: PlanChange | 'all'): Generator<void, ApplyResult> {
    applies++
    const whole = !loaded || change === 'all'
    if (!loaded) yield* load(plan)
    // what was written before the throw needs generations of its own, and may be no difference any more
    if (broken) generations.noteAll()
    broken = true
    loaded = false
    // Still too much, in all likelihood: then only the rest is kept up to date.
    const hopeless = left.size > 0 && !whole && sizeOf(plan) >= sizeWhenLeft
    const warnings = yield* fit(plan, whole ? 'all' : change, hopeless ? left : new Map())
    broken = false
    loaded = true
    sizeWhenLeft = left.size > 0 ? Math.min(sizeWhenLeft || Number.POSITIVE_INFINITY, sizeOf(plan)) : 0
    const alarms = [...left].map(([family, why]) => ({ family, why }))
    return {
      alarms,
      warnings,
      leftOut: [...leftOut].map((ifindex) => plan.devices.get(ifindex)?.name ?? `${ifindex}`)
    }
  }

  function* checking(repair: boolean): Generator<void, MapDifference[]> {
    if (!loaded) return []
    const wrong = yield* checkInSteps(tables, repair)
    return repair ? afterRepair(wrong) : wrong
  }

  const afterRepair = (wrong: MapDifference[]): MapDifference[] => {
    if (wrong.some(({ map }) => /^(routes|class_routes|nexthops|groups|masquerade)/.test(map))) {
      generations.noteAll()
      generations.raise()
    }
    return wrong
  }

  const sizeOf = (plan: Plan): number =>
    plan.routes.size + plan.classRoutes.size + plan.nexthops.size + plan.pods.size + plan.devices.size

  return {
    masquerade,
    counterRows: devices.rows,
    nexthopIndex: (key) => (nexthops.has(key) ? nexthops.indexOf(key) : undefined),
    nexthopKey: (index) => nexthops.keyAt(index),
    fill() {
      return {
        devices: devices.rows.size,
        pods: pods.pods.rows.size,
        nexthops: nexthops.mirror.rows.size,
        groups: groups.mirror.rows.size,
        routes4: routes.count(4),
        routes6: routes.count(6),
        classRoutes4: ofClasses.count(4),
        classRoutes6: ofClasses.count(6),
        neighbours: neighbours.rows.size,
        masquerade: masquerade.mirror.rows.size
      }
    },
    apply: (plan, change) => toEnd(applying(plan, change)),
    applying,
    verify: () => toEnd(checking(false)),
    repair: () => toEnd(checking(true)),
    checking,
    async repairSlowly() {
      if (!loaded || performance.now() < repairNotBefore) return null
      repairNotBefore = Number.POSITIVE_INFINITY
      const applied = applies
      const slice = new Slice(sliceMilliseconds)
      let worked = 0
      /** So much of it has been paused for, or is not. */
      let paused = repairAtOnce
      try {
        const steps = repairInSteps(tables, () => applies !== applied || !loaded)
        for (;;) {
          // what it would compare with is read anew, or stands between two plans
          if (!loaded) {
            steps.return([])
            return null
          }
          const begin = process.cpuUsage()
          const step = steps.next()
          worked += millisecondsSince(begin)
          if (step.done) return afterRepair(step.value)
          if (!slice.due(true)) continue
          if (worked > repairAtOnce) await pause((worked - paused) * pausesPerRepair)
          else await slice.rest()
          paused = Math.max(worked, repairAtOnce)
          slice.start()
        }
      } finally {
        repairNotBefore = performance.now() + Math.min(worked, repairAtOnce) * pausesPerRepair
      }
    }
  }
}

/** Of CPU: a machine that is busy with other things makes no comparison slower than it is. */
function millisecondsSince(begin: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(begin)
  return (user + system) / 1000
}

function delay(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds))
}

function neighbourRow(key: NeighbourKey): string {
  const { ifindex, address } = splitNeighbourKey(key)
  return encodeNeighbourKey(ifindex, address).toString('hex')
}

function planKeyOfNeighbour(row: string): NeighbourKey {
  const { ifindex, address } = decodeNeighbourKey(Buffer.from(row, 'hex'))
  return neighbourKey(ifindex, address)
}
