// The steps of one sender, merged into one prefix table: a class of routes.
//
// Every prefix that a table or a domain of the steps names is looked at once.
// On what it covers and no longer one does, each table has one answer (that of
// its longest prefix), hence the steps have one. A prefix whose answer is that
// of the next shorter one kept is left out; /0 is always there.
//
// Where the answer is table main's the class says only so, and the node's own
// routes answer (`main`): a route of main that changes is written once, and a
// class is as large as its own tables. Only where something is asked after main
// (suppress_prefixlength, a rule behind it) do main's prefixes count, too.

import { everything, maskAddress, prefixKey, splitPrefix } from '../address.js'
import type { Address, Family, NodeState, Prefix, Route } from '../state/types.js'
import { contains, isKernelsOwn } from './cover.js'
import { type Choice, chooseFrom, TABLE_MAIN } from './routes.js'
import type { Step } from './rules.js'
import type { StackReason } from './types.js'

export type Answer =
  | { kind: 'main' }
  | { kind: 'stack'; reason: StackReason; why: string /** null: not because of a rule. */; rule: string | null }
  | { kind: 'forward'; table: number; prefix: Prefix; choice: Choice & { kind: 'forward' } }

/** What a table says about an address: its longest prefix. */
export interface TableAnswer {
  prefix: Prefix
  length: number
  choice: Choice
}

export interface View {
  answerOf(table: number): TableAnswer | null
  inside(prefix: Prefix): boolean
}

const main: Answer = { kind: 'main' }
const noAnswers: ReadonlyMap<number, TableAnswer> = new Map()
const noDomains: ReadonlySet<Prefix> = new Set()
const nothing: Answer = { kind: 'stack', reason: 'no-route', why: 'no ip rule leads to a route', rule: null }

/** What comes after main matters: main's prefixes have to be known. */
export function asksBeyondMain(steps: readonly Step[]): boolean {
  return steps.some(
    ({ table, suppress, domain, unsure }, at) =>
      table === TABLE_MAIN && (suppress >= 0 || (domain === null && unsure === null && at < steps.length - 1))
  )
}

/** What the steps say where `view` looks. */
export function follow(steps: readonly Step[], view: View, beyondMain: boolean): Answer {
  const unsure: { answer: Answer; step: Step }[] = []
  for (const step of steps) {
    if (step.domain !== null && view.inside(step.domain.prefix) !== step.domain.inside) continue
    const answer = answerOf(step, view, beyondMain)
    if (!answer) continue
    if (step.unsure === null) return settle(answer, unsure)
    unsure.push({ answer, step })
  }
  return settle(nothing, unsure)
}

/** The answer if all that cannot be told would give the same. */
function settle(answer: Answer, unsure: readonly { answer: Answer; step: Step }[]): Answer {
  const other = unsure.find((entry) => !sameAnswer(entry.answer, answer))
  if (!other) return answer
  const { rule, unsure: why } = other.step
  return { kind: 'stack', reason: 'policy', why: `ip rule ${rule}: ${why ?? ''}`, rule }
}

function answerOf(step: Step, view: View, beyondMain: boolean): Answer | null {
  const { table, rule, suppress } = step
  if (table === null)
    return { kind: 'stack', reason: 'policy', why: `ip rule ${rule}: ${step.unsure ?? 'the kernel answers'}`, rule }
  if (table === TABLE_MAIN && !beyondMain) return main
  const found = view.answerOf(table)
  if (!found || (found.choice.kind === 'stack' && found.choice.reason === 'no-route')) return null
  const { choice, length, prefix } = found
  if (choice.kind === 'forward' && length <= suppress) return null
  if (table === TABLE_MAIN) return main
  return choice.kind === 'forward'
    ? { kind: 'forward', table, prefix, choice }
    : { kind: 'stack', reason: choice.reason, why: `${choice.why} (table ${table})`, rule: null }
}

function sameAnswer(a: Answer, b: Answer): boolean {
  if (a.kind === 'stack') return b.kind === 'stack' && a.reason === b.reason && a.why === b.why
  if (a.kind === 'forward') return b.kind === 'forward' && a.table === b.table && a.prefix === b.prefix
  return b.kind === 'main'
}

export interface MergeInput {
  family: Family
  state: NodeState
  steps: readonly Step[]
  /** Prefixes of a table besides main. */
  prefixesOf(table: number): Iterable<Prefix>
  /** Prefixes that the node's own routes answer for, with all that is inside: addresses of the node, configuration. */
  own: Iterable<Prefix>
}

