// Rules found and judged, as findings. One finding for each rule that is not
// harmless, in the order in which the tools print them.

import { servedKinds } from '../plan/devices.js'
import type { Plan } from '../plan/types.js'
import type { NodeState } from '../state/types.js'
import { classifyTable, type JudgedRule, type RuleContext } from './classify.js'
import { ownPrefixes } from './node.js'
import type { Policy } from './policy.js'
import { inside } from './prefixes.js'
import { readRules } from './read-rules.js'
import { type Finding, finding, type Looked, type Outcome } from './report.js'
import type { RuleClass } from './ruleset.js'
import type { Tools } from './tool.js'

export interface RulesLooked extends Looked {
  classes: Record<RuleClass, number>
}

export async function checkRules(tools: Tools, context: RuleContext, policy: Policy): Promise<RulesLooked> {
  const read = await readRules(tools)
  const classes = { bypassed: 0, 'host-only': 0, harmless: 0, translatable: 0 }
  const findings = [...read.findings]
  for (const table of read.tables) {
    for (const judged of classifyTable(table, context, policy)) {
      classes[judged.class]++
      findings.push(asFinding(judged))
    }
  }
  if (read.tables.length === 0 && findings.length === 0) {
    findings.push(finding('pass', 'rules', 'rules-none', 'No netfilter tables are in use.'))
  } else if (!findings.some((each) => each.outcome === 'refuse')) {
    findings.push(
      finding(
        'pass',
        'rules',
        'rules-read',
        `${read.tables.length} netfilter tables were read; the fast path bypasses none of their rules.`
      )
    )
  }
  return { findings, notLookedAt: read.notLookedAt, classes }
}

const outcomes: Record<RuleClass, Outcome> = {
  bypassed: 'refuse',
  translatable: 'warning',
  'host-only': 'info',
  harmless: 'info'
}

const words: Record<RuleClass, string> = {
  bypassed: 'would be bypassed by the fast path',
  translatable: 'does what hostroute does itself',
  'host-only': 'concerns only packets that still take the way of the kernel',
  harmless: 'changes nothing for packets that the fast path takes'
}

function asFinding(judged: JudgedRule): Finding {
  const { table, chain, text, owner } = judged
  const subject = judged.rule ? 'rule' : text.startsWith('flowtable') ? 'flowtable' : 'policy'
  const whose = owner ? `${owner.name}: a ${subject}` : `A ${subject}`
  const known = judged.class === 'translatable' && owner?.class === 'translatable'
  const remedy =
    judged.class === 'translatable' && !known
      ? "Compare with hostroute's policy: hostroute snat policy."
      : judged.remedy
  return finding(
    known ? 'info' : outcomes[judged.class],
    'rules',
    `${subject}-${judged.class}`,
    `${whose} in ${table.backend} ${table.family} ${table.name}, ${chain.name}, ${words[judged.class]}.`,
    {
      rule: {
        backend: table.backend,
        family: table.family,
        table: table.name,
        chain: chain.name,
        text,
        class: judged.class,
        owner: owner?.name ?? null
      },
      why: judged.why,
      ...(remedy ? { remedy } : {})
    }
  )
}

/** Devices and addresses as rules may name them. */
export function ruleContext(
  state: NodeState,
  plan: Plan,
  stackPrefixes: readonly string[],
  snat: boolean
): RuleContext {
  const served = [...plan.devices.values()]
  const names = (role: 'pod' | 'uplink') => served.filter((device) => device.role === role).map(({ name }) => name)
  const unserved = new Set(plan.unserved.map(({ ifindex }) => ifindex))
  const neverServed = [...state.links.values()]
    .filter((link) => link.up && !plan.devices.has(link.ifindex))
    .filter((link) => unserved.has(link.ifindex) || link.master !== 0 || !servedKinds.has(link.kind))
    .map(({ name }) => name)
  return {
    pods: names('pod'),
    uplinks: names('uplink'),
    neverServed,
    stackPrefixes: [...stackPrefixes, ...stackRoutes(plan)],
    ownAddresses: ownPrefixes(state),
    snat
  }
}

/** Looked at for each stack route; a node has few. */
const mostStackRoutes = 256

/** Prefixes whose routes all lead to the stack. The node's own addresses are none: answers to masqueraded connections go there. */
function stackRoutes(plan: Plan): string[] {
  const stack = [...plan.routes].filter(([, route]) => route.action === 'stack' && route.reason !== 'local')
  const forwarded = [...plan.routes].filter(([, route]) => route.action !== 'stack').map(([prefix]) => prefix)
  // A class may forward what the node's own routes do not: only what no class speaks of is sure.
  const byClass = [...plan.classRoutes]
    .filter(([, route]) => route.action === 'nexthop' || route.action === 'group')
    .map(([key]) => key.slice(key.indexOf(' ') + 1))
  return stack
    .slice(0, mostStackRoutes)
    .map(([prefix]) => prefix)
    .filter((prefix) => !forwarded.some((other) => inside(other, prefix)))
    .filter((prefix) => !byClass.some((other) => inside(other, prefix) || inside(prefix, other)))
}
