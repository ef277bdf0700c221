// The text of one of ip-masq-agent's files: which destinations keep the pod's address.
//
// The contract is the agent's own (Go: YAML 1.1 or JSON, decoded over the
// defaults, keys in any case), because the same files serve both:
// - nonMasqueradeCIDRs: absent keeps the three default ranges, null or [] means
//   masquerade everything; a prefix with host bits or more than cidrLimit
//   prefixes make the file invalid; so does any value of another type.
// - A null item keeps what stood at its place: one of the three defaults, and
//   further on nothing, which is no prefix and therefore invalid.
// - Link-local destinations are left alone unless masqLinkLocal says otherwise.
// Cilium reads the same file in another way (semantics: cilium): an empty file
// has eleven default ranges, a file without nonMasqueradeCIDRs has none; host
// bits are cleared; cidrLimit and resyncInterval are not keys; a null item is
// invalid.
// Ours alone: masqueradeCIDRs, "masquerade only these". Unknown keys are
// accepted, with a warning.

import { type Document, isAlias, isMap, isScalar, isSeq, LineCounter, type Node } from 'yaml'
import { formatPrefix, maskAddress, parsePrefix, prefixKey, prefixOf, unmappedPrefix } from '../address.js'
import type { Prefix } from '../state/types.js'
import { parseDuration } from './duration.js'
import { type Condensed, condense, type Items, uncondensed } from './long-lists.js'
import { defaultExclude, type MasqueradeFile, type Semantics } from './masquerade.js'
import { ConfigError, didYouMean } from './problem.js'
import { NestedTooDeeply, parseDocuments } from './yaml.js'

const keys = [
  'nonMasqueradeCIDRs',
  'cidrLimit',
  'masqLinkLocal',
  'masqLinkLocalIPv6',
  'resyncInterval',
  'masqueradeCIDRs'
] as const

/** Of a file that is something else there would be as many as it has lines. */
const mostWarnings = 20

type List = 'nonMasqueradeCIDRs' | 'masqueradeCIDRs'

/** Reads one file's text. Throws ConfigError that names the line. */
export function parseMasqueradeFile(
  text: string,
  path: string,
  semantics: Semantics = 'ip-masq-agent'
): MasqueradeFile {
  const condensed = condense(text)
  if (condensed.runs.size > 0) {
    try {
      const reader = new FileReader(text, path, semantics, condensed)
      const file = reader.read()
      if (reader.metAll) return file
    } catch (error) {
      // what is wrong is told by the text as it is
      if (!(error instanceof ConfigError)) throw error
    }
  }
  return parseWhole(text, path, semantics)
}

/** The same without the short cut for long lists. */
export function parseWhole(text: string, path: string, semantics: Semantics): MasqueradeFile {
  return new FileReader(text, path, semantics, uncondensed(text)).read()
}

class FileReader {
  private readonly lines = new LineCounter()
  private readonly file: MasqueradeFile
  private exclude: Items
  private include: Items = { texts: [], offsets: [] }
  private limit: number
  private document: Document | undefined
  private readonly met = new Set<number>()
  private readonly isCilium: boolean

  constructor(
    private readonly text: string,
    path: string,
    semantics: Semantics,
    private readonly condensed: Condensed
  ) {
    this.isCilium = semantics === 'cilium'
    this.limit = this.isCilium ? Number.POSITIVE_INFINITY : 64
    const defaults = this.isCilium ? [] : [...defaultExclude[semantics]]
    this.exclude = { texts: defaults, offsets: defaults.map(() => 0) }
    this.file = {
      path,
      exclude: null,
      include: null,
      lines: () => new Map(),
      masqLinkLocal: false,
      masqLinkLocalIPv6: false,
      resyncInterval: null,
      warnings: []
    }
  }

  /** Every run was put back. */
  get metAll(): boolean {
    return [...this.condensed.runs.keys()].every((start) => this.met.has(start))
  }

  read(): MasqueradeFile {
    this.countLines()
    const documents = this.documents()
    // Cilium takes the defaults only for a file of no bytes
    if (this.isCilium && this.text.length > 0) this.file.exclude = []
    const [document, second] = documents
    if (!document) return this.file
    this.document = document
    const [error] = document.errors
    if (error)
      this.fail(this.condensed.whole(error.pos[0]), '', `is neither YAML nor JSON: ${error.message.split('\n')[0]}`)
    if (second?.contents) this.warn(second.contents, 'only the first document of the file counts')
    const root = this.resolve(document.contents)
    if (!root || isNull(root)) {
      this.warnOfEmpty()
      return this.file
    }
    if (!isMap(root)) this.fail(this.at(root), '', 'the file is not a mapping of keys to values')
    const pairs = this.inGoOrder(root.items as { key: unknown; value: unknown }[])
    for (const { key, value } of pairs) this.readKey(key as Node, this.resolve(value as Node | null))
    this.warnOfRepeated(pairs.map(({ key }) => key as Node))
    // only these: what Cilium takes for "exclude nothing" is the absence of its key
    if (this.isCilium && this.file.include && !this.exclusionsGiven) this.file.exclude = null
    this.checkLists()
    return this.file
  }

