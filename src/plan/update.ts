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

import { familyOfPrefix, splitNeighbourKey } from '../address.js'
import type { Changes, Link, NeighbourKey, NodeState, Prefix } from '../state/types.js'
import { emptyChange, type PlanChange } from './change.js'
import { moveLocal, moveTranslated } from './covering.js'
import { isPlainNode, refreshRules, refreshTables, staleClass, staleClasses, translateInClasses } from './policy.js'
import type { Plan } from './types.js'
import { planDevices, planNeighbour, planPods, planPrefix, refreshRole } from './world.js'
import type { World } from './world-types.js'

/** What is to be looked at. */
interface Work {
  prefixes: Set<Prefix>
  /** Devices whose counts of routes changed, or which are others themselves. */
  touched: Set<number>
  /** Classes hold something that may be another: all devices are looked at. */
  diverted: boolean
}

/** destinations: those of which it changed whether they are translated. */
export function updateWorld(world: World, changes: Changes, destinations: ReadonlyMap<Prefix, boolean>): PlanChange {
  const change = emptyChange()
  const work: Work = { prefixes: new Set(changes.prefixes), touched: new Set(changes.links), diverted: false }
  if (changes.rules) takeRules(world, work)
  const renamed = takeLinks(world, changes.links, work)
  takeObjects(world, changes.objects, work)
  for (const prefix of work.prefixes) world.uses.refresh(prefix, world.state, work.touched)
  const { moved, uplinks } = moveRoles(world, work.touched)
  for (const ifindex of moved) addThrough(world.state, ifindex, work.prefixes)
  if (moved.size > 0 || renamed) loosenClasses(world, work)
  takeSources(world, changes, uplinks, work)
  for (const prefix of changes.prefixes) moveLocal(world, prefix, work.prefixes)
  takeTranslated(world, destinations, work, change)
  takeGateways(world, changes.neighbours, work)
  if (refreshTables(world, changes.prefixes) || work.diverted)
    for (const ifindex of world.plan.devices.keys()) world.dirtyDevices.add(ifindex)
  for (const ifindex of moved) world.dirtyDevices.add(ifindex)
  for (const prefix of work.prefixes) planPrefix(world, prefix, change)
  planDevices(world, change)
  for (const ifindex of changes.links) world.nexthops.refreshDevice(ifindex, change)
  for (const key of changes.neighbours) {
    world.nexthops.refresh(key, change)
    const { address } = splitNeighbourKey(key)
    if (world.places.has(address)) world.dirtyPods.add(address)
    planNeighbour(world, key, change)
  }
  planPods(world, change)
  if (uplinks.size > 0) {
    for (const [key, { ifindex }] of world.state.neighbours) if (uplinks.has(ifindex)) planNeighbour(world, key, change)
    for (const [key, { ifindex }] of [...world.plan.neighbours])
      if (uplinks.has(ifindex)) planNeighbour(world, key, change)
  }
  if (moved.size > 0 || changes.links.size > 0) tellUnserved(world, change)
  return change
}

function takeRules(world: World, work: Work): void {
  for (const prefix of refreshRules(world)) work.prefixes.add(prefix)
  work.diverted = true
}

/** true: one has another name or MTU, came or went. */
function takeLinks(world: World, links: ReadonlySet<number>, { prefixes, touched }: Work): boolean {
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
    addThrough(world.state, ifindex, prefixes)
  }
  return renamed
}

function isSameToRoutes(before: Link | undefined, after: Link | undefined): boolean {
  return before?.name === after?.name && before?.mtu === after?.mtu
}

function takeObjects(world: World, objects: ReadonlySet<number>, work: Work): void {
  if (objects.size === 0) return
  const { state } = world
  loosenClasses(world, work)
  for (const id of objects) for (const prefix of state.routeUsers.byObject(id)) work.prefixes.add(prefix)
  for (const { id, group } of state.nexthopObjects.values()) {
    if (!group.some((member) => objects.has(member.id))) continue
    for (const prefix of state.routeUsers.byObject(id)) work.prefixes.add(prefix)
  }
}

/** Routes through the device, by next hops of their own and by objects. */
function addThrough(state: NodeState, ifindex: number, prefixes: Set<Prefix>): void {
  for (const prefix of state.routeUsers.throughDevice(ifindex)) prefixes.add(prefix)
  addByObjects(state, ifindex, prefixes)
}

function addByObjects({ routeUsers, nexthopObjects }: NodeState, ifindex: number, prefixes: Set<Prefix>): void {
  const isOn = (id: number): boolean => nexthopObjects.get(id)?.nexthop?.ifindex === ifindex
  for (const { id, group } of nexthopObjects.values()) {
    if (!isOn(id) && !group.some((member) => isOn(member.id))) continue
    for (const prefix of routeUsers.byObject(id)) prefixes.add(prefix)
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
function takeSources(world: World, changes: Changes, newUplinks: Iterable<number>, work: Work): void {
  if (changes.addresses.size === 0 && changes.links.size === 0) return
  const uplinks = new Set(newUplinks)
  for (const [ifindex, { role }] of world.roles) if (role === 'uplink') uplinks.add(ifindex)
  const { routeUsers, nexthopObjects } = world.state
  const gateways = new Map([...uplinks].map((ifindex) => [ifindex, routeUsers.gatewaysOn(ifindex)]))
  const { moves, turned } = world.sources.refresh(gateways)
  world.plan.lackingSources = world.sources.lacking()
  for (const { family, ifindex, through } of moves) {
    const found = new Set<Prefix>()
    if (through === 'all') addThrough(world.state, ifindex, found)
    else {
      for (const gateway of through) for (const prefix of routeUsers.throughGateway(ifindex, gateway)) found.add(prefix)
      for (const gateway of gateways.get(ifindex) ?? [])
        if (gateway.length !== (family === 4 ? 8 : 32))
          for (const prefix of routeUsers.throughGateway(ifindex, gateway)) found.add(prefix)
      if (nexthopObjects.size > 0) addByObjects(world.state, ifindex, found)
    }
    for (const prefix of found) if (familyOfPrefix(prefix) === family) work.prefixes.add(prefix)
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

function takeTranslated(
  world: World,
  destinations: ReadonlyMap<Prefix, boolean>,
  work: Work,
  change: PlanChange
): void {
  for (const [prefix, translated] of destinations) {
    moveTranslated(world, prefix, translated, work.prefixes)
    if (translateInClasses(world, prefix, change)) work.diverted = true
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
