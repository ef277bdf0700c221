// The best few of many, in the memory of the few: a heap whose top is the worst
// of those that are kept.

export class Best<T> {
  private readonly heap: T[] = []

  /** compare: negative when a is better than b. */
  constructor(
    private readonly limit: number,
    private readonly compare: (a: T, b: T) => number
  ) {}

  add(item: T): void {
    const { heap } = this
    if (heap.length < this.limit) {
      heap.push(item)
      this.rise(heap.length - 1)
    } else if (heap[0] !== undefined && this.compare(item, heap[0]) < 0) {
      heap[0] = item
      this.sink()
    }
  }

  get size(): number {
    return this.heap.length
  }

  /** Takes the worst out. */
  takeWorst(): T | undefined {
    const worst = this.heap[0]
    const last = this.heap.pop()
    if (this.heap.length > 0 && last !== undefined) {
      this.heap[0] = last
      this.sink()
    }
    return worst
  }

  /** Takes all out, the best first. */
  takeAll(): T[] {
    const all: T[] = []
    for (let item = this.takeWorst(); item !== undefined; item = this.takeWorst()) all.push(item)
    return all.reverse()
  }

  private rise(from: number): void {
    for (let at = from; at > 0; ) {
      const above = (at - 1) >> 1
      if (!this.swapIfWorse(at, above)) return
      at = above
    }
  }

  private sink(): void {
    for (let at = 0; ; ) {
      const left = 2 * at + 1
      if (left >= this.heap.length) return
      const right = left + 1
      const child = right < this.heap.length && this.isWorse(right, left) ? right : left
      if (!this.swapIfWorse(child, at)) return
      at = child
    }
  }

  private isWorse(a: number, b: number): boolean {
    return this.compare(this.heap[a] as T, this.heap[b] as T) > 0
  }

  private swapIfWorse(below: number, above: number): boolean {
    if (!this.isWorse(below, above)) return false
    const { heap } = this
    ;[heap[below], heap[above]] = [heap[above] as T, heap[below] as T]
    return true
  }
}
