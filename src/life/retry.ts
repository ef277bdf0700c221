// Tries what failed again, less and less often, until it works.

export interface RetryTimes {
  /** Milliseconds before the first further try. */
  first: number
  /** Milliseconds between two tries, at most. */
  most: number
}

/** One action that may fail. `action` resolves with true once it has worked; it must not throw. */
export class Retry {
  private pause = 0
  private timer: NodeJS.Timeout | undefined
  private due: number | null = null
  private trying = false
  /** stop() was called while it was tried. */
  private ended = false

  constructor(
    private readonly times: RetryTimes,
    private readonly action: () => Promise<boolean> | boolean
  ) {}

  /** When the next try comes, or the one that goes on was due: milliseconds since 1970; null: none is planned. */
  get next(): number | null {
    return this.due
  }

  /** It has failed: another try comes after a pause that doubles each time. One that is planned already stays. */
  again(): void {
    if (this.trying) this.ended = false
    if (this.due !== null || this.trying) return
    this.pause = Math.min(this.times.most, this.pause === 0 ? this.times.first : this.pause * 2)
    this.due = Date.now() + this.pause
    this.timer = setTimeout(() => void this.turn(), this.pause)
    this.timer.unref()
  }

  /** What it failed for may have changed: the next try comes at once. Nothing happens if none is planned. */
  now(): void {
    if (this.due === null || this.trying) return
    clearTimeout(this.timer)
    void this.turn()
  }

  /** It has worked, or is not wanted any more. */
  stop(): void {
    clearTimeout(this.timer)
    this.due = null
    this.pause = 0
    this.ended = true
  }

  private async turn(): Promise<void> {
    this.trying = true
    this.ended = false
    const worked = await this.action()
    this.trying = false
    this.due = null
    if (worked) this.stop()
    else if (!this.ended) this.again()
  }
}
