// Every way in which a request fails: a code for programs, a text for people. The
// codes are part of the API; one that has been answered once keeps its meaning.

/** HTTP status by code. */
export const failureStatus = {
  /** It cannot be served as it was asked. */
  'bad-request': 400,
  'not-http': 400,
  /** It changes the node, and the caller is not root. */
  'not-permitted': 403,
  'no-such-path': 404,
  'wrong-method': 405,
  late: 408,
  /** It can only be served while hostroute is enabled. */
  disabled: 409,
  /** It can only be served while the guard runs. */
  'guard-off': 409,
  'body-too-long': 413,
  'headers-too-long': 431,
  /** It failed inside the daemon, whose log says more. */
  failed: 500,
  /** Too many of its kind are being served. */
  busy: 503
} as const

export type FailureCode = keyof typeof failureStatus

/** Failures that the caller of the socket sees by itself. */
export type UnansweredCode = 'not-running' | 'no-answer' | 'no-access' | 'broken-off'

export class Failure extends Error {
  override name = 'Failure'
  constructor(
    readonly code: FailureCode,
    text: string
  ) {
    super(text)
  }
}
