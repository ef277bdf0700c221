// Policy routing: which class of routes each pod's device has, and what is in
// the classes. A class is made for the devices whose packets the ip rules treat
// alike (rules.ts) and holds the tables they are sent to, merged (merge.ts).
// Devices without one use the node's own routes: class 0.
//
// A pod leaves a whole family to the kernel only where the maps have no answer:
// its addresses fall under different rules, its class is too large, or a rule
// may send packets from an uplink to it elsewhere. (The last because SNAT and
// conntrack need both directions on one path.)
//
// Invariant between updates: `classes` holds the classes of plan.devices and no
// others; their routes are in plan.classRoutes, their next hops acquired.

import { familyOfPrefix, formatAddress, maskAddress, noAddress, prefixKey, splitPrefix } from '../address.js'
import type { Address, Family, NodeState, Prefix } from '../state/types.js'
import { type PlanChange, sameRoute } from './change.js'
import { contains, isKernelsOwn } from './cover.js'
import { forwardRoute, releaseRoute, stackRoute } from './forward.js'
import { type ClassKey, classRouteKey, isClassKey } from './keys.js'
import { type Answer, asksBeyondMain, follow, lookUp, mergeSteps } from './merge.js'
import { TABLE_LOCAL } from './routes.js'
import {
  describeSteps,
  type FamilyRules,
  isPlain,
  keyOfSteps,
  readRules,
  readSteps,
  type Sender,
  type Step
} from './rules.js'
import type { LeftToKernel, WantedClassRoute } from './types.js'
import type { Policy, RouteClass, World } from './world-types.js'

/** Prefixes that a class may be made of: what is planned anew when one of them changes. */
const mostPrefixes = 32_768
const prefixesInStep = 128
const families: readonly Family[] = [4, 6]

export function createPolicy(state: NodeState): Policy {
  const rules = { 4: readRules(state.rules, 4), 6: readRules(state.rules, 6) }
  return {
    rules,
    tables: { 4: tablesOf(state, rules[4]), 6: tablesOf(state, rules[6]) },
    classes: new Map(),
    beyondMain: { 4: false, 6: false },
    steps: new Map(),
    inbound: null
  }
}

function tablesOf({ routeUsers }: NodeState, rules: FamilyRules): Map<number, Set<Prefix>> {
  const tables = new Map<number, Set<Prefix>>()
  if (rules.plain) return tables
  for (const table of [TABLE_LOCAL, ...rules.tables]) {
    const own = [...routeUsers.inTable(table)].filter((prefix) => ofFamily(prefix, rules.family))
    tables.set(table, new Set(own))
  }
  return tables
}

/**
 * Reads the rules again; all devices have to be looked at. A class is known by
 * its way through the tables, so one that is still asked for stays as it is.
 * Returns prefixes of tables that count now, or no longer.
 */
export function refreshRules({ policy, state, plan }: World): Set<Prefix> {
  const before = policy.rules
  Object.assign(policy, createPolicy(state), { classes: policy.classes })
  plan.marks = policy.rules[4].marks || policy.rules[6].marks
  const prefixes = new Set<Prefix>()
  for (const family of families) {
    for (const table of differing(before[family].tables, policy.rules[family].tables))
      for (const prefix of state.routeUsers.inTable(table)) if (ofFamily(prefix, family)) prefixes.add(prefix)
  }
  return prefixes
}

function differing(a: ReadonlySet<number>, b: ReadonlySet<number>): number[] {
  return [...[...a].filter((item) => !b.has(item)), ...[...b].filter((item) => !a.has(item))]
}

export function isPlainNode({ rules }: Policy): boolean {
  return rules[4].plain && rules[6].plain
}

