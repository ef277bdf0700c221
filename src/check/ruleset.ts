// Netfilter rules in one form, whatever tool wrote them: tables of chains of
// rules, each rule reduced to the conditions that decide whether a packet of
// the fast path can match it and to the effects it has on such a packet.
// iptables-save.ts and nft-json.ts make it, classify.ts judges it.
//
// Invariant: what a parser does not know becomes the condition `other` (may
// match) or the effect `change` (does something): never less than it is.

import type { Prefix } from '../state/types.js'

export type Backend =
  | 'iptables-legacy'
  | 'iptables-nft'
  | 'nft'
  | 'ebtables-legacy'
  | 'ebtables-nft'
  | 'arptables-legacy'
  | 'arptables-nft'
export type RuleFamily = 'ip' | 'ip6' | 'inet' | 'arp' | 'bridge' | 'netdev'
export type Hook = 'ingress' | 'egress' | 'prerouting' | 'input' | 'forward' | 'output' | 'postrouting'

/**
 * bypassed: works on packets that the fast path takes past it.
 * host-only: sees only packets that use the stack.
 * harmless: changes nothing for packets that the fast path takes.
 * translatable: hostroute does the same itself.
 */
export type RuleClass = 'bypassed' | 'host-only' | 'harmless' | 'translatable'

export interface RuleTable {
  backend: Backend
  family: RuleFamily
  name: string
  chains: Map<string, RuleChain>
  flowtables: { name: string; devices: string[]; text: string }[]
}

export interface RuleChain {
  name: string
  /** null: reached by jumps only. */
  hook: Hook | null
  /** Chains of type nat see the first packet of a connection only. */
  nat: boolean
  policy: 'accept' | 'drop'
  /** Hooks of a device: which. Empty: not known or not of a device. */
  devices: string[]
  rules: Rule[]
}

export interface Rule {
  text: string
  conditions: Condition[]
  effects: Effect[]
}

export type Condition =
  /** Patterns with a trailing '*'. */
  | { kind: 'in-device' | 'out-device'; names: string[]; invert: boolean }
  | { kind: 'mark'; value: number; mask: number; invert: boolean }
  /** The address is the node's own (fib, addrtype). */
  | { kind: 'local-destination' | 'local-source'; invert: boolean }
  /** ipset: as a set of ipset(8) has them now; the daemon does not follow these. */
  | { kind: 'destination' | 'source'; prefixes: Prefix[]; invert: boolean; ipset?: true }
  /** Conntrack translates its flow. */
  | { kind: 'translated-flow'; invert: boolean }
  /** A socket of this node sends it. */
  | { kind: 'owner' }
  /** It passes a bridge's port. */
  | { kind: 'bridge-port' }
  | { kind: 'other' }

export type Effect =
  | { kind: 'accept' | 'return' | 'drop' | 'masquerade' | 'count' | 'untrack' | 'offload' }
  | { kind: 'jump' | 'goto'; chain: string }
  /** Writes somewhere that the packet came by. */
  | { kind: 'record'; how: string }
  /** Changes the destination of a connection (DNAT, REDIRECT, NETMAP). */
  | { kind: 'translate'; how: string }
  /** Does something to the packet. */
  | { kind: 'change'; how: string }

/** Base chains of the tables that iptables, ebtables and arptables know. */
const builtin: Record<string, Hook> = {
  PREROUTING: 'prerouting',
  INPUT: 'input',
  FORWARD: 'forward',
  OUTPUT: 'output',
  POSTROUTING: 'postrouting',
  BROUTING: 'prerouting'
}

export function builtinHook(chain: string): Hook | null {
  return builtin[chain] ?? null
}

/** Tables that the iptables family of tools keeps in nf_tables. */
export function isIptablesTable(family: string, name: string): boolean {
  if (family === 'ip' || family === 'ip6') return ['filter', 'nat', 'mangle', 'raw', 'security'].includes(name)
  if (family === 'bridge') return ['filter', 'nat', 'broute'].includes(name)
  return family === 'arp' && name === 'filter'
}
