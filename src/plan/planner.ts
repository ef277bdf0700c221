// Facts + configuration -> plan, kept up to date.
//
// A plan is a function of the facts alone: `planWorld` makes it from nothing,
// and `updateWorld` (update.ts) brings a plan to the same contents with work in
// proportion to what changed. Both are made in steps (src/slice.ts), between which
// the state must not change: who takes them in slices sees to that.

import { eachOf, toEnd } from '../slice.js'
import type { Changes, NodeState, Prefix } from '../state/types.js'
import { countUses, planPrefixes } from './alike.js'
import { comparingPlans, emptyChange, emptyPlan, type PlanChange } from './change.js'
import type { PlanOptions } from './options.js'
import type { Plan } from './types.js'
import { listUnserved, updateWorld } from './update.js'
import { createWorld, planDevices, planNeighbour, planPods, planPrefix, refreshRole } from './world.js'
import type { World } from './world-types.js'

export interface Planner {
  /** The plan as of the last update; always the same object. Its maps are live: read, never changed, not kept. */
  readonly plan: Plan
  /** Brings the plan up to date and says what changed. The first update and the one after setOptions plan everything. */
  update(state: NodeState, changes: Changes): PlanChange
  /**
   * The same in steps; where everything is planned the plan is the earlier one until the last. No other update, and no
   * setOptions, may come before it; what translate() is told meanwhile the next one takes in.
   */
  updating(state: NodeState, changes: Changes): Generator<void, PlanChange>
  setOptions(options: PlanOptions): void
  /** What translate() has said so far. */
  readonly translated: ReadonlySet<Prefix>
  /** Destinations that the node translates, or no longer; the next update takes them in. */
  translate(diff: { added: Iterable<Prefix>; removed: Iterable<Prefix> }): void
}

export function createPlanner(initial: PlanOptions): Planner {
  let options = initial
  let world: World | null = null
  const translated = new Set<Prefix>()
  const moved = new Set<Prefix>()
  const plan = emptyPlan()

  function* updating(state: NodeState, changes: Changes): Generator<void, PlanChange> {
    const destinations = new Map([...moved].map((prefix) => [prefix, translated.has(prefix)]))
    moved.clear()
    if (world && world.state === state && !changes.all) return yield* updateWorld(world, changes, destinations)
    // what is left of it, if this comes to no end, is nothing to go on from
    world = null
    const next = yield* planWorld(state, options, translated)
    const change = yield* comparingPlans(plan, next.plan)
    next.plan = Object.assign(plan, next.plan)
    world = next
    return change
  }

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
    update: (state, changes) => toEnd(updating(state, changes)),
    updating
  }
}

/** The whole plan, from nothing. */
export function makePlan(state: NodeState, options: PlanOptions, translated: Iterable<Prefix> = []): Plan {
  return toEnd(makingPlan(state, options, translated))
}

/** The same in steps. */
export function* makingPlan(
  state: NodeState,
  options: PlanOptions,
  translated: Iterable<Prefix> = []
): Generator<void, Plan> {
  return (yield* planWorld(state, options, translated)).plan
}

function* planWorld(state: NodeState, options: PlanOptions, translated: Iterable<Prefix>): Generator<void, World> {
  const world = createWorld(state, options, translated)
  const change = emptyChange()
  const kindOf = (prefix: Prefix) => state.routeUsers.kindOf(prefix)
  for (const table of [state.routes4, state.routes6]) yield* countUses(world, table, kindOf)
  yield* eachOf(state.links.keys(), (ifindex) => refreshRole(world, ifindex))
  for (const table of [state.routes4, state.routes6]) yield* planPrefixes(world, table, kindOf, change)
  for (const { prefixes } of [world.cover, world.translated])
    yield* eachOf(prefixes.keys(), (prefix) => {
      if (!world.plan.routes.has(prefix)) planPrefix(world, prefix, change)
    })
  for (const [ifindex, role] of world.roles) if (role.role !== 'unserved') world.dirtyDevices.add(ifindex)
  yield* planDevices(world, change)
  yield* planPods(world, change)
  yield* eachOf(state.neighbours.keys(), (key) => planNeighbour(world, key, change))
  world.plan.unserved = listUnserved(world)
  return world
}
