// Keeps the kernel's neighbour entries in use marked "managed" (NTF_EXT_MANAGED,
// Linux 5.16), so that it goes on checking them though their packets no longer
// pass through its stack.
//
// Level-triggered: each pass compares what is wanted with what the kernel last
// said, so an entry that somebody flushed is marked again. One request at a time;
// an entry that refuses is tried again no sooner than `retryAfter`.

import type { Logger } from '../log.js'
import { type NeighbourRequests, openNeighbourRequests } from '../netlink/requests.js'
import { type Address, type NeighbourKey, NeighbourState, type NodeState } from '../state/types.js'

type Wanted = ReadonlyMap<NeighbourKey, { ifindex: number; address: Address }>

const retryAfter = 2000
const fixedStates = NeighbourState.permanent | NeighbourState.noarp

export class ManagedNeighbours {
  /** Keys "ifindex/address" this daemon (or the one before it) has marked. */
  private readonly marked = new Map<NeighbourKey, { ifindex: number; address: Address }>()
  private readonly triedAt = new Map<NeighbourKey, number>()
  private wanted: Wanted = new Map()
  private readonly requests: NeighbourRequests = openNeighbourRequests()
  private running = false
  private again = false

  constructor(
    private readonly state: NodeState,
    private readonly log: Logger
  ) {}

  /** Starts a pass; returns at once. */
  update(wanted: Wanted): void {
    this.wanted = wanted
    if (this.running) {
      this.again = true
      return
    }
    this.running = true
    void this.pass().finally(() => {
      this.running = false
      if (!this.again) return
      this.again = false
      this.update(this.wanted)
    })
  }

  /** Takes every mark away again. */
  async release(): Promise<void> {
    this.wanted = new Map()
    for (const [key, entry] of this.marked) await this.mark(key, entry.ifindex, entry.address, false)
  }

  /** Nothing is asked of the kernel any more. */
  close(): void {
    this.requests.close()
  }

  private async pass(): Promise<void> {
    const now = performance.now()
    for (const [key, { ifindex, address }] of this.wanted) {
      const known = this.state.neighbours.get(key)
      if (known?.managed && !this.marked.has(key)) this.marked.set(key, { ifindex, address })
      // permanent entries need no keeping
      if (known?.managed || (known && known.state & fixedStates)) continue
      if (now - (this.triedAt.get(key) ?? Number.NEGATIVE_INFINITY) < retryAfter) continue
      await this.mark(key, ifindex, address, true)
    }
    for (const [key, { ifindex, address }] of [...this.marked]) {
      if (!this.wanted.has(key)) await this.mark(key, ifindex, address, false)
    }
    for (const key of this.triedAt.keys()) if (!this.wanted.has(key)) this.triedAt.delete(key)
  }

  private async mark(key: NeighbourKey, ifindex: number, address: Address, on: boolean): Promise<void> {
    if (on) this.triedAt.set(key, performance.now())
    try {
      const outcome = await this.requests.setManaged(ifindex, address, on)
      if (on && (outcome === 'done' || outcome === 'unchanged')) this.marked.set(key, { ifindex, address })
    } catch (error) {
      this.log.debug(`neighbour ${key} cannot be ${on ? 'kept fresh' : 'released'}: ${(error as Error).message}`)
    }
    if (!on) this.marked.delete(key)
  }
}
