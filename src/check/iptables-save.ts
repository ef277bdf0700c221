// Reads what iptables-save, ip6tables-save, ebtables-save and arptables-save
// print. They share the form: "*table", ":CHAIN POLICY", "-A CHAIN …", "COMMIT".

import { hostPrefix, parseAddress, parsePrefix, prefixKey } from '../address.js'
import type { Prefix } from '../state/types.js'
import { type IpSet, setCondition } from './ipset.js'
import { rangePrefixes } from './prefixes.js'
import {
  type Backend,
  builtinHook,
  type Condition,
  type Effect,
  type Rule,
  type RuleFamily,
  type RuleTable
} from './ruleset.js'

export interface SavedRules {
  tables: RuleTable[]
  /** Tables the tool says it cannot show. */
  incompatible: string[]
}

/** Sets that rules may match, by name. */
export type IpSets = Pick<ReadonlyMap<string, IpSet>, 'get'>

export const noSets: IpSets = new Map()

/** Throws an Error with the line that is not understood. */
export function parseSave(text: string, backend: Backend, family: RuleFamily, sets: IpSets = noSets): SavedRules {
  const result: SavedRules = { tables: [], incompatible: [] }
  let table: RuleTable | null = null
  for (const line of text.split('\n')) {
    const trimmed = line.trim()
    const refused = /^# Table [`'](\S+)' (?:is|contains) incompatible/.exec(trimmed)
    if (refused?.[1]) result.incompatible.push(refused[1])
    if (trimmed === '' || trimmed.startsWith('#') || trimmed === 'COMMIT') continue
    if (trimmed.startsWith('*')) {
      table = { backend, family, name: trimmed.slice(1), chains: new Map(), flowtables: [] }
      result.tables.push(table)
    } else if (table && trimmed.startsWith(':')) addChain(table, trimmed)
    else if (table && /^(\[\d+:\d+\] )?-A /.test(trimmed)) addRule(table, trimmed.replace(/^\[\d+:\d+\] /, ''), sets)
    else throw new Error(`the line "${trimmed}" is none that iptables-save prints`)
  }
  for (const each of result.tables)
    for (const chain of each.chains.values()) for (const rule of chain.rules) linkTargets(each, rule)
  return result
}

/**
 * What `arptables-legacy -L` and `ebtables-legacy -L` print: a heading like
 * "Chain INPUT (policy ACCEPT)" or "Bridge chain: INPUT, entries: 1, policy:
 * ACCEPT", then a rule a line.
 */
export function parseListing(text: string, backend: Backend, family: RuleFamily, name: string): RuleTable {
  const table: RuleTable = { backend, family, name, chains: new Map(), flowtables: [] }
  let chain = ''
  for (const line of text.split('\n').map((each) => each.trim())) {
    const heading = /^(?:Bridge chain: ([^\s,]+),.* policy: (\w+)|Chain (\S+) \((?:policy (\w+))?)/.exec(line)
    if (heading) {
      chain = heading[1] ?? heading[3] ?? ''
      const policy = heading[2] ?? heading[4] ?? '-'
      addChain(table, `:${chain} ${builtinHook(chain) === null ? '-' : policy}`)
    } else if (line !== '' && chain !== '') addRule(table, `-A ${chain} ${line}`, noSets)
  }
  for (const { rules } of table.chains.values()) for (const rule of rules) linkTargets(table, rule)
  return table
}

function addChain(table: RuleTable, line: string): void {
  const [name = '', policy = '-'] = line.slice(1).split(/\s+/)
  const hook = policy === '-' ? null : builtinHook(name)
  table.chains.set(name, {
    name,
    hook,
    nat: table.name === 'nat',
    policy: policy === 'DROP' ? 'drop' : 'accept',
    devices: [],
    rules: []
  })
}

function addRule(table: RuleTable, line: string, sets: IpSets): void {
  const words = splitWords(line)
  const name = words[1] ?? ''
  const chain = table.chains.get(name)
  if (!chain) throw new Error(`the rule "${line}" is in a chain that was not named before`)
  chain.rules.push({ text: line, ...readRule(words.slice(2), sets) })
}

/** Words as a shell splits them. */
export function splitWords(line: string): string[] {
  const words: string[] = []
  for (const match of line.matchAll(/"((?:[^"\\]|\\.)*)"|(\S+)/g))
    words.push(match[1]?.replace(/\\(.)/g, '$1') ?? match[2] ?? '')
  return words
}

