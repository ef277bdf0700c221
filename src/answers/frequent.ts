// Counts by key in bounded memory (Misra and Gries, "Finding repeated elements"):
// whatever is counted more often than a `most`th of all is there in the end.

export class Frequent<T extends { count: number }> {
  /** How much a count may be too low. */
  uncertainty = 0
  private readonly counts = new Map<string, T>()

  constructor(private readonly most: number) {}

  /** `make` with count 0, when the key is new. */
  add(key: string, make: () => T): T {
    let row = this.counts.get(key)
    if (!row) {
      if (this.counts.size >= 2 * this.most) this.prune()
      row = make()
      this.counts.set(key, row)
    }
    row.count++
    return row
  }

  rows(): IterableIterator<T> {
    return this.counts.values()
  }

  /** All lose what the lower half has at most, and who has nothing left goes. */
  private prune(): void {
    const sorted = Uint32Array.from(this.counts.values(), ({ count }) => count).sort()
    const loss = sorted[this.most] ?? 1
    this.uncertainty += loss
    for (const [key, row] of this.counts) {
      row.count -= loss
      if (row.count <= 0) this.counts.delete(key)
    }
  }
}
