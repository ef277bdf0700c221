// One dump request and what comes back: the addon pushes chunks, the sync loop
// takes them at its own pace.

import { native } from '../native.js'
import type { DumpRequest } from './dumps.js'

/** The chunks of one dump, to be taken one after the other. */
export class DumpInbox {
  interrupted = false
  failure: unknown = null
  private chunks: Buffer[] = []
  private taken = 0
  private done = false
  private wake: () => void = () => {}

  constructor({ type, body, events, protocol }: DumpRequest) {
    const take = (chunk: Buffer) => {
      this.chunks.push(chunk)
      this.wake()
    }
    native()
      .dumpNetlink(type, body, take, events, protocol)
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
  async next(): Promise<Buffer | null> {
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
