// The hot path against the stages: every packet runs through the hot
// path alone (hot_path.bpf.c), through the stages alone (a mark makes the
// hot path step aside), and through the program as it is. What the
// hot path forwards must be equal in all three: bytes, action, counters,
// and the entries of flows and their answers. What it leaves must be untouched.

import './namespace.js'
import { execFileSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { ethernet, type Network } from '../packets/packet.js'
import { reasons } from './layout.js'
import { type DeviceName, devices, isPod, macBehind, type TestNode, testNode } from './node.js'

const root = fileURLToPath(new URL('../../../../', import.meta.url))
/** What only_* return where the stages would take over. */
const STAGES = -2
const TC_ACT_UNSPEC = -1
const TRACE_MARK = 5

export interface Options {
  gsoSize?: number
  mark?: number
  checksumComplete?: boolean
}
export type Entries = Map<string, string>

/** Flows and answers by their keys; the moments of the last packets apart, as "was touched". */
export const TABLES = [
  { name: 'flows4', seenAt: 8 },
  { name: 'flows6', seenAt: 8 },
  { name: 'reverse4', seenAt: 20 },
  { name: 'reverse6', seenAt: 20 }
] as const

/** Object file of a source of these tests. */
export function compiled(source: string, name = source): string {
  const objectFile = `${root}build/test/${name}.bpf.o`
  mkdirSync(`${root}build/test`, { recursive: true })
  execFileSync(`${root}scripts/build-native`, ['--bpf', `${root}test/bpf/${source}.bpf.c`, objectFile])
  return objectFile
}

/** A made node whose object has the hot path as programs of their own, too; `name` is this test's. */
export function hotPathNode(name: string): TestNode {
  const node = testNode({ objectFile: compiled('hot_path', name) })
  // its own slot, not one that it shares
  node.setPod('a', devices.a.v4)
  node.setPod('b', devices.b.v6)
  return node
}

export function readEntries(node: TestNode): Entries {
  const entries: Entries = new Map()
  for (const { name, seenAt } of TABLES) {
    const { keys, values, count } = node.map(name).dump()
    const [keySize, valueSize] = [keys.length / count, values.length / count]
    for (let at = 0; at < count; at++) {
      const value = Buffer.from(values.subarray(at * valueSize, (at + 1) * valueSize))
      const seen = value.readUInt32LE(seenAt) ? 'touched' : 'untouched'
      value.writeUInt32LE(0, seenAt)
      const key = keys.subarray(at * keySize, (at + 1) * keySize).toString('hex')
      entries.set(`${name} ${key}`, `${value.toString('hex')} ${seen}`)
    }
  }
  return entries
}

/** As they were, none of them touched. */
export function writeEntries(node: TestNode, entries: Entries): void {
  for (const [place, text] of entries) {
    const [name, key] = place.split(' ') as [string, string]
    node.map(name).update(Buffer.from(key, 'hex'), Buffer.from(text.split(' ')[0] as string, 'hex'))
  }
}

/** As `entries`, with `bytes` at `at` of all in `table`. */
export function changeEntries(node: TestNode, entries: Entries, table: string, at: number, bytes: number[]): void {
  for (const [place, text] of entries) {
    const [name, key] = place.split(' ') as [string, string]
    const value = Buffer.from(text.split(' ')[0] as string, 'hex')
    value.set(bytes, at)
    if (name === table) node.map(name).update(Buffer.from(key, 'hex'), value)
  }
}

/** All that is not in `entries` is deleted. */
export function resetEntries(node: TestNode, entries: Entries): void {
  for (const { name } of TABLES) {
    const { keys, count } = node.map(name).dump()
    if (count > 0) node.map(name).deleteBatch(keys, count)
  }
  writeEntries(node, entries)
}

export function run(node: TestNode, program: string, device: DeviceName, frame: Buffer, options: Options) {
  const context = Buffer.alloc(192)
  context.writeUInt32LE(options.mark ?? 0, 8)
  context.writeUInt32LE(node.ifindexOf(device), 40)
  context.writeUInt32LE(options.gsoSize ? 2 : 0, 164)
  context.writeUInt32LE(options.gsoSize ?? 0, 176)
  const before = node.counters(device)
  const { checksumComplete = false } = options
  const { retval, data, context: after } = node.object.testRun(program, { data: frame, context, checksumComplete })
  const counted = node.counters(device).flatMap(({ packets, bytes }, reason) => {
    const [had, hadBytes] = [before[reason]?.packets ?? 0, before[reason]?.bytes ?? 0]
    return packets === had ? [] : [`${reasons[reason]} ${packets - had} ${bytes - hadBytes}`]
  })
  const entries = readEntries(node)
  return {
    action: retval,
    data: data.toString('hex'),
    mark: after.readUInt32LE(8),
    priority: after.readUInt32LE(32),
    counted,
    entries
  }
}

/** As long after the last SYN-ACK: TCP from outside is not looked up any more. */
export function forgetOpenings(node: TestNode): void {
  for (let turn = 0; turn < 16; turn++) node.object.testRun('count_down_openings', {})
}

export function frameFor(device: DeviceName, network: Network): Buffer {
  return ethernet({ source: macBehind(device), destination: devices[device].mac }, network)
}

/** true: took the hot path, and all three ways agree. */
export function compareWays(
  node: TestNode,
  t: Test,
  name: string,
  device: DeviceName,
  frame: Buffer,
  options: Options = {}
): boolean {
  const program = isPod(device) ? 'from_pod' : 'from_uplink'
  writeEntries(node, readEntries(node))
  const entries = readEntries(node)
  const hot = run(node, `only_${program}`, device, frame, options)
  if (hot.action === STAGES) {
    const untouched = {
      action: STAGES,
      data: frame.toString('hex'),
      mark: options.mark ?? 0,
      priority: 0,
      counted: [],
      entries
    }
    if (!same(hot, untouched)) t.strictSame(hot, untouched, `${name}: left untouched`)
    run(node, program, device, frame, options)
    return false
  }
  writeEntries(node, entries)
  const stages = run(node, program, device, frame, { ...options, mark: TRACE_MARK })
  // what goes to the stack keeps its mark, which here is the test's own
  if (stages.action === TC_ACT_UNSPEC) stages.mark = hot.mark
  writeEntries(node, entries)
  const whole = run(node, program, device, frame, options)
  if (!same(hot, stages)) t.strictSame(hot, stages, `${name}: as the stages`)
  if (!same(whole, hot)) t.strictSame(whole, hot, `${name}: the program as it is`)
  return true
}

/**
 * The same for a packet that makes entries: each way begins with those that are there now, and ends with the same,
 * moments apart, and the same accounts. Those of the program as it is stay. Action of the hot path; null: it
 * left the packet to the stages.
 */
export function compareFresh(
  node: TestNode,
  t: Test,
  name: string,
  device: DeviceName,
  frame: Buffer,
  options: Options = {}
): number | null {
  const program = isPod(device) ? 'from_pod' : 'from_uplink'
  const before = readEntries(node)
  const accounts = () => ['accounts', 'usage'].map((table) => node.map(table).dump())
  const accountsBefore = accounts()
  const outcome = (program: string, options: Options) => {
    resetEntries(node, before)
    for (const [at, table] of ['accounts', 'usage'].entries()) {
      const { keys, values, count } = accountsBefore[at] as ReturnType<typeof accounts>[number]
      node.map(table).updateBatch(keys, values, count)
    }
    const result = run(node, program, device, frame, options)
    const entries = [...result.entries].map(([place, text]) =>
      place.startsWith('flows') ? `${place} ${text.slice(0, 80)} created ${text.slice(88)}` : `${place} ${text}`
    )
    const used = accounts().map(({ values }) => Buffer.from(values).toString('base64'))
    return { ...result, mark: 0, entries: entries.sort(), used }
  }
  const hot = outcome(`only_${program}`, options)
  const stages = outcome(program, { ...options, mark: TRACE_MARK })
  const whole = outcome(program, options)
  t.strictSame(whole, stages, `${name}: the program as it is`)
  if (hot.action === STAGES) return null
  t.strictSame(hot, stages, `${name}: as the stages`)
  return hot.action
}

type Outcome = ReturnType<typeof run>
/** tap's own comparison of maps takes too long for every packet. */
function same(one: Outcome, other: Outcome): boolean {
  const text = ({ entries, ...rest }: Outcome) => JSON.stringify([rest, [...entries].sort()])
  return text(one) === text(other)
}

export interface Random {
  /** A whole number from 0 on. */
  below: (count: number) => number
  pick: <T>(list: readonly T[]) => T
  /** `value` once in a while. */
  rare: <T>(value: T) => T | undefined
}

/** HOSTROUTE_SEED and HOSTROUTE_FRAMES repeat the random part or lengthen it. */
export function randomRounds(t: Test): { frames: number } & Random {
  const seed = Number(process.env['HOSTROUTE_SEED'] ?? Date.now() % 1_000_000_000)
  const frames = Number(process.env['HOSTROUTE_FRAMES'] ?? 800)
  t.comment(`seed ${seed}, ${frames} frames`)
  let state = seed >>> 0
  const below = (count: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 4_294_967_296) * count)
  }
  return {
    frames,
    below,
    pick: (list) => list[below(list.length)] as (typeof list)[number],
    rare: (value) => (below(12) === 0 ? value : undefined)
  }
}
