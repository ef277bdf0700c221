// Recorded rules, judged as on a node with one pod and one uplink.

import { readFileSync } from 'node:fs'
import { hexPrefix } from '../../src/address.js'
import { classifyTable, type JudgedRule } from '../../src/check/classify.js'
import { parseSave } from '../../src/check/iptables-save.js'
import { parseNft } from '../../src/check/nft-json.js'
import type { NodeRules } from '../../src/check/node-rules.js'
import { defaultPolicy, type Policy } from '../../src/check/policy.js'
import { ruleContext } from '../../src/check/rule-findings.js'
import type { RuleTable } from '../../src/check/ruleset.js'
import { findTranslations } from '../../src/check/translations.js'

const fixtures = new URL('../../../../test/check/fixtures/', import.meta.url)

export const node: NodeRules = {
  pods: ['veth1'],
  uplinks: ['eth0'],
  neverServed: ['docker0'],
  stackPrefixes: [],
  own: [hexPrefix('c0000202/32')],
  podAddresses: [],
  snat: true
}

export function recorded(name: string): string {
  return readFileSync(new URL(name, fixtures), 'utf8')
}

export function savedTables(text: string): RuleTable[] {
  return parseSave(text, 'iptables-nft', 'ip').tables
}

export function nftTables(name: string): RuleTable[] {
  return parseNft(recorded(`${name}.nft.json`), recorded(`${name}.nft.txt`))
}

export function judged(
  tables: RuleTable[],
  change: Partial<NodeRules> = {},
  policy: Policy = defaultPolicy
): JudgedRule[] {
  const facts = { ...node, ...change }
  const context = ruleContext(
    facts,
    tables.flatMap((table) => findTranslations(table, facts.own)),
    []
  )
  return tables.flatMap((table) => classifyTable(table, context, policy))
}

/** "CHAIN: text" of the rules of one class. */
export function textsOf(rules: readonly JudgedRule[], wanted: JudgedRule['class']): string[] {
  return rules.filter((each) => each.class === wanted).map((each) => `${each.chain.name}: ${each.text}`)
}

/** Judges the rules of one table as lines, without the chains' headings. */
export function judgeLines(table: string, lines: string[], change: Partial<NodeRules> = {}): JudgedRule[] {
  const heads = ['PREROUTING', 'INPUT', 'FORWARD', 'OUTPUT', 'POSTROUTING'].map((name) => `:${name} ACCEPT [0:0]`)
  const own = new Set(
    lines.flatMap((line) => /^-A (\S+)/.exec(line)?.[1] ?? []).filter((name) => !/^[A-Z]+$/.test(name))
  )
  const text = [`*${table}`, ...heads, ...[...own].map((name) => `:${name} - [0:0]`), ...lines, 'COMMIT'].join('\n')
  return judged(savedTables(text), change)
}
