// A legacy table as IPT_SO_GET_ENTRIES returns it -> chains as ruleset.ts has
// them: struct ipt_entry or ip6t_entry one after the other, each with matches
// and a target behind it. A chain of the user's begins with a target ERROR that
// holds its name; a verdict of 0 and more is the offset of a row to jump to.

import type { Slice } from '../netlink/slice.js'
import { nothing } from './elements.js'
import { intersect, type Limit, masked } from './ranges.js'
import { type Chain, createChain, Ruleset } from './ruleset.js'
import { matchLimit, translatingTargets } from './xtables.js'

export interface LegacyShape {
  family: 4 | 6
  /** Of getsockopt. */
  level: number
  /** Names of the tables that there are. */
  names: string
  entrySize: number
  /** Where the offsets of the target and of the next row are. */
  offsets: number
  destination: number
  mask: number
  inverted: number
}

export const legacyShapes: readonly LegacyShape[] = [
  {
    family: 4,
    level: 0,
    names: '/proc/self/net/ip_tables_names',
    entrySize: 112,
    offsets: 88,
    destination: 4,
    mask: 12,
    inverted: 83
  },
  {
    family: 6,
    level: 41,
    names: '/proc/self/net/ip6_tables_names',
    entrySize: 168,
    offsets: 140,
    destination: 16,
    mask: 48,
    inverted: 132
  }
]

const invertedDestination = 0x10
/** The verdict NF_DROP as a row holds it. */
const drop = -1
const headSize = 32
const nameSize = 29

export interface LegacyEntries {
  bytes: Buffer
  /** Chains at hooks: offset of the first row, and of the policy. */
  hooks: readonly { name: string; first: number; policy: number }[]
}

/** The handle of a rule is its number in its chain, from 1. */
export async function readEntries(shape: LegacyShape, { bytes, hooks }: LegacyEntries, slice: Slice): Promise<Ruleset> {
  const start: Limit = shape.family === 4 ? { 4: 'all', 6: nothing[6] } : { 4: nothing[4], 6: 'all' }
  const ruleset = new Ruleset(start)
  const byOffset = new Map<number, Chain>()
  const chainAt = (offset: number): Chain => {
    let chain = byOffset.get(offset)
    if (!chain) {
      chain = createChain(chainName(shape, bytes, offset))
      byOffset.set(offset, chain)
    }
    return chain
  }
  let chain: Chain | null = null
  let number = 0
  for (let at = 0; at + shape.entrySize <= bytes.length; ) {
    const target = bytes.readUInt16LE(at + shape.offsets)
    const size = bytes.readUInt16LE(at + shape.offsets + 2)
    if (size < shape.entrySize || target + headSize > size || at + size > bytes.length) break
    const hook = hooks.find(({ first }) => first === at)
    if (hook) {
      chain = ruleset.chain(hook.name)
      chain.base = true
      number = 0
    }
    if (isHead(bytes, at + target)) {
      chain = chainAt(at + size)
      number = 0
    } else if (chain) {
      const effect = readRow(shape, ruleset, chainAt, chain.name, bytes, at, target)
      if (effect) chain.rules.put(++number, effect)
      else number++
    }
    if (hooks.some(({ policy }) => policy === at)) chain = null
    at += size
    if (slice.due()) await slice.rest()
  }
  return ruleset
}

/** The target ERROR that begins a chain, and ends the table. */
function isHead(bytes: Buffer, target: number): boolean {
  return bytes.toString('latin1', target + 2, target + 8) === 'ERROR\0'
}

/** Of the chain whose first row is at `offset`: its head stands before it, and is of one size. */
function chainName(shape: LegacyShape, bytes: Buffer, offset: number): string {
  // struct xt_error_target: 32 bytes of head, 30 of name, 2 of padding
  const target = offset - 64
  if (target < shape.entrySize || !isHead(bytes, target)) return ''
  return textAt(bytes, target + headSize, nameSize + 1)
}

function textAt(bytes: Buffer, from: number, length: number): string {
  const end = bytes.indexOf(0, from)
  return bytes.toString('latin1', from, end < 0 || end > from + length ? from + length : end)
}

