// Legacy tables of iptables and ip6tables. Nothing tells of their changes: each
// second their sizes are looked at (IPT_SO_GET_INFO), and their contents read
// when these differ, or when they were last read some time ago.
//
// Only tables named in /proc/net/ip_tables_names are asked for: asking for
// another one would make it.

import { readFileSync } from 'node:fs'
import { type NativeError, type NetfilterSocket, native } from '../native.js'
import { Slice } from '../netlink/slice.js'
import { collect } from './collect.js'
import { describeRow, type LegacyEntries, type LegacyShape, legacyShapes, readEntries } from './legacy-table.js'
import { mostDescribed, type Publish, type SourceResult, type UnboundedRule } from './result.js'

const getInfo = 64
const getEntries = 65
const infoSize = 84
/** nat translates; TPROXY stands in mangle; in filter kube-proxy rejects what a Service without endpoints gets. */
const tables = ['nat', 'mangle', 'filter']
/** NF_INET_* */
const hookNames: Readonly<Record<number, string>> = { 0: 'PREROUTING', 2: 'FORWARD' }
const pollMilliseconds = 1_000
const contentsMilliseconds = 10_000
/** Share of a CPU that reading contents again may take, as its inverse. */
const pause = 50

interface Info {
  /** All of it, to compare. */
  text: string
  hooks: LegacyEntries['hooks']
  size: number
}

export class LegacyReader {
  private socket: NetfilterSocket | null = null
  private readonly known = new Map<string, { info: string; readAgain: number }>()
  private timer: NodeJS.Timeout | undefined
  private turn: Promise<void> = Promise.resolve()
  private closed = false

  constructor(
    private readonly publish: Publish,
    private readonly onProblem: (text: string) => void
  ) {}

  /** Resolves when everything that is there has been published. */
  async start(): Promise<void> {
    await this.look()
    this.again()
  }

  async close(): Promise<void> {
    this.closed = true
    clearTimeout(this.timer)
    await this.turn
    this.socket?.close()
  }

  private again(): void {
    if (this.closed) return
    this.timer = setTimeout(() => {
      this.turn = this.look().then(() => this.again())
    }, pollMilliseconds).unref()
  }

  private async look(): Promise<void> {
    const there = new Set<string>()
    for (const shape of legacyShapes) {
      for (const table of namesOf(shape)) {
        const key = keyOf(shape, table)
        there.add(key)
        try {
          await this.lookAt(shape, table, key)
        } catch (error) {
          this.known.delete(key)
          // EAGAIN: it was replaced between the two questions.
          if ((error as NativeError).code !== 'EAGAIN')
            this.onProblem(`${key} could not be read: ${(error as Error).message}; it is read again`)
        }
      }
    }
    for (const key of this.known.keys()) {
      if (there.has(key)) continue
      this.known.delete(key)
      this.publish([[key, null]])
    }
  }

  private async lookAt(shape: LegacyShape, table: string, key: string): Promise<void> {
    this.socket ??= native().openNetfilter(false)
    const info = this.info(shape, table)
    const before = this.known.get(key)
    if (before?.info === info.text && performance.now() < before.readAgain) return
    const start = performance.now()
    const question = Buffer.alloc(40 + info.size)
    question.write(table)
    question.writeUInt32LE(info.size, 32)
    const bytes = (await this.socket.readOption(shape.level, getEntries, question)).subarray(40)
    this.publish([[key, await evaluate(shape, table, { bytes, hooks: info.hooks })]])
    const end = performance.now()
    this.known.set(key, {
      info: info.text,
      readAgain: end + Math.max(contentsMilliseconds, pause * (end - start))
    })
  }

  private info(shape: LegacyShape, table: string): Info {
    const question = Buffer.alloc(infoSize)
    question.write(table)
    const answer = (this.socket as NetfilterSocket).getOption(shape.level, getInfo, question)
    // struct ipt_getinfo: name, valid_hooks, hook_entry[5], underflow[5], num_entries, size
    const words = Array.from({ length: 13 }, (_, index) => answer.readUInt32LE(32 + index * 4))
    const hooks = Object.entries(hookNames).flatMap(([number, name]) => {
      const at = Number(number)
      const valid = ((words[0] ?? 0) & (1 << at)) !== 0
      return valid ? [{ name, first: words[1 + at] ?? 0, policy: words[6 + at] ?? 0 }] : []
    })
    return { text: words.join(' '), hooks, size: words[12] ?? 0 }
  }
}

/** What the rows of a table translate. */
export async function evaluate(shape: LegacyShape, table: string, entries: LegacyEntries): Promise<SourceResult> {
  const ruleset = await readEntries(shape, entries, new Slice())
  const { destinations, unlimited } = await collect(ruleset)
  const family = shape.family === 4 ? 'ip' : 'ip6'
  return {
    kind: 'iptables-legacy',
    name: `table ${family} ${table}`,
    destinations,
    unbounded: unlimited.slice(0, mostDescribed).map(
      ({ chain, handle }): UnboundedRule => ({
        kind: 'iptables-legacy',
        family,
        table,
        chain,
        handle,
        text: describeRow(shape, entries, chain, handle)
      })
    )
  }
}

function keyOf({ family }: LegacyShape, table: string): string {
  return `${family === 4 ? 'iptables' : 'ip6tables'}-legacy ${table}`
}

function namesOf({ names }: LegacyShape): string[] {
  try {
    return readFileSync(names, 'utf8')
      .split('\n')
      .filter((name) => tables.includes(name))
  } catch {
    return [] // the kernel has no such tables
  }
}
