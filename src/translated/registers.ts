// What the registers of an nf_tables rule hold, byte by byte, as far as it says
// something about the destination: bytes of the address (with the bits that a
// mask has left), the address family, the type of the destination.
//
// Payload comes from the network header; which bytes are the destination
// depends on the family, which a rule in a table of family inet has to have
// asked for before.

import { addressOf } from '../address.js'
import type { Family } from '../state/types.js'
import { masked, type Range, type Ranges } from './ranges.js'
import type { KeyField } from './ruleset.js'

/** Bytes of data registers; NFT_REG_1 and NFT_REG32_00 are the first. */
const size = 64
const unknown = 0
const family = 1
const protocol = 2
const type = 8
/** The first byte of the destination. */
const destination = 16

/** struct iphdr, struct ipv6hdr */
const places = { 4: { at: 16, length: 4 }, 6: { at: 24, length: 16 } } as const

/** NFT_CMP_* */
export const compare = { equal: 0, notEqual: 1, less: 2, lessEqual: 3, greater: 4, greaterEqual: 5 } as const

/** What a comparison says. */
export type Finding =
  | { kind: 'destination'; family: Family; only: Ranges }
  | { kind: 'family'; family: Family | null }
  | { kind: 'type'; type: number }
  | null

export class Registers {
  private readonly tags = new Uint8Array(size)
  private readonly masks = new Uint8Array(size)
  private family: Family | null = null

  /** family: of the packets that get here; null: both. */
  reset(family: Family | null): void {
    this.tags.fill(unknown)
    this.family = family
  }

  /** From here on the packets are of one family. */
  know(family: Family): void {
    this.family = family
  }

  /** A register is written with something unknown, of at most 16 bytes. */
  forget(register: number, length = 16): void {
    const at = offsetOf(register)
    this.tags.fill(unknown, at, at + length)
  }

  forgetAll(): void {
    this.tags.fill(unknown)
  }

  loadNetwork(register: number, offset: number, length: number): void {
    const to = offsetOf(register)
    this.forget(register, (length + 3) & ~3)
    if (this.family === null) return
    const { at, length: whole } = places[this.family]
    for (let index = 0; index < length && to + index < size; index++) {
      const byte = offset + index - at
      if (byte < 0 || byte >= whole) continue
      this.tags[to + index] = destination + byte
      this.masks[to + index] = 0xff
    }
  }

  loadFamily(register: number): void {
    this.mark(register, family, 1)
  }

  loadProtocol(register: number): void {
    this.mark(register, protocol, 2)
  }

  loadType(register: number): void {
    this.mark(register, type, 4)
  }

  private mark(register: number, tag: number, length: number): void {
    const at = offsetOf(register)
    this.forget(register, 4)
    for (let index = 0; index < length; index++) this.tags[at + index] = tag + index
  }

  /** target = source & mask ^ flip */
  mask(source: number, target: number, mask: Buffer, flip: Buffer): void {
    const from = offsetOf(source)
    const to = offsetOf(target)
    for (let index = 0; index < mask.length && to + index < size; index++) {
      const tag = this.tags[from + index] as number
      const address = tag >= destination && (flip[index] ?? 0) === 0
      this.masks[to + index] = (this.masks[from + index] as number) & (mask[index] as number)
      this.tags[to + index] = address ? tag : unknown
    }
  }

  equals(register: number, value: Buffer): Finding {
    const at = offsetOf(register)
    const tag = this.tags[at]
    if (tag === family) return { kind: 'family', family: value[0] === 2 ? 4 : value[0] === 10 ? 6 : null }
    if (tag === protocol && value.length >= 2) {
      const ether = value.readUInt16BE(0)
      return { kind: 'family', family: ether === 0x0800 ? 4 : ether === 0x86dd ? 6 : null }
    }
    if (tag === type && value.length >= 4) return { kind: 'type', type: value.readUInt32LE(0) }
    if (this.family === null) return null
    const { length } = places[this.family]
    const bytes = new Uint8Array(length)
    const mask = new Uint8Array(length)
    let found = false
    for (let index = 0; index < value.length && at + index < size; index++) {
      const byte = (this.tags[at + index] as number) - destination
      if (byte < 0) continue
      bytes[byte] = value[index] as number
      mask[byte] = this.masks[at + index] as number
      found = true
    }
    return found ? this.only(masked(bytes, mask)) : null
  }

  /** From `first` to `last`, both included; null: open. */
  between(register: number, first: Buffer | null, last: Buffer | null): Finding {
    if (this.family === null) return null
    const { length } = places[this.family]
    const at = offsetOf(register)
    const given = Math.min((first ?? last)?.length ?? 0, length)
    for (let index = 0; index < given; index++)
      if (this.tags[at + index] !== destination + index || this.masks[at + index] !== 0xff) return null
    if (given === 0) return null
    const fill = (value: Buffer | null, digit: string) =>
      addressOf((value ? value.toString('hex', 0, given) : '').padEnd(length * 2, digit))
    return this.only({ first: fill(first, '0'), last: fill(last, 'f') })
  }

  private only(range: Range | 'all'): Finding {
    return { kind: 'destination', family: this.family as Family, only: range === 'all' ? 'all' : [range] }
  }

  /** Where a key that is looked up from this register on has what limits destinations; null: nowhere. */
  field(register: number): KeyField | null {
    const from = offsetOf(register)
    for (let at = from; at < size; at += 4) {
      if (this.tags[at] === type) return { kind: 'type', at: at - from }
      if (this.tags[at] !== destination || this.family === null) continue
      const { length } = places[this.family]
      if (at + length > size) return null
      for (let index = 0; index < length; index++) if (this.tags[at + index] !== destination + index) return null
      const mask = this.masks.slice(at, at + length)
      return {
        kind: 'destination',
        family: this.family,
        at: at - from,
        mask: mask.every((byte) => byte === 0xff) ? null : mask
      }
    }
    return null
  }
}

/** NFT_REG_1..4 are 16 bytes each, NFT_REG32_00..15 (8..23) 4. Others hold no data. */
function offsetOf(register: number): number {
  if (register >= 8 && register < 24) return (register - 8) * 4
  return register >= 1 && register <= 4 ? (register - 1) * 16 : size
}
