// Numbers by prefix, and sets of prefixes: a million of them in columns, where a
// Map of strings would take four times the memory and as much time. They are
// used as a Map or Set of prefix keys ("0a000000/8"); who handles all of them
// goes through the columns and makes no strings.
//
// Invariants
// - Order is that of insertion, within a family: IPv4 first.
// - Iteration goes on whatever is inserted or deleted meanwhile, as with a Map.
// - A place in a column is good until the next insertion into it, or reserve().
// - No key makes others slow: where they are looked for depends on a random number.

import { randomBytes } from 'node:crypto'
import { familyOfPrefix, prefixOf } from './address.js'
import type { Family, Prefix } from './state/types.js'

const seed = randomBytes(4).readUInt32LE()
const leastCapacity = 16
/** Bits of a place that are those of the prefix. */
const neighbours = 7

/** Prefixes of one family. */
export class PrefixColumn {
  /** Of each address, as numbers from its begin: one of IPv4, four of IPv6. */
  words = new Uint32Array(0)
  /** One more than the prefix's length; 0: there is none at this place. */
  lengths = new Uint8Array(0)
  /** 32 bits, signed. */
  values = new Int32Array(0)
  /** Places in use are below. */
  end = 0
  size = 0
  /** Places + 1, found by hash; 0: free. Twice as many as places. */
  private slots = new Int32Array(0)
  private cursors: { at: number }[] = []
  private readonly width: 1 | 4

  constructor(
    readonly family: Family,
    private readonly valued = true
  ) {
    this.width = family === 4 ? 1 : 4
  }

  /** The place of a prefix, -1: none. b, c, d: of IPv6. */
  find(length: number, a: number, b = 0, c = 0, d = 0): number {
    const { slots } = this
    return slots.length === 0 ? -1 : (slots[this.slotOf(length, a, b, c, d)] as number) - 1
  }

  /** Where the prefix stands, or would stand. */
  private slotOf(length: number, a: number, b: number, c: number, d: number): number {
    const { slots, words, lengths, width } = this
    const mask = slots.length - 1
    for (let slot = hash(length, a, b, c, d) & mask; ; slot = (slot + 1) & mask) {
      const at = (slots[slot] as number) - 1
      if (at < 0) return slot
      const first = at * width
      if (words[first] !== a || lengths[at] !== length + 1) continue
      if (width === 1 || (words[first + 1] === b && words[first + 2] === c && words[first + 3] === d)) return slot
    }
  }

  /** The prefix's place, which is new, with value 0, where there was none. */
  place(length: number, a: number, b = 0, c = 0, d = 0): number {
    let slot = this.slots.length === 0 ? -1 : this.slotOf(length, a, b, c, d)
    if (slot >= 0 && this.slots[slot] !== 0) return (this.slots[slot] as number) - 1
    if (this.end === this.lengths.length) {
      this.rebuild(this.size * 4 < this.end * 3 ? this.end : this.end * 2)
      slot = this.slotOf(length, a, b, c, d)
    }
    const at = this.end++
    this.slots[slot] = at + 1
    const first = at * this.width
    this.words[first] = a
    if (this.width === 4) {
      this.words[first + 1] = b
      this.words[first + 2] = c
      this.words[first + 3] = d
    }
    this.lengths[at] = length + 1
    if (this.valued) this.values[at] = 0
    this.size++
    return at
  }

  /** As another column's place. */
  findAs(other: PrefixColumn, at: number): number {
    const { words, lengths } = other
    const length = (lengths[at] as number) - 1
    if (this.width === 1) return this.find(length, words[at] as number)
    const first = at * 4
    const [b, c, d] = [words[first + 1] as number, words[first + 2] as number, words[first + 3] as number]
    return this.find(length, words[first] as number, b, c, d)
  }

  placeAs(other: PrefixColumn, at: number): number {
    const { words, lengths } = other
    const length = (lengths[at] as number) - 1
    if (this.width === 1) return this.place(length, words[at] as number)
    const first = at * 4
    const [b, c, d] = [words[first + 1] as number, words[first + 2] as number, words[first + 3] as number]
    return this.place(length, words[first] as number, b, c, d)
  }

  remove(at: number): void {
    this.unlink(at)
    this.lengths[at] = 0
    this.size--
  }

  /** Its prefixes, without values. */
  copy(): PrefixColumn {
    const copy = new PrefixColumn(this.family, false)
    copy.words = this.words.slice()
    copy.lengths = this.lengths.slice()
    copy.slots = this.slots.slice()
    copy.end = this.end
    copy.size = this.size
    return copy
  }

  clear(): void {
    this.words = new Uint32Array(0)
    this.lengths = new Uint8Array(0)
    this.values = new Int32Array(0)
    this.slots = new Int32Array(0)
    this.end = this.size = 0
    for (const cursor of this.cursors) cursor.at = 0
  }

