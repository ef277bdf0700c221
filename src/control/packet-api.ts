// What became of packets, and events about them, as the control socket answers
// it. As in api.ts everything is JSON as it crosses the socket.

import type { ReasonKind } from '../reasons.js'
import type { Family } from '../state/types.js'

/** Packets of one device that had one reason (names: REASON_* of bpf/types.h, lowercase, '-' for '_'). */
export interface DropRow {
  device: string
  reason: string
  class: ReasonKind
  packets: number
  bytes: number
  packetsPerSecond: number
  bytesPerSecond: number
}

export type EventRow =
  | {
      type: 'packet'
      time: string
      reason: string
      class: ReasonKind
      in: string
      out: string | null
      family: Family | null
      protocol: string | null
      source: string | null
      sourcePort: number | null
      destination: string | null
      destinationPort: number | null
      length: number
      /** Events the programs could not send before this one. */
      lost: number
    }
  | {
      type: 'flow'
      time: string
      in: string
      out: string | null
      family: Family
      protocol: string
      source: string
      sourcePort: number
      destination: string
      destinationPort: number
      natAddress: string | null
      natPort: number | null
      lost: number
    }
