// What others do to the packets of the fast path, looked at again while
// hostroute runs: rules, programs, queues and IPsec policies. Of the node itself nothing is read.

import type { ForeignFacts } from './foreign-facts.js'
import { checkIpsec } from './ipsec.js'
import { readIpvs } from './ipvs.js'
import { withAgentChains } from './masquerade.js'
import { defaultPolicy } from './policy.js'
import { checkPrograms } from './programs.js'
import { readRules } from './read-rules.js'
import type { Finding } from './report.js'
import { judgeRules } from './rule-findings.js'
import { createTools } from './tool.js'

/** What would be refused if hostroute were enabled now, gravest first. */
export async function lookAtForeign({ rules, devices, agents, config }: ForeignFacts): Promise<Finding[]> {
  const tools = createTools(process.env['PATH'] ?? '')
  const services = readIpvs()
  const read = await readRules(tools, services)
  const policy = withAgentChains(defaultPolicy, { agents })
  const judged = judgeRules(read.tables, services, rules, policy, false, read.findings)
  const programs = await checkPrograms(tools, devices, config)
  const ipsec = await checkIpsec(rules)
  return [...judged.findings, ...programs.findings, ...ipsec].filter(({ outcome }) => outcome === 'refuse')
}