  /** Room for so many, at once instead of by and by. */
  reserve(count: number): void {
    let capacity = Math.max(this.lengths.length, leastCapacity)
    while (capacity < count) capacity *= 2
    if (capacity > this.lengths.length) this.rebuild(capacity)
  }

  key(at: number): Prefix {
    const { words, width, family } = this
    const length = (this.lengths[at] as number) - 1
    const first = at * width
    if (width === 1) return prefixOf(family, length, words[first] as number)
    const [b, c, d] = [words[first + 1] as number, words[first + 2] as number, words[first + 3] as number]
    return prefixOf(family, length, words[first] as number, b, c, d)
  }

  /** Places, whatever changes meanwhile. */
  *places(): Generator<number> {
    const cursor = { at: 0 }
    this.cursors.push(cursor)
    try {
      while (cursor.at < this.end) {
        const at = cursor.at++
        if (this.lengths[at] !== 0) yield at
      }
    } finally {
      this.cursors = this.cursors.filter((other) => other !== cursor)
    }
  }

  /** Without the places that are free. */
  private rebuild(wanted: number): void {
    const capacity = Math.max(wanted, leastCapacity)
    const { words, lengths, values, end, width } = this
    const whole = this.size === end
    this.words = new Uint32Array(capacity * width)
    this.lengths = new Uint8Array(capacity)
    if (this.valued) this.values = new Int32Array(capacity)
    this.slots = new Int32Array(capacity * 2)
    const moved = new Map([...this.cursors].map((cursor) => [cursor, 0]))
    if (whole) {
      this.words.set(words)
      this.lengths.set(lengths)
      if (this.valued) this.values.set(values)
    } else {
      this.end = 0
      for (let at = 0; at < end; at++) {
        if (lengths[at] === 0) continue
        for (const [cursor, left] of moved) if (at < cursor.at) moved.set(cursor, left + 1)
        this.words.set(words.subarray(at * width, (at + 1) * width), this.end * width)
        this.lengths[this.end] = lengths[at] as number
        if (this.valued) this.values[this.end] = values[at] as number
        this.end++
      }
      for (const [cursor, at] of moved) cursor.at = at
    }
    for (let at = 0; at < this.end; at++) this.link(at)
  }

  private hashAt(at: number): number {
    const { words, lengths, width } = this
    const length = (lengths[at] as number) - 1
    if (width === 1) return hash(length, words[at] as number, 0, 0, 0)
    const first = at * 4
    const [b, c, d] = [words[first + 1] as number, words[first + 2] as number, words[first + 3] as number]
    return hash(length, words[first] as number, b, c, d)
  }

  private link(at: number): void {
    const { slots } = this
    const mask = slots.length - 1
    let slot = this.hashAt(at) & mask
    while (slots[slot] !== 0) slot = (slot + 1) & mask
    slots[slot] = at + 1
  }

  /** What stands behind moves up, so that searches go on ending at a free slot. */
  private unlink(at: number): void {
    const { slots } = this
    const mask = slots.length - 1
    let hole = this.hashAt(at) & mask
    while (slots[hole] !== at + 1) hole = (hole + 1) & mask
    for (let slot = (hole + 1) & mask; slots[slot] !== 0; slot = (slot + 1) & mask) {
      const home = this.hashAt((slots[slot] as number) - 1) & mask
      if (((slot - home) & mask) < ((slot - hole) & mask)) continue
      slots[hole] = slots[slot] as number
      hole = slot
    }
    slots[hole] = 0
  }
}

/**
 * Neighbours, which differ in the last bits of the prefix alone, stand side by side: tables
 * come in order, and memory that was read a moment ago is ten times as fast.
 */
function hash(length: number, a: number, b: number, c: number, d: number): number {
  const word = length <= 32 ? a : length <= 64 ? b : length <= 96 ? c : d
  const shift = 31 - ((length - 1) & 31)
  const last = (word >>> shift) & neighbours
  const first = length <= 32 ? a ^ (last << shift) : a
  let mixed = Math.imul(first ^ seed, 0x85ebca6b) ^ Math.imul(length + 1, 0x9e3779b1)
  if (length > 32) {
    const rest = last << shift
    mixed = Math.imul(mixed ^ (mixed >>> 15) ^ (length <= 64 ? b ^ rest : b), 0xc2b2ae35)
    mixed = Math.imul(mixed ^ (mixed >>> 13) ^ (length > 64 && length <= 96 ? c ^ rest : c), 0x27d4eb2f)
    mixed = Math.imul(mixed ^ (mixed >>> 14) ^ (length > 96 ? d ^ rest : d), 0x165667b1)
  }
  mixed ^= mixed >>> 15
  mixed = Math.imul(mixed ^ seed, 0x2c1b3c6d)
  return ((mixed ^ (mixed >>> 13)) & ~neighbours) | last
}

/** Eight digits from `at`, each of 0-9 and a-f. */
function number32(prefix: Prefix, at: number): number {
  let value = 0
  for (let i = at; i < at + 8; i++) {
    const code = prefix.charCodeAt(i)
    value = (value << 4) | (code < 58 ? code - 48 : code - 87)
  }
  return value >>> 0
}

