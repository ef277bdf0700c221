// A rule as `ip rule` prints it: "100: from 10.0.0.5 lookup 100".

import { formatAddress } from '../address.js'
import type { Address, Family, Rule } from '../state/types.js'

export const RuleAction = { lookup: 1, goto: 2, nop: 3, blackhole: 6, unreachable: 7, prohibit: 8 } as const

const actionNames: Record<number, string> = { 3: 'nop', 6: 'blackhole', 7: 'unreachable', 8: 'prohibit' }

export function ruleText(rule: Rule): string {
  const words = [`${rule.priority}:`]
  if (rule.invert) words.push('not')
  words.push('from', prefixText(rule.source, rule.sourceLength, rule.family))
  if (rule.destination !== null || rule.destinationLength > 0)
    words.push('to', prefixText(rule.destination, rule.destinationLength, rule.family))
  if (rule.tos !== 0) words.push('tos', `0x${rule.tos.toString(16)}`)
  if (rule.mark !== 0 || rule.markMask !== 0) words.push('fwmark', markText(rule))
  if (rule.iif !== null) words.push('iif', rule.iif)
  if (rule.oif !== null) words.push('oif', rule.oif)
  if (rule.l3mdev) words.push('lookup', '[l3mdev-table]')
  if (rule.uidRange) words.push('uidrange', `${rule.uidRange.first}-${rule.uidRange.last}`)
  words.push(...[...rule.unsupported].sort((a, b) => placeOf(a) - placeOf(b)))
  if (rule.tunnelId !== null) words.push('tun_id', rule.tunnelId)
  if (rule.action === RuleAction.goto) words.push('goto', String(rule.goto))
  else if (rule.action !== RuleAction.lookup) words.push(actionNames[rule.action] ?? `action ${rule.action}`)
  else if (!rule.l3mdev) words.push('lookup', tableName(rule.table))
  if (rule.suppressPrefixLength >= 0) words.push('suppress_prefixlength', String(rule.suppressPrefixLength))
  if (rule.suppressGroup >= 0) words.push('suppress_ifgroup', String(rule.suppressGroup))
  return words.join(' ')
}

/** `ip rule` prints selectors in its own order, the kernel tells them in another. */
function placeOf(selector: string): number {
  const place = ['ipproto', 'sport', 'dport', 'dscp', 'flowlabel'].findIndex((name) => selector.startsWith(name))
  return place < 0 ? Number.MAX_SAFE_INTEGER : place
}

export function tableName(table: number): string {
  return { 253: 'default', 254: 'main', 255: 'local' }[table] ?? String(table)
}

function markText({ mark, markMask }: Rule): string {
  const text = `0x${mark.toString(16)}`
  return markMask === 0xffffffff ? text : `${text}/0x${markMask.toString(16)}`
}

function prefixText(address: Address | null, length: number, family: Family): string {
  if (address === null) return length === 0 ? 'all' : `0/${length}`
  return length === (family === 4 ? 32 : 128) ? formatAddress(address) : `${formatAddress(address)}/${length}`
}
