// A plan brought up to date, with work in proportion to what changed.
//
// It goes through the same functions for a prefix, a device, a pod and a
// neighbour as planWorld; only the sets of what to look at differ. The order is
// one way: rules, links, uses -> roles -> covers, sources, gateways -> prefixes
// (and where pods are) -> devices -> pods -> neighbours. What each kind of change
// can concern:
//
//   rule         which tables count; all devices, none of main's routes
//   link         its role and that of its ports; routes through it if its name
//                or MTU is another or its role changed
//   address      routes through devices whose source addresses are others
//   next hop     routes by the object and by groups with it
//   prefix       itself; in table local also what is inside it
//   neighbour    next hops through it, routes that pass over it when it is not there
//
// In steps (src/slice.ts): an event may concern all routes. Between them the plan
// and what belongs to it are neither what they were nor what they will be.

import { familyOfPrefix, splitNeighbourKey } from '../address.js'
import { eachOf } from '../slice.js'
import type { Changes, Link, NeighbourKey, NodeState, Prefix } from '../state/types.js'
import { emptyChange, type PlanChange } from './change.js'
import { moveLocal, moveTranslated } from './covering.js'
import { isPlainNode, refreshRules, refreshTables, staleClass, staleClasses, translateInClasses } from './policy.js'
import type { Plan } from './types.js'
import { planDevices, planNeighbour, planPods, planPrefix, refreshRole } from './world.js'
import type { World } from './world-types.js'

const prefixesInStep = 128

/** What is to be looked at. */
interface Work {
  prefixes: Set<Prefix>
  /** Devices whose counts of routes changed, or which are others themselves. */
  touched: Set<number>
  /** Classes hold something that may be another: all devices are looked at. */
  diverted: boolean
}

/** destinations: those of which it changed whether they are translated. */
export function* updateWorld(
  world: World,
  changes: Changes,
  destinations: ReadonlyMap<Prefix, boolean>
): Generator<void, PlanChange> {
  const change = emptyChange()
  const work: Work = { prefixes: new Set(changes.prefixes), touched: new Set(changes.links), diverted: false }
  if (changes.rules) takeRules(world, work)
  const renamed = yield* takeLinks(world, changes.links, work)
  yield* takeObjects(world, changes.objects, work)
  yield* eachOf(work.prefixes, (prefix) => world.uses.refresh(prefix, world.state, work.touched))
  const { moved, uplinks } = moveRoles(world, work.touched)
  for (const ifindex of moved) yield* addThrough(world.state, ifindex, work.prefixes)
  if (moved.size > 0 || renamed) loosenClasses(world, work)
  yield* takeSources(world, changes, uplinks, work)
  yield* takeLocal(world, changes.prefixes, work)
  yield* takeTranslated(world, destinations, work, change)
  takeGateways(world, changes.neighbours, work)
  if ((yield* refreshTables(world, changes.prefixes)) || work.diverted)
    for (const ifindex of world.plan.devices.keys()) world.dirtyDevices.add(ifindex)
  for (const ifindex of moved) world.dirtyDevices.add(ifindex)
  yield* eachOf(work.prefixes, (prefix) => planPrefix(world, prefix, change))
  yield* planDevices(world, change)
  for (const ifindex of changes.links) world.nexthops.refreshDevice(ifindex, change)
  yield* eachOf(changes.neighbours, (key) => {
    world.nexthops.refresh(key, change)
    const { address } = splitNeighbourKey(key)
    if (world.places.has(address)) world.dirtyPods.add(address)
    planNeighbour(world, key, change)
  })
  yield* planPods(world, change)
  if (uplinks.size > 0) {
    const planOne = ([key, { ifindex }]: [NeighbourKey, { ifindex: number }]): void => {
      if (uplinks.has(ifindex)) planNeighbour(world, key, change)
    }
    yield* eachOf(world.state.neighbours, planOne)
    yield* eachOf([...world.plan.neighbours], planOne)
  }
  if (moved.size > 0 || changes.links.size > 0) tellUnserved(world, change)
  return change
}

function takeRules(world: World, work: Work): void {
  for (const prefix of refreshRules(world)) work.prefixes.add(prefix)
  work.diverted = true
}

/** true: one has another name or MTU, came or went. */
function* takeLinks(world: World, links: ReadonlySet<number>, { prefixes, touched }: Work): Generator<void, boolean> {
  let renamed = false
  for (const ifindex of links) {
    const before = world.links.get(ifindex)
    const after = world.state.links.get(ifindex)
    for (const other of world.classifier.dependents(ifindex)) touched.add(other)
    world.classifier.refresh(ifindex)
    for (const other of world.classifier.dependents(ifindex)) touched.add(other)
    if (after) world.links.set(ifindex, after)
    else world.links.delete(ifindex)
    world.dirtyDevices.add(ifindex)
    for (const address of world.addressesOf.get(ifindex) ?? []) world.dirtyPods.add(address)
    if (isSameToRoutes(before, after)) continue
    renamed = true
    yield* addThrough(world.state, ifindex, prefixes)
  }
  return renamed
}

function isSameToRoutes(before: Link | undefined, after: Link | undefined): boolean {
  return before?.name === after?.name && before?.mtu === after?.mtu
}

function* takeObjects(world: World, objects: ReadonlySet<number>, work: Work): Generator<void> {
  if (objects.size === 0) return
  const { state } = world
  loosenClasses(world, work)
  for (const id of objects) yield* addAll(state.routeUsers.byObject(id), work.prefixes)
  for (const { id, group } of state.nexthopObjects.values()) {
    if (group.some((member) => objects.has(member.id))) yield* addAll(state.routeUsers.byObject(id), work.prefixes)
  }
}