  private documents(): Document.Parsed[] {
    try {
      return parseDocuments(this.condensed.text, null, { version: '1.1', uniqueKeys: false })
    } catch (error) {
      if (!(error instanceof NestedTooDeeply)) throw error
      return this.fail(this.condensed.whole(error.offset), '', `is ${error.message}`)
    }
  }

  /** Go decodes JSON in the order it stands, but YAML sorted by key: of two spellings of a key the last one counts. */
  private inGoOrder<T extends { key: unknown }>(pairs: T[]): T[] {
    if (this.text.trimStart().startsWith('{')) return pairs
    const name = (pair: T) => keyName(pair.key as Node)
    return [...pairs].sort((a, b) => (name(a) < name(b) ? -1 : name(a) > name(b) ? 1 : 0))
  }

  private warnOfEmpty(): void {
    const what = this.isCilium
      ? 'holds no key, which Cilium takes for: masquerade everything'
      : 'is empty, so the defaults of ip-masq-agent hold'
    this.file.warnings.push(`${this.file.path}: ${what}`)
  }

  private exclusionsGiven = false

  private readKey(node: Node, value: Node | null): void {
    const name = knownKey(keyName(node))
    const place = value ?? node
    switch (name) {
      case 'nonMasqueradeCIDRs':
        this.exclude = this.list(place, value, name, this.isCilium ? [] : this.exclude.texts)
        this.file.exclude = []
        this.exclusionsGiven = true
        return
      case 'masqueradeCIDRs':
        this.include = this.list(place, value, name, [])
        this.file.include = isNull(value) ? null : []
        return
      case 'cidrLimit':
        if (!this.isCilium) this.limit = this.number(place, value, name) ?? this.limit
        return
      case 'masqLinkLocal':
      case 'masqLinkLocalIPv6':
        this.file[name] = this.truth(place, value, name) ?? this.file[name]
        return
      case 'resyncInterval':
        if (!this.isCilium) this.file.resyncInterval = this.interval(place, value)
        return
      case undefined: {
        const near = didYouMean(keyName(node), keys)
        this.warn(node, `unknown key ${keyName(node)} is ignored${near ? `; did you mean ${near}?` : ''}`)
      }
    }
  }

  /** nodes: the last of a key's counts. */
  private warnOfRepeated(nodes: readonly Node[]): void {
    const last = new Map(nodes.map((node) => [knownKey(keyName(node)), node]))
    for (const node of nodes) {
      const counting = last.get(knownKey(keyName(node)))
      if (knownKey(keyName(node)) && counting && counting !== node)
        this.warn(node, `${keyName(node)} is given again in line ${this.lineAt(this.at(counting))}, which counts`)
    }
  }

  /** before: what stood there. */
  private list(place: Node, value: Node | null, key: List, before: readonly (string | null)[]): Items {
    const items: Items = { texts: [], offsets: [] }
    if (isNull(value)) return items
    if (!isSeq(value))
      this.fail(this.at(place), key, `found ${this.shown(value)}; a list of prefixes like 10.0.0.0/8 is needed`)
    const { texts, offsets } = items
    for (const item of value.items as (Node | null)[]) {
      const node = this.resolve(item)
      const offset = this.at(item)
      offsets.push(offset)
      if (isNull(node)) {
        const kept = before[texts.length] ?? null
        if (kept !== null)
          this.warn(item, `${key}: an empty item; ip-masq-agent takes it for ${kept}, and so does hostroute`)
        texts.push(kept)
      } else if (isScalar(node) && typeof node.value === 'string') {
        texts.push(node.value)
        const run = this.condensed.runs.get(offset)
        if (!run) continue
        this.met.add(offset)
        for (const text of run.texts) texts.push(text)
        for (const each of run.offsets) offsets.push(each)
      } else this.fail(offset, key, `found ${this.shown(node)}; a prefix like 10.0.0.0/8 is needed`)
    }
    return items
  }

  private number(place: Node, value: Node | null, key: string): number | null {
    if (isNull(value)) return null
    if (isScalar(value) && typeof value.value === 'number' && Number.isSafeInteger(value.value)) return value.value
    return this.fail(this.at(place), key, `found ${this.shown(value)}; a whole number is needed`)
  }

  private truth(place: Node, value: Node | null, key: string): boolean | null {
    if (isNull(value)) return null
    if (isScalar(value) && typeof value.value === 'boolean') return value.value
    return this.fail(this.at(place), key, `found ${this.shown(value)}; true or false is needed`)
  }

  private interval(place: Node, value: Node | null): number {
    const text = isScalar(value) && typeof value.value === 'string' ? value.value : null
    const parsed = text === null ? null : parseDuration(text)
    if (parsed === null)
      return this.fail(
        this.at(place),
        'resyncInterval',
        `found ${this.shown(value)}; a duration in quotes like "60s" is needed`
      )
    return parsed
  }

