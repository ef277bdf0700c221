// What is wrong with a configuration file, with its place in it.

export interface Problem {
  file: string
  /** From 1; 0: the file as a whole. */
  line: number
  column: number
  /** Dotted key, '' for the file as a whole. */
  key: string
  /** What was found and what is allowed. */
  text: string
}

/** "config.yaml:3:9: snat.ports: ..." */
export function formatProblem(problem: Problem): string {
  const place = problem.line > 0 ? `${problem.file}:${problem.line}:${problem.column}` : problem.file
  return problem.key === '' ? `${place}: ${problem.text}` : `${place}: ${problem.key}: ${problem.text}`
}

/** A file that is not accepted; holds every problem found, at least one. */
export class ConfigError extends Error {
  override name = 'ConfigError'
  constructor(readonly problems: Problem[]) {
    super(problems.map(formatProblem).join('\n'))
  }
}

/** The candidate most like what was written, if it is alike enough to be a slip. */
export function didYouMean(written: string, candidates: readonly string[]): string | null {
  let best: string | null = null
  let least = Math.max(2, Math.floor(written.length / 3)) + 1
  for (const candidate of candidates) {
    const distance = editDistance(written.toLowerCase(), candidate.toLowerCase())
    if (distance < least) {
      least = distance
      best = candidate
    }
  }
  return best
}

function editDistance(a: string, b: string): number {
  if (Math.abs(a.length - b.length) > 40) return 40
  let row = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const change = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(change, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row[b.length] ?? 0
}
