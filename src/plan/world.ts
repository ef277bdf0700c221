// Everything one plan is made from, and the functions that plan one prefix, one
// device, one pod, one neighbour. planner.ts decides which of them to call.
//
// Invariant between updates: plan.routes, places and the next hops' user counts
// agree with the state for every prefix; dirtyDevices and dirtyPods are empty.

import { formatAddress, neighbourKey, noMac, splitPrefix } from '../address.js'
import { eachOf } from '../slice.js'
import type { Address, Family, NeighbourKey, NodeState, Prefix } from '../state/types.js'
import { emptyPlan, type PlanChange, sameDevice, sameFlat, sameNeighbour, sameRoute } from './change.js'
import { isKernelsOwn } from './cover.js'
import { coveredBy, readCovers } from './covering.js'
import { createClassifier, sameRole } from './devices.js'
import { forwardRoute, releaseRoute, stackRoute } from './forward.js'
import { wantedNeighbour } from './neighbours.js'
import { createNexthopTable } from './nexthops.js'
import { familyEnabled, type PlanOptions } from './options.js'
import { createGateways } from './passed-over.js'
import { buildPod, type PodPlace, podPlace, podSources } from './pods.js'
import { createPolicy, isPlainNode, policyOf, settleClasses } from './policy.js'
import { type Choice, chooseFrom, chooseLocal, TABLE_MAIN } from './routes.js'
import { createSourceChooser } from './sources.js'
import type { LeftToKernel, WantedDevice, WantedRoute } from './types.js'
import { createUseIndex } from './uses.js'
import type { World } from './world-types.js'

const families: readonly Family[] = [4, 6]
const noAddresses: ReadonlySet<Address> = new Set()

export function createWorld(state: NodeState, options: PlanOptions, destinations: Iterable<Prefix>): World {
  const plan = emptyPlan()
  const policy = createPolicy(state)
  plan.marks = policy.rules[4].marks || policy.rules[6].marks
  const uses = createUseIndex((family) => policy.rules[family].tables)
  const sources = createSourceChooser(state, options.snat ? options.snatAddresses : 'auto')
  plan.lackingSources = sources.lacking()
  return {
    state,
    links: new Map(state.links),
    options,
    plan,
    uses,
    classifier: createClassifier(state.links, uses.useOf, options),
    roles: new Map(),
    policy,
    ...readCovers(state, options, destinations),
    sources,
    nexthops: createNexthopTable(plan, { state, options, sources }),
    gateways: createGateways(state, options),
    places: new Map(),
    addressesOf: new Map(),
    dirtyDevices: new Set(),
    dirtyPods: new Set(),
    stackRoutes: new Map()
  }
}

/** true: the role changed. */
export function refreshRole(world: World, ifindex: number): boolean {
  const before = world.roles.get(ifindex)
  const after = world.classifier.roleOf(ifindex)
  if (before ? sameRole(before, after) : after.role === 'none') return false
  if (after.role === 'none') world.roles.delete(ifindex)
  else world.roles.set(ifindex, after)
  return true
}

/** Plans one prefix: its route, and where its pod is if it is a host's. */
export function planPrefix(world: World, prefix: Prefix, change: PlanChange): void {
  const { address, length, family } = splitPrefix(prefix)
  const enabled = familyEnabled(world.options, family) && !isKernelsOwn(address, length)
  const routes = (family === 4 ? world.state.routes4 : world.state.routes6).get(prefix) ?? []
  const local = enabled ? chooseLocal(routes) : null
  const host = enabled && !local && length === address.length * 4
  movePod(
    world,
    address,
    host ? podPlace(routes, world.state, (ifindex) => world.roles.get(ifindex)?.role === 'pod') : null,
    length
  )
  world.gateways.forget(prefix)
  const before = world.plan.routes.get(prefix)
  const after = enabled
    ? wantedRoute(
        world,
        prefix,
        local ?? chooseFrom(TABLE_MAIN, routes, world.state.nexthopObjects),
        local !== null,
        change
      )
    : null
  if (before) releaseRoute(world, before, change)
  if (!after) {
    if (before) {
      world.plan.routes.delete(prefix)
      change.routes.add(prefix)
    }
  } else if (!before || !sameRoute(before, after)) {
    world.plan.routes.set(prefix, after)
    change.routes.add(prefix)
  }
}

/** The route, its next hops acquired; null: nothing to say about the prefix. */
function wantedRoute(
  world: World,
  prefix: Prefix,
  choice: Choice | null,
  local: boolean,
  change: PlanChange
): WantedRoute | null {
  if (local && choice?.kind === 'stack') return stackRoute(world, choice.reason, choice.why)
  const { address, length } = splitPrefix(prefix)
  const covered = coveredBy(world, address, length)
  // Nothing of its own to hide: what covers it answers for it.
  if (!choice && !world.cover.prefixes.has(prefix) && !world.translated.prefixes.has(prefix)) return null
  if (covered) return stackRoute(world, covered.reason, covered.why)
  if (!choice) return null
  if (choice.kind === 'stack') return stackRoute(world, choice.reason, choice.why)
  return forwardRoute(world, choice, address.length === 32, prefix, change)
}

function movePod(world: World, address: Address, place: PodPlace | null, length: number): void {
  if (length !== address.length * 4) return
  const before = world.places.get(address)
  if (!before && !place) return
  world.dirtyPods.add(address)
  if (before && before.ifindex !== place?.ifindex) {
    world.addressesOf.get(before.ifindex)?.delete(address)
    world.dirtyDevices.add(before.ifindex)
  }
  if (!place) {
    world.places.delete(address)
    return
  }
  world.places.set(address, place)
  if (before?.ifindex === place.ifindex) return
  const addresses = world.addressesOf.get(place.ifindex) ?? new Set()
  addresses.add(address)
  world.addressesOf.set(place.ifindex, addresses)
  world.dirtyDevices.add(place.ifindex)
}