  private checkLists(): void {
    const { exclude, include, limit, file } = this
    const count = exclude.texts.length
    if (count > limit)
      this.fail(
        exclude.offsets[limit] ?? 0,
        'nonMasqueradeCIDRs',
        `${count} prefixes, more than cidrLimit (${limit}) allows`
      )
    const excluded = this.prefixes(exclude, 'nonMasqueradeCIDRs')
    const included = this.prefixes(include, 'masqueradeCIDRs')
    const both = new Set(file.exclude && included.length > 0 ? excluded : [])
    included.forEach((prefix, index) => {
      if (both.has(prefix))
        this.fail(
          include.offsets[index] ?? 0,
          'masqueradeCIDRs',
          `${formatPrefix(prefix)} is in nonMasqueradeCIDRs as well; remove it from one of them`
        )
    })
    if (file.exclude) file.exclude = [...new Set(excluded)]
    if (file.include) file.include = [...new Set(included)]
    file.lines = () => this.countedLines(file.exclude ? excluded : [], included)
  }

  private prefixes({ texts, offsets }: Items, key: List): Prefix[] {
    return texts.map((text, index) => plainKey(text) ?? this.prefix(text, offsets[index] ?? 0, key))
  }

  /** Of each prefix the line of the first. */
  private countedLines(excluded: readonly Prefix[], included: readonly Prefix[]): Map<Prefix, number> {
    const lines = new Map<Prefix, number>()
    const lists: [readonly Prefix[], Items][] = [
      [excluded, this.exclude],
      [included, this.include]
    ]
    for (const [prefixes, { offsets }] of lists)
      prefixes.forEach((prefix, index) => {
        if (!lines.has(prefix)) lines.set(prefix, this.lineAt(offsets[index] ?? 0))
      })
    return lines
  }

  private prefix(text: string | null, offset: number, key: List): Prefix {
    const parsed = text === null ? null : parsePrefix(text.replace(/\/0+(?=\d)/, '/'))
    if (!parsed)
      return this.fail(
        offset,
        key,
        `found ${JSON.stringify(text ?? '')}; a prefix like 10.0.0.0/8 or fd00::/8 is needed`
      )
    const masked = maskAddress(parsed.address, parsed.length)
    if (masked !== parsed.address) {
      const meant = formatPrefix(prefixKey(masked, parsed.length))
      if (!this.isCilium) this.fail(offset, key, `${text} is not aligned to its length; did you mean ${meant}?`)
      this.warnAt(
        offset,
        `${key}: ${text} is not aligned to its length; Cilium takes it for ${meant}, and so does hostroute`
      )
    }
    return unmappedPrefix(masked, parsed.length)
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
    this.warnAt(this.at(node), text)
  }

  private warnAt(offset: number, text: string): void {
    const { path, warnings } = this.file
    if (warnings.length < mostWarnings) warnings.push(`${path}:${this.lineAt(offset)}: ${text}`)
    else if (warnings.length === mostWarnings) warnings.push(`${path}: further warnings are not listed`)
  }

  private lineAt(offset: number): number {
    return this.lines.linePos(offset).line || 1
  }

  private countLines(): void {
    for (let start = 0; start >= 0; ) {
      this.lines.addNewLine(start)
      const end = this.text.indexOf('\n', start)
      start = end < 0 ? -1 : end + 1
    }
  }

  /** Offset in the whole text. */
  private at(node: Node | null): number {
    return this.condensed.whole(node?.range?.[0] ?? 0)
  }

  private fail(offset: number, key: string, text: string): never {
    const { line, col } = this.lines.linePos(offset)
    throw new ConfigError([{ file: this.file.path, line: Math.max(line, 1), column: Math.max(col, 1), key, text }])
  }
}

/** Of an aligned IPv4 prefix in its usual form, thousands of which may come; null: look at it more closely. */
function plainKey(text: string | null): Prefix | null {
  if (text === null) return null
  let address = 0
  let part = -1
  let parts = 0
  for (let i = 0; i < text.length; i++) {
    const digit = text.charCodeAt(i) - 48
    if (digit >= 0 && digit <= 9) {
      if (part === 0 || part > 25) return null
      part = part < 0 ? digit : part * 10 + digit
    } else {
      // '.' and '/'
      if (part < 0 || part > 255 || digit !== (parts < 3 ? -2 : -1)) return null
      address = address * 256 + part
      parts++
      part = -1
    }
  }
  if (parts !== 4 || part < 0 || part > 32) return null
  return address % 2 ** (32 - part) === 0 ? prefixOf(4, part, address) : null
}

function knownKey(written: string): (typeof keys)[number] | undefined {
  return keys.find((key) => key === written) ?? keys.find((key) => key.toLowerCase() === written.toLowerCase())
}

function keyName(node: Node): string {
  return isScalar(node) ? String(node.value) : ''
}

function isNull(node: Node | null): boolean {
  return node === null || (isScalar(node) && node.value === null)
}
