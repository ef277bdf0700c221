// Facts + configuration -> plan, kept up to date.
//
// A plan is a function of the facts alone: `planWorld` makes it from nothing,
// and `updateWorld` brings a plan to the same contents with work in proportion
// to what changed. Both go through the same functions for a prefix, a device, a
// pod and a neighbour; only the sets of what to look at differ. The order is
// one way: uses -> roles -> prefixes (and where pods are) -> devices -> pods ->
// neighbours; but a gateway that comes or goes may change the legs of prefixes
// and classes (gateways.ts), which are then looked at again. Whatever else moves
// things against that order (links, addresses, rules, next hop objects, short
// routes of table local) makes the plan anew.

import type { Changes, NodeState } from '../state/types.js'
import { comparePlans, emptyChange, emptyPlan, type PlanChange } from './change.js'
import { type PlanOptions, splitPrefix } from './options.js'
import { isPlainNode, refreshTables, staleClass, staleClasses, translateInClasses } from './policy.js'
import { TABLE_LOCAL } from './routes.js'
import type { Plan } from './types.js'
import {
  createWorld,
  moveTranslated,
  planDevices,
  planNeighbour,
  planPods,
  planPrefix,
  refreshRole,
  type World
} from './world.js'

export interface Planner {
  /** The plan as of the last update; always the same object. Its maps are live: read, never changed, not kept. */
  readonly plan: Plan
  /** Brings the plan up to date and says what changed. The first update and the one after setOptions plan everything. */
  update(state: NodeState, changes: Changes): PlanChange
  setOptions(options: PlanOptions): void
  /** What translate() has said so far. */
  readonly translated: ReadonlySet<string>
  /** Destinations (prefix keys) that the node translates, or no longer; the next update takes them in. */
  translate(diff: { added: Iterable<string>; removed: Iterable<string> }): void
}

export function createPlanner(initial: PlanOptions): Planner {
  let options = initial
  let world: World | null = null
  const translated = new Set<string>()
  const moved = new Set<string>()
  const plan = emptyPlan()
  return {
    plan,
    translated,
    setOptions(next) {
      options = next
      world = null
    },
    translate({ added, removed }) {
      for (const prefix of removed) if (translated.delete(prefix)) moved.add(prefix)
      for (const prefix of added) if (translated.size < translated.add(prefix).size) moved.add(prefix)
    },
    update(state, changes) {
      const destinations = new Map([...moved].map((prefix) => [prefix, translated.has(prefix)]))
      moved.clear()
      if (world && world.state === state && !changes.all && !movesCover(world, changes))
        return updateWorld(world, changes, destinations)
      const before = { ...plan }
      world = planWorld(state, options, translated)
      world.plan = Object.assign(plan, world.plan)
      return comparePlans(before, plan)
    }
  }
}

/** The whole plan, from nothing. translated: prefix keys. */
export function makePlan(state: NodeState, options: PlanOptions, translated: Iterable<string> = []): Plan {
  return planWorld(state, options, translated).plan
}

function planWorld(state: NodeState, options: PlanOptions, translated: Iterable<string>): World {
  const world = createWorld(state, options, translated)
  const change = emptyChange()
  for (const table of [state.routes4, state.routes6])
    for (const prefix of table.keys()) world.uses.refresh(prefix, state)
  for (const ifindex of state.links.keys()) refreshRole(world, ifindex)
  for (const table of [state.routes4, state.routes6])
    for (const prefix of table.keys()) planPrefix(world, prefix, change)
  for (const { prefixes } of [world.cover, world.translated])
    for (const prefix of prefixes.keys()) if (!world.plan.routes.has(prefix)) planPrefix(world, prefix, change)
  for (const [ifindex, role] of world.roles) if (role.role !== 'unserved') world.dirtyDevices.add(ifindex)
  planDevices(world, change)
  planPods(world, change)
  for (const key of state.neighbours.keys()) planNeighbour(world, key, change)
  world.plan.unserved = listUnserved(world)
  return world
}

/** destinations: those of which it changed whether they are translated. */
function updateWorld(world: World, changes: Changes, destinations: ReadonlyMap<string, boolean>): PlanChange {
  const { state } = world
  const change = emptyChange()
  const touched = new Set<number>()
  for (const prefix of changes.prefixes) world.uses.refresh(prefix, state, touched)
  const prefixes = new Set(changes.prefixes)
  const moved = moveRoles(world, touched)
  if (moved.size > 0) staleClasses(world)
  let diverted = moved.size > 0 && !isPlainNode(world.policy)
  for (const [prefix, translated] of destinations) {
    moveTranslated(world, prefix, translated, prefixes)
    if (translateInClasses(world, prefix, change)) diverted = true
  }
  for (const key of changes.neighbours) {
    for (const user of world.gateways.turned(key)) {
      if (staleClass(world, user)) diverted = true
      else prefixes.add(user)
    }
  }
  if (refreshTables(world, changes.prefixes) || diverted)
    for (const ifindex of world.plan.devices.keys()) world.dirtyDevices.add(ifindex)
  for (const ifindex of moved) {
    for (const prefix of world.uses.prefixesOf(ifindex)) prefixes.add(prefix)
    world.dirtyDevices.add(ifindex)
  }
  for (const prefix of prefixes) planPrefix(world, prefix, change)
  planDevices(world, change)
  for (const key of changes.neighbours) {
    world.nexthops.refresh(key, change)
    const address = key.slice(key.indexOf('/') + 1)
    if (world.places.has(address)) world.dirtyPods.add(address)
    planNeighbour(world, key, change)
  }
  planPods(world, change)
  if (moved.size > 0) {
    for (const [key, neighbour] of state.neighbours) if (moved.has(neighbour.ifindex)) planNeighbour(world, key, change)
    const unserved = listUnserved(world)
    change.unserved = JSON.stringify(unserved) !== JSON.stringify(world.plan.unserved)
    world.plan.unserved = unserved
  }
  return change
}

/** Devices, of those touched and those that share a row with them, whose role changed. */
function moveRoles(world: World, touched: ReadonlySet<number>): Set<number> {
  const moved = new Set<number>()
  for (const ifindex of touched) {
    for (const other of world.classifier.sharing(ifindex)) if (refreshRole(world, other)) moved.add(other)
  }
  return moved
}

/** A short prefix that has, or had, a route in table local covers what is inside it. */
function movesCover(world: World, changes: Changes): boolean {
  for (const prefix of changes.prefixes) {
    if (world.localCover.has(prefix)) return true
    const { address, length, family } = splitPrefix(prefix)
    if (length === address.length * 4) continue
    const routes = (family === 4 ? world.state.routes4 : world.state.routes6).get(prefix)
    if (routes?.some((route) => route.table === TABLE_LOCAL)) return true
  }
  return false
}

function listUnserved(world: World): Plan['unserved'] {
  const list: Plan['unserved'] = []
  for (const [ifindex, role] of world.roles) {
    if (role.role === 'unserved')
      list.push({ ifindex, name: world.state.links.get(ifindex)?.name ?? String(ifindex), why: role.why })
  }
  return list.sort((a, b) => a.ifindex - b.ifindex)
}
