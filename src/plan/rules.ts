// ip rules -> what is asked, in order, for the packets of one sender.
//
// The packets that the maps answer for are forwarded ones: oif is 0, iif is the
// device they came in by, the mark is 0 (bpf/verdict.h leaves others to the
// kernel while a rule asks for a mark), the uid is root's, no tunnel's key. From
// a pod the source is one of its addresses; from an uplink it is anything but
// an address of the node or of its pods. Hence most selectors are true or false
// once and for all. `to` stays as the step's domain. What is left (protocol,
// ports, type of service; from an uplink: the source) cannot be told: such a
// step is `unsure`, and only where its answer would differ from what the other
// rules say is the packet the kernel's.
//
// Table local is not among the steps: an address of the node is the kernel's
// wherever local is asked, and the stack is right in any case. Nor are rules
// after the plain `lookup main`, if only table default follows: what main does
// not know goes to the stack.

import { createHash } from 'node:crypto'
import { formatPrefix, prefixKey, unspecified } from '../address.js'
import type { Address, Family, Prefix, Rule } from '../state/types.js'
import { contains } from './cover.js'
import { type ClassKey, classKey } from './keys.js'
import { TABLE_LOCAL, TABLE_MAIN } from './routes.js'
import { RuleAction, ruleText, tableName } from './rule-text.js'

const TABLE_DEFAULT = 253

export interface Step {
  /** As `ip rule` prints it. */
  rule: string
  /** Destinations it is asked for: those inside the prefix, or those outside; null: all. */
  domain: { prefix: Prefix; inside: boolean } | null
  /** null: the way ends here, in the kernel. */
  table: number | null
  /** Answers with at most this prefix length do not count; -1: all count. */
  suppress: number
  /** Why it cannot be told whether the step is taken; null: it is. */
  unsure: string | null
}

/** Who sends. */
export interface Sender {
  /** Name of the device the packet comes in by. */
  iif: string
  /** null: any. */
  source: Address | null
  /** An address of the node or of its pods: never the source of a packet from an uplink. */
  isOurs: (address: Address) => boolean
}

/** One family's rules in the order in which the kernel asks them, with their texts. */
export interface FamilyRules {
  family: Family
  rules: readonly { rule: Rule; text: string }[]
  /** Nothing but what the kernel has from the start, or what has the same effect for everybody. */
  plain: boolean
  /** Devices that rules name as iif. */
  iifs: ReadonlySet<string>
  /** Tables besides local and main that a forwarded packet may be sent to. */
  tables: ReadonlySet<number>
  /** Some rule asks for a mark. */
  marks: boolean
}

export function readRules(all: readonly Rule[], family: Family): FamilyRules {
  const ordered = all.filter((rule) => rule.family === family).sort((a, b) => a.priority - b.priority)
  const rules = ordered.map((rule) => ({ rule, text: ruleText(rule) }))
  const matching = ordered.filter((rule) => rule.action !== RuleAction.nop && !neverMatches(rule))
  const iifs = new Set(matching.flatMap((rule) => (rule.iif === null ? [] : [rule.iif])))
  const tables = new Set(matching.filter((rule) => rule.action === RuleAction.lookup).map((rule) => rule.table))
  tables.delete(TABLE_LOCAL)
  tables.delete(TABLE_MAIN)
  const marks = ordered.some((rule) => rule.markMask !== 0)
  const family4 = { family, rules, plain: false, iifs, tables, marks }
  const anybody = readSteps(family4, { iif: '', source: null, isOurs: () => false })
  const conditional = matching.some(
    (rule) => rule.invert || rule.iif !== null || rule.sourceLength > 0 || rule.action === RuleAction.goto
  )
  return { ...family4, plain: !conditional && isPlain(anybody) }
}

/** What is asked for the sender's packets, one after the other. */
export function readSteps({ rules }: FamilyRules, sender: Sender): Step[] {
  const steps: Step[] = []
  for (let at = 0; at < rules.length; at++) {
    const { rule, text } = rules[at] as FamilyRules['rules'][number]
    if (rule.action === RuleAction.nop) continue
    const match = matchRule(rule, sender)
    if (!match) continue
    const step: Step = { rule: text, table: null, suppress: -1, ...match }
    if (rule.action === RuleAction.goto) {
      const target = rules.findIndex(({ rule: { priority } }, index) => index > at && priority === rule.goto)
      if (target < 0) continue
      if (step.domain === null && step.unsure === null) {
        at = target - 1
        continue
      }
      step.unsure ??= 'it leads to another rule for a part of the destinations'
    } else if (rule.action === RuleAction.lookup && !rule.l3mdev) {
      if (rule.table === TABLE_LOCAL) continue
      step.table = rule.table
      step.suppress = rule.suppressPrefixLength
      if (rule.suppressGroup >= 0) step.unsure ??= 'it depends on the group of the device'
    }
    steps.push(step)
    if (step.table === null && step.domain === null && step.unsure === null) break
  }
  return shorten(steps)
}

