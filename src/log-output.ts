// Where the lines of the log go: descriptor 1, at once, so that the last words of
// a dying process are written. A line that cannot be written is no reason to end
// or to wait: it is counted, and that is said as soon as there is room again.

import { constants, fstatSync, openSync, writeSync } from 'node:fs'

/** Bytes kept for a reader who is slow. */
const mostWaiting = 1024 * 1024
const retryAfter = 100
const turnsAtExit = 10

export interface LineOutput {
  write(line: string): void
}

/**
 * notice: the line that says how many were lost, and the code of the last error.
 * write: takes what it can, returns how many bytes, throws; absent: to stdout.
 */
export function lineOutput(
  notice: (lost: number, code: string) => string,
  write: (bytes: Buffer) => number = stdoutWriter()
): LineOutput {
  const waiting: Buffer[] = []
  let bytesWaiting = 0
  let lost = 0
  let code = ''
  let retrying = false

  const lose = (why: string) => {
    lost++
    code = why
  }
  /** What is left of the bytes; null: nothing waits, they are written or lost. */
  const put = (bytes: Buffer): Buffer | null => {
    try {
      const taken = write(bytes)
      return taken < bytes.length ? bytes.subarray(taken) : null
    } catch (error) {
      const { code: why = 'unknown error' } = error as NodeJS.ErrnoException
      if (why === 'EAGAIN') return bytes
      lose(why)
      return null
    }
  }
  const wait = (bytes: Buffer) => {
    waiting.push(bytes)
    bytesWaiting += bytes.length
    retry()
  }
  const retry = () => {
    if (retrying) return
    retrying = true
    setTimeout(() => {
      retrying = false
      flush()
    }, retryAfter).unref()
  }
  const flush = () => {
    while (waiting.length > 0) {
      const bytes = waiting.shift() as Buffer
      bytesWaiting -= bytes.length
      const rest = put(bytes)
      if (rest === null) continue
      waiting.unshift(rest)
      bytesWaiting += rest.length
      return retry()
    }
  }
  process.once('exit', () => {
    for (let turn = 0; turn < turnsAtExit; turn++) {
      flush()
      if (waiting.length === 0) return
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, retryAfter)
    }
  })
  return {
    write(line) {
      if (waiting.length > 0) flush()
      if (bytesWaiting > mostWaiting) return lose('EAGAIN')
      const before = lost
      const text = before > 0 ? notice(before, code) + line : line
      const bytes = Buffer.from(text)
      if (waiting.length > 0) {
        wait(bytes)
        lost = 0
        return
      }
      const rest = put(bytes)
      if (lost > before) return
      lost = 0
      if (rest) wait(rest)
    }
  }
}

/** Never waits: a pipe is opened anew, since others who hold it may want to; a socket, as the journal's, is this process's. */
function stdoutWriter(): (bytes: Buffer) => number {
  let file = 1
  try {
    const facts = fstatSync(1)
    // making it makes the socket one that does not wait
    if (facts.isSocket()) void process.stdout
    if (facts.isFIFO()) file = openSync('/proc/self/fd/1', constants.O_WRONLY | constants.O_NONBLOCK)
  } catch {
    // then it is written to as it is
  }
  return (bytes) => writeSync(file, bytes)
}
