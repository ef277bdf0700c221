// ip-masq-agent's configuration: which destinations keep the pod's address.
//
// The contract is the agent's own (Go: YAML 1.1 or JSON, decoded over the
// defaults, keys in any case), because the same files serve both:
// - nonMasqueradeCIDRs: absent keeps the three default ranges, null or [] means
//   masquerade everything; a prefix with host bits or more than cidrLimit
//   prefixes make the file invalid; so does any value of another type.
// - A null item keeps what stood at its place: one of the three defaults, and
//   further on nothing, which is no prefix and therefore invalid.
// - Link-local destinations are left alone unless masqLinkLocal says otherwise.
// Ours alone: masqueradeCIDRs, "masquerade only these". The longest prefix of
// both lists wins. Unknown keys are accepted, with a warning.

import { type Document, isAlias, isMap, isScalar, isSeq, LineCounter, type Node, parseAllDocuments } from 'yaml'
import { formatPrefix, maskAddress, parsePrefix, prefixKey } from '../address.js'
import type { WantedMasquerade } from '../plan/types.js'
import { parseDuration } from './duration.js'
import { ConfigError, didYouMean } from './problem.js'

/** One file as it was read. */
export interface MasqueradeFile {
  path: string
  /** Prefix keys; null: the file does not speak of it. */
  exclude: string[] | null
  include: string[] | null
  masqLinkLocal: boolean
  masqLinkLocalIPv6: boolean
  /** Milliseconds; null: not given. */
  resyncInterval: number | null
  /** Sentences with file and line. */
  warnings: string[]
}

/** All files together. */
export interface MasqueradePolicy {
  /** Sorted; both families' "/0" are always there. */
  wanted: WantedMasquerade[]
  /** By prefix key: paths that asked for it, or 'default'. */
  from: Map<string, string[]>
  /** Milliseconds: the shortest that a file asks for, else 60 s. */
  resyncInterval: number
  warnings: string[]
}

const defaultExclude = ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16']
const linkLocal = { 4: 'a9fe0000/16', 6: `fe80${'0'.repeat(28)}/10` } as const
const everything = { 4: '00000000/0', 6: `${'0'.repeat(32)}/0` } as const
const keys = [
  'nonMasqueradeCIDRs',
  'cidrLimit',
  'masqLinkLocal',
  'masqLinkLocalIPv6',
  'resyncInterval',
  'masqueradeCIDRs'
] as const
const slowest = 24 * 3_600_000

/** Reads one file's text. Throws ConfigError that names the line. */
export function parseMasqueradeFile(text: string, path: string): MasqueradeFile {
  return new FileReader(text, path).read()
}

class FileReader {
  private readonly lines = new LineCounter()
  private readonly file: MasqueradeFile
  private exclude: (string | null)[] = [...defaultExclude]
  private excludeNodes: (Node | null)[] = []
  private include: (string | null)[] = []
  private includeNodes: (Node | null)[] = []
  private limit = 64
  private document: Document | undefined

  constructor(
    private readonly text: string,
    path: string
  ) {
    this.file = {
      path,
      exclude: null,
      include: null,
      masqLinkLocal: false,
      masqLinkLocalIPv6: false,
      resyncInterval: null,
      warnings: []
    }
  }

  read(): MasqueradeFile {
    const documents = parseAllDocuments(this.text, {
      version: '1.1',
      lineCounter: this.lines,
      prettyErrors: false,
      uniqueKeys: false
    })
    if (!Array.isArray(documents) || !documents[0]) return this.file
    const [document, second] = documents
    this.document = document
    const [error] = document.errors
    if (error) this.fail(error.pos[0], '', `is neither YAML nor JSON: ${error.message.split('\n')[0]}`)
    if (second?.contents) this.warn(second.contents, 'only the first document of the file counts')
    const root = this.resolve(document.contents)
    if (!root || isNull(root)) {
      this.file.warnings.push(`${this.file.path}: is empty, so the defaults of ip-masq-agent hold`)
      return this.file
    }
    if (!isMap(root)) this.fail(at(root), '', 'the file is not a mapping of keys to values')
    for (const pair of this.inGoOrder(root.items as { key: unknown; value: unknown }[])) {
      this.readKey(pair.key as Node, this.resolve(pair.value as Node | null))
    }
    this.checkLists()
    return this.file
  }

  /** Go decodes JSON in the order it stands, but YAML sorted by key: of two spellings of a key the last one counts. */
  private inGoOrder<T extends { key: unknown }>(pairs: T[]): T[] {
    if (this.text.trimStart().startsWith('{')) return pairs
    const name = (pair: T) => keyName(pair.key as Node)
    return [...pairs].sort((a, b) => (name(a) < name(b) ? -1 : name(a) > name(b) ? 1 : 0))
  }

