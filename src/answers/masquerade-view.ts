// The masquerade policy as the control socket shows it.

import { everything, formatAddress, formatPrefix } from '../address.js'
import { masqueradesLinkLocal } from '../config/masquerade.js'
import type { MasqueradeAnswer, MasqueradeStatus } from '../control/api.js'
import { lackingSources } from '../life/lacking-sources.js'
import type { Address, Prefix } from '../state/types.js'
import type { NodeView } from './node-view.js'
import { routeAnswer } from './views.js'

/** most: rows of the policy that are listed. */
export function masqueradeStatus({ masquerade, config, plan }: NodeView, most: number): MasqueradeStatus {
  const { policy, refused, watch } = masquerade
  const ofFiles = new Set(watch.files.flatMap(({ warnings }) => warnings))
  return {
    enabled: config.snat.enabled,
    semantics: config.snat.semantics,
    ipv6: policy.ipv6,
    files: watch.files.map((file) => ({ ...file, read: file.read?.toISOString() ?? null })),
    refused,
    defaultsOnly: watch.defaultsOnly?.text ?? null,
    agents: watch.policy.agents,
    warnings: [
      ...watch.warnings,
      ...watch.policy.warnings.filter((text) => !ofFiles.has(text)),
      ...lackingSources(plan, policy.ipv6.masqueraded)
    ],
    prefixes: policy.wanted.length,
    excluded: policy.wanted.filter((entry) => !entry.masquerade).length,
    policy: policy.wanted.slice(0, most).map(({ prefix, masquerade: due }) => ({
      prefix: formatPrefix(prefix),
      masquerade: due,
      from: [...(policy.from.get(prefix) ?? [])]
    }))
  }
}

export function masqueradeAnswer(node: NodeView, address: Address): MasqueradeAnswer {
  const { policy, watch } = node.masquerade
  const { prefix, masquerade } = node.masquerade.entryFor(address)
  const from = policy.from.get(prefix) ?? []
  const entries = policy.files
    .filter(({ path }) => from.includes(path))
    .map((file) => ({
      path: file.path,
      pod: watch.files.find(({ path }) => path === file.path)?.pod ?? null,
      line: file.lines().get(prefix) ?? null,
      key: file.exclude?.includes(prefix) ? ('nonMasqueradeCIDRs' as const) : ('masqueradeCIDRs' as const)
    }))
  return {
    address: formatAddress(address),
    masquerade,
    prefix: formatPrefix(prefix),
    entries,
    origin: entries.length > 0 ? null : originOf(node, from[0] ?? 'default', prefix),
    instead: instead(node, address),
    refused: node.masquerade.refused
  }
}

function originOf({ config, masquerade }: NodeView, from: string, prefix: Prefix): string {
  if (from === 'snat.masqueradeIPv6') return `snat.masqueradeIPv6: ${config.snat.masqueradeIPv6}`
  if (from === 'snat.allReservedRanges') return `${from}: ${config.snat.allReservedRanges}`
  if (from !== 'default') return from
  if (prefix === everything[6]) return masquerade.policy.ipv6.why
  return prefix === everything[4] ? 'no list covers it more closely' : 'a default'
}

const multicast4 = /^[ef]/
const linkLocal6 = /^fe[89ab]/

/** Packets to it from a pod of the node that never meet the policy. */
function instead(node: NodeView, address: Address): string | null {
  if (!node.config.snat.enabled) return 'masquerading is off (snat.enabled: false)'
  if (!node.datapath) return 'hostroute is disabled: the kernel and its rules decide'
  const isLinkLocal =
    address.length === 8
      ? address.startsWith('a9fe') && !masqueradesLinkLocal(node.masquerade.policy)
      : linkLocal6.test(address)
  if (isLinkLocal) return 'link-local destinations are left to the kernel, whose own rules decide'
  if (address.length === 8 ? multicast4.test(address) : address.startsWith('ff'))
    return 'multicast and broadcast are left to the kernel'
  const { verdict, why } = routeAnswer(node.plan, address, () => null)
  if (verdict === 'pod') return `it is ${why}: what another pod sends there keeps its source`
  return verdict === 'stack' ? `left to the kernel, whose own rules decide: ${why}` : null
}
