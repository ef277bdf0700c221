// Long work in slices, so that the event loop turns in between. Such work is a
// generator that yields after each step of about a millisecond at most; who calls
// it takes the steps at once (toEnd), in slices (inSlices), or when it is its turn
// (turns.ts).

const sliceMilliseconds = 8
const factsBetweenLooks = 64
const itemsInStep = 128

/** Divides long work: `if (slice.due()) await slice.rest()` after each small step. */
export class Slice {
  private begin = performance.now()
  private steps = 0

  constructor(private readonly limit = sliceMilliseconds) {}

  /** Looks at the clock only every few steps unless `always`. */
  due(always = false): boolean {
    if (!always && ++this.steps % factsBetweenLooks !== 0) return false
    return performance.now() - this.begin > this.limit
  }

  async rest(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve))
    this.start()
  }

  /** After a rest of another kind. */
  start(): void {
    this.begin = performance.now()
  }
}

/** Runs steps to their end, a slice at a time. */
export async function inSlices<Result>(steps: Generator<void, Result>, limit?: number): Promise<Result> {
  const slice = new Slice(limit)
  for (;;) {
    const { done, value } = steps.next()
    if (done) return value
    if (slice.due(true)) await slice.rest()
  }
}

/** Runs steps to their end, all at once. */
export function toEnd<Result>(steps: Generator<void, Result>): Result {
  for (;;) {
    const { done, value } = steps.next()
    if (done) return value
  }
}

/** Does the same with many, of which each takes some microseconds. */
export function* eachOf<Item>(items: Iterable<Item>, action: (item: Item) => void): Generator<void> {
  let done = 0
  for (const item of items) {
    action(item)
    if (++done % itemsInStep === 0) yield
  }
}