function addAll(from: Iterable<Prefix>, prefixes: Set<Prefix>): Generator<void> {
  return eachOf(from, (prefix) => prefixes.add(prefix))
}

/** Routes through the device, by next hops of their own and by objects. */
function* addThrough(state: NodeState, ifindex: number, prefixes: Set<Prefix>): Generator<void> {
  yield* addAll(state.routeUsers.throughDevice(ifindex), prefixes)
  yield* addByObjects(state, ifindex, prefixes)
}

function* addByObjects(
  { routeUsers, nexthopObjects }: NodeState,
  ifindex: number,
  prefixes: Set<Prefix>
): Generator<void> {
  const isOn = (id: number): boolean => nexthopObjects.get(id)?.nexthop?.ifindex === ifindex
  for (const { id, group } of nexthopObjects.values()) {
    if (isOn(id) || group.some((member) => isOn(member.id))) yield* addAll(routeUsers.byObject(id), prefixes)
  }
}

/** Devices whose role changed, and those of them that are or were uplinks. */
function moveRoles(world: World, touched: ReadonlySet<number>): { moved: Set<number>; uplinks: Set<number> } {
  const moved = new Set<number>()
  const uplinks = new Set<number>()
  const refresh = (ifindex: number): void => {
    const before = world.roles.get(ifindex)?.role
    if (!refreshRole(world, ifindex)) return
    moved.add(ifindex)
    if (before === 'uplink' || world.roles.get(ifindex)?.role === 'uplink') uplinks.add(ifindex)
  }
  for (const ifindex of touched) for (const other of world.classifier.dependents(ifindex)) refresh(other)
  return { moved, uplinks }
}

function loosenClasses(world: World, work: Work): void {
  staleClasses(world)
  if (!isPlainNode(world.policy)) work.diverted = true
}

/** Which source addresses next hops have depends on addresses, and on which devices are in a VRF. */
function* takeSources(world: World, changes: Changes, newUplinks: Iterable<number>, work: Work): Generator<void> {
  if (changes.addresses.size === 0 && changes.links.size === 0) return
  const uplinks = new Set(newUplinks)
  for (const [ifindex, { role }] of world.roles) if (role === 'uplink') uplinks.add(ifindex)
  const { routeUsers, nexthopObjects } = world.state
  const gateways = new Map([...uplinks].map((ifindex) => [ifindex, routeUsers.gatewaysOn(ifindex)]))
  const { moves, turned } = world.sources.refresh(gateways)
  world.plan.lackingSources = world.sources.lacking()
  for (const { family, ifindex, through } of moves) {
    const found = new Set<Prefix>()
    if (through === 'all') yield* addThrough(world.state, ifindex, found)
    else {
      for (const gateway of through) yield* addAll(routeUsers.throughGateway(ifindex, gateway), found)
      for (const gateway of gateways.get(ifindex) ?? [])
        if (gateway.length !== (family === 4 ? 8 : 32))
          yield* addAll(routeUsers.throughGateway(ifindex, gateway), found)
      if (nexthopObjects.size > 0) yield* addByObjects(world.state, ifindex, found)
    }
    yield* eachOf(found, (prefix) => {
      if (familyOfPrefix(prefix) === family) work.prefixes.add(prefix)
    })
  }
  let preferred = false
  for (const address of turned) {
    for (const prefix of routeUsers.preferring(address)) {
      preferred = true
      work.prefixes.add(prefix)
    }
  }
  // Rules look at which addresses are the node's own.
  if (changes.addresses.size > 0 && !isPlainNode(world.policy)) work.diverted = true
  if (moves.length > 0 || preferred) loosenClasses(world, work)
}

function* takeLocal(world: World, changed: ReadonlySet<Prefix>, work: Work): Generator<void> {
  let done = 0
  for (const prefix of changed) {
    yield* moveLocal(world, prefix, work.prefixes)
    if (++done % prefixesInStep === 0) yield
  }
}

function* takeTranslated(
  world: World,
  destinations: ReadonlyMap<Prefix, boolean>,
  work: Work,
  change: PlanChange
): Generator<void> {
  let done = 0
  for (const [prefix, translated] of destinations) {
    yield* moveTranslated(world, prefix, translated, work.prefixes)
    if (translateInClasses(world, prefix, change)) work.diverted = true
    if (++done % prefixesInStep === 0) yield
  }
}

function takeGateways(world: World, neighbours: ReadonlySet<NeighbourKey>, work: Work): void {
  for (const key of neighbours) {
    for (const user of world.gateways.turned(key)) {
      if (staleClass(world, user)) work.diverted = true
      else work.prefixes.add(user)
    }
  }
}

function tellUnserved(world: World, change: PlanChange): void {
  const unserved = listUnserved(world)
  change.unserved = JSON.stringify(unserved) !== JSON.stringify(world.plan.unserved)
  world.plan.unserved = unserved
}

export function listUnserved(world: World): Plan['unserved'] {
  const list: Plan['unserved'] = []
  for (const [ifindex, role] of world.roles) {
    if (role.role === 'unserved')
      list.push({ ifindex, name: world.state.links.get(ifindex)?.name ?? String(ifindex), why: role.why })
  }
  return list.sort((a, b) => a.ifindex - b.ifindex)
}
