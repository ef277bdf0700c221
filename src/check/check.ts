// The whole check: looks at everything, changes nothing, needs no daemon.
//
// It runs in the network namespace of the process. Tables, programs and devices
// are left as they are; programs are tried out in a namespace of their own.
// A part that cannot be read is a finding that refuses, or a line of
// notLookedAt where it cannot matter; it never counts as clean.

import { hostname, release } from 'node:os'
import type { Config } from '../config/config.js'
import { native } from '../native.js'
import { checkIpsec } from './ipsec.js'
import { checkKernel, missingRights } from './kernel.js'
import { judgeMasquerade, readMasquerade, withAgentChains } from './masquerade.js'
import { judgeDevices, judgeRouting, readNode } from './node.js'
import { nodeRules } from './node-rules.js'
import { defaultPolicy, type Policy } from './policy.js'
import { checkPrograms } from './programs.js'
import { bySeverity, CheckError, type CheckReport, countOutcomes, type Finding } from './report.js'
import { checkRules } from './rule-findings.js'
import { judgeSysctls } from './sysctls.js'
import { judgeSandbox, judgeSystem, readSystem } from './system.js'
import { createTools } from './tool.js'

export { CheckError, type CheckReport, type Finding } from './report.js'

export interface CheckOptions {
  config: Config
  /** Absent: the built-in one. */
  policy?: Policy
  /** Where maps and links will be pinned. */
  pinDirectory: string
  /** List also the rules that the report otherwise sums up by owner. */
  everyRule?: boolean
  /** Where tools are looked for, as in $PATH. Absent: $PATH. */
  path?: string
}

/** Throws CheckError when the check itself cannot be made (rights, addon, netlink). */
export async function runChecks(options: CheckOptions): Promise<CheckReport> {
  const { config, policy = defaultPolicy } = options
  const lacking = missingRights()
  if (lacking) throw new CheckError(lacking)
  const tools = createTools(options.path ?? process.env['PATH'] ?? '')
  const system = readSystem()
  const kernel = await checkKernel(tools, options.pinDirectory)
  const node = await readNode(config)
  const masquerade = readMasquerade(config)
  const facts = await nodeRules(node.state, node.plan, config, masquerade.policy)
  const rules = await checkRules(tools, facts, withAgentChains(policy, masquerade.policy), options.everyRule ?? false)
  const programs = await checkPrograms(tools, [...node.plan.devices.values()], config)
  const findings = [
    judgeSystem(system, policy),
    ...kernel.findings,
    ...judgeSandbox(),
    ...judgeDevices(node),
    ...rules.findings,
    ...judgeMasquerade(masquerade, config, node.plan.lackingSources),
    ...programs.findings,
    ...(await checkIpsec(facts)),
    ...judgeRouting(node),
    ...judgeSysctls(node, config, masquerade.policy.ports)
  ].map((each) => accepted(each, policy))
  const counts = countOutcomes(findings)
  return {
    version: 1,
    pass: counts.refuse === 0,
    time: new Date().toISOString(),
    node: hostname(),
    system: system.name,
    kernel: release(),
    namespace: native().networkNamespace(),
    counts,
    rules: rules.classes,
    findings: bySeverity(findings),
    notLookedAt: [...kernel.notLookedAt, ...rules.notLookedAt, ...programs.notLookedAt]
  }
}

/** The first findings that refuse, as the one sentence of a refusal; null: the check passes. */
export function refusal(report: CheckReport): string | null {
  const refusing = report.findings.filter(({ outcome }) => outcome === 'refuse')
  const [first] = refusing
  if (!first) return null
  const more = refusing.length > 1 ? ` (and ${refusing.length - 1} more)` : ''
  const rule = first.rule ? ` ${first.rule.text}` : ''
  return `${first.what}${rule}${more}; see: hostroute check`
}

function accepted(each: Finding, policy: Policy): Finding {
  if (each.outcome !== 'refuse' || !policy.accepted.includes(each.code)) return each
  const why = `${each.why ?? ''}${each.why ? '; ' : ''}accepted by the policy`
  return { ...each, outcome: 'warning', why, remedy: null }
}
