// The node as those see it who look after it or answer questions about it. They
// read it as it is at that moment; what they may do to it is handed to them apart.

import type { Config } from '../config/config.js'
import type { Datapath } from '../datapath/datapath.js'
import type { Logger } from '../log.js'
import type { Plan } from '../plan/types.js'
import type { NodeState } from '../state/types.js'
import type { Masquerade } from './masquerade-policy.js'
import type { ProblemCode } from './problem-kinds.js'
import type { Problems } from './problems.js'

export interface ObservedNode {
  readonly config: Config
  /** false: the kernel's tables have not been read yet, `state` and `plan` are empty. */
  readonly synced: boolean
  readonly state: NodeState
  readonly plan: Plan
  /** null: disabled. */
  readonly datapath: Datapath | null
  readonly masquerade: Masquerade
  readonly problems: Problems
  /** Milliseconds until it is undone unless confirmed; null: not on probation. */
  readonly probationLeft: number | null
  readonly log: Logger
  /** Names of devices that were a pod's and are uplinks now. */
  podsThatBecameUplinks(): string[]
  /** Milliseconds since 1970; null: what the problem is about is not tried again by the clock. */
  nextTry(code: ProblemCode): number | null
  /** "device 7" for one that is not there any more. */
  deviceName(ifindex: number): string
  /** Logged at a limited rate, and kept for `status`. */
  problem(area: string, text: string): void
}
