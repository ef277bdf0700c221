// Reads config.yaml. All problems are reported together, each with its line and
// column; nothing is guessed and nothing unknown is passed over.

import * as v from 'valibot'
import {
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  parseAllDocuments,
  visit,
  type YAMLMap
} from 'yaml'
import { readTextFile } from '../read-file.js'
import { isTransient } from '../transient.js'
import { type Config, isKey, type Key, reference, type Section } from './keys.js'
import { ConfigError, didYouMean, type Problem } from './problem.js'
import { NestedTooDeeply, parseDocuments } from './yaml.js'

export { type Config, configReference } from './keys.js'
export { ConfigError, formatProblem, type Problem } from './problem.js'

/** Bytes: read in one turn of the event loop, with what else the daemon does waiting. */
const largest = 256 * 1024
/** Of a file that is something else there would be as many as it has lines. */
const mostProblems = 20

/** What holds without a file. Made anew for each caller by structuredClone() if it is to be changed. */
export const defaultConfig: Config = defaults(reference as Section) as unknown as Config

/** Reads the file; without one the defaults, present false. Throws ConfigError with all problems. */
export function loadConfig(path: string): { config: Config; text: string | null; present: boolean } {
  let text: string
  try {
    text = readTextFile(path, largest, 'a configuration')
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'ENOENT' || code === 'ENOTDIR')
      return { config: structuredClone(defaultConfig), text: null, present: false }
    if (isTransient(error)) throw error
    throw new ConfigError([
      { file: path, line: 0, column: 0, key: '', text: `cannot be read: ${(error as Error).message}` }
    ])
  }
  return { config: parseConfig(text, path), text, present: true }
}

/** Checks the text of a config.yaml; `file` is for messages. Throws ConfigError with all problems. */
export function parseConfig(text: string, file: string): Config {
  const lineCounter = new LineCounter()
  const reader = new Reader(file, lineCounter)
  const config = structuredClone(defaultConfig)
  try {
    reader.readDocuments(parseDocuments(text, lineCounter, { uniqueKeys: false, merge: false }), config)
  } catch (error) {
    if (!(error instanceof NestedTooDeeply)) throw error
    reader.refuse(error)
  }
  if (reader.problems.length > 0) throw new ConfigError(reader.told)
  return config
}

class Reader {
  readonly problems: Problem[] = []
  private more = 0

  constructor(
    private readonly file: string,
    private readonly lines: LineCounter
  ) {}

  /** The first of them, and how many there are besides. */
  get told(): Problem[] {
    const { file, problems, more } = this
    const text = `${more} more problems are not listed`
    return more === 0 ? problems : [...problems, { file, line: 0, column: 0, key: '', text }]
  }

  readDocuments(documents: Document.Parsed[], config: Config): void {
    for (const document of documents) {
      for (const error of document.errors) this.report(error.pos[0], '', `is not YAML: ${firstSentence(error.message)}`)
    }
    const [document, second] = documents
    if (!document || this.problems.length > 0) return
    this.findRepeated(document)
    if (this.problems.length > 0) return
    if (second) this.report(second.contents?.range[0] ?? 0, '', 'a second document starts here; only one is allowed')
    if (document.contents === null || isEmpty(document.contents)) return
    this.readSection(
      document,
      document.contents,
      reference as Section,
      '',
      config as unknown as Record<string, unknown>
    )
  }

  refuse({ offset, message }: NestedTooDeeply): void {
    this.report(offset, '', `is ${message}`)
  }

  /** Not left to the parser, which compares each key with each. */
  private findRepeated(document: Document): void {
    visit(document, {
      Map: (_, { items }) => {
        const met = new Set<unknown>()
        for (const { key } of items) {
          if (!isScalar(key)) continue
          if (met.has(key.value)) {
            const name = shown(key.value)
            this.report(offsetOf(key), '', `is not YAML: the key ${name} is there twice: remove one`)
          }
          met.add(key.value)
        }
      }
    })
  }

  private readSection(
    document: Document,
    node: Node,
    section: Section,
    path: string,
    into: Record<string, unknown>
  ): void {
    const target = resolve(document, node)
    if (!isMap(target)) {
      const found = path === '' ? 'the file' : 'found a value that'
      return this.report(
        offsetOf(node),
        path,
        `${found} is not a mapping; allowed: keys ${Object.keys(section).join(', ')}`
      )
    }
    for (const pair of target.items) {
      const keyNode = pair.key as Node
      const name = isScalar(keyNode) ? String(keyNode.value) : ''
      const entry = Object.hasOwn(section, name) ? section[name] : undefined
      const full = path === '' ? name : `${path}.${name}`
      const value = pair.value as Node | null
      if (!entry) this.unknownKey(keyNode, full, path, section)
      else if (isKey(entry)) this.readKey(document, keyNode, value, entry, full, name, into)
      else if (value && !isEmpty(value))
        this.readSection(document, value, entry, full, into[name] as Record<string, unknown>)
    }
  }

