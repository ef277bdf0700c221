// The control section of a datapath whose daemon is gone, through its pin:
// enough to hand over and to switch off.

import { join } from 'node:path'
import { decodeControl } from '../maps/codec.js'
import { CODES, STRUCTS } from '../maps/layout.js'
import { type BpfMap, native } from '../native.js'

const row = Buffer.alloc(4)
/** jiffies64 when the kernel's CLOCK_MONOTONIC is 0: five minutes before 32 bits are full (INITIAL_JIFFIES). */
const jiffiesAtBoot = (perSecond: number) => 2n ** 32n - 300n * BigInt(perSecond)
const hundredYears = 100 * 365 * 86_400
const flagsOffset = STRUCTS.control.offset.flags

function now(perSecond: number): bigint {
  return jiffiesAtBoot(perSecond) + (process.hrtime.bigint() * BigInt(perSecond)) / 1_000_000_000n
}

export class PinnedControl {
  private constructor(private readonly map: BpfMap) {}

  /** null: nothing is pinned, or it has another layout. */
  static open(pinDirectory: string): PinnedControl | null {
    try {
      const map = native().openPinnedMap(join(pinDirectory, 'control'))
      if (map.info.valueSize === STRUCTS.control.size) return new PinnedControl(map)
      map.close()
    } catch {
      // never pinned, or gone
    }
    return null
  }

  get isOn(): boolean {
    return (decodeControl(this.read()).flags & CODES.CONTROL_ON) !== 0
  }

  /** The programs forward: they are switched on, and the daemon has not been gone for longer than its lease. */
  get isForwarding(): boolean {
    const { flags, lease, jiffiesPerSecond } = decodeControl(this.read())
    return (flags & CODES.CONTROL_ON) !== 0 && now(jiffiesPerSecond) < lease
  }

  /** Of the lease; null: it never ends. */
  get secondsLeft(): number | null {
    const { lease, jiffiesPerSecond } = decodeControl(this.read())
    const left = Number((lease - now(jiffiesPerSecond)) / BigInt(jiffiesPerSecond))
    return left > hundredYears ? null : Math.max(0, left)
  }

  handOver(on: boolean): void {
    if (on) this.presumeTranslating()
    this.setFlag(CODES.CONTROL_HAND_OVER, on)
  }

  switchOn(on: boolean): void {
    this.setFlag(CODES.CONTROL_ON, on)
  }

  close(): void {
    this.map.close()
  }

  /** So that also TCP in the middle of a flow is looked up. */
  private presumeTranslating(): void {
    const value = this.read()
    value.writeUInt8(1, STRUCTS.control.offset.translating + STRUCTS.translating.offset.presumed)
    this.map.update(row, value)
  }

  /** The section is one value and written as a whole: what a program raises at this very moment may be lost. */
  private setFlag(flag: number, on: boolean): void {
    const value = this.read()
    const flags = value.readUInt32LE(flagsOffset)
    value.writeUInt32LE((on ? flags | flag : flags & ~flag) >>> 0, flagsOffset)
    this.map.update(row, value)
  }

  private read(): Buffer {
    return this.map.lookup(row) ?? Buffer.alloc(STRUCTS.control.size)
  }
}
