// Who works on something that others may change waits for a turn.
//
// Invariants
// - One at a time, in the order in which they came. Who comes while nothing is in
//   work begins at once, and has ended when run() returns if its work is short.
// - While `busy`, whoever changes what is worked on waits: between two slices of a
//   turn, and from one turn to the next, nothing is changed.

import { Slice } from './slice.js'

const sliceMilliseconds = 4

export class Turns {
  private taken = false
  private readonly waiting: (() => void)[] = []
  private readonly watching: (() => void)[] = []

  /** restFrom: milliseconds of work after which the event loop turns; for tests. */
  constructor(private readonly restFrom = sliceMilliseconds) {}

  get busy(): boolean {
    return this.taken
  }

  /** Resolves when nothing is in work or waits. Somebody may have begun since: look at `busy` once more. */
  idle(): Promise<void> {
    return this.taken ? new Promise((resolve) => this.watching.push(resolve)) : Promise.resolve()
  }

  /** Takes the steps in slices when it is their turn. Rejects with what they throw. */
  async run<Result>(begin: () => Generator<void, Result>): Promise<Result> {
    if (this.taken) await new Promise<void>((resolve) => this.waiting.push(resolve))
    this.taken = true
    try {
      const steps = begin()
      const slice = new Slice(this.restFrom)
      for (;;) {
        const { done, value } = steps.next()
        if (done) return value
        if (slice.due(true)) await slice.rest()
      }
    } finally {
      this.leave()
    }
  }

  private leave(): void {
    const next = this.waiting.shift()
    if (next) return next()
    this.taken = false
    for (const resolve of this.watching.splice(0)) resolve()
  }
}
