// The start that finds maps of another version, or of a change of maps that was
// not finished. Maps whose layout differs are replaced (migration.ts), so that
// flows, SNAT and counters survive an upgrade, and the way back.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from '../log.js'
import { converter, type Layout, layoutOf, offsetOf } from '../maps/convert.js'
import { raiseGenerations } from '../maps/generations.js'
import { CODES, DEVICE_SLOTS, LAYOUT, STRUCTS } from '../maps/layout.js'
import { type BpfMap, type BpfObject, type HeldLink, native } from '../native.js'
import { ownLinks } from '../own-pins.js'
import { inSlices } from '../slice.js'
import { readClock } from './clock.js'
import { pauseIn, setDetourIn } from './control-block.js'
import type { Convert } from './map-copy.js'
import { type Migration, migrate, recover, type Unfinished } from './migration.js'
import { replacePinned } from './pinned-programs.js'

export interface Upgrade {
  pinDirectory: string
  journalPath: string
  xdp: 'off' | 'native' | 'generic'
  log: Logger
  load(fresh: readonly string[], freshDirectory: string): Promise<BpfObject>
  /** Opens the detour, where packets wait; its ifindex, 0: there is none. */
  openDetour(next: BpfObject): number
}

const row = Buffer.alloc(4)
const { control, shared_pod, translating } = STRUCTS

/** null: there is nothing to convert. Throws; then what was pinned goes on. */
export async function upgrade(options: Upgrade): Promise<Unfinished | null> {
  const { pinDirectory, log } = options
  const fresh = differing(pinDirectory)
  if (fresh.length === 0) return null
  const began = performance.now()
  const other = new Other()
  const held = holdPrograms(pinDirectory)
  try {
    const unfinished = await migrate({
      ...steps(options, other),
      fresh,
      pause(on, next) {
        other.control?.pause(on)
        if (on) other.control?.copyTo(next)
        else other.control?.mergeInto(next)
        pauseIn(next, on)
      },
      putBack: () => putBack(held),
      // nobody plans yet
      inTurn: (work) => inSlices(work()),
      prepare: () => () => {}
    })
    log.info(
      `maps of another version were converted within ${Math.round(performance.now() - began)} ms, new flows waited ${Math.ceil(unfinished.paused)} ms: ${fresh.join(', ')}`
    )
    return other.closedBy(unfinished)
  } catch (error) {
    other.close()
    throw error
  } finally {
    for (const { program } of held) program.close()
  }
}

/** With `counters` what was counted before them: its new rows are sums, which are the same when they are written twice. */
function differing(pinDirectory: string): string[] {
  const fresh = native().differingMaps(pinDirectory)
  const goesAlong = fresh.includes('counters') && existsSync(join(pinDirectory, 'counted_before'))
  return goesAlong ? [...new Set([...fresh, 'counted_before'])] : fresh
}

/**
 * An earlier daemon ended while it replaced maps. null: none did, or nothing of it can be used. Throws;
 * then all is left as it is.
 */
export async function goOn(options: Upgrade): Promise<Unfinished | null> {
  const other = new Other()
  try {
    const unfinished = await recover({
      ...steps(options, other),
      pause(on, next) {
        other.control?.pause(on)
        if (!on) other.control?.mergeInto(next)
        pauseIn(next, on)
      },
      onOther: (inUse) =>
        options.log.warn(
          inUse
            ? 'another version has replaced the maps and not come to its end: its maps are taken over; packets counted before it are not counted any more'
            : 'another version has begun to replace the maps, and its programs do not run: what it had made is given up'
        )
    })
    return unfinished && other.closedBy(unfinished)
  } catch (error) {
    other.close()
    throw error
  }
}

function steps(
  options: Upgrade,
  other: Other
): Pick<Migration, 'pinDirectory' | 'old' | 'convert' | 'load' | 'jiffies' | 'replace'> {
  const { pinDirectory, journalPath, xdp, log } = options
  const old = (name: string) => native().openPinnedMap(join(pinDirectory, name))
  return {
    pinDirectory,
    old,
    convert: (name, next) => conversion(old(name), next.map(name)),
    async load(names, directory) {
      const next = await options.load(names, directory)
      if (names.includes('control')) other.control = new OtherControl(old('control'))
      const detour = options.openDetour(next)
      other.control?.write('detour', detour)
      setDetourIn(next, detour)
      return next
    },
    jiffies: (next) => Number(readClock(next).jiffies & 0xffff_ffffn),
    replace: (next) => replacePinned({ object: next, pinDirectory, journalPath, xdp, log })
  }
}

