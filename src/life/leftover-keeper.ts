// What could not be taken away when hostroute left: it is a problem, and tried again
// until nothing of it is there.

import type { Problems } from './problems.js'
import { Retry } from './retry.js'

const retryTimes = { first: 1_000, most: 60_000 }

export interface LeftoverKeeperOptions {
  problems: Problems
  /** Takes away what is there, unless hostroute serves again. Resolves with a sentence for what stays. Rejects. */
  remove(): Promise<string[]>
}

export class LeftoverKeeper {
  private readonly retry = new Retry(retryTimes, () => this.again())

  constructor(private readonly options: LeftoverKeeperOptions) {}

  /** After something was taken away: a sentence for what stays. */
  found(stays: readonly string[]): void {
    if (stays.length === 0) return this.stop()
    this.tell(stays)
    this.retry.again()
  }

  /** Nothing is left, or it belongs to what serves now. */
  stop(): void {
    this.retry.stop()
    this.options.problems.set('left-behind', null)
  }

  private tell(stays: readonly string[]): void {
    const text = `hostroute is off, but not all of it could be taken away: ${stays.join('; ')}`
    this.options.problems.set('left-behind', text, () => this.retry.next)
  }

  private async again(): Promise<boolean> {
    const stays = await this.options.remove().catch((error: Error) => [error.message])
    if (stays.length > 0) this.tell(stays)
    else this.options.problems.set('left-behind', null)
    return stays.length === 0
  }
}
