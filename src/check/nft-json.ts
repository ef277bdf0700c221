// Reads `nft -j -a list ruleset`. The words for people come from the plain
// `nft -a list ruleset`: both name the same handles.

import { parseAddress } from '../address.js'
import type { Prefix } from '../state/types.js'
import { prefixOf } from './iptables-save.js'
import { rangePrefixes } from './prefixes.js'
import type { Condition, Effect, Hook, Rule, RuleChain, RuleFamily, RuleTable } from './ruleset.js'

type Json = { [key: string]: unknown }

/** What rules of a table refer to by name. */
interface Names {
  /** "family table name" -> elements of a set, or key and verdict of a map. */
  elements: Map<string, unknown[]>
  texts: Map<string, string>
  chainDevices: Map<string, string[]>
}

/** `json` and `text` of the same ruleset. Throws if the JSON is not nft's. */
export function parseNft(json: string, text: string): RuleTable[] {
  const root = JSON.parse(json) as { nftables?: Json[] }
  if (!Array.isArray(root.nftables)) throw new Error('nft did not print a list "nftables"')
  const names: Names = { elements: new Map(), ...readText(text) }
  const tables = new Map<string, RuleTable>()
  for (const item of root.nftables) addObject(item, tables, names)
  for (const { rule } of root.nftables as { rule?: Json }[]) if (rule) addRule(rule, tables, names)
  return [...tables.values()]
}

function addObject(item: Json, tables: Map<string, RuleTable>, names: Names): void {
  const [kind = '', value] = Object.entries(item)[0] ?? []
  const object = value as Json
  const family = String(object?.['family']) as RuleFamily
  const table = tables.get(`${family} ${object?.['table']}`)
  const name = String(object?.['name'])
  if (kind === 'table')
    tables.set(`${family} ${name}`, { backend: 'nft', family, name, chains: new Map(), flowtables: [] })
  else if (kind === 'chain') table?.chains.set(name, chainOf(object, table, names))
  else if (kind === 'set' || kind === 'map')
    names.elements.set(`${family} ${object['table']} ${name}`, (object['elem'] as unknown[]) ?? [])
  else if (kind === 'flowtable') {
    const devices = listOf(object['dev']).map(String)
    table?.flowtables.push({
      name,
      devices,
      text: `flowtable ${name} { hook ingress; devices = { ${devices.join(', ')} } }`
    })
  }
}

function chainOf(object: Json, table: RuleTable, names: Names): RuleChain {
  const name = String(object['name'])
  const devices = listOf(object['dev']).map(String)
  return {
    name,
    hook: (object['hook'] as Hook | undefined) ?? null,
    nat: object['type'] === 'nat',
    policy: object['policy'] === 'drop' ? 'drop' : 'accept',
    // nft 1.0.6 leaves the device out of its JSON
    devices: devices.length > 0 ? devices : (names.chainDevices.get(`${table.family} ${table.name} ${name}`) ?? []),
    rules: []
  }
}

function addRule(object: Json, tables: Map<string, RuleTable>, names: Names): void {
  const place = `${object['family']} ${object['table']}`
  const chain = tables.get(place)?.chains.get(String(object['chain']))
  if (!chain) return
  const rule: Rule = {
    text: names.texts.get(`${place} ${object['handle']}`) ?? JSON.stringify(object['expr']),
    conditions: [],
    effects: []
  }
  for (const expression of (object['expr'] as Json[] | undefined) ?? []) readExpression(expression, rule, place, names)
  chain.rules.push(rule)
}

const counting = new Set(['counter', 'last'])
const limiting = new Set(['limit', 'quota', 'ct count', 'connlimit'])
const plainVerdicts: Record<string, Effect> = {
  accept: { kind: 'accept' },
  drop: { kind: 'drop' },
  reject: { kind: 'drop' },
  return: { kind: 'return' },
  continue: { kind: 'count' },
  masquerade: { kind: 'masquerade' },
  notrack: { kind: 'untrack' },
  flow: { kind: 'offload' }
}

