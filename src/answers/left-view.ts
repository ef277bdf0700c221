// What is left to the kernel, as the control socket's rows: because something
// does not fit, because of ip rules, or by configuration. Pure.

import { formatPrefix } from '../address.js'
import type { StackRow } from '../control/api.js'
import { type ClassKey, splitClassRouteKey } from '../plan/keys.js'
import type { Plan } from '../plan/types.js'
import type { Family, Prefix } from '../state/types.js'

interface Left {
  family: Family
  why: string
  rule: string | null
  devices: Set<string>
  destinations: string[] | null
}

/** alarms: families that do not fit into the maps. */
export function leftRows(plan: Plan, alarms: readonly { family: Family; why: string }[]): StackRow[] {
  const rows = alarms.map(
    ({ family, why }): StackRow => ({ family, devices: null, destinations: null, rule: null, why })
  )
  const devices = [...plan.devices.values()]
  const pods = devices.filter(({ role }) => role === 'pod').length
  for (const { devices: names, ...left } of [...wholeFamilies(plan), ...destinationsOfRules(plan)]) {
    const all = left.destinations === null ? devices.length : pods
    rows.push({ ...left, devices: names.size === all ? null : [...names].sort() })
  }
  return rows
}

function wholeFamilies(plan: Plan): Left[] {
  const found = new Map<string, Left>()
  for (const { name, stack } of plan.devices.values()) {
    for (const { family, why, rule } of stack) {
      const key = `${family} ${why}`
      const left = found.get(key) ?? { family, why, rule, devices: new Set(), destinations: null }
      left.devices.add(name)
      found.set(key, left)
    }
  }
  return [...found.values()]
}

/** Parts of classes that a rule takes out, those of several classes together where they are the same. */
function destinationsOfRules(plan: Plan): Left[] {
  const byClass = new Map<string, { key: ClassKey; why: string; rule: string; prefixes: Prefix[] }>()
  for (const [name, route] of plan.classRoutes) {
    if (route.action !== 'stack' || route.rule === null) continue
    const { key, prefix } = splitClassRouteKey(name)
    const entry = byClass.get(`${key} ${route.why}`) ?? { key, why: route.why, rule: route.rule, prefixes: [] }
    entry.prefixes.push(prefix)
    byClass.set(`${key} ${route.why}`, entry)
  }
  const found = new Map<string, Left>()
  for (const { key, why, rule, prefixes } of byClass.values()) {
    const routeClass = plan.classes.get(key)
    if (!routeClass) continue
    const destinations = prefixes.sort().map(formatPrefix)
    const same = `${routeClass.family} ${why} ${destinations.join()}`
    const left = found.get(same) ?? { family: routeClass.family, why, rule, devices: new Set(), destinations }
    for (const device of routeClass.devices) left.devices.add(device)
    found.set(same, left)
  }
  return [...found.values()]
}