function lengthOf(prefix: Prefix, at: number): number {
  let value = 0
  for (let i = at; i < prefix.length; i++) value = value * 10 + prefix.charCodeAt(i) - 48
  return value
}

/** Numbers of 32 bits, signed, by prefix key. */
export class PrefixMap {
  readonly columns: Readonly<Record<Family, PrefixColumn>>

  /** valued: false for keys alone. */
  constructor(valued = true, columns?: PrefixMap['columns']) {
    this.columns = columns ?? { 4: new PrefixColumn(4, valued), 6: new PrefixColumn(6, valued) }
  }

  get size(): number {
    return this.columns[4].size + this.columns[6].size
  }

  has(prefix: Prefix): boolean {
    return this.find(prefix) >= 0
  }

  get(prefix: Prefix): number | undefined {
    const at = this.find(prefix)
    return at < 0 ? undefined : this.columnOf(prefix).values[at]
  }

  set(prefix: Prefix, value: number): this {
    const at = this.place(prefix)
    this.columnOf(prefix).values[at] = value
    return this
  }

  delete(prefix: Prefix): boolean {
    const at = this.find(prefix)
    if (at >= 0) this.columnOf(prefix).remove(at)
    return at >= 0
  }

  clear(): void {
    this.columns[4].clear()
    this.columns[6].clear()
  }

  /** Room for so many more. */
  reserve(count: number, family: Family): void {
    this.columns[family].reserve(this.columns[family].size + count)
  }

  *keys(): Generator<Prefix, undefined> {
    for (const column of [this.columns[4], this.columns[6]]) for (const at of column.places()) yield column.key(at)
  }

  *values(): Generator<number, undefined> {
    for (const column of [this.columns[4], this.columns[6]])
      for (const at of column.places()) yield column.values[at] as number
  }

  *[Symbol.iterator](): Generator<[Prefix, number], undefined> {
    for (const column of [this.columns[4], this.columns[6]])
      for (const at of column.places()) yield [column.key(at), column.values[at] as number]
  }

  columnOf(prefix: Prefix): PrefixColumn {
    return this.columns[familyOfPrefix(prefix)]
  }

  /** Its place in columnOf(); -1: none, or no prefix. */
  find(prefix: Prefix): number {
    if (prefix[8] === '/') return this.columns[4].find(lengthOf(prefix, 9), number32(prefix, 0))
    if (prefix[32] !== '/') return -1
    const [a, b, c, d] = [number32(prefix, 0), number32(prefix, 8), number32(prefix, 16), number32(prefix, 24)]
    return this.columns[6].find(lengthOf(prefix, 33), a, b, c, d)
  }

  /** Its place in columnOf(), new if there was none. */
  place(prefix: Prefix): number {
    if (prefix[8] === '/') return this.columns[4].place(lengthOf(prefix, 9), number32(prefix, 0))
    const [a, b, c, d] = [number32(prefix, 0), number32(prefix, 8), number32(prefix, 16), number32(prefix, 24)]
    return this.columns[6].place(lengthOf(prefix, 33), a, b, c, d)
  }
}

/** A Set of prefix keys. */
export class PrefixSet extends Set<Prefix> {
  private readonly prefixes: PrefixMap

  /** columns: which it has from now on. */
  constructor(prefixes: Iterable<Prefix> = [], columns?: PrefixMap['columns']) {
    super()
    this.prefixes = new PrefixMap(false, columns)
    for (const prefix of prefixes) this.add(prefix)
  }

  /** All keys of a map, as they are now. */
  static of({ columns }: PrefixMap): PrefixSet {
    return new PrefixSet([], { 4: columns[4].copy(), 6: columns[6].copy() })
  }

  get columns(): PrefixMap['columns'] {
    return this.prefixes.columns
  }

  override get size(): number {
    return this.prefixes.size
  }

  override has(prefix: Prefix): boolean {
    return this.prefixes.has(prefix)
  }

  override add(prefix: Prefix): this {
    this.prefixes.place(prefix)
    return this
  }

  override delete(prefix: Prefix): boolean {
    return this.prefixes.delete(prefix)
  }

  override clear(): void {
    this.prefixes.clear()
  }

  override keys(): SetIterator<Prefix> {
    return this.prefixes.keys()
  }

  override values(): SetIterator<Prefix> {
    return this.prefixes.keys()
  }

  override *entries(): SetIterator<[Prefix, Prefix]> {
    for (const prefix of this.keys()) yield [prefix, prefix]
  }

  override forEach(callback: (value: Prefix, key: Prefix, set: Set<Prefix>) => void): void {
    for (const prefix of this.keys()) callback(prefix, prefix, this)
  }

  override [Symbol.iterator](): SetIterator<Prefix> {
    return this.prefixes.keys()
  }
}
