// How the demo speaks: chapters, facts that hold or not, aligned columns.
// Colour on a terminal only, and not with NO_COLOR.

const coloured = process.stdout.isTTY && !process.env['NO_COLOR']
const paint = (code: number, text: string) => (coloured ? `\x1b[${code}m${text}\x1b[0m` : text)
const WIDTH = 52

export class Story {
  readonly #start = performance.now()
  #held = 0
  readonly #broken: string[] = []

  chapter(title: string): void {
    console.log(`\n${paint(1, title)}`)
  }

  text(words: string): void {
    console.log(words)
  }

  /** States something that was checked, with the evidence beside it. */
  fact(held: boolean, what: string, evidence = ''): void {
    if (held) this.#held += 1
    else this.#broken.push(what)
    const mark = held ? paint(32, '✓') : paint(31, '✗ NOT TRUE:')
    console.log(`  ${mark} ${evidence ? what.padEnd(WIDTH) : what} ${evidence}`.trimEnd())
  }

  /** Rows of cells; the first column is text, the others are aligned to the right. */
  table(rows: readonly (readonly string[])[]): void {
    const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)))
    for (const [index, row] of rows.entries()) {
      const cells = row.map((cell, column) => {
        const width = widths[column] ?? 0
        return column === 0 ? cell.padEnd(width) : cell.padStart(width)
      })
      console.log(`  ${index === 0 ? paint(2, cells.join('   ')) : cells.join('   ')}`)
    }
  }

  /** A line that is replaced by what follows; for a terminal only. */
  progress(words: string): void {
    if (process.stdout.isTTY) process.stdout.write(`\r\x1b[K  ${words}`)
  }

  progressDone(): void {
    if (process.stdout.isTTY) process.stdout.write('\r\x1b[K')
  }

  /** Sums up; the exit status. */
  end(): number {
    const seconds = Math.round((performance.now() - this.#start) / 1_000)
    const failed = this.#broken.length
    if (failed === 0) console.log(`\n${paint(32, `All ${this.#held} facts held`)} (${seconds} s).`)
    else console.log(`\n${paint(31, `${failed} of ${failed + this.#held} facts did not hold`)} (${seconds} s).`)
    return failed === 0 ? 0 : 1
  }
}