  private readKey(node: Node, value: Node | null): void {
    const written = keyName(node)
    const name = keys.find((key) => key === written) ?? keys.find((key) => key.toLowerCase() === written.toLowerCase())
    const place = value ?? node
    switch (name) {
      case 'nonMasqueradeCIDRs': {
        const list = this.list(place, value, name, this.exclude)
        this.exclude = list.map((item) => item.text)
        this.excludeNodes = list.map((item) => item.node)
        this.file.exclude = []
        return
      }
      case 'masqueradeCIDRs': {
        const list = this.list(place, value, name, [])
        this.include = list.map((item) => item.text)
        this.includeNodes = list.map((item) => item.node)
        this.file.include = isNull(value) ? null : []
        return
      }
      case 'cidrLimit':
        this.limit = this.number(place, value, name) ?? this.limit
        return
      case 'masqLinkLocal':
      case 'masqLinkLocalIPv6':
        this.file[name] = this.truth(place, value, name) ?? this.file[name]
        return
      case 'resyncInterval':
        this.file.resyncInterval = this.interval(place, value)
        return
      case undefined: {
        const near = didYouMean(written, keys)
        this.warn(node, `unknown key ${written} is ignored${near ? `; did you mean ${near}?` : ''}`)
      }
    }
  }

  private list(
    place: Node,
    value: Node | null,
    key: string,
    before: (string | null)[]
  ): { text: string | null; node: Node | null }[] {
    if (isNull(value)) return []
    if (!isSeq(value))
      this.fail(at(place), key, `found ${this.shown(value)}; a list of prefixes like 10.0.0.0/8 is needed`)
    return value.items.map((item, index) => {
      const node = this.resolve(item as Node | null)
      if (isNull(node)) {
        const kept = before[index] ?? null
        if (kept !== null)
          this.warn(item as Node, `${key}: an empty item; ip-masq-agent takes it for ${kept}, and so does hostroute`)
        return { text: kept, node: item as Node | null }
      }
      if (isScalar(node) && typeof node.value === 'string') return { text: node.value, node: item as Node }
      return this.fail(at(item as Node), key, `found ${this.shown(node)}; a prefix like 10.0.0.0/8 is needed`)
    })
  }

  private number(place: Node, value: Node | null, key: string): number | null {
    if (isNull(value)) return null
    if (isScalar(value) && typeof value.value === 'number' && Number.isSafeInteger(value.value)) return value.value
    return this.fail(at(place), key, `found ${this.shown(value)}; a whole number is needed`)
  }

  private truth(place: Node, value: Node | null, key: string): boolean | null {
    if (isNull(value)) return null
    if (isScalar(value) && typeof value.value === 'boolean') return value.value
    return this.fail(at(place), key, `found ${this.shown(value)}; true or false is needed`)
  }

  private interval(place: Node, value: Node | null): number {
    const text = isScalar(value) && typeof value.value === 'string' ? value.value : null
    const parsed = text === null ? null : parseDuration(text)
    if (parsed === null)
      return this.fail(
        at(place),
        'resyncInterval',
        `found ${this.shown(value)}; a duration in quotes like "60s" is needed`
      )
    return parsed
  }

  private checkLists(): void {
    if (this.exclude.length > this.limit) {
      const place = this.excludeNodes[this.limit] ?? null
      this.fail(
        at(place),
        'nonMasqueradeCIDRs',
        `${this.exclude.length} prefixes, more than cidrLimit (${this.limit}) allows`
      )
    }
    const exclude = this.exclude.map((text, index) =>
      this.prefix(text, this.excludeNodes[index] ?? null, 'nonMasqueradeCIDRs')
    )
    const include = this.include.map((text, index) =>
      this.prefix(text, this.includeNodes[index] ?? null, 'masqueradeCIDRs')
    )
    include.forEach((prefix, index) => {
      if (this.file.exclude && exclude.includes(prefix)) {
        this.fail(
          at(this.includeNodes[index] ?? null),
          'masqueradeCIDRs',
          `${formatPrefix(prefix)} is in nonMasqueradeCIDRs as well; remove it from one of them`
        )
      }
    })
    if (this.file.exclude) this.file.exclude = [...new Set(exclude)]
    if (this.file.include) this.file.include = [...new Set(include)]
  }

