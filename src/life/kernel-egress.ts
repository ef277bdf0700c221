// `onDisable: masquerade`: while hostroute is disabled, an nft table of its own
// masquerades what leaves by the uplinks, by the policy that was in force. It is
// there before the programs go, and goes once they serve again.
//
// It cannot know pods that come later, so what is not from an address of the
// node itself is masqueraded, as ip-masq-agent's rules do; with the address that
// the kernel chooses, whatever snat.addresses says.

import { formatPrefix } from '../address.js'
import { listNfTables } from '../check/nf-tables.js'
import type { MasqueradePolicy } from '../config/masquerade.js'
import type { Plan } from '../plan/types.js'
import { runTool } from './run-tool.js'

export const egressTable = 'hostroute_egress'

/** The table as nft(8) reads it, in the place of an older one. */
export function egressRuleset(policy: Pick<MasqueradePolicy, 'wanted' | 'ipv6'>, uplinks: readonly string[]): string {
  const rules = [...policy.wanted]
    .sort((a, b) => lengthOf(b.prefix) - lengthOf(a.prefix))
    .map(({ prefix, masquerade }) => {
      const family = isIpv6(prefix) ? 'ip6' : 'ip'
      const due = masquerade && (family === 'ip' || policy.ipv6.masqueraded)
      // "ip daddr 0.0.0.0/0" is no expression of nft's
      const condition =
        lengthOf(prefix) === 0
          ? `meta nfproto ${family === 'ip' ? 'ipv4' : 'ipv6'}`
          : `${family} daddr ${formatPrefix(prefix)}`
      return `    ${condition} ${due ? 'masquerade' : 'return'}`
    })
  return [
    `table inet ${egressTable}`,
    `delete table inet ${egressTable}`,
    `table inet ${egressTable} {`,
    '  chain postrouting {',
    '    type nat hook postrouting priority 100; policy accept;',
    `    oifname != { ${uplinks.map((name) => `"${name}"`).join(', ')} } return`,
    '    fib saddr type local return',
    '    ip daddr 224.0.0.0/4 return',
    '    ip6 daddr { fe80::/10, ff00::/8 } return',
    ...rules,
    '  }',
    '}',
    ''
  ].join('\n')
}

function isIpv6(prefix: string): boolean {
  return prefix.indexOf('/') > 8
}

function lengthOf(prefix: string): number {
  return Number(prefix.slice(prefix.indexOf('/') + 1))
}

/** Rejects with what nft(8) says. Without an uplink there is nothing to masquerade: nothing is written. */
export async function leaveEgress(policy: Pick<MasqueradePolicy, 'wanted' | 'ipv6'>, { devices }: Plan): Promise<void> {
  const uplinks = [...devices.values()].filter(({ role }) => role === 'uplink').map(({ name }) => name)
  if (uplinks.length > 0) await runTool(['nft', '-f', '-'], egressRuleset(policy, uplinks))
}

/** Asked of the kernel itself: nft(8) need not be installed. */
export async function hasEgressTable(): Promise<boolean> {
  return (await listNfTables()).some(({ family, name }) => family === 'inet' && name === egressTable)
}

/** false: there was none. Rejects with what nft(8) says. */
export async function removeEgress(): Promise<boolean> {
  try {
    await runTool(['nft', 'delete', 'table', 'inet', egressTable])
    return true
  } catch (error) {
    if (/No such file or directory/.test((error as Error).message)) return false
    throw error
  }
}
