// One dump request and what comes back: the addon pushes chunks, the sync loop
// takes them at its own pace.

import { native } from '../native.js'
import type { DumpRequest } from './dumps.js'

/** Routes as the addon hands them over; see dumpRoutes(). */
export interface RouteChunk {
  kinds: Buffer
  records: Uint32Array
}

/** The chunks of one dump, to be taken one after the other. */
class Inbox<Chunk> {
  interrupted = false
  failure: unknown = null
  private chunks: Chunk[] = []
  private taken = 0
  private done = false
  private wake: () => void = () => {}

  constructor(start: (take: (chunk: Chunk) => void) => Promise<{ interrupted: boolean }>) {
    const take = (chunk: Chunk) => {
      this.chunks.push(chunk)
      this.wake()
    }
    start(take)
      .then(
        ({ interrupted }) => {
          this.interrupted = interrupted
        },
        (error: unknown) => {
          this.failure = error
        }
      )
      .finally(() => {
        this.done = true
        this.wake()
      })
  }

  /** null: that was the last one. */
  async next(): Promise<Chunk | null> {
    for (;;) {
      const chunk = this.chunks[this.taken]
      if (chunk) {
        this.taken++
        return chunk
      }
      this.chunks = []
      this.taken = 0
      if (this.done) return null
      await new Promise<void>((resolve) => {
        this.wake = resolve
      })
    }
  }
}

/** Messages as the kernel sends them. */
export class DumpInbox extends Inbox<Buffer> {
  constructor({ type, body, events, protocol }: DumpRequest) {
    super((take) => native().dumpNetlink(type, body, take, events, protocol))
  }
}

export class RouteInbox extends Inbox<RouteChunk> {
  constructor({ body, events }: DumpRequest) {
    super((take) =>
      native().dumpRoutes(body, (kinds, records) => take({ kinds, records: new Uint32Array(records) }), events)
    )
  }
}
