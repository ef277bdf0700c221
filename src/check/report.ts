// The result of `hostroute check`, and of the check before enabling: one list of
// findings. JSON as it stands; src/cli/render-check.ts prints it for people.

import type { Backend, RuleClass } from './ruleset.js'

/** refuse: enabling is refused because of it. */
export type Outcome = 'refuse' | 'warning' | 'info' | 'pass'

export type Area =
  | 'system'
  | 'kernel'
  | 'sandbox'
  | 'rules'
  | 'masquerade'
  | 'routing'
  | 'sysctl'
  | 'devices'
  | 'programs'
  | 'ipsec'

export interface RuleFinding {
  backend: Backend
  family: string
  table: string
  chain: string
  /** The rule as its own tool writes it. */
  text: string
  class: RuleClass
  /** Whose rule it is, by the policy; null: not recognised. */
  owner: string | null
}

export interface Finding {
  outcome: Outcome
  area: Area
  /** Stable name of what was looked at, e.g. 'rule-bypassed'; the policy's `accepted` refers to it. */
  code: string
  /** What was found, one sentence. */
  what: string
  rule: RuleFinding | null
  /** Why it matters; null where `what` says it all. */
  why: string | null
  /** What to do; null: nothing. */
  remedy: string | null
}

export interface CheckReport {
  /** Raised when a key's meaning changes; keys may be added without. */
  version: 1
  /** false: enabling would be refused. */
  pass: boolean
  time: string
  node: string
  system: string
  kernel: string
  /** "dev:inode" of the network namespace that was looked at. */
  namespace: string
  counts: Record<Outcome, number>
  /** Rules and chain policies found, by class. */
  rules: Record<RuleClass, number>
  /** Most severe first. */
  findings: Finding[]
  /** Things this check would have looked at and could not, one sentence each. */
  notLookedAt: string[]
}

/** The check could not be made; the message names the remedy. */
export class CheckError extends Error {
  override name = 'CheckError'
}

type Words = { rule?: RuleFinding; why?: string; remedy?: string }

export function finding(outcome: Outcome, area: Area, code: string, what: string, words: Words = {}): Finding {
  return { outcome, area, code, what, rule: words.rule ?? null, why: words.why ?? null, remedy: words.remedy ?? null }
}

/** What every part of the check gives. */
export interface Looked {
  findings: Finding[]
  notLookedAt: string[]
}

const order: Outcome[] = ['refuse', 'warning', 'info', 'pass']

export function bySeverity(findings: readonly Finding[]): Finding[] {
  return order.flatMap((outcome) => findings.filter((each) => each.outcome === outcome))
}

export function countOutcomes(findings: readonly Finding[]): Record<Outcome, number> {
  const counts = { refuse: 0, warning: 0, info: 0, pass: 0 }
  for (const { outcome } of findings) counts[outcome]++
  return counts
}
