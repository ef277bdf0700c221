// The report of `hostroute check` for people.

import type { CheckReport, Finding, Outcome } from '../check/report.js'
import { count, type Paint, plural } from './text.js'

export interface RenderOptions {
  /** Everything: passes, harmless rules, and no list cut short. */
  all: boolean
  /** Of the terminal; lines are folded to it. */
  width: number
}

/** Of one kind of finding; the rest is counted. */
const shown = 10
const indent = 9

export function renderCheck(report: CheckReport, paint: Paint, options: RenderOptions): string {
  const visible = report.findings.filter((each) => options.all || !isQuiet(each))
  const { lines, hidden } = cut(visible, options)
  const blocks = lines.map((each) => renderFinding(each, paint, options.width))
  const notes = report.notLookedAt.map((text) =>
    fold(`${paint.warn('skipped'.padEnd(indent - 2))}  ${text}`, options.width, indent)
  )
  const body = [...blocks, ...notes].join('\n')
  return [heading(report, paint), body, ...summary(report, hidden, paint, options)].filter(Boolean).join('\n\n')
}

/** Found and of no consequence: counted at the end. */
function isQuiet(each: Finding): boolean {
  return each.rule !== null && each.outcome === 'info'
}

function cut(findings: readonly Finding[], { all }: RenderOptions): { lines: Finding[]; hidden: number } {
  if (all) return { lines: [...findings], hidden: 0 }
  const counts = new Map<string, number>()
  const lines = findings.filter((each) => {
    const key = `${each.outcome} ${each.code} ${each.rule?.owner ?? ''}`
    const number = (counts.get(key) ?? 0) + 1
    counts.set(key, number)
    return number <= shown
  })
  return { lines, hidden: findings.length - lines.length }
}

function heading(report: CheckReport, paint: Paint): string {
  return `${paint.bold(report.node)}: ${report.system}, kernel ${report.kernel}, network namespace ${report.namespace}`
}

const titles: Record<Outcome, string> = { refuse: 'REFUSE', warning: 'warning', info: 'info', pass: 'ok' }

function renderFinding(each: Finding, paint: Paint, width: number): string {
  const colour = { refuse: paint.bad, warning: paint.warn, info: paint.dim, pass: paint.good }[each.outcome]
  const lines = [fold(`${colour(titles[each.outcome].padEnd(indent - 2))}  ${each.what}`, width, indent)]
  if (each.outcome === 'pass') return lines.join('\n')
  if (each.rule) lines.push(`${' '.repeat(indent)}${paint.dim('rule')}  ${each.rule.text}`)
  if (each.why) lines.push(fold(`${' '.repeat(indent)}${paint.dim('why')}   ${each.why}`, width, indent + 6))
  if (each.remedy) lines.push(fold(`${' '.repeat(indent)}${paint.dim('fix')}   ${each.remedy}`, width, indent + 6))
  return lines.join('\n')
}

function summary(report: CheckReport, hidden: number, paint: Paint, { all }: RenderOptions): string[] {
  const { rules, counts } = report
  const lines: string[] = []
  const sum = rules.bypassed + rules.translatable + rules['host-only'] + rules.harmless
  if (sum > 0) {
    const parts = [
      `${count(rules.bypassed)} bypassed`,
      `${count(rules.translatable)} translatable`,
      `${count(rules['host-only'])} host-only`,
      `${count(rules.harmless)} harmless`
    ]
    lines.push(`${plural(sum, 'rule')}: ${parts.join(', ')}.`)
  }
  const cutShort =
    hidden > 0 ? ` ${plural(hidden, 'finding')} like those above ${hidden === 1 ? 'is' : 'are'} not shown.` : ''
  if (!all && (hidden > 0 || sum > rules.bypassed + rules.translatable))
    lines.push(`${cutShort.trim()} All of them: hostroute check --all`.trim())
  const warnings = counts.warning > 0 ? `, ${plural(counts.warning, 'warning')}` : ''
  const verdict = report.pass
    ? paint.good(`Passed${warnings}: hostroute can be enabled here.`)
    : paint.bad(
        `Refused: ${plural(counts.refuse, 'finding')} ${counts.refuse === 1 ? 'blocks' : 'block'} enabling${warnings}.`
      )
  return [lines.join('\n'), verdict]
}

/** Folds at blanks; colours count for nothing. */
function fold(text: string, width: number, hang: number): string {
  const lines: string[] = []
  let line = ''
  let length = 0
  for (const word of text.split(/(?<=\S)(?= )/)) {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: colours are escape sequences
    const size = word.replace(/\x1b\[[0-9;]*m/g, '').length
    if (length + size > width && line.trim() !== '') {
      lines.push(line)
      line = ' '.repeat(hang) + word.trimStart()
      length = hang + size - (word.length - word.trimStart().length)
    } else {
      line += word
      length += size
    }
  }
  return [...lines, line].join('\n')
}