/** Builds the rows of dirtyDevices and their classes; with rules of one's own those of all devices, for they look at which addresses are pods'. */
export function* planDevices(world: World, change: PlanChange): Generator<void> {
  if (world.dirtyDevices.size === 0) return
  const plain = isPlainNode(world.policy)
  const dirty = plain ? world.dirtyDevices : new Set([...world.dirtyDevices, ...world.plan.devices.keys()])
  // with rules of one's own each may be the first of a class
  for (const ifindex of dirty) {
    planDevice(world, ifindex, change)
    yield
  }
  if (!plain || world.policy.classes.size > 0) settleClasses(world, change)
  world.dirtyDevices.clear()
}

function planDevice(world: World, ifindex: number, change: PlanChange): void {
  const before = world.plan.devices.get(ifindex)
  const after = wantedDevice(world, ifindex, change)
  if (before && after && sameDevice(before, after)) return
  if (!before && !after) return
  if (after) world.plan.devices.set(ifindex, after)
  else world.plan.devices.delete(ifindex)
  change.devices.add(ifindex)
  // The way to a pod that leaves a family to the kernel goes through the kernel too.
  for (const address of world.addressesOf.get(ifindex) ?? noAddresses) world.dirtyPods.add(address)
}

function wantedDevice(world: World, ifindex: number, change: PlanChange): WantedDevice | null {
  const link = world.state.links.get(ifindex)
  const role = world.roles.get(ifindex)?.role
  if (!link || (role !== 'pod' && role !== 'uplink')) return null
  const addresses = role === 'pod' ? [...(world.addressesOf.get(ifindex) ?? noAddresses)].sort() : []
  const device: WantedDevice = {
    ifindex,
    name: link.name,
    role,
    kind: link.kind,
    mtu: link.mtu,
    mac: link.mac ?? noMac,
    addresses,
    sources: role === 'pod' ? podSources(world.options, link.name) : [],
    stack: [],
    class4: null,
    class6: null,
    strictReversePath: role === 'uplink' && world.options.strictReversePath.includes(link.name)
  }
  for (const family of families) {
    if (!familyEnabled(world.options, family)) {
      device.stack.push({ family, why: `IPv${family} is switched off in the configuration`, rule: null })
      continue
    }
    const own = addresses.filter((address) => address.length === (family === 4 ? 8 : 32))
    const half = halfLeft(world, family, own)
    if (half) {
      device.stack.push(half)
      continue
    }
    const { left, class: key } = policyOf(world, link, family, own, change)
    if (left) device.stack.push(left)
    if (family === 4) device.class4 = key
    else device.class6 = key
  }
  return device
}

/** A destination that is the stack's is the stack's as a source, too: conntrack has to see both directions. */
function halfLeft(world: World, family: Family, own: readonly Address[]): LeftToKernel | null {
  for (const address of own) {
    const covered = coveredBy(world, address, address.length * 4)
    if (covered && covered.reason !== 'route')
      return { family, why: `${formatAddress(address)}: ${covered.why}`, rule: null }
  }
  return null
}

/** Builds the pods in dirtyPods. After planDevices: a pod follows its device's rules. */
export function* planPods(world: World, change: PlanChange): Generator<void> {
  yield* eachOf(world.dirtyPods, (address) => planPod(world, address, change))
  world.dirtyPods.clear()
}

function planPod(world: World, address: Address, change: PlanChange): void {
  const before = world.plan.pods.get(address)
  const place = world.places.get(address)
  const link = place && world.state.links.get(place.ifindex)
  if (before && before.ifindex !== place?.ifindex) {
    unmanage(world, neighbourKey(before.ifindex, address), change)
  }
  if (!place || !link) {
    if (before) change.pods.add(address)
    world.plan.pods.delete(address)
    return
  }
  const family: Family = address.length === 8 ? 4 : 6
  const left = world.plan.devices.get(place.ifindex)?.stack.some((entry) => entry.family === family)
  const open = !left && coveredBy(world, address, address.length * 4) === null
  const after = buildPod(address, place, link, world.state, open)
  if (link.netkitMode !== 'l3') manage(world, place.ifindex, address, change)
  if (before && sameFlat(before, after)) return
  world.plan.pods.set(address, after)
  change.pods.add(address)
}

function manage(world: World, ifindex: number, address: Address, change: PlanChange): void {
  const key = neighbourKey(ifindex, address)
  if (world.plan.managed.has(key)) return
  world.plan.managed.set(key, { ifindex, address })
  change.managed.add(key)
}

function unmanage(world: World, key: NeighbourKey, change: PlanChange): void {
  // The device may have become an uplink, and the address its gateway.
  if (!world.nexthops.usesNeighbour(key) && world.plan.managed.delete(key)) change.managed.add(key)
}

/** Plans the entry of an on-link destination; only uplinks have any. */
export function planNeighbour(world: World, key: NeighbourKey, change: PlanChange): void {
  const neighbour = world.state.neighbours.get(key)
  const before = world.plan.neighbours.get(key)
  const served =
    neighbour && world.roles.get(neighbour.ifindex)?.role === 'uplink' && familyEnabled(world.options, neighbour.family)
  const after = served ? wantedNeighbour(neighbour) : null
  if (before && after && sameNeighbour(before, after)) return
  if (after) world.plan.neighbours.set(key, after)
  else if (!world.plan.neighbours.delete(key)) return
  change.neighbours.add(key)
}
