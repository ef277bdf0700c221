// Facts about the network: what is a pod, what an uplink, what is left to the
// kernel and why. From the daemon's own dumps and plan, so that the check and
// the daemon cannot disagree.

import type { Config } from '../config/config.js'
import { readKernelSettings } from '../config/kernel-settings.js'
import { readState } from '../netlink/read-state.js'
import { defaultPlanOptions, type PlanOptions } from '../plan/options.js'
import { makingPlan } from '../plan/planner.js'
import { ruleText } from '../plan/rule-text.js'
import type { Plan } from '../plan/types.js'
import { eachOf, inSlices } from '../slice.js'
import type { NodeState } from '../state/types.js'
import { CheckError, type Finding, finding } from './report.js'

export interface NodeFacts {
  state: NodeState
  plan: Plan
  /** Routes in tables besides main and local, by table. */
  otherTables: ReadonlyMap<number, number>
}

const patience = 30_000
const sliceMilliseconds = 4

/** One full dump of this namespace, planned by the configuration. Throws CheckError. */
export async function readNode(config: Config): Promise<NodeFacts> {
  const state = await readState(patience).catch((error: Error) => {
    throw new CheckError(error.message)
  })
  const plan = await inSlices(makingPlan(state, planOptions(config)), sliceMilliseconds)
  return { state, plan, otherTables: await inSlices(countOtherTables(state), sliceMilliseconds) }
}

function planOptions(config: Config): PlanOptions {
  return {
    ...defaultPlanOptions,
    podDevices: config.pods.devices,
    podSources: config.pods.sources,
    uplinkDevices: config.uplink.devices,
    ipv4: config.ipv4,
    ipv6: config.ipv6,
    snat: config.snat.enabled,
    snatAddresses: config.snat.addresses,
    stackPrefixes: config.stackPrefixes,
    ...readKernelSettings([])
  }
}

/** C7 */
export function judgeDevices({ state, plan }: NodeFacts): Finding[] {
  const served = (role: 'pod' | 'uplink') => [...plan.devices.values()].filter((device) => device.role === role)
  const uplinks = served('uplink')
  const findings: Finding[] = []
  if (uplinks.length > 0) {
    const list = uplinks.map(({ name, kind }) => `${name} (${kind ?? 'physical'})`).join(', ')
    findings.push(
      finding('pass', 'devices', 'devices-uplinks', `${uplinks.length === 1 ? 'Uplink' : 'Uplinks'}: ${list}.`)
    )
  } else {
    findings.push(
      finding('warning', 'devices', 'devices-no-uplink', 'No uplink is found.', {
        why: 'an uplink is an Ethernet device that is up and that a next hop of table main uses; without one only traffic between pods of this node is served',
        remedy: 'Check the routes (ip route), or name the devices in uplink.devices.'
      })
    )
  }
  const pods = served('pod').length
  findings.push(
    finding(
      'pass',
      'devices',
      'devices-pods',
      pods === 0 ? 'No pods are found yet.' : `${pods} devices of pods with ${plan.pods.size} addresses.`
    )
  )
  for (const { ifindex, name, why } of plan.unserved) {
    const kind = state.links.get(ifindex)?.kind ?? 'physical'
    findings.push(
      finding('info', 'devices', 'devices-unserved', `Device ${name} (${kind}) is not served.`, {
        why: `${why}; its traffic uses the kernel stack`
      })
    )
  }
  return findings
}

const RT_TABLE = { compat: 252, default: 253, main: 254, local: 255 }

/** C5: never refuses, what it names goes to the stack. */
export function judgeRouting({ state, plan, otherTables }: NodeFacts): Finding[] {
  const findings: Finding[] = []
  const left = new Map<string, string[]>()
  for (const { name, stack } of plan.devices.values()) {
    for (const { family, why } of stack) {
      const key = `IPv${family}: ${why}`
      left.set(key, [...(left.get(key) ?? []), name])
    }
  }
  for (const [key, devices] of left) {
    const all = devices.length === plan.devices.size
    findings.push(
      finding(
        all ? 'warning' : 'info',
        'routing',
        'routing-left',
        `Traffic of ${all ? 'all devices' : shorten(devices)} is left to the stack for ${key}.`,
        {
          why: 'the maps cannot tell, or do not hold, what the kernel would do with these packets',
          ...(all && !key.includes('switched off')
            ? { remedy: 'Remove the rule or narrow it (ip rule), or accept that this traffic is not accelerated.' }
            : {})
        }
      )
    )
  }
  const standard = new Set([0, 32766, 32767])
  const rules = state.rules.filter((rule) => !standard.has(rule.priority) || rule.action !== 1)
  const leaving = rulesThatLeave(plan)
  for (const rule of rules) {
    const text = ruleText(rule)
    findings.push(
      finding('info', 'routing', 'routing-rule', `ip rule ${text} (IPv${rule.family})`, {
        why: rule.l3mdev
          ? 'devices of a VRF are not served'
          : leaving.has(`${rule.family} ${text}`)
            ? 'packets that it may concern are left to the stack; others are not'
            : 'the maps hold what it says, or it concerns no packet of a pod'
      })
    )
  }
  if (otherTables.size > 0) {
    const list = [...otherTables].map(([table, count]) => `${table} (${count})`).join(', ')
    findings.push(
      finding('info', 'routing', 'routing-tables', `Routing tables besides main and local: ${list}.`, {
        why: 'they are reached through ip rules and stay with the stack'
      })
    )
  }
  for (const link of state.links.values()) {
    if (link.kind === 'vrf')
      findings.push(
        finding('info', 'routing', 'routing-vrf', `VRF ${link.name}`, { why: 'its devices are left to the stack' })
      )
  }
  if (findings.length === 0)
    findings.push(
      finding(
        'pass',
        'routing',
        'routing-plain',
        'Routing is plain: tables local and main, no further ip rules, no VRF.'
      )
    )
  return findings
}

/** Family and text of the rules because of which traffic is left to the stack. */
function rulesThatLeave(plan: Plan): Set<string> {
  const found = new Set<string>()
  for (const { stack } of plan.devices.values())
    for (const { family, rule } of stack) found.add(`${family} ${rule ?? ''}`)
  for (const [key, route] of plan.classRoutes)
    if (route.action === 'stack') found.add(`${key[0] ?? ''} ${route.rule ?? ''}`)
  return found
}

/** Routes by table; in steps. */
function* countOtherTables(state: NodeState): Generator<void, Map<number, number>> {
  const own = new Set<number>(Object.values(RT_TABLE))
  const counts = new Map<number, number>()
  for (const table of [state.routes4, state.routes6]) {
    yield* eachOf(table.values(), (routes) => {
      for (const route of routes) if (!own.has(route.table)) counts.set(route.table, (counts.get(route.table) ?? 0) + 1)
    })
  }
  return counts
}

export function shorten(names: readonly string[], most = 6): string {
  return names.length <= most ? names.join(', ') : `${names.slice(0, most).join(', ')} and ${names.length - most} more`
}
