// Runs cases and says what came out, in a form that two runs can be compared in.

import { sleep, slowness } from '../lab/process.js'
import { type Case, casesOf, moreCasesOf } from './cases.js'
import { type HostName, labPlan } from './cluster.js'
import { FAMILIES } from './proxy.js'
import type { ServiceLab } from './service-lab.js'
import type { Answer } from './traffic.js'

/** What came out of a case: equal for two runs if the node did the same. */
export interface Outcome {
  name: string
  /** "answered by p12, seen as n1"; several joined where chance decides and all of them are right. */
  result: string
}

export interface CaseReport {
  outcomes: Outcome[]
  /** Cases whose result is not the one that its row in the table asks for, in words. */
  wrong: string[]
}

/**
 * Milliseconds. An answer comes at once on an idle machine. A refusal may take a
 * second: when the ICMP error about a SYN comes while connect() still holds the
 * socket, only the one about the SYN's repetition ends it. On a busy machine that
 * happens three times in a row: by the kernel alone to one in some 1,400.
 */
const PATIENCE = { answered: 3_000, refused: 10_000, timeout: 1_000 }

/** Of both tables and in both families. */
export const ALL_CASES: readonly Case[] = FAMILIES.flatMap((family) => [
  ...casesOf(labPlan(family)),
  ...moreCasesOf(labPlan(family))
])

/** `atOnce` of them at a time, or all. */
export async function runCases(
  cluster: ServiceLab,
  cases: readonly Case[] = ALL_CASES,
  atOnce = cases.length
): Promise<CaseReport> {
  const names = new Map<string, string>()
  for (const family of FAMILIES) {
    for (const [host, address] of Object.entries(labPlan(family).hosts)) names.set(address, host)
  }
  const report: CaseReport = { outcomes: [], wrong: [] }
  const runCase = async (each: Case, index: number) => {
    const { from, protocol, address, port } = each
    const question = { from, protocol, address, port, timeout: PATIENCE[each.outcome] }
    const questions = Array.from({ length: each.times }, () => question)
    const answers = await cluster.traffic.askAll(questions)
    const wrong = faults(each, answers, names)
    if (wrong.length > 0) report.wrong.push(`${each.name}: ${wrong.join('; ')}`)
    report.outcomes[index] = { name: each.name, result: describe(each, answers, names, wrong.length === 0) }
  }
  for (let first = 0; first < cases.length; first += atOnce)
    await Promise.all(cases.slice(first, first + atOnce).map((each, offset) => runCase(each, first + offset)))
  return report
}

function describe(each: Case, answers: readonly Answer[], names: Map<string, string>, right: boolean): string {
  const chance = right && each.servers.length > 1
  const results = answers.map(({ outcome, server, peer }) => {
    if (outcome !== 'answered') return outcome
    return `answered by ${chance ? each.servers.join(' or ') : server}, seen as ${names.get(peer) ?? peer}`
  })
  return [...new Set(results)].sort().join(' and ')
}

function faults(each: Case, answers: readonly Answer[], names: Map<string, string>): string[] {
  const found = answers.flatMap(({ outcome, server, peer }) => {
    if (outcome !== each.outcome) return [`${outcome} instead of ${each.outcome}`]
    if (outcome !== 'answered') return []
    const seen = names.get(peer) ?? peer
    return [
      ...(each.servers.includes(server as HostName) ? [] : [`answered by ${server}`]),
      ...(each.seenAs === null || seen === each.seenAs ? [] : [`seen as ${seen} instead of ${each.seenAs}`])
    ]
  })
  const servers = new Set(answers.map(({ server }) => server).filter((server) => server !== ''))
  if (each.choice === 'all' && servers.size < each.servers.length)
    found.push(`only ${[...servers].join(', ')} answered`)
  if (each.choice === 'same' && servers.size > 1) found.push(`answered by ${[...servers].join(' and ')} in turn`)
  return [...new Set(found)]
}

/**
 * Runs those that must be answered again and again until `change` is over, and
 * once more; results that differ from `before`, in words.
 */
export async function casesDuring(
  cluster: ServiceLab,
  before: CaseReport,
  change: Promise<void>,
  atOnce?: number
): Promise<string[]> {
  const answered = new Map(before.outcomes.map((outcome) => [outcome.name, outcome]))
  const cases = ALL_CASES.filter(({ name, outcome }) => outcome === 'answered' && answered.has(name))
  const kept = { outcomes: cases.map(({ name }) => answered.get(name) as Outcome) }
  const found = new Set<string>()
  let over = false
  const ended = change.finally(() => {
    over = true
  })
  for (let last = false; !last; ) {
    last = over
    for (const each of differences(kept, await runCases(cluster, cases, atOnce))) found.add(each)
    await Promise.race([ended, sleep(100 * slowness)])
  }
  await ended
  return [...found]
}

/** Cases that came out differently, in words. */
export function differences(before: Pick<CaseReport, 'outcomes'>, after: Pick<CaseReport, 'outcomes'>): string[] {
  return before.outcomes.flatMap(({ name, result }, index) => {
    const now = after.outcomes[index]?.result
    return now === result ? [] : [`${name}: ${now}, without hostroute ${result}`]
  })
}
