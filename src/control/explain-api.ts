// What becomes of a packet, and why: question and answer over the control
// socket. As in api.ts: JSON as it crosses the socket, null for "none".

import type { ReasonKind } from '../reasons.js'
import type { Family } from '../state/types.js'

export interface ExplainRequest {
  /** An address, or the host-side device of a pod. */
  from: string
  /** ICMP: the identifier. Absent: one that no flow of the source uses towards `to`, as a new socket would. */
  fromPort?: number
  /** An address. */
  to: string
  /** Not for ICMP. */
  toPort?: number
  /** Absent: tcp with a port, icmp without. */
  protocol?: 'tcp' | 'udp' | 'icmp'
  /** Where it comes in. Absent: the pod's device, or the uplink that the way back to `from` takes. */
  device?: string
  /** Bytes of the IP packet; absent: a small one. */
  size?: number
  /** Absent: 64. */
  ttl?: number
  /** TCP: letters of FSRPAU. Absent: S. */
  flags?: string
}

export interface ExplainedPacket {
  family: Family
  protocol: 'tcp' | 'udp' | 'icmp'
  source: string
  sourcePort: number
  destination: string
  /** null: ICMP. */
  destinationPort: number | null
  flags: string | null
  /** ICMP: which kind of echo. */
  echo: 'request' | 'reply' | null
  ttl: number
  size: number
}

/** A stage that the packet passed, or where it ended. */
export interface ExplainedStage {
  /** 'device', 'source', 'pod', 'flow', 'route', 'next hop', 'masquerade', 'port', 'neighbour', ... */
  stage: string
  /** What was found there, one sentence. */
  found: string
}

export interface Explanation {
  packet: ExplainedPacket
  /** Where it comes in, the program that decides there, and how that place was found. program null: none, the kernel has it. */
  in: { device: string; role: 'pod' | 'uplink' | null; program: string | null; why: string | null }
  verdict: ReasonKind
  /** Name as in DropRow; 'not-served' where no program is. */
  reason: string
  /** One sentence. */
  summary: string
  /** verdict forwarded. */
  out: {
    device: string
    /** Whose MAC it is sent to: a pod, a gateway, the destination itself. */
    nextHop: string
    /** null: the kernel's neighbour entry fills it in. */
    mac: string | null
    mtu: number | null
  } | null
  /** What is rewritten. `drawn`: the port is one that is free now; a real packet draws its own. */
  nat: { what: 'source' | 'destination'; address: string; port: number; drawn: boolean } | null
  /** The prefix of the routes that answered, and of the masquerade policy. */
  route: string | null
  masquerade: { masquerade: boolean; prefix: string } | null
  stages: ExplainedStage[]
}
