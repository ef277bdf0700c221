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
export async function sendRows(response: ServerResponse, rows: RowStream): Promise<void> {
  const texts = textOf(rows)
  let text = await texts.next()
  try {
    response.writeHead(200, { 'content-type': 'application/json' })
    for (; !text.done; text = await texts.next()) {
      // bytes, since those that wait are counted
      if (!response.write(Buffer.from(text.value))) await drained(response)
      if (response.destroyed) return
      // a write may be over at once: others have their turn all the same
      await new Promise((resolve) => setImmediate(resolve))
    }
    response.end()
  } catch (error) {
    response.destroy()
    throw error
  } finally {
    await texts.return()
  }
}

/** The answer, a part at a time; the first comes with the first rows. */
export async function* textOf({ name, parts }: RowStream): AsyncGenerator<string, void> {
  try {
    let part = await parts.next()
    let before = `{${JSON.stringify(name)}:[\n`
    for (; !part.done; part = await parts.next()) {
      if (part.value.length === 0) continue
      yield before + part.value.map((row) => JSON.stringify(row)).join(',\n')
      before = ',\n'
    }
    const rest = JSON.stringify(part.value)
    yield `${before === ',\n' ? '' : before}\n],${rest.slice(1)}\n`
  } finally {
    await parts.return({})
  }
}