/** The control section of the earlier programs, where it is not the one of the new ones. */
class Other {
  control: OtherControl | null = null

  close(): void {
    this.control?.close()
    this.control = null
  }

  closedBy(unfinished: Unfinished): Unfinished {
    return {
      ...unfinished,
      finish: () => {
        unfinished.finish()
        this.close()
      }
    }
  }
}

/** null: they have one layout. Both are closed. */
export function conversion(old: BpfMap, now: BpfMap): Convert | null {
  const same = old.layout() === now.layout()
  const [before, after] = [layoutOf(old), layoutOf(now)]
  const sizes = { old: old.info, now: now.info }
  old.close()
  now.close()
  if (same) return null
  const keysOf = converter(before.key, after.key)
  const valuesOf = converter(before.value, after.value)
  return ({ keys, values, count }) => {
    // an array may have had more rows
    const rows = sizes.now.type === arrayType ? Math.min(count, sizes.now.maxEntries) : count
    const width = count === 0 ? 0 : values.length / count
    return {
      keys: keysOf(keys.subarray(0, rows * sizes.old.keySize), sizes.old.keySize, sizes.now.keySize),
      values: valuesOf(values.subarray(0, rows * width), sizes.old.valueSize, sizes.now.valueSize),
      count: rows
    }
  }
}
const arrayType = 2

/** The control section of another version, by the names of its fields. */
class OtherControl {
  private readonly layout: Layout
  private straight = 0

  constructor(private readonly map: BpfMap) {
    this.layout = layoutOf(map)
  }

  /** What a program writes at this very moment may be lost: the section is one value. */
  write(field: string, value: number): void {
    const at = offsetOf(this.layout.value, field)
    if (at === null) return
    const bytes = this.read()
    bytes.writeUInt32LE(value >>> 0, at)
    this.map.update(row, bytes)
  }

  pause(on: boolean): void {
    if (on) this.straight = this.number('straight')
    this.write('straight', on ? 0 : this.straight)
    const flags = this.number('flags')
    this.write('flags', on ? flags | CODES.CONTROL_PAUSED : flags & ~CODES.CONTROL_PAUSED)
  }

  /** The hot path stays off until the lease is renewed. */
  copyTo(next: BpfObject): void {
    const bytes = this.converted(next)
    bytes.writeUInt32LE(LAYOUT, control.offset.layout)
    bytes.writeUInt32LE(0, control.offset.straight)
    next.writeControl(0, bytes)
    // another version may have none, and entries that were converted say none
    raiseGenerations(next)
  }

  /** What the programs have raised since. */
  mergeInto(next: BpfObject): void {
    const [raised, have] = [this.converted(next), next.readControl()]
    const seen = control.offset.translating + translating.offset.seen
    const rows = Array.from(
      { length: DEVICE_SLOTS },
      (_, slot) => control.offset.shared + slot * shared_pod.size + shared_pod.offset.delivered
    )
    for (const at of [seen, ...rows]) {
      const both = raised.readUInt8(at) | have.readUInt8(at)
      if (both !== have.readUInt8(at)) next.writeControl(at, Buffer.from([both]))
    }
  }

  close(): void {
    this.map.close()
  }

  private converted(next: BpfObject): Buffer {
    const now = next.map('control')
    const { value } = layoutOf(now)
    now.close()
    return converter(this.layout.value, value)(this.read(), this.map.info.valueSize, control.size)
  }

  private number(field: string): number {
    const at = offsetOf(this.layout.value, field)
    return at === null ? 0 : this.read().readUInt32LE(at)
  }

  private read(): Buffer {
    return this.map.lookup(row) ?? Buffer.alloc(this.map.info.valueSize)
  }
}

interface Held {
  path: string
  program: HeldLink
}

function holdPrograms(pinDirectory: string): Held[] {
  const links = join(pinDirectory, 'links')
  return ownLinks(links).map((name) => {
    const path = join(links, name)
    return { path, program: native().holdProgram(path) }
  })
}

/** Filters of clsact are put back by nobody: the next try replaces them. */
function putBack(held: readonly Held[]): Error[] {
  return held.flatMap(({ path, program }) => {
    try {
      native().putProgram(path, program.fd)
      return []
    } catch (error) {
      return (error as { code?: string }).code === 'ENOLINK' ? [] : [error as Error]
    }
  })
}
