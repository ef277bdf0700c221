// Errors that pass by themselves: for want of room or of descriptors, or because
// somebody else was quicker. Who ends on one ends so that it is tried again.

const codes = new Set(['EMFILE', 'ENFILE', 'ENOMEM', 'ENOBUFS', 'EAGAIN', 'EINTR', 'EBUSY', 'ENOSPC'])

/** Also of what was thrown because of one (cause), or together with one (AggregateError). */
export function isTransient(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  if (codes.has((error as { code?: string }).code ?? '')) return true
  return isTransient(error.cause) || (error instanceof AggregateError && error.errors.some(isTransient))
}

/** Several errors as one; its message has all of theirs. */
export function together(errors: readonly Error[]): AggregateError {
  return new AggregateError(errors, errors.map(({ message }) => message).join('; '))
}
