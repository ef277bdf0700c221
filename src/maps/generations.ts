// control.route_generations: what the programs remember of the routes counts as
// long as the slot of its remote address says the same generation
// (bpf/generation.h). Here: which slots a prefix has, and which of them are to be
// raised.
//
// A slot's number is put together from the parts of an address, each part's hash
// being some bits of it. So a prefix has few slots, unless it is short: an IPv4
// /24 has one of 1,024, a /16 32 of them; an IPv6 /64 one, a /48 8.
//
// Invariants
// - A slot is raised after the maps hold the new answer, never before.
// - What is no answer about a prefix raises all: other tables for a device, rows that
//   were repaired, and an address that the node has no longer, as SNAT of flows to
//   anywhere may have it (has_moved() in bpf/from_pod.h).

import { splitPrefix } from '../address.js'
import type { Prefix } from '../state/types.js'
import type { MapAccess } from './access.js'
import { ROUTE_SLOTS, STRUCTS } from './layout.js'

interface Part {
  /** Bits of the address. */
  from: number
  to: number
  /** How many bits of the slot they make. */
  bits: number
}

/** As slot_of() has it. */
const parts: Record<4 | 6, readonly Part[]> = {
  4: [
    { from: 0, to: 16, bits: 5 },
    { from: 16, to: 24, bits: 5 }
  ],
  6: [
    { from: 0, to: 32, bits: 4 },
    { from: 32, to: 48, bits: 3 },
    { from: 48, to: 64, bits: 3 }
  ]
}

const offset = STRUCTS.control.offset.route_generations
/** Slots in a line of the processors' caches, which all of them read for each packet. */
const slotsInLine = 16
/** With more prefixes at once it is a table that changes: to tell them apart takes longer than it is worth. */
export const mostPrefixes = 4096

export interface Generations {
  /** Reads what the section says. */
  load(): void
  /** Other rows answer for the prefix now. */
  note(prefix: Prefix): void
  noteAll(): void
  /** Something was noted and is not raised yet. */
  pending(): boolean
  /** Raises what was noted. Throws what writeControl() throws; then it is still noted. */
  raise(): void
}

export function createGenerations(access: Pick<MapAccess, 'readControl' | 'writeControl'>): Generations {
  let values: Buffer = Buffer.alloc(ROUTE_SLOTS * 4)
  const noted = new Set<number>()
  /** Prefixes noted since the last time. */
  let prefixes = 0

  const noteAll = (): void => {
    for (let slot = 0; slot < ROUTE_SLOTS; slot++) noted.add(slot)
  }

  const write = (first: number, end: number): void => {
    access.writeControl(offset + first * 4, values.subarray(first * 4, end * 4))
  }

  return {
    load() {
      values = readGenerations(access)
    },
    note(prefix) {
      if (noted.size === ROUTE_SLOTS) return
      if (++prefixes > mostPrefixes) noteAll()
      else for (const slot of slotsOf(prefix)) noted.add(slot)
    },
    noteAll,
    pending: () => noted.size > 0,
    raise() {
      for (const slot of noted) raiseAt(values, slot)
      if (noted.size > ROUTE_SLOTS / 4) {
        write(0, ROUTE_SLOTS)
      } else {
        for (const [first, end] of stretchesOf(noted)) write(first, end)
      }
      noted.clear()
      prefixes = 0
    }
  }
}

/** Raises all slots. */
export function raiseGenerations(access: Pick<MapAccess, 'readControl' | 'writeControl'>): void {
  const values = readGenerations(access)
  for (let slot = 0; slot < ROUTE_SLOTS; slot++) raiseAt(values, slot)
  access.writeControl(offset, values)
}

/** Those of the prefix's addresses, each once. */
export function slotsOf(prefix: Prefix): number[] {
  const { address, length, family } = splitPrefix(prefix)
  let slots = [0]
  for (const { from, to, bits } of parts[family]) {
    const part = Number.parseInt(address.slice(from / 4, to / 4), 16)
    if (length >= to) {
      const value = hashOf(part, bits)
      for (let at = 0; at < slots.length; at++) slots[at] = ((slots[at] ?? 0) << bits) | value
    } else {
      const values = valuesOf(part, to - Math.max(length, from), bits)
      slots = slots.flatMap((slot) => values.map((value) => (slot << bits) | value))
    }
  }
  return slots
}

/** Hashes of a part of which the last `free` bits are open. */
function valuesOf(part: number, free: number, bits: number): readonly number[] {
  const every = 2 ** bits
  // so many that hardly one is missing
  if (2 ** free > 16 * every) return Array.from({ length: every }, (_, value) => value)
  return [...new Set(Array.from({ length: 2 ** free }, (_, open) => hashOf(part + open, bits)))]
}

function hashOf(part: number, bits: number): number {
  return Math.imul(part, 0x9e3779b1) >>> (32 - bits)
}

function readGenerations(access: Pick<MapAccess, 'readControl'>): Buffer {
  return Buffer.from(access.readControl().subarray(offset, offset + ROUTE_SLOTS * 4))
}

/** 0 is no generation. */
function raiseAt(values: Buffer, slot: number): void {
  values.writeUInt32LE((values.readUInt32LE(slot * 4) + 1) >>> 0 || 1, slot * 4)
}

/** From the first to the last of each line, so that the others' stay with the processors. */
function* stretchesOf(slots: Iterable<number>): Iterable<[first: number, end: number]> {
  const lines = new Map<number, [number, number]>()
  for (const slot of slots) {
    const line = Math.floor(slot / slotsInLine)
    const [first, end] = lines.get(line) ?? [slot, slot + 1]
    lines.set(line, [Math.min(first, slot), Math.max(end, slot + 1)])
  }
  yield* lines.values()
}
