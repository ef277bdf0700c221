// What would be masqueraded, and whether ip-masq-agent's files are found. Its flags,
// where hostroute would do something else, are among the problems.

import type { Config } from '../config/config.js'
import type { DefaultsOnly } from '../config/defaults-only.js'
import { type MasqueradePolicy, masqueradeOptions } from '../config/masquerade.js'
import { watchMasquerade } from '../config/watch.js'
import type { LackingSources } from '../plan/types.js'
import type { Policy } from './policy.js'
import { type Finding, finding } from './report.js'

export interface MasqueradeFacts {
  policy: MasqueradePolicy
  defaultsOnly: DefaultsOnly | null
  /** Sentences with file and line. */
  problems: string[]
}

/** As the daemon would read it now. */
export function readMasquerade({ snat }: Config): MasqueradeFacts {
  const problems: string[] = []
  const watch = watchMasquerade({
    patterns: snat.masqueradeFiles,
    agent: snat.agent,
    reading: masqueradeOptions({ snat }),
    onChange: () => {},
    onProblem: (text) => problems.push(text)
  })
  watch.close()
  const { policy, defaultsOnly } = watch
  return { policy, defaultsOnly, problems: problems.filter((text) => text !== defaultsOnly?.text) }
}

/** What the policy says about the agent's rules holds in the chains that the agents of this node fill (--masq-chain). */
export function withAgentChains(policy: Policy, { agents }: Pick<MasqueradePolicy, 'agents'>): Policy {
  const chains = agents
    .flatMap(({ flags }) => flags.map(({ flag }) => /^--masq-chain=([^*?[\]]+)$/.exec(flag)?.[1]))
    .filter((chain) => chain !== undefined)
  if (chains.length === 0) return policy
  const rules = policy.rules.map((rule) =>
    rule.name === 'ip-masq-agent' && rule.chain ? { ...rule, chain: [...rule.chain, ...chains] } : rule
  )
  return { ...policy, rules }
}

/** Never refuses: what is masqueraded is for the administrator to say. */
export function judgeMasquerade(
  { policy, defaultsOnly, problems }: MasqueradeFacts,
  config: Config,
  lacking: LackingSources
): Finding[] {
  if (!config.snat.enabled) return []
  const findings = problems.map((text) => finding('warning', 'masquerade', 'masquerade-file', `${text}.`))
  findings.push(...judgeSources(lacking, policy.ipv6.masqueraded))
  if (defaultsOnly)
    findings.push(
      finding(
        defaultsOnly.doubtful ? 'warning' : 'info',
        'masquerade',
        'masquerade-defaults',
        sentence(defaultsOnly.text),
        {
          why: 'destinations that the agent excludes would be masqueraded, and the other way round'
        }
      )
    )
  const { length } = policy.wanted
  if (length > config.limits.masquerade)
    findings.push(
      finding(
        'warning',
        'masquerade',
        'masquerade-too-large',
        `The masquerade policy has ${length} prefixes, limits.masquerade allows ${config.limits.masquerade}.`,
        { why: 'it is refused as a whole; the defaults would apply', remedy: 'Raise limits.masquerade.' }
      )
    )
  if (findings.length === 0) {
    const files = policy.files.map(({ path }) => path).join(', ')
    findings.push(
      finding(
        'pass',
        'masquerade',
        'masquerade-policy',
        `Masquerading follows ${[files || 'the defaults of ip-masq-agent', ...followedFlags(policy)].join(', ')}; IPv6 is ${policy.ipv6.masqueraded ? '' : 'not '}masqueraded.`
      )
    )
  }
  return findings
}

/** "--enable-ipv6 of kube-system/ip-masq-agent-x7k2p" */
function followedFlags({ agents }: MasqueradePolicy): string[] {
  return agents.flatMap(({ pod, flags }) =>
    flags.filter(({ effect }) => effect === 'followed').map(({ flag }) => `${flag} of ${pod}`)
  )
}

function judgeSources({ entries, families }: LackingSources, six: boolean): Finding[] {
  const remedy = 'Give the node the address (ip address add), or change snat.addresses.'
  const found: Finding[] = []
  for (const family of families)
    if (family === 4 || six)
      found.push(
        finding(
          'warning',
          'masquerade',
          'masquerade-no-source',
          `The node has none of snat.addresses for IPv${family}.`,
          { why: `what is to be masqueraded over IPv${family} is dropped (drop-source)`, remedy }
        )
      )
  if (entries.length > 0)
    found.push(
      finding(
        'warning',
        'masquerade',
        'masquerade-missing-source',
        `snat.addresses: the node has no address for ${entries.join(', ')}.`,
        { remedy }
      )
    )
  return found
}

function sentence(text: string): string {
  return `${text.slice(0, 1).toUpperCase()}${text.slice(1)}.`
}