/** Takes in prefixes that changed, in steps; true: routes that rules lead to are among them, and the devices have to be looked at. */
export function* refreshTables({ policy, state }: World, prefixes: ReadonlySet<Prefix>): Generator<void, boolean> {
  if (isPlainNode(policy)) return false
  let touched = false
  let done = 0
  for (const prefix of prefixes) {
    if (++done % prefixesInStep === 0) yield
    const family = familyOfPrefix(prefix)
    const routes = (family === 4 ? state.routes4 : state.routes6).get(prefix) ?? []
    const changed = new Set<number>()
    for (const [table, known] of policy.tables[family]) {
      const before = known.has(prefix)
      const after = routes.some((route) => route.table === table)
      if (after) known.add(prefix)
      else if (before) known.delete(prefix)
      if (before || after) changed.add(table)
    }
    for (const routeClass of policy.classes.values()) {
      if (routeClass.family !== family || routeClass.stale || !usesAny(routeClass, changed)) continue
      routeClass.stale = true
      touched = true
    }
    touched ||= changed.size > 0 || policy.beyondMain[family]
  }
  return touched
}

function usesAny({ steps }: RouteClass, tables: ReadonlySet<number>): boolean {
  return (
    tables.has(TABLE_LOCAL) || asksBeyondMain(steps) || steps.some(({ table }) => table !== null && tables.has(table))
  )
}

/** Devices took other roles: next hops through them may be others. */
export function staleClasses({ policy }: World): void {
  for (const routeClass of policy.classes.values()) routeClass.stale = true
}

/** A gateway of the class came or went; false: it is no class. */
export function staleClass({ policy }: World, key: Prefix | ClassKey): key is ClassKey {
  const routeClass = isClassKey(key) ? policy.classes.get(key) : undefined
  if (routeClass) routeClass.stale = true
  return routeClass !== undefined
}

/** What the rules mean for a pod's device and family. */
export function policyOf(
  world: World,
  device: { name: string; ifindex: number },
  family: Family,
  addresses: readonly Address[],
  change: PlanChange
): { class: ClassKey | null; left: LeftToKernel | null } {
  const { policy } = world
  const none = { class: null, left: null }
  if (policy.rules[family].plain || addresses.length === 0) return none
  const diverted = divertedInbound(world, family, addresses)
  if (diverted) return { class: null, left: diverted }
  const found = addresses.map((address) => stepsOf(world, device.name, address))
  const [first = null] = found
  const other = found.findIndex((entry) => entry?.key !== first?.key)
  if (other >= 0) {
    const words = [0, other].map((at) => `${formatAddress(addresses[at] ?? noAddress)}: ${labelOf(found[at]?.steps)}`)
    return {
      class: null,
      left: left(family, `its addresses fall under different ip rules (${words.join('; ')})`, null)
    }
  }
  if (!first) return none
  const routeClass = buildClass(world, first.key, family, first.steps, change)
  if (routeClass.tooLarge) {
    const why = `its tables (${labelOf(first.steps)}) have more than ${mostPrefixes} prefixes`
    return { class: null, left: left(family, why, null) }
  }
  const [only] = routeClass.routes.values()
  if (routeClass.routes.size === 1 && only?.action === 'main') return none
  if (routeClass.routes.size === 1 && only?.action === 'stack')
    return { class: null, left: left(family, only.why, ruleOf(only)) }
  return { class: first.key, left: null }
}

function labelOf(steps: readonly Step[] | undefined): string {
  return steps ? describeSteps(steps) : 'main'
}

function left(family: Family, why: string, rule: string | null): LeftToKernel {
  return { family, why, rule }
}

function ruleOf(route: WantedClassRoute): string | null {
  return route.action === 'stack' ? route.rule : null
}

/** null: as without rules. */
function stepsOf(
  { policy, sources, places }: World,
  device: string,
  address: Address
): { key: ClassKey; steps: Step[] } | null {
  const name = `${device}/${address}`
  const known = policy.steps.get(name)
  if (known !== undefined) return known
  const family: Family = address.length === 8 ? 4 : 6
  const sender: Sender = {
    iif: device,
    source: address,
    isOurs: (other) => sources.isOwn(other) || places.has(other)
  }
  const steps = readSteps(policy.rules[family], sender)
  policy.beyondMain[family] ||= asksBeyondMain(steps)
  const found = isPlain(steps) ? null : { key: keyOfSteps(family, steps), steps }
  policy.steps.set(name, found)
  return found
}

