// A reason for which the daemon cannot run and which a restart does not cure.
// main.ts prints it as one sentence and exits with status 2.

export class Refusal extends Error {
  /** `text` names what is missing and what to do. */
  constructor(text: string, cause?: unknown) {
    super(text, { cause })
    this.name = 'Refusal'
  }
}
