// Frames that wait for a power of two of milliseconds. Those of one duration are
// due in the order in which they came: a list and a timer for each duration, and
// no timer while nothing waits.

/** 1 to 512 ms. */
export const durations = 10
const mostFrames = 1024
const mostBytes = 2 * 1024 * 1024
/** In one turn of the event loop. */
const mostAtOnce = 64

interface Entry {
  frame: Buffer
  /** performance.now() */
  due: number
}

interface List {
  entries: Entry[]
  /** The first that waits; those before have gone. */
  head: number
  timer: NodeJS.Timeout | undefined
}

export class Waiting {
  private readonly lists: List[] = Array.from({ length: durations }, () => ({ entries: [], head: 0, timer: undefined }))
  private frames = 0
  private bytes = 0

  constructor(private readonly release: (frame: Buffer) => void) {}

  get size(): number {
    return this.frames
  }

  /** For 1 << exponent milliseconds, exponent below `durations`. false: there is no room. */
  add(frame: Buffer, exponent: number): boolean {
    const list = this.lists[exponent]
    if (!list || this.frames >= mostFrames || this.bytes + frame.length > mostBytes) return false
    this.frames++
    this.bytes += frame.length
    list.entries.push({ frame, due: performance.now() + (1 << exponent) })
    if (list.timer === undefined) this.arm(list, 1 << exponent)
    return true
  }

  /** All that waits is released now; nothing waits after it. */
  flush(): void {
    for (const list of this.lists) {
      clearTimeout(list.timer)
      list.timer = undefined
      while (list.head < list.entries.length) this.releaseFirst(list)
      list.entries = []
      list.head = 0
    }
  }

  private arm(list: List, milliseconds: number): void {
    list.timer = setTimeout(() => this.turn(list), milliseconds).unref()
  }

  private turn(list: List): void {
    list.timer = undefined
    const now = performance.now()
    for (let count = 0; count < mostAtOnce; count++) {
      const first = list.entries[list.head]
      if (!first || first.due > now) break
      this.releaseFirst(list)
    }
    // in one go, so that a long list does not move with each frame
    list.entries.splice(0, list.head)
    list.head = 0
    const next = list.entries[0]
    if (next && list.timer === undefined) this.arm(list, Math.max(0, next.due - performance.now()))
  }

  private releaseFirst(list: List): void {
    const { frame } = list.entries[list.head++] as Entry
    this.frames--
    this.bytes -= frame.length
    this.release(frame)
  }
}
