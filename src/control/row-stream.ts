// An answer with a list that is too long to be held: it is sent as it comes, at
// the reader's pace. One JSON object like any other answer, with a row on each
// line so that whoever reads need not hold it either:
//
//   {"flows":[
//   {...},
//   {...}
//   ],"total":2}

import type { ServerResponse } from 'node:http'
import { drained } from './send.js'

export class RowStream {
  constructor(
    readonly name: string,
    /** Parts of a few hundred rows; returns the other keys, which follow the list. */
    readonly parts: AsyncGenerator<object[], object>
  ) {}
}

/** Throws what the rows throw before anything was sent; after that a failure ends the connection, and rejects too. */
export async function sendRows(response: ServerResponse, { name, parts }: RowStream): Promise<void> {
  let part = await parts.next()
  try {
    response.writeHead(200, { 'content-type': 'application/json' })
    response.write(`{${JSON.stringify(name)}:[\n`)
    for (let before = ''; !part.done; part = await parts.next()) {
      const lines = part.value.map((row) => JSON.stringify(row)).join(',\n')
      if (lines !== '') {
        // bytes, since those that wait are counted
        const taken = response.write(Buffer.from(before + lines))
        before = ',\n'
        if (!taken) await drained(response)
        if (response.destroyed) break
      }
      // a write may be over at once: others have their turn all the same
      await new Promise((resolve) => setImmediate(resolve))
    }
    if (!part.done) return
    const rest = JSON.stringify(part.value)
    response.end(`\n],${rest.slice(1)}\n`)
  } catch (error) {
    response.destroy()
    throw error
  } finally {
    await parts.return({})
  }
}