  private readKey(
    document: Document,
    keyNode: Node,
    node: Node | null,
    entry: Key<unknown>,
    path: string,
    name: string,
    into: Record<string, unknown>
  ): void {
    if (!node || isEmpty(node)) {
      return this.report(
        offsetOf(keyNode),
        path,
        `has no value; leave the key out for the default (${entry.standard}); allowed: ${entry.allowed}`
      )
    }
    let value: unknown
    try {
      value = resolve(document, node)?.toJS(document, { maxAliasCount: 100 })
    } catch (error) {
      return this.report(offsetOf(node), path, `cannot be read: ${(error as Error).message}`)
    }
    const result = v.safeParse(entry.schema, value)
    if (result.success) {
      into[name] = result.output
      return
    }
    const bad = offendingItem(document, node, value, entry)
    for (const { node: at, value: found, index } of bad) {
      const fields = index === null ? undefined : entry.fields
      const item = fields ? `${path}[${index}]` : path
      const target = resolve(document, at)
      if (fields && isMap(target)) this.readItem(document, target, found, entry, fields, item)
      else this.report(offsetOf(at), item, `found ${shown(found)}; allowed: ${entry.allowed}`)
    }
  }

  /** One mapping of a list, which is wrong: each field that is. */
  private readItem(
    document: Document,
    node: YAMLMap,
    value: unknown,
    entry: Key<unknown>,
    fields: Readonly<Record<string, string>>,
    path: string
  ): void {
    const { issues = [] } = v.safeParse(entry.schema, [value])
    for (const issue of issues) {
      // the first part is the place in the list
      const parts = (issue.path ?? []).slice(1).map(({ key }) => key as string | number)
      const name = String(parts[0])
      const key = path + parts.map((part) => (typeof part === 'number' ? `[${part}]` : `.${part}`)).join('')
      const allowed = fields[name] ?? entry.allowed
      if (fields[name] === undefined) {
        const near = didYouMean(name, Object.keys(fields))
        const hint = near ? `did you mean ${near}?` : `allowed here: ${Object.keys(fields).join(', ')}`
        this.report(offsetOf(nodeAt(document, node, parts, 'key')), key, `unknown key; ${hint}`)
      } else if (!node.has(name)) this.report(offsetOf(node), key, `is missing; allowed: ${allowed}`)
      else {
        const at = nodeAt(document, node, parts, 'value')
        const found = resolve(document, at)?.toJS(document)
        this.report(offsetOf(at), key, `found ${shown(found)}; allowed: ${allowed}`)
      }
    }
  }

  private unknownKey(node: Node, full: string, path: string, section: Section): void {
    if (this.isFull) return this.report(0, full, '')
    const here = Object.keys(section)
    const elsewhere = allKeys(reference as Section, '')
    const last = full.slice(full.lastIndexOf('.') + 1)
    const near = didYouMean(last, here)
    const misplaced = elsewhere.find((key) => key === last || key.endsWith(`.${last}`))
    const meant = misplaced ?? (near === null ? didYouMean(full, elsewhere) : path === '' ? near : `${path}.${near}`)
    const hint = meant ? `did you mean ${meant}?` : `allowed here: ${here.join(', ')}`
    this.report(offsetOf(node), full, `unknown key; ${hint}`)
  }

  private get isFull(): boolean {
    return this.problems.length >= mostProblems
  }

  private report(offset: number, key: string, text: string): void {
    if (this.isFull) {
      this.more += 1
      return
    }
    const { line, col } = this.lines.linePos(offset)
    this.problems.push({ file: this.file, line: Math.max(line, 1), column: Math.max(col, 1), key, text })
  }
}

/** The items of a list that are wrong by themselves, else the value as a whole. */
function offendingItem(
  document: Document,
  node: Node,
  value: unknown,
  entry: Key<unknown>
): { node: Node; value: unknown; index: number | null }[] {
  const whole = { node, value, index: null }
  const target = resolve(document, node)
  if (!isSeq(target) || !Array.isArray(value)) return [whole]
  const bad = target.items
    .map((item, index) => ({ node: (item as Node | null) ?? node, value: value[index] as unknown, index }))
    .filter((item) => !v.is(entry.schema, [item.value]))
  return bad.length > 0 ? bad : [whole]
}

/** The value at `parts` below a mapping, or its key; where there is none the nearest above it. */
function nodeAt(document: Document, from: Node, parts: readonly (string | number)[], what: 'key' | 'value'): Node {
  let at = from
  for (const part of parts) {
    const target = resolve(document, at)
    const pair = isMap(target)
      ? target.items.find(({ key }) => isScalar(key) && String(key.value) === String(part))
      : undefined
    const next = pair
      ? what === 'key'
        ? pair.key
        : (pair.value ?? pair.key)
      : isSeq(target) && target.items[Number(part)]
    if (!next) break
    at = next as Node
  }
  return at
}

function resolve(document: Document, node: Node): Node | undefined {
  return isAlias(node) ? node.resolve(document) : node
}

function isEmpty(node: Node): boolean {
  return isScalar(node) && node.value === null
}

function offsetOf(node: Node | null): number {
  return node?.range?.[0] ?? 0
}

function firstSentence(text: string): string {
  return text.split('\n')[0] ?? text
}

function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value)
  return text.length > 80 ? `${text.slice(0, 77)}...` : text
}

function allKeys(section: Section, prefix: string): string[] {
  return Object.entries(section).flatMap(([name, entry]) =>
    isKey(entry) ? [prefix + name] : allKeys(entry, `${prefix}${name}.`)
  )
}

function defaults(section: Section): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(section).map(([name, entry]) => [name, isKey(entry) ? standardValue(entry) : defaults(entry)])
  )
}

function standardValue(entry: Key<unknown>): unknown {
  const [document] = parseAllDocuments(entry.standard) as Document[]
  return v.parse(entry.schema, document?.toJS())
}
