// Errors that pass by themselves: for want of room or of descriptors, or because
// somebody else was quicker. Who ends on one ends so that it is tried again.

const codes = new Set(['EMFILE', 'ENFILE', 'ENOMEM', 'ENOBUFS', 'EAGAIN', 'EINTR', 'EBUSY', 'ENOSPC'])

export function isTransient(error: unknown): boolean {
  return codes.has((error as { code?: string } | null)?.code ?? '')
}
