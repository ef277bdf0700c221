// Whether rules of the kernel would masquerade the pods' packets if hostroute did
// not.

import { maskAddress, splitPrefix } from '../address.js'
import type { Address, Prefix } from '../state/types.js'
import { readRules } from './read-rules.js'
import type { Rule, RuleChain, RuleTable } from './ruleset.js'
import { createTools } from './tool.js'

/** Sources that a rule names must cover one of them. */
type Pods = readonly Address[]

/** Of IPv4 pods; IPv6 is rarely masqueraded. without: an inet table that does not count. why: a clause that says what was found. */
export async function kernelMasquerades(pods: Pods, without?: string): Promise<{ masquerades: boolean; why: string }> {
  const { tables, findings } = await readRules(createTools(process.env['PATH'] ?? ''))
  if (tables.some((table) => !(table.family === 'inet' && table.name === without) && tableMasquerades(table, pods)))
    return { masquerades: true, why: 'a rule does' }
  const [unread] = findings.filter(({ outcome }) => outcome === 'refuse')
  if (unread) return { masquerades: false, why: `whether the kernel would do it cannot be seen (${unread.what})` }
  return { masquerades: false, why: 'no rule of the kernel would' }
}

export function tableMasquerades({ family, chains }: RuleTable, pods: Pods): boolean {
  if (family !== 'ip' && family !== 'inet') return false
  const seen = new Set<string>()
  const walk = (chain: RuleChain | undefined): boolean => {
    if (!chain || seen.has(chain.name)) return false
    seen.add(chain.name)
    for (const rule of chain.rules) {
      if (!mayConcern(rule, pods)) continue
      for (const effect of rule.effects) {
        if (effect.kind === 'masquerade') return true
        if ((effect.kind === 'jump' || effect.kind === 'goto') && walk(chains.get(effect.chain))) return true
      }
      // kube-proxy's chain goes on only for packets that carry its mark
      if (endsForUnmarked(rule)) return false
    }
    return false
  }
  return [...chains.values()].some((chain) => chain.hook === 'postrouting' && chain.nat && walk(chain))
}

/** A pod's packet to the outside, which carries no mark, can meet it. */
function mayConcern({ conditions }: Rule, pods: Pods): boolean {
  return conditions.every((condition) => {
    if (condition.kind === 'mark') return condition.invert || (condition.value & condition.mask) === 0
    if (condition.kind === 'owner' || condition.kind === 'bridge-port') return false
    if (condition.kind !== 'source' || condition.invert) return true
    return pods.some((pod) => condition.prefixes.some((prefix) => covers(prefix, pod)))
  })
}

function endsForUnmarked({ conditions, effects }: Rule): boolean {
  const [condition, ...others] = conditions
  if (condition?.kind !== 'mark' || others.length > 0) return false
  const unmarked = condition.invert ? condition.value !== 0 : condition.value === 0
  return unmarked && effects.some(({ kind }) => kind === 'return' || kind === 'accept')
}

function covers(prefix: Prefix, address: Address): boolean {
  const { address: base, length } = splitPrefix(prefix)
  return base.length === address.length && maskAddress(base, length) === maskAddress(address, length)
}
