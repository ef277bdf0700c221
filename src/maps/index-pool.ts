// Indexes of rows in an array map. A row that is given back is not handed out
// before settle(): until then a program may still be on its way to it.

export interface IndexPool {
  /** null: none is left. */
  take(): number | null
  /** Marks an index as taken (found in a map at the start). false: it is out of range or taken. */
  reserve(index: number): boolean
  giveBack(index: number): void
  settle(): void
  clear(): void
  readonly used: number
}

/** Indexes from `first` up to but not including `end`, which may change. */
export function createIndexPool(first: number, end: number | (() => number)): IndexPool {
  const endNow = typeof end === 'number' ? () => end : end
  const taken = new Set<number>()
  const resting = new Set<number>()
  const free: number[] = []
  let next = first
  return {
    get used() {
      return taken.size
    },
    take() {
      let index = free.pop()
      while (index !== undefined && index >= endNow()) index = free.pop()
      while (index === undefined && next < endNow()) {
        if (!taken.has(next) && !resting.has(next)) index = next
        next++
      }
      if (index === undefined) return null
      taken.add(index)
      return index
    },
    reserve(index) {
      if (index < first || index >= endNow() || taken.has(index)) return false
      taken.add(index)
      return true
    },
    giveBack(index) {
      if (taken.delete(index)) resting.add(index)
    },
    settle() {
      // Those not yet passed by `next` are found again by it.
      for (const index of resting) if (index < next) free.push(index)
      resting.clear()
    },
    clear() {
      taken.clear()
      resting.clear()
      free.length = 0
      next = first
    }
  }
}