/** Leaves out what changes nothing. */
function shorten(steps: Step[]): Step[] {
  const last = steps.findIndex(isPlainMain)
  if (last < 0) return steps
  const tail = steps.slice(last + 1)
  const head = steps.slice(0, last)
  // What comes right before main and asks main as well, for whomever.
  while (head.at(-1)?.table === TABLE_MAIN && (head.at(-1)?.suppress ?? 0) < 0) head.pop()
  const kept = tail.every((step) => step.table === TABLE_DEFAULT) ? [] : tail
  return [...head, steps[last] as Step, ...kept]
}

function isPlainMain(step: Step): boolean {
  return step.table === TABLE_MAIN && step.domain === null && step.suppress < 0 && step.unsure === null
}

/** As without any rule of one's own: class 0. */
export function isPlain(steps: readonly Step[]): boolean {
  const [only] = steps
  return steps.length === 1 && only !== undefined && isPlainMain(only)
}

/** The same for senders whose packets are routed alike. */
export function keyOfSteps(family: Family, steps: readonly Step[]): ClassKey {
  const words = steps.map(({ rule, domain, table, suppress, unsure }) => {
    const to = domain === null ? '' : `${domain.inside ? '' : '!'}${domain.prefix}`
    return `${to}>${table ?? ''}/${suppress}${table === null || unsure !== null ? ` ${rule}` : ''}`
  })
  return classKey(family, createHash('sha1').update(words.join('\n')).digest('hex').slice(0, 12))
}

/** For people: "main for 10.1.0.3, 100, main". */
export function describeSteps(steps: readonly Step[]): string {
  const words: string[] = []
  for (let at = 0; at < steps.length; at++) {
    const { table, domain, suppress, unsure, rule } = steps[at] as Step
    if (table === null || unsure !== null) {
      words.push(`(${rule})`)
      continue
    }
    const name = tableName(table)
    if (suppress >= 0) words.push(`${name} beyond /${suppress}`)
    else if (domain === null) words.push(name)
    else {
      let more = 0
      while (steps[at + 1]?.table === table && steps[at + 1]?.domain && steps[at + 1]?.unsure === null) {
        more++
        at++
      }
      const to = `${domain.inside ? '' : 'all but '}${formatPrefix(domain.prefix)}`
      words.push(`${name} for ${to}${more > 0 ? ` and ${more} more` : ''}`)
    }
  }
  return words.join(', ')
}

/** null: never. */
function matchRule(rule: Rule, sender: Sender): Pick<Step, 'domain' | 'unsure'> | null {
  const matched = matchSelectors(rule, sender)
  const domain =
    rule.destinationLength === 0
      ? null
      : {
          prefix: prefixKey(rule.destination ?? unspecified[rule.family], rule.destinationLength),
          inside: !rule.invert
        }
  if (!rule.invert) return matched === false ? null : { domain, unsure: matched === true ? null : matched }
  if (matched === false) return { domain: null, unsure: null }
  if (matched !== true) return { domain: null, unsure: matched }
  return domain === null ? null : { domain, unsure: null }
}

/** All but `to`, and before `not`. Text: why it cannot be told. */
function matchSelectors(rule: Rule, { iif, source, isOurs }: Sender): boolean | string {
  if (cannotMatch(rule) || (rule.iif !== null && rule.iif !== iif)) return false
  let unsure: string | null = null
  if (rule.sourceLength > 0) {
    const prefix = rule.source ?? unspecified[rule.family]
    if (source === null) {
      if (rule.sourceLength === prefix.length * 4 && isOurs(prefix)) return false
      unsure = 'it depends on the source'
    } else if (!contains(prefix, rule.sourceLength, source)) return false
  }
  const [selector] = [...rule.unsupported, ...(rule.tos === 0 ? [] : ['tos'])]
  return selector === undefined ? (unsure ?? true) : `the maps do not know "${selector}"`
}

/** No packet that the maps answer for has what the selectors ask for. */
function cannotMatch({ oif, iif, mark, markMask, l3mdev, tunnelId, uidRange }: Rule): boolean {
  if (oif !== null || iif === 'lo' || l3mdev || tunnelId !== null || (mark & markMask) !== 0) return true
  return uidRange !== null && uidRange.first > 0
}

function neverMatches(rule: Rule): boolean {
  return !rule.invert && cannotMatch(rule)
}