/** A rule that may send packets from an uplink to one of the addresses elsewhere than to the pod. */
function divertedInbound(world: World, family: Family, addresses: readonly Address[]): LeftToKernel | null {
  world.policy.inbound ??= { 4: inboundSteps(world, 4), 6: inboundSteps(world, 6) }
  for (const { uplink, steps } of world.policy.inbound[family]) {
    for (const address of addresses) {
      const answer = follow(
        steps,
        {
          answerOf: (table) => lookUp(world.state, table, address),
          inside: (prefix) => containsAddress(prefix, address)
        },
        asksBeyondMain(steps)
      )
      if (answer.kind !== 'main')
        return left(family, inboundWords(answer, address, uplink, steps), ruleFor(answer, steps))
    }
  }
  return null
}

function inboundWords(answer: Answer, address: Address, uplink: string, steps: readonly Step[]): string {
  const what = answer.kind === 'stack' ? answer.why : `ip rule ${ruleFor(answer, steps) ?? ''}`
  return `${what}; it concerns packets from ${uplink} to ${formatAddress(address)}, too`
}

function ruleFor(answer: Answer, steps: readonly Step[]): string | null {
  if (answer.kind === 'stack') return answer.rule
  return answer.kind === 'forward' ? (steps.find(({ table }) => table === answer.table)?.rule ?? null) : null
}

function containsAddress(prefix: Prefix, address: Address): boolean {
  const { address: network, length } = splitPrefix(prefix)
  return contains(network, length, address)
}

/** One entry for each uplink that rules name, and one for all others. */
function inboundSteps(
  { policy, roles, state, sources, places }: World,
  family: Family
): { uplink: string; steps: Step[] }[] {
  const rules = policy.rules[family]
  const senders = new Map<string, string>()
  for (const [ifindex, { role }] of roles) {
    const name = role === 'uplink' ? state.links.get(ifindex)?.name : undefined
    if (name === undefined) continue
    if (rules.iifs.has(name)) senders.set(name, name)
    else senders.set('', senders.has('') ? 'uplinks' : name)
  }
  const isOurs = (address: Address): boolean => sources.isOwn(address) || places.has(address)
  const found: { uplink: string; steps: Step[] }[] = []
  for (const [iif, uplink] of senders) {
    const steps = readSteps(rules, { iif, source: null, isOurs })
    policy.beyondMain[family] ||= asksBeyondMain(steps)
    if (!isPlain(steps)) found.push({ uplink, steps })
  }
  return found
}

function buildClass(
  world: World,
  key: ClassKey,
  family: Family,
  steps: readonly Step[],
  change: PlanChange
): RouteClass {
  const { policy, state, options } = world
  const known = policy.classes.get(key)
  if (known && !known.stale) return known
  const routeClass: RouteClass = known ?? {
    key,
    family,
    steps,
    stale: true,
    tooLarge: false,
    routes: new Map(),
    lengths: [],
    translated: new Set()
  }
  policy.classes.set(key, routeClass)
  const tables = policy.tables[family]
  const own = [
    ...(tables.get(TABLE_LOCAL) ?? []),
    ...options.stackPrefixes.filter((prefix) => ofFamily(prefix, family)),
    ...[...world.translated.prefixes.keys()].filter((prefix) => ofFamily(prefix, family) && !isSingle(prefix))
  ]
  const merged = mergeSteps({ family, state, steps, own, prefixesOf: (table) => tables.get(table) ?? [] }, mostPrefixes)
  const routes = new Map<Prefix, WantedClassRoute>()
  world.gateways.forget(key)
  for (const [prefix, answer] of merged ?? []) routes.set(prefix, wantedRoute(world, family, answer, key, change))
  const translated = new Set<Prefix>()
  const lengths = lengthsOf(routes)
  for (const prefix of world.translated.prefixes.keys())
    if (ofFamily(prefix, family) && isSingle(prefix) && leavesMain(routes, lengths, prefix)) translated.add(prefix)
  replaceRoutes(world, routeClass, routes, translated, change)
  routeClass.stale = false
  routeClass.tooLarge = merged === null
  return routeClass
}

const askMain: WantedClassRoute = { action: 'main' }

function wantedRoute(
  world: World,
  family: Family,
  answer: Answer,
  key: ClassKey,
  change: PlanChange
): WantedClassRoute {
  switch (answer.kind) {
    case 'main':
      return askMain
    case 'stack':
      return stackRoute(world, answer.reason, answer.why, answer.rule)
    case 'forward':
      return forwardRoute(world, answer.choice, family === 6, key, change)
  }
}

