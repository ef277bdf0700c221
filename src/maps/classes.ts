// Numbers of classes: what stands in a device's row and in the keys of its
// class's routes. A class is known by the plan's key; its number is given when
// its first route is written and rests, when the class is gone, until no
// program can be on its way with it.

import type { ClassKey } from '../plan/keys.js'
import type { Plan } from '../plan/types.js'
import type { Family } from '../state/types.js'
import { CapacityError } from './access.js'
import { decodeDevice } from './codec.js'
import { createIndexPool } from './index-pool.js'

/** device.class4 has 16 bits; 0 means none. */
const numbers = 65536

export interface ClassNumbers {
  /** numbers: those found in the maps' keys. */
  load(numbers: Iterable<number>): void
  /**
   * After load: a class keeps the number that its devices have in the maps, if
   * no device of another class has it, too.
   */
  adopt(devices: Iterable<Buffer>, plan: Plan): void
  /** Gives the class a number if it has none. CapacityError: none is left. */
  numberOf(key: ClassKey): number
  known(key: ClassKey): number | undefined
  keyOf(number: number): ClassKey | undefined
  /** Takes the numbers back of classes that the plan does not have. kept: families whose rows were not touched. */
  prune(plan: Plan, kept: { has(family: Family): boolean; size: number }): void
  settle(): void
}

export function createClassNumbers(): ClassNumbers {
  const pool = createIndexPool(1, numbers)
  const byKey = new Map<ClassKey, number>()
  const byNumber = new Map<number, ClassKey>()
  /** Found in the maps and not adopted: their rows are about to go. */
  const foreign = new Set<number>()
  const give = (key: ClassKey, number: number): void => {
    byKey.set(key, number)
    byNumber.set(number, key)
    foreign.delete(number)
  }
  return {
    known: (key) => byKey.get(key),
    keyOf: (number) => byNumber.get(number),
    settle: pool.settle,
    load(found) {
      pool.clear()
      byKey.clear()
      byNumber.clear()
      foreign.clear()
      for (const number of found) if (pool.reserve(number)) foreign.add(number)
    },
    adopt(devices, plan) {
      const keys = new Map<number, Set<ClassKey | null>>()
      for (const bytes of devices) {
        const row = decodeDevice(bytes)
        const device = plan.devices.get(row.ifindex)
        for (const [number, key] of [
          [row.class4, device?.class4 ?? null],
          [row.class6, device?.class6 ?? null]
        ] as const) {
          if (number !== 0 && device) keys.set(number, (keys.get(number) ?? new Set()).add(key))
        }
      }
      for (const [number, of] of keys) {
        const [key] = of
        if (of.size === 1 && key && foreign.has(number) && !byKey.has(key)) give(key, number)
      }
    },
    numberOf(key) {
      const known = byKey.get(key)
      if (known !== undefined) return known
      const number = pool.take()
      if (number === null) throw new CapacityError([4, 6], `more than ${numbers - 1} classes of routes`)
      give(key, number)
      return number
    },
    prune(plan, kept) {
      for (const [key, number] of [...byKey]) {
        if (plan.classes.has(key) || kept.has(key.startsWith('4') ? 4 : 6)) continue
        byKey.delete(key)
        byNumber.delete(number)
        pool.giveBack(number)
      }
      if (kept.size > 0) return
      for (const number of foreign) pool.giveBack(number)
      foreign.clear()
    }
  }
}
