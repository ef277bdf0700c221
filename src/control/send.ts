// Answers whose text is whole, at the reader's pace: what is long goes in pieces,
// so that it shows whether the reader takes any of it.

import type { ServerResponse } from 'node:http'

const piece = 64 * 1024

/** Resolves when all of it is with the socket, or the reader is gone. onHeld: bytes that are not yet. */
export async function sendText(
  response: ServerResponse,
  status: number,
  type: string,
  text: string,
  onHeld: (bytes: number) => void
): Promise<void> {
  if (response.headersSent || response.destroyed) return
  const body = Buffer.from(text)
  response.writeHead(status, { 'content-type': type, 'content-length': body.length })
  try {
    for (let at = 0; at < body.length && !response.destroyed; at += piece) {
      const part = body.subarray(at, at + piece)
      onHeld(body.length - at - part.length)
      if (at + piece >= body.length) response.end(part)
      else if (!response.write(part)) await drained(response)
    }
  } finally {
    onHeld(0)
  }
}

/** There is room for more, or the reader is gone. */
export function drained(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      response.off('drain', done)
      response.off('close', done)
      resolve()
    }
    response.on('drain', done)
    response.on('close', done)
    if (response.destroyed) done()
  })
}