interface Level {
  address: Address
  length: number
  own: boolean
  answers: ReadonlyMap<number, TableAnswer>
  /** Domains of the steps that it lies in. */
  domains: ReadonlySet<Prefix>
  kept: Answer | null
}

/** By prefix. null: more than `most` prefixes have to be looked at. */
export function mergeSteps(input: MergeInput, most: number): Map<Prefix, Answer> | null {
  const { family, state, steps } = input
  const beyondMain = asksBeyondMain(steps)
  const own = new Set(input.own)
  const prefixes = collectPrefixes(input, own, beyondMain, most)
  if (!prefixes) return null
  const routes = family === 4 ? state.routes4 : state.routes6
  const tables = new Set(steps.flatMap(({ table }) => (table === null ? [] : [table])))
  if (!beyondMain) tables.delete(TABLE_MAIN)
  const domains = new Set(steps.flatMap(({ domain }) => (domain ? [domain.prefix] : [])))
  const merged = new Map<Prefix, Answer>()
  const above: Level[] = []
  for (const prefix of prefixes) {
    const { address, length } = splitPrefix(prefix)
    while (above.length > 0 && !covers(above[above.length - 1] as Level, address, length)) above.pop()
    const parent = above[above.length - 1]
    const level: Level = {
      address,
      length,
      own: (parent?.own ?? false) || own.has(prefix),
      answers: answersAt(prefix, length, routes.get(prefix), tables, state, parent),
      domains: domains.has(prefix) ? new Set([...(parent?.domains ?? []), prefix]) : (parent?.domains ?? noDomains),
      kept: parent?.kept ?? null
    }
    above.push(level)
    const view: View = {
      answerOf: (table) => level.answers.get(table) ?? null,
      inside: (domain) => level.domains.has(domain)
    }
    const answer = level.own ? main : follow(steps, view, beyondMain)
    if (level.kept && sameAnswer(level.kept, answer)) continue
    level.kept = answer
    merged.set(prefix, answer)
  }
  return merged
}

function collectPrefixes(
  { family, state, steps, prefixesOf }: MergeInput,
  own: ReadonlySet<Prefix>,
  beyondMain: boolean,
  most: number
): Prefix[] | null {
  const found = new Set<Prefix>([everything[family], ...own])
  for (const { table, domain } of steps) {
    if (domain) found.add(domain.prefix)
    if (table !== null && table !== TABLE_MAIN) for (const prefix of prefixesOf(table)) found.add(prefix)
    if (found.size > most) return null
  }
  if (beyondMain) {
    for (const [prefix, routes] of family === 4 ? state.routes4 : state.routes6) {
      if (routes.some(({ table }) => table === TABLE_MAIN)) found.add(prefix)
      if (found.size > most) return null
    }
  }
  return [...found]
    .map((prefix) => ({ prefix, ...splitPrefix(prefix) }))
    .filter(({ address, length }) => !isKernelsOwn(address, length))
    .sort((a, b) => (a.address < b.address ? -1 : a.address > b.address ? 1 : a.length - b.length))
    .map(({ prefix }) => prefix)
}

/** The tables' answers at a prefix: their own routes there, else what holds for the next shorter one. */
function answersAt(
  prefix: Prefix,
  length: number,
  routes: readonly Route[] | undefined,
  tables: ReadonlySet<number>,
  state: NodeState,
  parent: Level | undefined
): ReadonlyMap<number, TableAnswer> {
  const inherited = parent?.answers ?? noAnswers
  if (!routes?.some(({ table }) => tables.has(table))) return inherited
  const answers = new Map(inherited)
  for (const { table } of routes) {
    if (!tables.has(table) || answers.get(table)?.prefix === prefix) continue
    const choice = chooseFrom(table, routes, state.nexthopObjects)
    if (choice) answers.set(table, { prefix, length, choice })
  }
  return answers
}

/** A table's answer for one address, found by looking at each length. */
export function lookUp(state: NodeState, table: number, address: Address): TableAnswer | null {
  const routes = address.length === 8 ? state.routes4 : state.routes6
  for (let length = address.length * 4; length >= 0; length--) {
    const prefix = prefixKey(maskAddress(address, length), length)
    const here = routes.get(prefix)
    const choice = here ? chooseFrom(table, here, state.nexthopObjects) : null
    if (choice) return { prefix, length, choice }
  }
  return null
}

function covers(outer: Level, address: Address, length: number): boolean {
  return outer.length <= length && contains(outer.address, outer.length, address)
}
