// The connections of the fast path, as its maps have them, for the stack to
// take over.

import { toMapped } from '../address.js'
import { protocols } from '../conntrack/entry.js'
import type { LiveFlow } from '../conntrack/hand-back.js'
import {
  decodeAddress,
  decodeFlow,
  decodePod,
  decodeReverse,
  decodeTuple,
  type FlowRow,
  type ReverseRow
} from '../maps/codec.js'
import { CODES, STRUCTS } from '../maps/layout.js'
import { Slice } from '../netlink/slice.js'
import type { Address, Family } from '../state/types.js'
import { entriesOf, type ReadMap } from './flow-reader.js'

/** Maps of the loaded object, or pinned ones. */
export interface Maps {
  map(name: string): ReadMap
}

export interface LocalPod {
  ifindex: number
  id: number
}

export function podsIn(maps: Maps): Map<Address, LocalPod> {
  const pods = new Map<Address, LocalPod>()
  for (const entries of entriesOf(maps.map('pods'))) {
    for (const { key, value } of entries) {
      const { ifindex, id } = decodePod(value)
      pods.set(decodeAddress(key), { ifindex, id })
    }
  }
  return pods
}

/**
 * Flows through SNAT, and those that others have opened: the stack would take the
 * pod's next packet for the beginning of one, and masquerade it. With `plain` all
 * other TCP connections, too.
 */
export async function liveFlows(maps: Maps, plain: boolean): Promise<LiveFlow[]> {
  const slice = new Slice()
  const flows: LiveFlow[] = []
  for (const family of [4, 6] as const) {
    const reverses = maps.map(`reverse${family}`)
    for (const entries of entriesOf(maps.map(`flows${family}`))) {
      if (slice.due(true)) await slice.rest()
      for (const { key, value } of entries) {
        const row = decodeFlow(value)
        if (row.life === CODES.FLOW_DEAD) continue
        if (row.verdict === CODES.FLOW_SNAT) {
          const bytes = reverses.lookup(reverseKey(key, row, family))
          flows.push(liveFlow(family, key, row, bytes ? decodeReverse(bytes) : null))
        } else if (row.verdict === CODES.FLOW_INBOUND || (plain && decodeTuple(key).protocol === protocols.tcp)) {
          flows.push(liveFlow(family, key, row, null))
        }
      }
    }
  }
  return flows
}

/** The key in reverse* that belongs to a SNATed flow: its SNAT address and port instead of the pod's. */
export function reverseKey(tuple: Buffer, { natAddress, natPort }: FlowRow, family: Family): Buffer {
  const key = Buffer.from(tuple)
  const { local, local_port } = STRUCTS[`tuple${family}`].offset
  if (natAddress) key.write(family === 6 ? toMapped(natAddress) : natAddress, local, 'hex')
  key.writeUInt16BE(natPort, local_port)
  return key
}

function liveFlow(family: Family, key: Buffer, row: FlowRow, reverse: ReverseRow | null): LiveFlow {
  const { protocol, local, localPort, remote, remotePort } = decodeTuple(key)
  const nat = row.verdict === CODES.FLOW_SNAT && row.natAddress ? { address: row.natAddress, port: row.natPort } : null
  return {
    family,
    protocol,
    pod: local,
    podPort: localPort,
    remote,
    remotePort,
    nat,
    opener: row.verdict === CODES.FLOW_INBOUND ? 'remote' : 'pod',
    stage: stageOf(protocol, row, reverse)
  }
}

/** As bpf/expire.h judges, by what was seen of both sides; of a flow without SNAT only the pod's packets are noted. */
function stageOf(protocol: number, row: FlowRow, reverse: ReverseRow | null): LiveFlow['stage'] {
  const answered = row.verdict === CODES.FLOW_SNAT ? reverse?.replied === true : true
  if (protocol !== protocols.tcp) return answered ? 'established' : 'opening'
  if (isClosed(row.tcp)) return 'closing'
  return answered && (row.tcp & CODES.SEEN_ACK) !== 0 ? 'established' : 'opening'
}

/** FlowRow.tcp: reset, or both sides have sent their FIN; as is_closed() in bpf/flow.h. */
export function isClosed(tcp: number): boolean {
  const ends = CODES.SEEN_FIN | CODES.SEEN_REMOTE_FIN
  return (tcp & (CODES.SEEN_RST | CODES.SEEN_REMOTE_RST)) !== 0 || (tcp & ends) === ends
}
