// `onDisable: masquerade`: while hostroute is disabled, an nft table of its own
// masquerades what leaves by the uplinks, by the policy in force, and follows it. It
// is there before the programs go, and goes once they serve again.
//
// Invariants
// - What was written is read back, and again whenever somebody has changed rules of
//   nf_tables: the table is written only where it is not as it was read then.
//
// It cannot know pods that come later, so what is not from an address of the
// node itself is masqueraded, as ip-masq-agent's rules do; with the address that
// the kernel chooses, whatever snat.addresses says.

import { familyOfPrefix, formatPrefix, splitPrefix } from '../address.js'
import { listNfTables } from '../check/table-list.js'
import type { Config } from '../config/config.js'
import type { MasqueradePolicy } from '../config/masquerade.js'
import { native } from '../native.js'
import { rulesFingerprint } from '../netfilter/fingerprint.js'
import type { Plan } from '../plan/types.js'
import { runTool } from './run-tool.js'

export const egressTable = 'hostroute_egress'

export interface KernelEgressOptions {
  config(): Pick<Config, 'onDisable' | 'snat'>
  /** In force. */
  policy(): Pick<MasqueradePolicy, 'wanted' | 'ipv6'>
  plan(): Pick<Plan, 'devices'>
}

interface Left {
  ruleset: string
  /** As nft(8) listed it afterwards. */
  shown: string
  /** Of all rules, when it was listed last; null: it could not be asked for. */
  fingerprint: string | null
}

export class KernelEgress {
  private left: Left | null = null

  constructor(private readonly options: KernelEgressOptions) {}

  /** By the configuration: hostroute masquerades, and the kernel is to do it in its absence. */
  get isAsked(): boolean {
    const { onDisable, snat } = this.options.config()
    return onDisable === 'masquerade' && snat.enabled
  }

  /** false: the table is as it should be, as far as can be told without reading it. */
  get mayDiffer(): boolean {
    const ruleset = this.ruleset()
    if (ruleset === null) return false
    return this.left?.ruleset !== ruleset || this.left.fingerprint === null || this.left.fingerprint !== fingerprint()
  }

  /**
   * The table as it should be now, if it is asked for. true: it had to be written. Rejects with what
   * nft(8) says. Without an uplink there is nothing to masquerade: nothing is written.
   */
  async leave(): Promise<boolean> {
    const ruleset = this.isAsked ? this.ruleset() : null
    if (ruleset === null) return false
    const { left } = this
    if (left?.ruleset === ruleset) {
      const before = fingerprint()
      if ((await show()) === left.shown) {
        left.fingerprint = before
        return false
      }
    }
    this.left = null
    await runTool(['nft', '-f', '-'], ruleset)
    const before = fingerprint()
    const shown = await show()
    if (countRules(shown) !== countRules(ruleset))
      throw new Error(`the nft table inet ${egressTable} does not hold what was written: ${shown || 'it has gone'}`)
    this.left = { ruleset, shown, fingerprint: before }
    return true
  }

  /** Takes it away. false: there was none. Rejects with what nft(8) says. */
  async release(): Promise<boolean> {
    this.left = null
    return (await hasEgressTable()) && (await removeEgress())
  }

  /** null: there is no uplink. */
  private ruleset(): string | null {
    const { devices } = this.options.plan()
    const uplinks = [...devices.values()].filter(({ role }) => role === 'uplink').map(({ name }) => name)
    return uplinks.length === 0 ? null : egressRuleset(this.options.policy(), uplinks.sort())
  }
}

/** null: nf_tables cannot be asked. */
function fingerprint(): string | null {
  try {
    const socket = native().openNetfilter(false)
    try {
      return rulesFingerprint(socket)
    } finally {
      socket.close()
    }
  } catch {
    return null
  }
}

/** '' if there is none. */
function show(): Promise<string> {
  return runTool(['nft', 'list', 'table', 'inet', egressTable]).catch((error: Error) => {
    if (isAbsent(error)) return ''
    throw error
  })
}

/** Of a ruleset as we or nft(8) write it. */
function countRules(ruleset: string): number {
  return ruleset.split('\n').filter((line) => /^\s+(?!(table|chain|type)\b)\S.* (return|masquerade)$/.test(line)).length
}

/** The table as nft(8) reads it, in the place of an older one. */
export function egressRuleset(policy: Pick<MasqueradePolicy, 'wanted' | 'ipv6'>, uplinks: readonly string[]): string {
  const rules = [...policy.wanted]
    .sort((a, b) => splitPrefix(b.prefix).length - splitPrefix(a.prefix).length)
    .map(({ prefix, masquerade }) => {
      const family = familyOfPrefix(prefix) === 6 ? 'ip6' : 'ip'
      const due = masquerade && (family === 'ip' || policy.ipv6.masqueraded)
      // "ip daddr 0.0.0.0/0" is no expression of nft's
      const condition =
        splitPrefix(prefix).length === 0
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
    if (isAbsent(error as Error)) return false
    throw error
  }
}

function isAbsent({ message }: Error): boolean {
  return /No such file or directory/.test(message)
}
