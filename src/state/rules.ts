// Policy rules, both families, in the order the kernel asks them: by priority,
// equal ones in the order they were made.

import { sameFact } from './equal.js'
import type { Rule } from './types.js'

/** Puts the rule behind all of its priority. A rule that is there already (a replayed event) changes nothing: false. */
export function addRule(rules: Rule[], rule: Rule): boolean {
  if (rules.some((known) => sameFact(known, rule))) return false
  const index = rules.findIndex((known) => known.priority > rule.priority)
  rules.splice(index < 0 ? rules.length : index, 0, rule)
  return true
}

/** false: there was none like it. */
export function removeRule(rules: Rule[], rule: Rule): boolean {
  const index = rules.findIndex((known) => sameFact(known, rule))
  if (index < 0) return false
  rules.splice(index, 1)
  return true
}

/** Applies a whole dump. true: the rules are others now. */
export function replaceRules(rules: Rule[], dumped: Rule[]): boolean {
  const fresh: Rule[] = []
  for (const rule of dumped) addRule(fresh, rule)
  if (sameFact(rules, fresh)) return false
  rules.splice(0, rules.length, ...fresh)
  return true
}