  private prefix(text: string | null, node: Node | null, key: string): string {
    const parsed = text === null ? null : parsePrefix(text.replace(/\/0+(?=\d)/, '/'))
    if (!parsed)
      return this.fail(
        at(node),
        key,
        `found ${JSON.stringify(text ?? '')}; a prefix like 10.0.0.0/8 or fd00::/8 is needed`
      )
    const masked = maskAddress(parsed.address, parsed.length)
    if (masked !== parsed.address) {
      this.fail(
        at(node),
        key,
        `${text} is not aligned to its length; did you mean ${formatPrefix(prefixKey(masked, parsed.length))}?`
      )
    }
    const mapped = parsed.length >= 96 && masked.startsWith('00000000000000000000ffff')
    return mapped ? prefixKey(masked.slice(24), parsed.length - 96) : prefixKey(masked, parsed.length)
  }

  private resolve(node: Node | null): Node | null {
    return isAlias(node) ? (node.resolve(this.document as Document) ?? null) : node
  }

  private shown(node: Node | null): string {
    const text = isScalar(node)
      ? JSON.stringify(node.value)
      : isSeq(node)
        ? 'a list'
        : isMap(node)
          ? 'a mapping'
          : 'nothing'
    return text.length > 80 ? `${text.slice(0, 77)}...` : text
  }

  private warn(node: Node | null, text: string): void {
    this.file.warnings.push(`${this.file.path}:${this.lines.linePos(at(node)).line || 1}: ${text}`)
  }

  private fail(offset: number, key: string, text: string): never {
    const { line, col } = this.lines.linePos(offset)
    throw new ConfigError([{ file: this.file.path, line: Math.max(line, 1), column: Math.max(col, 1), key, text }])
  }
}

/**
 * One policy from all files: lists are united, switches are ORed, the shortest
 * interval counts. Where no file gives a list of exclusions the defaults hold,
 * unless there is an include list: then only that is masqueraded. A prefix that
 * one file excludes and another includes is excluded, with a warning.
 */
export function mergeMasquerade(files: readonly MasqueradeFile[]): MasqueradePolicy {
  const rows = new Map<string, { masquerade: boolean; from: string[] }>()
  const warnings = files.flatMap((file) => file.warnings)
  const add = (prefix: string, masquerade: boolean, from: string) => {
    const row = rows.get(prefix)
    if (!row) rows.set(prefix, { masquerade, from: [from] })
    else if (row.masquerade === masquerade) row.from.push(from)
    else
      warnings.push(
        `${from}: ${formatPrefix(prefix)} is excluded from masquerading by ${row.from.join(', ')}, which wins`
      )
  }
  for (const file of files) for (const prefix of file.exclude ?? []) add(prefix, false, file.path)
  const excluding = files.some((file) => file.exclude !== null)
  const including = files.some((file) => file.include !== null)
  for (const file of files) for (const prefix of file.include ?? []) add(prefix, true, file.path)
  if (!excluding && !including) for (const text of defaultExclude) add(keyOf(text), false, 'default')
  const fallback = (prefix: string, masquerade: boolean) => {
    if (!rows.has(prefix)) rows.set(prefix, { masquerade, from: ['default'] })
  }
  if (!files.some((file) => file.masqLinkLocal)) fallback(linkLocal[4], false)
  if (!files.some((file) => file.masqLinkLocalIPv6)) fallback(linkLocal[6], false)
  fallback(everything[4], excluding || !including)
  fallback(everything[6], excluding || !including)
  const sorted = [...rows].sort(([a], [b]) => comparePrefixes(a, b))
  const intervals = files.flatMap((file) => file.resyncInterval ?? [])
  return {
    wanted: sorted.map(([prefix, { masquerade }]) => ({ prefix, masquerade })),
    from: new Map(sorted.map(([prefix, { from }]) => [prefix, from])),
    resyncInterval: intervals.length === 0 ? 60_000 : Math.min(slowest, Math.max(1000, Math.min(...intervals))),
    warnings
  }
}

function keyOf(text: string): string {
  const parsed = parsePrefix(text)
  if (!parsed) throw new Error(`${text} is not a prefix`)
  return prefixKey(parsed.address, parsed.length)
}

/** IPv4 first, then by address, shorter first. */
function comparePrefixes(a: string, b: string): number {
  const [addressA = '', lengthA = ''] = a.split('/')
  const [addressB = '', lengthB = ''] = b.split('/')
  if (addressA.length !== addressB.length) return addressA.length - addressB.length
  if (addressA !== addressB) return addressA < addressB ? -1 : 1
  return Number(lengthA) - Number(lengthB)
}

function keyName(node: Node): string {
  return isScalar(node) ? String(node.value) : ''
}

function isNull(node: Node | null): boolean {
  return node === null || (isScalar(node) && node.value === null)
}

function at(node: Node | null): number {
  return node?.range?.[0] ?? 0
}