function replaceRoutes(
  world: World,
  routeClass: RouteClass,
  next: Map<Prefix, WantedClassRoute>,
  translated: Set<Prefix>,
  change: PlanChange
): void {
  const { key, routes: before, translated: wasTranslated } = routeClass
  for (const prefix of new Set([...next.keys(), ...translated, ...before.keys(), ...wasTranslated]))
    writeRow(world, key, prefix, translated.has(prefix) ? askMain : next.get(prefix), change)
  for (const route of before.values()) releaseRoute(world, route, change)
  routeClass.routes = next
  routeClass.lengths = lengthsOf(next)
  routeClass.translated = translated
}

function writeRow(
  { plan }: World,
  key: ClassKey,
  prefix: Prefix,
  after: WantedClassRoute | undefined,
  change: PlanChange
): void {
  const name = classRouteKey(key, prefix)
  const before = plan.classRoutes.get(name)
  if (after ? before && sameRoute(before, after) : !before) return
  if (after) plan.classRoutes.set(name, after)
  else plan.classRoutes.delete(name)
  change.classRoutes.add(name)
}

/** It changed whether the prefix is translated. true: devices have to be looked at, for their classes are stale. */
export function translateInClasses(world: World, prefix: Prefix, change: PlanChange): boolean {
  const single = isSingle(prefix)
  let stale = false
  for (const routeClass of world.policy.classes.values()) {
    if (!ofFamily(prefix, routeClass.family)) continue
    if (!single) routeClass.stale = true
    if (routeClass.stale) {
      stale = true
      continue
    }
    const { key, routes, lengths, translated } = routeClass
    if (world.translated.prefixes.has(prefix) && leavesMain(routes, lengths, prefix)) translated.add(prefix)
    else translated.delete(prefix)
    writeRow(world, key, prefix, translated.has(prefix) ? askMain : routes.get(prefix), change)
  }
  return stale
}

/** The class has an answer of its own for the single address. */
function leavesMain(
  routes: ReadonlyMap<Prefix, WantedClassRoute>,
  lengths: readonly number[],
  prefix: Prefix
): boolean {
  const { address, length: full } = splitPrefix(prefix)
  if (isKernelsOwn(address, full)) return false
  for (const length of lengths) {
    const found = routes.get(prefixKey(maskAddress(address, length), length))
    if (found) return found.action !== 'main'
  }
  return false
}

/** Longest first. */
function lengthsOf(routes: ReadonlyMap<Prefix, WantedClassRoute>): number[] {
  return [...new Set([...routes.keys()].map((prefix) => splitPrefix(prefix).length))].sort((a, b) => b - a)
}

function ofFamily(prefix: Prefix, family: Family): boolean {
  return familyOfPrefix(prefix) === family
}

function isSingle(prefix: Prefix): boolean {
  const { address, length } = splitPrefix(prefix)
  return length === address.length * 4
}

/** After the devices: classes that none of them has any more are gone. */
export function settleClasses(world: World, change: PlanChange): void {
  const { policy, plan } = world
  const used = new Map<ClassKey, string[]>()
  for (const { class4, class6, name } of plan.devices.values()) {
    for (const key of [class4, class6]) if (key !== null) used.set(key, [...(used.get(key) ?? []), name])
  }
  for (const [key, routeClass] of [...policy.classes]) {
    if (used.has(key)) continue
    replaceRoutes(world, routeClass, new Map(), new Set(), change)
    world.gateways.forget(key)
    policy.classes.delete(key)
    if (plan.classes.delete(key)) change.classes.add(key)
  }
  for (const [key, devices] of used) {
    const { family, steps } = policy.classes.get(key) as RouteClass
    const before = plan.classes.get(key)
    const after = { key, family, label: describeSteps(steps), devices: devices.sort() }
    if (JSON.stringify(before) === JSON.stringify(after)) continue
    plan.classes.set(key, after)
    change.classes.add(key)
  }
  policy.inbound = null
  if (policy.steps.size > 2 * plan.pods.size + 1024) policy.steps.clear()
}
