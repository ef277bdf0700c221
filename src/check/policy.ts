// The check's policy: which operating systems and which rules are fine. It is
// data an administrator can replace as a whole; a mistake in it is an error
// with its place, never a policy that lets more pass than was written.

import { readFileSync } from 'node:fs'
import * as v from 'valibot'
import { type Document, isMap, isScalar, isSeq, LineCounter, type Node, parseDocument } from 'yaml'
import { matchesGlob } from '../config/glob.js'
import { ConfigError, didYouMean, type Problem } from '../config/problem.js'
import { defaultPolicyText } from './default-policy.js'
import type { RuleClass, RuleTable } from './ruleset.js'

export interface PolicyRule {
  name: string
  /** Patterns; null: any. */
  backend: string[] | null
  family: string[] | null
  table: string[] | null
  chain: string[] | null
  text: string[] | null
  /** null: the entry only explains. */
  class: RuleClass | null
  why: string
  remedy: string | null
}

export interface Policy {
  version: 1
  systems: { id: string; versions: string[] }[]
  otherSystems: 'pass' | 'warn' | 'refuse'
  accepted: string[]
  rules: PolicyRule[]
}

const text = v.pipe(v.string(), v.minLength(1))
const patterns = v.nullish(
  v.union([
    v.pipe(
      text,
      v.transform((one) => [one])
    ),
    v.pipe(v.array(text), v.minLength(1))
  ]),
  null
)

const ruleEntries = {
  name: text,
  backend: patterns,
  family: patterns,
  table: patterns,
  chain: patterns,
  text: patterns,
  class: v.nullish(v.picklist(['bypassed', 'host-only', 'harmless', 'translatable']), null),
  why: text,
  remedy: v.nullish(text, null)
}

const entries = {
  version: v.literal(1),
  systems: v.optional(v.array(v.strictObject({ id: text, versions: v.optional(v.array(text), []) })), []),
  otherSystems: v.optional(v.picklist(['pass', 'warn', 'refuse']), 'warn'),
  accepted: v.optional(v.array(text), []),
  rules: v.optional(
    v.array(
      v.pipe(
        v.strictObject(ruleEntries),
        v.check(
          (rule) =>
            rule.class === null ||
            [rule.backend, rule.family, rule.table, rule.chain, rule.text].some((each) => each !== null),
          'an entry with a class must say which rules it means: table, chain or text'
        )
      )
    ),
    []
  )
}

const schema = v.strictObject(entries)

/** What is allowed where, for messages. */
const allowed: Record<string, string> = {
  version: '1',
  systems: 'a list of {id: debian, versions: ["12"]}',
  otherSystems: 'pass, warn or refuse',
  accepted: "a list of findings' codes",
  rules: `a list of entries with ${Object.keys(ruleEntries).join(', ')}`,
  name: 'words',
  why: 'words',
  remedy: 'words',
  id: 'ID of /etc/os-release in quotes',
  versions: 'a list of VERSION_ID in quotes',
  class: 'bypassed, host-only, harmless or translatable'
}

export const defaultPolicy: Policy = parsePolicy(defaultPolicyText, 'the built-in policy')

/** Throws ConfigError with all problems, also when the file cannot be read. */
export function loadPolicy(path: string): Policy {
  let contents: string
  try {
    contents = readFileSync(path, 'utf8')
  } catch (error) {
    throw new ConfigError([
      { file: path, line: 0, column: 0, key: '', text: `cannot be read: ${(error as Error).message}` }
    ])
  }
  return parsePolicy(contents, path)
}

/** `file` is for messages. Throws ConfigError with all problems. */
export function parsePolicy(contents: string, file: string): Policy {
  const lines = new LineCounter()
  const document = parseDocument(contents, { lineCounter: lines, prettyErrors: false, uniqueKeys: true })
  const problems: Problem[] = []
  const report = (offset: number, key: string, words: string) => {
    const { line, col } = lines.linePos(offset)
    problems.push({ file, line: Math.max(line, 1), column: Math.max(col, 1), key, text: words })
  }
  for (const error of document.errors) report(error.pos[0], '', `is not YAML: ${error.message.split('\n')[0]}`)
  if (problems.length > 0) throw new ConfigError(problems)
  const result = v.safeParse(schema, document.toJS() ?? {})
  if (result.success) return result.output
  for (const issue of result.issues) describe(issue, document, report)
  throw new ConfigError(problems)
}

type Issue = v.BaseIssue<unknown>

function describe(
  issue: Issue,
  document: Document,
  report: (offset: number, key: string, words: string) => void
): void {
  const path = (issue.path ?? []).map((item) => item.key as string | number)
  const key = path.join('.')
  const last = String(path.findLast((part) => typeof part === 'string') ?? '')
  const offset = offsetAt(document, path)
  if (issue.type === 'strict_object' && issue.expected === 'never') {
    const here =
      path.length === 1 ? Object.keys(entries) : path[0] === 'rules' ? Object.keys(ruleEntries) : ['id', 'versions']
    const near = didYouMean(last, here)
    return report(offset, key, `unknown key; ${near ? `did you mean ${near}?` : `allowed here: ${here.join(', ')}`}`)
  }
  if (issue.received === 'undefined')
    return report(offset, key, `is missing; allowed: ${allowed[last] ?? issue.expected}`)
  if (issue.type === 'check') return report(offset, key, issue.message)
  report(
    offset,
    key,
    `found ${JSON.stringify(issue.input)?.slice(0, 80)}; allowed: ${allowed[last] ?? 'a pattern or a list of patterns'}`
  )
}

/** Offset of the node at `path`, or of the nearest that exists above it. */
function offsetAt(document: Document, path: (string | number)[]): number {
  let node = document.contents as Node | null
  let offset = node?.range?.[0] ?? 0
  for (const part of path) {
    let next: Node | null | undefined
    if (isMap(node)) {
      const pair = node.items.find((item) => isScalar(item.key) && String(item.key.value) === String(part))
      const value = pair?.value as Node | null | undefined
      offset =
        ((value && !isMap(value) && !isSeq(value) ? value : (pair?.key as Node | undefined)) ?? value)?.range?.[0] ??
        offset
      next = value
    } else if (isSeq(node)) {
      next = node.items[Number(part)] as Node | undefined
      offset = next?.range?.[0] ?? offset
    }
    node = next ?? null
  }
  return offset
}

export function matchesPolicyRule(rule: PolicyRule, table: RuleTable, chain: string, text: string): boolean {
  return (
    matches(rule.backend, table.backend) &&
    matches(rule.family, table.family) &&
    matches(rule.table, table.name) &&
    matches(rule.chain, chain) &&
    matches(rule.text, text)
  )
}

function matches(list: string[] | null, value: string): boolean {
  return list === null || list.some((pattern) => matchesGlob(pattern, value))
}
