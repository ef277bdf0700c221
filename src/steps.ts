// A long piece of work in steps, between which it can be told to end.

/** Why it has not gone on. */
export class Ending extends Error {
  constructor() {
    super('the daemon has been told to end')
    this.name = 'Ending'
  }
}

export class Steps {
  /** Aborted with an Ending. */
  constructor(private readonly signal: AbortSignal) {}

  /** Between two steps: what has come meanwhile, signals too, is heard. Rejects with the Ending. */
  async next(): Promise<void> {
    // whoever comes from the poll phase, where signals arrive, has to get there once more
    for (let turn = 0; turn < 2; turn++) await new Promise((resolve) => setImmediate(resolve))
    this.signal.throwIfAborted()
  }

  /** A step that takes its time by itself. Rejects as `step` does, or at once with the Ending; then nobody hears of it any more. */
  async done<Result>(step: Promise<Result>): Promise<Result> {
    let end = () => {}
    const ended = new Promise<never>((_, reject) => {
      end = () => reject(this.signal.reason as Error)
      if (this.signal.aborted) end()
      else this.signal.addEventListener('abort', end)
    })
    try {
      return await Promise.race([step, ended])
    } finally {
      this.signal.removeEventListener('abort', end)
    }
  }
}

/** Steps of which none is taken any more once the signal is given: then it throws the signal's reason. */
export function* unlessAborted<Result>(signal: AbortSignal, steps: Generator<void, Result>): Generator<void, Result> {
  for (;;) {
    signal.throwIfAborted()
    const { done, value } = steps.next()
    if (done) return value
    yield
  }
}
