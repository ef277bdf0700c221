// Text of a file that others may put anything in the place of: a pipe nobody
// writes to, a device without end. It holds nobody up and takes little memory.

import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs'

const partSize = 64 * 1024
/** Bytes of a file in the state or the run directory: the texts of masquerade files are kept there. */
const mostOfOurs = 16 * 1024 * 1024

/** What a daemon has written into its state or run directory, whatever has been put there since. Throws as readTextFile(). */
export function readOwnFile(path: string): string {
  return readTextFile(path, mostOfOurs, 'a file that hostroute writes')
}

/**
 * Throws what opening and reading throw (ENOENT, ...), and an Error that says so
 * where it is no regular file or has more than `most` bytes, which is too long
 * for `what`.
 */
export function readTextFile(path: string, most: number, what: string): string {
  const file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY)
  try {
    const facts = fstatSync(file)
    if (!facts.isFile()) throw new Error('is not a regular file')
    if (facts.size > most) throw tooLong(facts.size, most, what)
    const parts: Buffer[] = []
    // it may grow meanwhile
    for (let length = 0, read = -1; read !== 0; ) {
      const part = Buffer.allocUnsafe(partSize)
      read = readSync(file, part, 0, partSize, null)
      length += read
      if (length > most) throw tooLong(length, most, what)
      parts.push(part.subarray(0, read))
    }
    return Buffer.concat(parts).toString('utf8')
  } finally {
    closeSync(file)
  }
}

function tooLong(size: number, most: number, what: string): Error {
  return new Error(`${size} bytes is too long for ${what} (at most ${most})`)
}