function readExpression(expression: Json, rule: Rule, place: string, names: Names): void {
  const [kind = '', value] = Object.entries(expression)[0] ?? []
  const plain = verdict(kind, value)
  if (plain) rule.effects.push(plain)
  else if (kind === 'match') rule.conditions.push(matchOf(value as Json, place, names))
  else if (limiting.has(kind)) rule.conditions.push({ kind: 'other' })
  else if (counting.has(kind)) rule.effects.push({ kind: 'count' })
  else if (kind === 'log' || kind === 'set') rule.effects.push({ kind: 'record', how: kind })
  else if (kind === 'dnat' || kind === 'redirect') readTranslation(kind, value as Json | null, rule, place, names)
  else if (kind === 'vmap') readVerdictMap(value as Json, rule, place, names)
  else if (kind === 'xt') readXt(value as Json | null, rule)
  else if (kind === 'mangle' && metaKey((value as Json)['key']) === 'nftrace')
    rule.effects.push({ kind: 'record', how: 'nftrace' })
  else rule.effects.push({ kind: 'change', how: kind })
}

function verdict(kind: string, value: unknown): Effect | null {
  if (kind === 'jump' || kind === 'goto') return { kind, chain: String((value as Json)?.['target']) }
  return plainVerdicts[kind] ?? null
}

/** `dnat to ip daddr map @m` translates only what the map has. */
function readTranslation(kind: string, value: Json | null, rule: Rule, place: string, names: Names): void {
  rule.effects.push({ kind: 'translate', how: kind })
  const map = (value?.['addr'] as Json | undefined)?.['map'] as Json | undefined
  if (!map) return
  const keys = elementsOf(map['data'], place, names)?.map((element) => keyOf((element as unknown[])[0]))
  const prefixes = destinationsOf(map['key'], keys ?? [])
  rule.conditions.push(prefixes ? { kind: 'destination', prefixes, invert: false } : { kind: 'other' })
}

/** An extension of iptables that nft can name at best. */
function readXt(value: Json | null, rule: Rule): void {
  const name = String(value?.['name'] ?? 'an extension of iptables')
  if (value?.['type'] === 'match') {
    if (name !== 'comment') rule.conditions.push({ kind: 'other' })
  } else if (name === 'MASQUERADE') rule.effects.push({ kind: 'masquerade' })
  else if (['DNAT', 'REDIRECT', 'NETMAP'].includes(name)) rule.effects.push({ kind: 'translate', how: name })
  else if (name === 'LOG' || name === 'NFLOG') rule.effects.push({ kind: 'record', how: name })
  else rule.effects.push({ kind: 'change', how: name })
}

function readVerdictMap(value: Json, rule: Rule, place: string, names: Names): void {
  const elements = elementsOf(value['data'], place, names)
  for (const element of elements ?? []) {
    const [, outcome] = element as [unknown, Json]
    const [kind = '', detail] = Object.entries(outcome ?? {})[0] ?? []
    rule.effects.push(verdict(kind, detail) ?? { kind: 'change', how: kind || 'a verdict map' })
  }
  if (elements === null) rule.effects.push({ kind: 'change', how: 'a verdict map that cannot be read' })
  const prefixes = destinationsOf(
    value['key'],
    (elements ?? []).map((element) => keyOf((element as unknown[])[0]))
  )
  rule.conditions.push(prefixes ? { kind: 'destination', prefixes, invert: false } : { kind: 'other' })
}

/** Where a map's key has the destination address, all its addresses; else null. */
function destinationsOf(key: unknown, keys: unknown[]): Prefix[] | null {
  const parts = (key as Json)?.['concat'] as Json[] | undefined
  const index = (parts ?? [key as Json]).findIndex((part) => addressField(part) === 'daddr')
  if (index < 0 || keys.length === 0) return null
  return prefixList(keys.map((each) => (parts ? ((each as Json)?.['concat'] as unknown[] | undefined)?.[index] : each)))
}

/** An element may carry a comment, a timeout or a counter. */
function keyOf(key: unknown): unknown {
  return ((key as Json)?.['elem'] as Json | undefined)?.['val'] ?? key
}

function elementsOf(data: unknown, place: string, names: Names): unknown[] | null {
  if (typeof data === 'string') return names.elements.get(`${place} ${data.slice(1)}`) ?? null
  const set = (data as Json)?.['set']
  return Array.isArray(set) ? set : null
}

function matchOf(match: Json, place: string, names: Names): Condition {
  const left = match['left'] as Json
  const invert = match['op'] === '!='
  const values = valuesOf(match['right'], place, names)
  if (!['==', '!=', 'in'].includes(String(match['op'])) || values === null) return { kind: 'other' }
  const field = addressField(left)
  if (field) {
    const prefixes = prefixList(values)
    if (!prefixes) return { kind: 'other' }
    return { kind: field === 'daddr' ? 'destination' : 'source', prefixes, invert }
  }
  const meta = metaKey(left)
  if (meta === 'iif' || meta === 'iifname') return { kind: 'in-device', names: values.map(String), invert }
  if (meta === 'oif' || meta === 'oifname') return { kind: 'out-device', names: values.map(String), invert }
  if (meta === 'skuid' || meta === 'skgid') return { kind: 'owner' }
  if (isNatStatus(left, values)) return { kind: 'translated-flow', invert }
  return markMatch(left, values, invert) ?? fibMatch(left, values, invert) ?? { kind: 'other' }
}

