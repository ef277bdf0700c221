// What a change of maps has left to do when its last step failed: tried again until
// it is done, and done before anything else that replaces maps or loads by the pins.

import type { Logger } from '../log.js'
import type { Unfinished } from './migration.js'

export class Finishing {
  /** Why it is not done yet; null: nothing is left to do. */
  problem: string | null = null
  private pending: Unfinished | null = null

  constructor(private readonly log: Logger) {}

  get isPending(): boolean {
    return this.pending !== null
  }

  /** The programs of these maps have just been attached. Never throws: see problem. */
  begin(unfinished: Unfinished): void {
    this.pending = unfinished
    this.attempt()
  }

  /** true: nothing is left to do. Never throws. */
  attempt(): boolean {
    try {
      this.finish()
      return true
    } catch (error) {
      const text = `maps took over, and are not pinned in the place of the earlier ones yet: ${(error as Error).message}`
      if (text !== this.problem) this.log.error(text)
      this.problem = text
      return false
    }
  }

  /** Throws what keeps it from being done. */
  finish(): void {
    this.pending?.finish()
    this.pending = null
    this.problem = null
  }
}
