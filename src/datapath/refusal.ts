// A reason for which the daemon cannot run and which a restart does not cure.
// main.ts prints it as one sentence and exits with status 2.

import { isTransient } from '../transient.js'

export class Refusal extends Error {
  /** `text` names what is missing and what to do. */
  constructor(text: string, cause?: unknown) {
    super(text, { cause })
    this.name = 'Refusal'
  }
}

/** Why something could not be done: a refusal, or the error itself where another try may find room. */
export function refusalUnlessTransient(text: string, cause: unknown): unknown {
  return isTransient(cause) ? cause : new Refusal(text, cause)
}
