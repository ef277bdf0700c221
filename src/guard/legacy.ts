// The legacy tables of iptables and ip6tables as the kernel has them, read by
// getsockopt: to know the policies that stood before the guard came, and to
// see rules that came in spite of it, also inside a replacement that looked
// like a removal.
//
// Only tables named in /proc/net/ip_tables_names are asked for: asking for
// another one would make it.

import { readFileSync } from 'node:fs'
import type { GuardPresentRow } from '../control/guard-api.js'
import type { NetfilterSocket } from '../native.js'

export type LegacySystem = 'iptables' | 'ip6tables'

interface Shape {
  system: LegacySystem
  family: string
  level: number
  names: string
  /** struct ipt_entry, ip6t_entry */
  entrySize: number
  /** Offset of its target's offset; that of the next row stands 2 behind. */
  targetOffset: number
}

const shapes: Shape[] = [
  {
    system: 'iptables',
    family: 'ip',
    level: 0,
    names: '/proc/self/net/ip_tables_names',
    entrySize: 112,
    targetOffset: 88
  },
  {
    system: 'ip6tables',
    family: 'ip6',
    level: 41,
    names: '/proc/self/net/ip6_tables_names',
    entrySize: 168,
    targetOffset: 140
  }
]
const getInfo = 64
const getEntries = 65
const infoSize = 84
const hooks = 5
const accept = -2

/** One table at one moment. Rows are comparable: without counters and jump offsets. */
export interface LegacyTable {
  system: LegacySystem
  family: string
  table: string
  rules: number
  /** Bit of each hook whose policy is not ACCEPT. */
  otherPolicies: number
  rows: string[]
  /** Sizes and offsets as the kernel gives them. */
  info: string
}

interface Info {
  /** All of it, to compare. */
  text: string
  validHooks: number
  underflow: number[]
  entries: number
  size: number
}

export class LegacyReader {
  readonly #socket: NetfilterSocket
  /** What was read last, and what the kernel said of the table then: unchanged, its rows are not read again. */
  readonly #last = new Map<string, { info: string; table: LegacyTable }>()

  constructor(socket: NetfilterSocket) {
    this.#socket = socket
  }

  /** All tables there are. */
  tables(): LegacyTable[] {
    const found: LegacyTable[] = []
    for (const shape of shapes) {
      for (const table of tableNames(shape)) {
        const read = this.#read(shape, table)
        if (read) found.push(read)
      }
    }
    return found
  }

  /** Tables that hold rows which they did not hold when last asked, and how many. One that is new: its rules. */
  added(): { table: LegacyTable; rows: number }[] {
    const grown: { table: LegacyTable; rows: number }[] = []
    for (const table of this.tables()) {
      const key = `${table.system} ${table.table}`
      const before = this.#last.get(key)?.table
      this.#last.set(key, { info: table.info, table })
      if (before === table) continue
      const rows = before ? countNew(before.rows, table.rows) : table.rules
      if (rows > 0) grown.push({ table, rows })
    }
    return grown
  }

  #read(shape: Shape, table: string): LegacyTable | null {
    try {
      const info = this.#info(shape, table)
      const known = this.#last.get(`${shape.system} ${table}`)
      if (known?.info === info.text) return known.table
      const question = Buffer.alloc(40 + info.size)
      question.write(table)
      question.writeUInt32LE(info.size, 32)
      const entries = this.#socket.getOption(shape.level, getEntries, question).subarray(40)
      const rows = canonicalRows(shape, entries)
      return {
        system: shape.system,
        family: shape.family,
        table,
        info: info.text,
        rules: info.entries - bits(info.validHooks) - 1,
        otherPolicies: otherPolicies(shape, info, entries),
        rows
      }
    } catch {
      return null // it vanished or changed meanwhile; the next round sees it
    }
  }

  #info(shape: Shape, table: string): Info {
    const question = Buffer.alloc(infoSize)
    question.write(table)
    const answer = this.#socket.getOption(shape.level, getInfo, question)
    const words = Array.from({ length: 13 }, (_, index) => answer.readUInt32LE(32 + index * 4))
    return {
      text: words.join(' '),
      validHooks: words[0] ?? 0,
      underflow: words.slice(6, 11),
      entries: words[11] ?? 0,
      size: words[12] ?? 0
    }
  }
}

/** Rules in the tables, for status. */
export function presentRules(tables: LegacyTable[]): GuardPresentRow[] {
  return tables
    .filter(({ rules }) => rules > 0)
    .map(({ system, family, table, rules }) => ({ system, family, table, rules }))
}

function tableNames(shape: Shape): string[] {
  try {
    return readFileSync(shape.names, 'utf8')
      .split('\n')
      .filter((name) => name !== '')
  } catch {
    return [] // the kernel has no such tables
  }
}

/** Each row's bytes without what changes by itself or with its neighbours. */
function canonicalRows(shape: Shape, entries: Buffer): string[] {
  const rows: string[] = []
  for (let offset = 0; offset + shape.entrySize <= entries.length; ) {
    const target = entries.readUInt16LE(offset + shape.targetOffset)
    const next = entries.readUInt16LE(offset + shape.targetOffset + 2)
    if (next < shape.entrySize || offset + next > entries.length) break
    const row = Buffer.from(entries.subarray(offset, offset + next))
    row.fill(0, shape.targetOffset - 4, shape.targetOffset) // nfcache
    row.fill(0, shape.targetOffset + 4, shape.entrySize) // comefrom, counters
    const standard = row[target + 2] === 0
    if (standard && target + 36 <= row.length && row.readInt32LE(target + 32) >= 0) row.writeInt32LE(0, target + 32)
    rows.push(row.toString('latin1'))
    offset += next
  }
  return rows
}

function otherPolicies(shape: Shape, info: Info, entries: Buffer): number {
  let mask = 0
  for (let hook = 0; hook < hooks; hook++) {
    const at = (info.underflow[hook] ?? 0) + shape.entrySize + 32
    if (info.validHooks & (1 << hook) && at + 4 <= entries.length && entries.readInt32LE(at) !== accept)
      mask |= 1 << hook
  }
  return mask
}

function countNew(before: string[], after: string[]): number {
  const left = new Map<string, number>()
  for (const row of before) left.set(row, (left.get(row) ?? 0) + 1)
  let fresh = 0
  for (const row of after) {
    const number = left.get(row) ?? 0
    if (number === 0) fresh++
    else left.set(row, number - 1)
  }
  return fresh
}

function bits(mask: number): number {
  let count = 0
  for (let rest = mask; rest; rest &= rest - 1) count++
  return count
}