function isNatStatus(left: Json, values: unknown[]): boolean {
  const status = ((left as Json)?.['ct'] as Json | undefined)?.['key'] === 'status'
  return status && values.length > 0 && values.every((value) => value === 'dnat' || value === 'snat')
}

function markMatch(left: Json, values: unknown[], invert: boolean): Condition | null {
  const [value] = values
  if (values.length !== 1 || typeof value !== 'number') return null
  if (metaKey(left) === 'mark') return { kind: 'mark', value, mask: 0xffffffff, invert }
  const masked = left['&'] as [Json, number] | undefined
  if (!masked || metaKey(masked[0]) !== 'mark' || typeof masked[1] !== 'number') return null
  return { kind: 'mark', value, mask: masked[1], invert }
}

function fibMatch(left: Json, values: unknown[], invert: boolean): Condition | null {
  const fib = left['fib'] as Json | undefined
  if (fib?.['result'] !== 'type' || values.length !== 1 || values[0] !== 'local') return null
  const flags = listOf(fib['flags'])
  if (flags.includes('daddr')) return { kind: 'local-destination', invert }
  return flags.includes('saddr') ? { kind: 'local-source', invert } : null
}

function metaKey(left: unknown): string | null {
  const key = ((left as Json)?.['meta'] as Json | undefined)?.['key']
  return typeof key === 'string' ? key : null
}

function addressField(left: Json): 'saddr' | 'daddr' | null {
  const payload = left?.['payload'] as Json | undefined
  const field = payload?.['field']
  const known = payload?.['protocol'] === 'ip' || payload?.['protocol'] === 'ip6'
  return known && (field === 'saddr' || field === 'daddr') ? field : null
}

/** The right side as a list; null if it is a range or a set that cannot be read. */
function valuesOf(right: unknown, place: string, names: Names): unknown[] | null {
  if (typeof right === 'string' && right.startsWith('@'))
    return names.elements.get(`${place} ${right.slice(1)}`)?.map(keyOf) ?? null
  const set = (right as Json)?.['set']
  if (Array.isArray(set)) return set.map(keyOf)
  return Array.isArray(right) ? right : [right]
}

function prefixList(values: unknown[]): Prefix[] | null {
  const prefixes: Prefix[] = []
  for (const value of values) {
    const found = prefixesOf(value)
    if (!found) return null
    prefixes.push(...found)
  }
  return prefixes
}

function prefixesOf(value: unknown): Prefix[] | null {
  const prefix = (value as Json)?.['prefix'] as Json | undefined
  const range = (value as Json)?.['range'] as string[] | undefined
  if (range) return rangePrefixes(parseAddress(String(range[0])), parseAddress(String(range[1])))
  const text = prefix ? `${prefix['addr']}/${prefix['len']}` : value
  const key = typeof text === 'string' ? prefixOf(text) : null
  return key === null ? null : [key]
}

function listOf(value: unknown): unknown[] {
  return value === undefined || value === null ? [] : Array.isArray(value) ? value : [value]
}

/** The listing's lines by "family table handle", and devices by "family table chain". */
function readText(text: string): { texts: Map<string, string>; chainDevices: Map<string, string[]> } {
  const texts = new Map<string, string>()
  const chainDevices = new Map<string, string[]>()
  let table = ''
  let chain = ''
  for (const line of text.split('\n')) {
    const heading = /^\s*(table|chain) (\S+)(?: (\S+))? \{/.exec(line)
    if (heading?.[1] === 'table') table = `${heading[2]} ${heading[3]}`
    else if (heading?.[1] === 'chain') chain = heading[2] ?? ''
    const devices = /hook (?:in|e)gress devices? (?:= )?(\{[^}]*\}|\S+)/.exec(line)?.[1]
    if (devices) chainDevices.set(`${table} ${chain}`, devices.match(/[^\s{},";]+/g) ?? [])
    const rule = /^\s*(.*\S)\s+# handle (\d+)$/.exec(line)
    if (rule?.[1] && !rule[1].endsWith('{')) texts.set(`${table} ${rule[2]}`, rule[1].replace(/\s+/g, ' '))
  }
  return { texts, chainDevices }
}
