// What is wrong at this moment: one list, from which status, its exit status, the
// metrics and the journal are fed.
//
// Invariants
// - A problem is there from the moment it was noticed until it was seen to be over.
// - It is logged once when it comes, once when its text changes, once when it is over,
//   by this list or by who notices it.

import type { ProblemRow } from '../control/problem-api.js'
import { type ProblemCode, problemKinds } from './problem-kinds.js'

export interface ProblemLog {
  error(text: string): void
  info(text: string): void
}

interface Noticed {
  text: string
  since: string
  /** When it is tried again. */
  next: () => number | null
}

const order = Object.keys(problemKinds) as ProblemCode[]

export class Problems {
  private readonly noticed = new Map<ProblemCode, Noticed>()

  constructor(private readonly log: ProblemLog) {}

  /** text null: it is over, or was never there. next: when it is tried again, in milliseconds since 1970. */
  set(code: ProblemCode, text: string | null, next: () => number | null = () => null): void {
    const before = this.noticed.get(code)
    if (text === null) {
      if (!before) return
      this.noticed.delete(code)
      this.log.info(`over: ${before.text}`)
      return
    }
    this.noticed.set(code, { text, since: before?.since ?? new Date().toISOString(), next })
    const { remedy, told } = problemKinds[code]
    if (before?.text !== text && !told) this.log.error(`${text}; ${remedy}`)
  }

  /** null: there is no such problem. */
  text(code: ProblemCode): string | null {
    return this.noticed.get(code)?.text ?? null
  }

  /** The gravest first. */
  list(): ProblemRow[] {
    return order.flatMap((code) => {
      const found = this.noticed.get(code)
      if (!found) return []
      const next = found.next()
      return [
        {
          code,
          affects: problemKinds[code].affects,
          since: found.since,
          text: found.text,
          remedy: problemKinds[code].remedy,
          nextTry: next === null ? null : new Date(next).toISOString()
        }
      ]
    })
  }
}
