// What `hostroute` answers where the daemon does not, from what is pinned. As in
// api.ts everything is JSON, and the answers have the keys of the daemon's.

import type { AttachedHow, EnableResult, NodeControl, PodRow } from './api.js'
import type { FlowFilter, FlowRow, FlowTop } from './flow-api.js'

/** In every answer, or in every row of one that is a list. */
export interface FromPins {
  source: 'pins'
  /** The programs forward at this moment: they are switched on, and their lease is not over. */
  forwarding: boolean
  /** Until when they do; null: they do not, or for ever. */
  until: string | null
}

/** mac null: it was not known. */
export interface PinnedPodRow extends Omit<PodRow, 'device' | 'ready'>, FromPins {
  /** null: the device with this ifindex is gone or another one, or cannot be seen from here. */
  device: string | null
  /** What it sends takes the programs at this moment; null: its device cannot be seen from here. */
  ready: boolean | null
  /** Ours on its device: by tcx as the kernel says, by clsact as the daemon noted; null: it cannot be seen from here. */
  programs: { name: string; how: AttachedHow }[] | null
  /** Entries of the pod's device with this IP version in the flow table; null: they cannot be read. */
  flows: number | null
}

export type PinnedFlowTop = FlowTop & FromPins

/** What can be asked of pins. */
export interface PinnedControls extends Pick<NodeControl, 'flowTop'> {
  pods(): Promise<PinnedPodRow[]>
  flows(filter: FlowFilter, limit: number | null): AsyncGenerator<FlowRow[], { total: number } & FromPins>
  flowTop(count: number): Promise<PinnedFlowTop>
}

/** By path. */
export const pinnedPaths = ['/v1/pods', '/v1/flows', '/v1/flows/top'] as const

export interface PinnedDisabled extends EnableResult {
  source: 'pins'
  /** The switch was written: the next start of the daemon finds it. */
  staysDisabled: boolean
}
