// What a run says of itself: facts that hold or not, figures, tables. The
// command prints it, a test asserts it.

import type { Test } from 'tap'

export interface Report {
  /** A fact; the run has passed if all hold. */
  check(held: boolean, what: string): void
  /** A part of the run's result line. */
  figure(words: string): void
  /** Rows of cells below the result, the first row a heading. */
  table(rows: readonly (readonly string[])[]): void
  /** What is being done now. */
  progress(words: string): void
  /** Called when the run ends, in reverse order. */
  teardown(close: () => unknown): void
}

/** One run of the command. */
export class ConsoleReport implements Report {
  readonly #figures: string[] = []
  readonly #broken: string[] = []
  readonly #rows: (readonly string[])[] = []
  readonly #closers: (() => unknown)[] = []
  readonly #start = performance.now()
  #told = 0

  constructor(readonly name: string) {}

  check(held: boolean, what: string): void {
    if (!held) this.#broken.push(what)
  }

  figure(words: string): void {
    this.#figures.push(words)
  }

  table(rows: readonly (readonly string[])[]): void {
    this.#rows.push(...rows)
  }

  /** On a terminal the line is replaced; elsewhere there is one each 20 seconds. */
  progress(words: string): void {
    const line = `  ${this.name}, ${this.#seconds()} s: ${words}`
    if (process.stdout.isTTY) process.stdout.write(`\r\x1b[K${line.slice(0, (process.stdout.columns ?? 80) - 1)}`)
    else if (performance.now() - this.#told > 20_000) {
      this.#told = performance.now()
      console.log(line)
    }
  }

  teardown(close: () => unknown): void {
    this.#closers.unshift(close)
  }

  async close(): Promise<void> {
    for (const close of this.#closers) {
      try {
        await close()
      } catch (error) {
        this.check(false, `cleaning up: ${(error as Error).message}`)
      }
    }
  }

  /** Prints the result; true if it passed. */
  end(): boolean {
    if (process.stdout.isTTY) process.stdout.write('\r\x1b[K')
    const passed = this.#broken.length === 0
    const word = passed ? 'ok    ' : 'NOT OK'
    console.log(`${word}  ${this.name.padEnd(11)}  ${this.#figures.join('; ')} (${this.#seconds()} s)`)
    for (const broken of this.#broken) console.log(`        ✗ ${broken}`)
    const widths = (this.#rows[0] ?? []).map((_, at) => Math.max(...this.#rows.map((row) => row[at]?.length ?? 0)))
    for (const row of this.#rows) {
      console.log(`        ${row.map((cell, at) => cell.padEnd(widths[at] ?? 0)).join('  ')}`.trimEnd())
    }
    return passed
  }

  #seconds(): number {
    return Math.round((performance.now() - this.#start) / 1_000)
  }
}

/** A short part of a run as a test. */
export function reportTo(t: Test): Report {
  return {
    check: (held, what) => void t.ok(held, what),
    figure: (words) => t.comment(words),
    table: (rows) => {
      for (const row of rows) t.comment(row.join(' | '))
    },
    progress: () => {},
    teardown: (close) => t.teardown(close)
  }
}

export const count = (value: number): string => Math.round(value).toLocaleString('en-US')