function readRule(words: string[], sets: IpSets): Pick<Rule, 'conditions' | 'effects'> {
  const conditions: Condition[] = []
  let effects: Effect[] = [{ kind: 'count' }]
  let invert = false
  let module = ''
  for (let i = 0; i < words.length; i++) {
    const word = words[i] ?? ''
    const value = words[i + 1] ?? ''
    if (word === '!') {
      invert = true
      continue
    }
    if (word === '-m' || word === '--match') {
      module = value
      const implied = impliedBy(value)
      if (implied) conditions.push(implied)
      i++
    } else if (word === '-j' || word === '-g' || word === '--jump' || word === '--goto') {
      // the rest are the target's own options
      effects = [target(value, word.includes('g'), words.slice(i + 2))]
      break
    } else if (word === '--comment' || word === '-c') i++
    else if (word === '--match-set') {
      conditions.push(setCondition(sets.get(value), words[i + 2] ?? '', invert, prefixOf))
      i += 2
    } else if (word.startsWith('-')) {
      conditions.push(condition(word, value, module, invert))
      while (i + 1 < words.length && !/^(-|!$)/.test(words[i + 1] ?? '')) i++
    }
    invert = false
  }
  return { conditions, effects }
}

function impliedBy(module: string): Condition | null {
  if (module === 'owner') return { kind: 'owner' }
  return module === 'physdev' ? { kind: 'bridge-port' } : null
}

function condition(option: string, value: string, module: string, invert: boolean): Condition {
  switch (option) {
    case '-i':
    case '-o':
      return { kind: option === '-i' ? 'in-device' : 'out-device', names: [value.replace(/\+$/, '*')], invert }
    case '-s':
    case '-d': {
      const prefix = prefixOf(value)
      return prefix === null
        ? { kind: 'other' }
        : { kind: option === '-s' ? 'source' : 'destination', prefixes: [prefix], invert }
    }
    case '--mark':
      return module === 'mark' ? mark(value, invert) : { kind: 'other' }
    case '--dst-type':
      return value === 'LOCAL' ? { kind: 'local-destination', invert } : { kind: 'other' }
    case '--src-type':
      return value === 'LOCAL' ? { kind: 'local-source', invert } : { kind: 'other' }
    case '--ctstate':
      return value.split(',').every((state) => state === 'DNAT' || state === 'SNAT')
        ? { kind: 'translated-flow', invert }
        : { kind: 'other' }
    case '--dst-range':
    case '--src-range': {
      const [first = null, last = first] = value.split('-').map(parseAddress)
      const prefixes = rangePrefixes(first, last)
      return prefixes === null
        ? { kind: 'other' }
        : { kind: option === '--src-range' ? 'source' : 'destination', prefixes, invert }
    }
    default:
      return { kind: 'other' }
  }
}

function mark(text: string, invert: boolean): Condition {
  const [value = Number.NaN, mask = 0xffffffff] = text.split('/').map(Number)
  return Number.isInteger(value) && Number.isInteger(mask) ? { kind: 'mark', value, mask, invert } : { kind: 'other' }
}

/** "10.0.0.0/8", "10.0.0.1" -> prefix; null for masks that are no prefix. */
export function prefixOf(text: string): Prefix | null {
  const prefix = parsePrefix(text)
  if (prefix) return prefixKey(prefix.address, prefix.length)
  const address = parseAddress(text)
  return address === null ? null : hostPrefix(address)
}

const recording = new Set([
  'LOG',
  'NFLOG',
  'ULOG',
  'AUDIT',
  'TRACE',
  'SET',
  'RATEEST',
  'IDLETIMER',
  'LED',
  'log',
  'nflog',
  'ulog'
])
const ending: Record<string, Effect> = {
  ACCEPT: { kind: 'accept' },
  CONTINUE: { kind: 'count' },
  DROP: { kind: 'drop' },
  REJECT: { kind: 'drop' },
  RETURN: { kind: 'return' },
  MASQUERADE: { kind: 'masquerade' },
  NOTRACK: { kind: 'untrack' }
}

const translating = new Set(['DNAT', 'REDIRECT', 'NETMAP'])

/** Chains of the table's own are found by linkTargets, once all are known. */
function target(name: string, goto: boolean, options: string[]): Effect {
  if (goto) return { kind: 'goto', chain: name }
  if (name === 'CT' && options.length === 1 && options[0] === '--notrack') return { kind: 'untrack' }
  if (translating.has(name)) return { kind: 'translate', how: name }
  return ending[name] ?? (recording.has(name) ? { kind: 'record', how: name } : { kind: 'change', how: name })
}

function linkTargets(table: RuleTable, rule: Rule): void {
  rule.effects = rule.effects.map((effect) =>
    effect.kind === 'change' && table.chains.has(effect.how) ? { kind: 'jump', chain: effect.how } : effect
  )
}
