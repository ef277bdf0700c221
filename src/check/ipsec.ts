// IPsec policies of others: the fast path asks none, so what they should encrypt
// would leave in clear, and what should have come encrypted would be taken.
//
// Policies for packets of an XFRM interface are kept: it is no device that
// hostroute serves, so its packets use the stack.

import { formatPrefix } from '../address.js'
import { type IpsecPolicy, readIpsecPolicies } from '../netlink/xfrm.js'
import type { NodeRules } from './node-rules.js'
import { prefixSet } from './prefixes.js'
import { type Finding, finding } from './report.js'

type Facts = Pick<NodeRules, 'own' | 'stackPrefixes'>

/** One finding at most for each pair of prefixes. */
export async function checkIpsec(facts: Facts): Promise<Finding[]> {
  try {
    return judgeIpsec(await readIpsecPolicies(), facts)
  } catch (error) {
    return [
      finding('refuse', 'ipsec', 'ipsec-unread', 'IPsec policies cannot be read.', {
        why: `${(error as Error).message}; one that is not seen could be one that hostroute would bypass`
      })
    ]
  }
}

export function judgeIpsec(policies: readonly IpsecPolicy[], { own, stackPrefixes }: Facts): Finding[] {
  const [host, stack] = [prefixSet(own), prefixSet(stackPrefixes)]
  const found = new Map<string, Finding>()
  for (const { direction, source, destination, action, interfaceId } of policies) {
    if (action === 'none' || interfaceId !== 0 || direction === 'in') continue
    if (direction === 'out' && host.covers(source)) continue
    const remotes = direction === 'out' ? [destination] : [source, destination]
    const [from, to] = [formatPrefix(source), formatPrefix(destination)]
    const subject = `The IPsec policy ${direction} ${from} → ${to} (${action === 'block' ? 'block' : 'encrypt'})`
    if (remotes.some((remote) => stack.covers(remote))) {
      found.set(
        `${source} ${destination}`,
        finding('info', 'ipsec', 'ipsec-stack', `${subject} is for traffic that uses the stack.`)
      )
      continue
    }
    const remote = formatPrefix(direction === 'out' ? destination : source)
    found.set(
      `${source} ${destination}`,
      finding('refuse', 'ipsec', 'ipsec-bypassed', `${subject} would be bypassed by the fast path.`, {
        why: 'what it should encrypt or stop would pass in clear, in both directions',
        remedy: `Add ${remote} to stackPrefixes in config.yaml: traffic with it then uses the stack.`
      })
    )
  }
  return [...found.values()]
}
