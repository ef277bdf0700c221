// The control section of a datapath whose daemon is gone, through its pin: enough
// to hand over and to switch off. By the names of its fields, so of another version,
// too; and of both generations of programs in the middle of a change of maps.

import { layoutOf, offsetOf } from '../maps/convert.js'
import { CODES } from '../maps/layout.js'
import { type BpfMap, native } from '../native.js'
import { pinsOf } from './pinned-maps.js'

const row = Buffer.alloc(4)
/** jiffies64 when the kernel's CLOCK_MONOTONIC is 0: five minutes before 32 bits are full (INITIAL_JIFFIES). */
const jiffiesAtBoot = (perSecond: number) => 2n ** 32n - 300n * BigInt(perSecond)
const hundredYears = 100 * 365 * 86_400

export class PinnedControl {
  /** sections: the one of the programs in use first. */
  private constructor(private readonly sections: readonly [Section, ...Section[]]) {}

  /** null: nothing is pinned, or what is cannot be read. */
  static open(pinDirectory: string): PinnedControl | null {
    const [first, ...others] = pinsOf(pinDirectory, 'control').map((path) => Section.open(path))
    return first ? new PinnedControl([first, ...others.filter((section) => section !== null)]) : null
  }

  /** The kernel's id of the map. */
  get mapId(): number {
    return this.sections[0].mapId
  }

  get isOn(): boolean {
    return (this.number('flags') & CODES.CONTROL_ON) !== 0
  }

  /** The programs forward: they are switched on, and the daemon has not been gone for longer than its lease. */
  get isForwarding(): boolean {
    return this.isOn && this.jiffies < this.lease
  }

  /** SNAT is configured. */
  get masquerades(): boolean {
    return (this.number('flags') & CODES.CONTROL_SNAT) !== 0
  }

  /** Of the lease; null: it never ends. */
  get secondsLeft(): number | null {
    const left = Number((this.lease - this.jiffies) / BigInt(this.jiffiesPerSecond))
    return left > hundredYears ? null : Math.max(0, left)
  }

  /** The programs' clock, now. */
  get jiffies(): bigint {
    const { jiffiesPerSecond: perSecond } = this
    return jiffiesAtBoot(perSecond) + (process.hrtime.bigint() * BigInt(perSecond)) / 1_000_000_000n
  }

  get jiffiesPerSecond(): number {
    return Math.max(1, this.number('jiffies_per_second'))
  }

  get masqueradeEpoch(): number {
    return this.number('masquerade_epoch')
  }

  get portCount(): number {
    return this.number('port_count')
  }

  handOver(on: boolean): void {
    // so that also TCP in the middle of a flow is looked up
    if (on) for (const section of this.sections) section.presumeTranslating()
    this.setFlag(CODES.CONTROL_HAND_OVER, on)
  }

  switchOn(on: boolean): void {
    this.setFlag(CODES.CONTROL_ON, on)
  }

  close(): void {
    for (const section of this.sections) section.close()
  }

  private get lease(): bigint {
    const [{ read, offset }] = this.sections
    return read().readBigUInt64LE(offset('lease'))
  }

  private number(field: string): number {
    const [{ read, offset }] = this.sections
    return read().readUInt32LE(offset(field))
  }

  private setFlag(flag: number, on: boolean): void {
    for (const section of this.sections) section.setFlag(flag, on)
  }
}

/** One value that is written as a whole: what a program raises at this very moment may be lost. */
class Section {
  private constructor(
    private readonly map: BpfMap,
    private readonly layout: ReturnType<typeof layoutOf>
  ) {}

  static open(path: string): Section | null {
    let map: BpfMap
    try {
      map = native().openPinnedMap(path)
    } catch {
      // never pinned, or gone
      return null
    }
    const section = new Section(map, layoutOf(map))
    if (needed.every((field) => offsetOf(section.layout.value, field) !== null)) return section
    map.close()
    return null
  }

  get mapId(): number {
    return this.map.info.id
  }

  readonly read = (): Buffer => this.map.lookup(row) ?? Buffer.alloc(this.map.info.valueSize)

  readonly offset = (field: string): number => {
    const at = offsetOf(this.layout.value, field)
    if (at === null) throw new Error(`the pinned control section knows no ${field}`)
    return at
  }

  setFlag(flag: number, on: boolean): void {
    const value = this.read()
    const at = this.offset('flags')
    const flags = value.readUInt32LE(at)
    value.writeUInt32LE((on ? flags | flag : flags & ~flag) >>> 0, at)
    // the hot path asks for no flag
    const straight = offsetOf(this.layout.value, 'straight')
    if (flag === CODES.CONTROL_ON && !on && straight !== null) value.writeUInt32LE(0, straight)
    this.map.update(row, value)
  }

  presumeTranslating(): void {
    const translating = this.layout.value?.fields?.find(({ name }) => name === 'translating')
    const presumed = translating ? offsetOf(translating.type, 'presumed') : null
    if (!translating || presumed === null) return
    const value = this.read()
    value.writeUInt8(1, translating.offset + presumed)
    this.map.update(row, value)
  }

  close(): void {
    this.map.close()
  }
}

const needed = ['flags', 'lease', 'jiffies_per_second'] as const
