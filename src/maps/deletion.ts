// The context of the program delete_flows: which flows it deletes, and how many
// it has deleted.

import { familyOf, maskAddress, netmask, toMapped } from '../address.js'
import type { Address, Family } from '../state/types.js'
import { CODES, STRUCTS } from './layout.js'

const { size, offset } = STRUCTS.delete_args

/** All that are there have to hold; none: every flow. */
export interface Deletion {
  podAddress?: Address
  /** As in the maps `pods` and `devices`. */
  podId?: number
  remote?: { address: Address; length: number }
  remotePort?: number
  /** CODES.FLOW_*. */
  verdict?: number
  /** Jiffies since the flow's first packet, at least. */
  age?: number
  /** Jiffies since its last, at least. */
  idle?: number
  /** jiffies, low 32 bits: younger flows stay. */
  started: number
  /** Only counts. */
  dryRun: boolean
}

export interface DeletionResult {
  /** Flows that every filter fits. */
  chosen: number
  deleted: number
}

export function encodeDeletion(deletion: Deletion, family: Family): Buffer {
  const bytes = Buffer.alloc(size)
  let filters = 0
  const filter = <T>(value: T | undefined, flag: number, write: (value: T) => void) => {
    if (value === undefined) return
    filters |= flag
    write(value)
  }
  const number = (at: number) => (value: number) => void bytes.writeUInt32LE(value >>> 0, at)
  filter(deletion.podAddress, CODES.DELETE_POD_ADDRESS, (address) => bytes.write(toMapped(address), offset.pod, 'hex'))
  filter(deletion.podId, CODES.DELETE_POD_ID, number(offset.pod_id))
  filter(deletion.remote, CODES.DELETE_REMOTE, ({ address, length }) => {
    bytes.write(toMapped(maskAddress(address, length)), offset.remote, 'hex')
    // also what says that an IPv4 address is one
    const mask = netmask(familyOf(address), length).padStart(32, 'f')
    bytes.write(mask, offset.remote_mask, 'hex')
  })
  filter(deletion.remotePort, CODES.DELETE_REMOTE_PORT, (port) => void bytes.writeUInt16BE(port, offset.remote_port))
  filter(deletion.verdict, CODES.DELETE_VERDICT, (verdict) => void bytes.writeUInt8(verdict, offset.verdict))
  filter(deletion.age, CODES.DELETE_OLDER, number(offset.age))
  filter(deletion.idle, CODES.DELETE_IDLE, number(offset.idle))
  if (deletion.dryRun) filters |= CODES.DELETE_DRY_RUN
  bytes.writeUInt32LE(family, offset.family)
  bytes.writeUInt32LE(filters, offset.filters)
  bytes.writeUInt32LE(deletion.started >>> 0, offset.started)
  return bytes
}

export function decodeDeletion(bytes: Buffer): DeletionResult {
  return { chosen: bytes.readUInt32LE(offset.chosen), deleted: bytes.readUInt32LE(offset.deleted) }
}
