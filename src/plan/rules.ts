// What ip rules mean for the fast path, which knows tables local and main only.
//
// A rule matters when a packet that the fast path would forward can match it
// and it may answer otherwise than "local, then main". Such a packet is
// forwarded: its oif is 0, its iif is the device it came in by, its mark is 0.
// Coming from a pod, its source is one of that pod's addresses (the source
// check saw to it); coming from an uplink, its destination is a pod of this
// node. So the following never matter:
// - rules for locally made packets (`iif lo`) and rules with `oif`;
// - rules with a mark (`fwmark 0/0` matches everything and does matter);
// - the l3mdev rule: devices of a VRF are not served at all;
// - rules after the plain `lookup main`: reached only when main has no answer,
//   and then the maps have none either;
// - `lookup local` anywhere, and `lookup main` once local was asked: they bring
//   forward what is asked anyway.
// A rule whose inversion (`not`) applies matches nearly everything: it matters.
//
// What matters is expressed as narrowly as it can be:
// - with `to`: the destination is covered (cover.ts) and stays on the stack;
// - with `from` or `iif`: the pods concerned leave all of the family to the
//   kernel, and so does the way to them, so that conntrack sees both sides;
// - everything else, and all that concerns packets from an uplink: the whole
//   family, on all devices. SNAT needs both directions on one path.
//
// A rule becomes expressible (tables of its own in the maps) in readRules: give
// it another outcome than `conditional` there.

import { formatAddress } from '../address.js'
import type { Address, Family, Rule } from '../state/types.js'
import { contains } from './cover.js'
import { TABLE_LOCAL, TABLE_MAIN } from './routes.js'

const TO_TABLE = 1
const NOP = 3

export interface FamilyRules {
  /** Why everything is left to the kernel; null: it is not. */
  whole: string | null
  /** Destinations left to the kernel. */
  destinations: { prefix: string; why: string }[]
  /** Rules that concern packets by where they come from. */
  conditional: Rule[]
}

/** Reads one family's rules in the order in which the kernel asks them. */
export function readRules(rules: readonly Rule[], family: Family): FamilyRules {
  const result: FamilyRules = { whole: null, destinations: [], conditional: [] }
  const ordered = rules.filter((rule) => rule.family === family).sort((a, b) => a.priority - b.priority)
  let localAsked = false
  for (const rule of ordered) {
    if (rule.action === NOP || neverMatches(rule)) continue
    const plainLookup = rule.action === TO_TABLE && rule.suppressPrefixLength < 0 && rule.unsupported.length === 0
    const everything = matchesEverything(rule)
    if (plainLookup && rule.table === TABLE_LOCAL) {
      localAsked ||= everything
      continue
    }
    if (plainLookup && rule.table === TABLE_MAIN && localAsked) {
      if (everything) return result
      continue
    }
    if (everything) return { ...result, whole: describeRule(rule) }
    if (rule.destination !== null && !rule.invert) {
      result.destinations.push({ prefix: `${rule.destination}/${rule.destinationLength}`, why: describeRule(rule) })
    } else result.conditional.push(rule)
  }
  return {
    ...result,
    whole: localAsked ? 'no ip rule asks table main for all packets' : 'no ip rule asks table local for all packets'
  }
}

/** The rule that takes a pod's packets, if any. */
export function ruleForPod(rules: FamilyRules, device: string, addresses: readonly Address[]): string | null {
  for (const rule of rules.conditional) {
    if (rule.invert) return describeRule(rule)
    if (rule.iif !== null && rule.iif !== device) continue
    const { source, sourceLength } = rule
    if (source !== null && !addresses.some((address) => contains(source, sourceLength, address))) continue
    return describeRule(rule)
  }
  return null
}

/** The rule that takes packets from an uplink to pods, if any. `isOurs`: an address of the node or of its pods, which cannot arrive as a source. */
export function ruleForUplink(
  rules: FamilyRules,
  device: string,
  isOurs: (address: Address) => boolean
): string | null {
  for (const rule of rules.conditional) {
    if (rule.invert) return describeRule(rule)
    if (rule.iif !== null && rule.iif !== device) continue
    if (rule.source !== null && rule.sourceLength === rule.source.length * 4 && isOurs(rule.source)) continue
    return describeRule(rule)
  }
  return null
}

function neverMatches(rule: Rule): boolean {
  if (rule.invert) return false
  return rule.oif !== null || rule.iif === 'lo' || rule.l3mdev || (rule.mark & rule.markMask) !== 0
}

/** Only for rules that neverMatches let through: their mark matches. */
function matchesEverything(rule: Rule): boolean {
  if (rule.invert || rule.tos !== 0 || rule.unsupported.length > 0 || rule.iif !== null) return false
  return (
    (rule.source === null || rule.sourceLength === 0) && (rule.destination === null || rule.destinationLength === 0)
  )
}

/** As `ip rule` would say it: "ip rule 100: from 10.0.0.5 lookup 100". */
export function describeRule(rule: Rule): string {
  const words = [`ip rule ${rule.priority}:`]
  if (rule.invert) words.push('not')
  words.push('from', rule.source === null ? 'all' : prefixText(rule.source, rule.sourceLength))
  if (rule.destination !== null) words.push('to', prefixText(rule.destination, rule.destinationLength))
  if (rule.tos !== 0) words.push('tos', `0x${rule.tos.toString(16)}`)
  if (rule.mark !== 0 || rule.markMask !== 0)
    words.push('fwmark', `0x${rule.mark.toString(16)}/0x${rule.markMask.toString(16)}`)
  if (rule.iif !== null) words.push('iif', rule.iif)
  if (rule.oif !== null) words.push('oif', rule.oif)
  words.push(...rule.unsupported)
  if (rule.l3mdev) words.push('lookup [l3mdev-table]')
  else if (rule.action === TO_TABLE) words.push('lookup', tableName(rule.table))
  else words.push(actionNames[rule.action] ?? `action ${rule.action}`)
  if (rule.suppressPrefixLength >= 0) words.push('suppress_prefixlength', String(rule.suppressPrefixLength))
  return words.join(' ')
}

const actionNames: Record<number, string> = { 2: 'goto', 3: 'nop', 6: 'blackhole', 7: 'unreachable', 8: 'prohibit' }

function tableName(table: number): string {
  return { 253: 'default', 254: 'main', 255: 'local' }[table] ?? String(table)
}

function prefixText(address: Address, length: number): string {
  return length === address.length * 4 ? formatAddress(address) : `${formatAddress(address)}/${length}`
}
