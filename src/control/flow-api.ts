// What the control socket answers about flows, and how an operator acts on them. As in api.ts everything is JSON as it crosses the socket.

import type { Family } from '../state/types.js'

export type FlowVerdict = 'direct' | 'snat' | 'inbound' | 'stack'

export interface FlowRow {
  family: Family
  protocol: string
  pod: string
  podPort: number
  remote: string
  remotePort: number
  verdict: FlowVerdict
  /** verdict snat. */
  natAddress: string | null
  natPort: number | null
  /** 'opening', 'established', 'closing', 'one-way', 'replied', 'dying'; verdict stack: the reason */
  state: string
  /** Seconds since the last packet. */
  idle: number
  /** Seconds since the first; null where that is not kept (verdict stack). */
  age: number | null
}

export interface FlowFilter {
  family?: Family
  verdict?: FlowVerdict
  protocol?: string
  /** Addresses, text. */
  pod?: string
  remote?: string
}

export interface FlowList {
  flows: FlowRow[]
  /** How many match. */
  total: number
}

/** Rows in parts of a few hundred, at the reader's pace; then how many matched. */
export type FlowStream = AsyncGenerator<FlowRow[], { total: number }>

/** All that are given have to hold. */
export interface FlowSelection {
  /** A pod's address, text, or its device. */
  pod?: string
  /** "203.0.113.0/24" */
  remote?: string
  remotePort?: number
  /** Absent: of every verdict. */
  verdict?: 'snat' | 'direct' | 'inbound'
  /** Seconds since the first packet, at least. */
  olderThan?: number
  /** Seconds since the last packet of either side, at least. */
  idle?: number
}

/** No flow is younger than nothing: such filters choose as many as none at all. */
export function fitsEveryFlow({ pod, remote, remotePort, olderThan = 0, idle = 0 }: FlowSelection): boolean {
  return pod === undefined && remote === undefined && remotePort === undefined && olderThan === 0 && idle === 0
}

export interface FlowDeletion {
  /** Flows of the selection, less those that packets have begun anew meanwhile. */
  deleted: number
  /** With dryRun nothing was deleted and this many would have been. */
  matching: number
  /** Seconds it took. */
  duration: number
}

/** Who asks, known from the socket. */
export interface Caller {
  uid: number
  pid: number
}

/** Flows of one outside address of this node to one remote. */
export interface RemoteUse {
  protocol: string
  remote: string
  remotePort: number
  /** The address they leave with. */
  source: string
  flows: number
  /** Of the ports that SNAT may take: at 1 no further flow can be opened. */
  share: number
}

export interface PodUse {
  pod: string
  /** null: no pod has the address any more. */
  device: string | null
  flows: number
  /** Of them through SNAT. */
  snat: number
  /** Mean of the last `window` seconds, of flows that are still known. */
  newPerSecond: number
}

export interface FlowTop {
  /** Flows in the tables. */
  flows: number
  /** Ports that SNAT may take, towards each remote. */
  ports: number
  /** Seconds. */
  window: number
  remotes: RemoteUse[]
  podsByFlows: PodUse[]
  podsByNewFlows: PodUse[]
  /** How many flows may be missing in a row, since only so many remotes and pods are counted at once; mostly 0. */
  uncertainty: number
}
