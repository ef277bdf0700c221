// What the control socket may see of the node, and have done to it.

import type { ReloadResult } from '../control/api.js'
import type { Guard } from '../guard/guard.js'
import type { Configuration } from '../life/configuration.js'
import type { ObservedNode } from '../life/observed-node.js'
import type { RecentErrors } from '../life/recent-errors.js'
import type { Switching } from '../life/switching.js'
import type { Sync } from '../netlink/sync.js'
import type { PlanOptions } from '../plan/options.js'
import type { Prefix } from '../state/types.js'
import type { Translated } from '../translated/translated.js'
import type { EventStream } from './event-stream.js'

export interface NodeView extends ObservedNode {
  /** Milliseconds since 1970. */
  readonly started: number
  /** The end of the probation, milliseconds since 1970; null: there is none. */
  readonly confirmBefore: number | null
  /** Why it is not enabled. */
  readonly why: string | null
  /** Milliseconds since 1970; null: there is none, or it never ends. */
  readonly lease: { readonly renewed: number | null; readonly ends: number | null }
  readonly guard: Guard | null
  readonly sync: Pick<Sync, 'status'>
  readonly translated: Pick<Translated, 'summary' | 'unbounded'>
  readonly configuration: Pick<Configuration, 'status'>
  readonly errors: Pick<RecentErrors, 'list'>
  readonly events: EventStream
}

/** What a plan is made from besides the kernel's tables, and what has it made again. */
export interface PlanSource {
  options(): PlanOptions
  /** Prefix keys that the node translates. */
  readonly translated: ReadonlySet<Prefix>
  /** Takes steps while nobody changes the plan in force, nor writes it. */
  inTurn<Result>(steps: () => Generator<void, Result>): Promise<Result>
  /** Plans everything anew from what is known. */
  replan(): Promise<void>
  /** Reads all of the kernel's tables again. */
  resync(): void
}

export interface NodeCommands extends Pick<Switching, 'enable' | 'confirm' | 'disable'> {
  readonly planSource: PlanSource
  reload(): Promise<ReloadResult>
}