function readRow(
  shape: LegacyShape,
  ruleset: Ruleset,
  chainAt: (offset: number) => Chain,
  chain: string,
  bytes: Buffer,
  at: number,
  targetOffset: number
): ReturnType<Ruleset['effect']> {
  const end = at + targetOffset
  const name = textAt(bytes, end + 2, nameSize)
  const verdict = name === '' ? bytes.readInt32LE(end + headSize) : null
  const translates = translatingTargets.has(name)
  const rejects = (name === 'REJECT' || verdict === drop) && ruleset.countsRejects(chain)
  if (!translates && !rejects && (verdict === null || verdict < 0)) return null
  let limit = destinationLimit(shape, bytes, at, ruleset.start)
  for (let match = at + shape.entrySize; match + headSize <= end; ) {
    const size = bytes.readUInt16LE(match)
    if (size < headSize || match + size > end) break
    const revision = bytes[match + 31] as number
    limit = matchLimit(
      textAt(bytes, match + 2, nameSize),
      revision,
      bytes.subarray(match + headSize, match + size),
      limit
    )
    match += size
  }
  const target = verdict !== null && verdict >= 0 ? chainAt(verdict) : null
  return ruleset.effect(limit, [], { translates, rejects, target })
}

/** -d, unless it is inverted. */
function destinationLimit(shape: LegacyShape, bytes: Buffer, at: number, start: Limit): Limit {
  const length = shape.family === 4 ? 4 : 16
  const mask = bytes.subarray(at + shape.mask, at + shape.mask + length)
  if (mask[0] === 0 || ((bytes[at + shape.inverted] as number) & invertedDestination) !== 0) return start
  const value = bytes.subarray(at + shape.destination, at + shape.destination + length)
  const range = masked(value, mask)
  if (range === 'all') return start
  const only = intersect(start[shape.family], [range])
  return shape.family === 4 ? { 4: only, 6: nothing[6] } : { 4: nothing[4], 6: only }
}

/** Row `number` of a chain in a few words. */
export function describeRow(
  shape: LegacyShape,
  { bytes, hooks }: LegacyEntries,
  chain: string,
  number: number
): string {
  let within = ''
  let count = 0
  for (let at = 0; at + shape.entrySize <= bytes.length; ) {
    const target = bytes.readUInt16LE(at + shape.offsets)
    const size = bytes.readUInt16LE(at + shape.offsets + 2)
    if (size < shape.entrySize || target + headSize > size || at + size > bytes.length) return ''
    const head = isHead(bytes, at + target)
    const hook = hooks.find(({ first }) => first === at)
    if (head || hook) {
      within = hook?.name ?? chainName(shape, bytes, at + size)
      count = 0
    }
    if (!head && within === chain && ++count === number) return rowText(shape, bytes, at, at + target)
    at += size
  }
  return ''
}

function rowText(shape: LegacyShape, bytes: Buffer, at: number, target: number): string {
  const words: string[] = []
  const device = textAt(bytes, at + (shape.family === 4 ? 16 : 64), 15)
  if (device !== '') words.push(`-i ${device}`)
  const protocol = bytes[at + (shape.family === 4 ? 80 : 128)] as number
  if (protocol !== 0) words.push(`-p ${{ 6: 'tcp', 17: 'udp' }[protocol] ?? protocol}`)
  for (let match = at + shape.entrySize; match + headSize <= target; ) {
    const size = bytes.readUInt16LE(match)
    if (size < headSize || match + size > target) break
    const name = textAt(bytes, match + 2, nameSize)
    if ((name === 'tcp' || name === 'udp') && size >= headSize + 8) {
      // struct xt_tcp, xt_udp: source ports, destination ports
      const [first, last] = [bytes.readUInt16LE(match + headSize + 4), bytes.readUInt16LE(match + headSize + 6)]
      words.push(first === last ? `--dport ${first}` : `-m ${name}`)
    } else if (name !== 'comment') words.push(`-m ${name}`)
    match += size
  }
  return [...words, `-j ${textAt(bytes, target + 2, nameSize)}`].join(' ')
}
