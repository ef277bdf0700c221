// Rows of `pod_sources`: addresses that pods may send with besides their own.

import { addressIn, maskAddress, splitPrefix, toMapped, unmappedPrefix } from '../address.js'
import type { Plan, PodSource } from '../plan/types.js'
import { eachOf } from '../slice.js'
import type { Prefix } from '../state/types.js'
import { isFull, type MapAccess } from './access.js'
import { CODES, STRUCTS } from './layout.js'
import { createMirror, type Mirror } from './mirror.js'

const keyAt = STRUCTS.pod_source_key.offset

export interface PodSourceRows {
  mirror: Mirror
  load(): void
  /** Brings the rows of these devices, of all if absent, to what the plan says, in steps. How many did not fit. */
  write(plan: Plan, among?: Iterable<number>): Generator<void, number>
}

export function createPodSourceRows(access: MapAccess): PodSourceRows {
  const mirror = createMirror(access.map('pod_sources'))
  /** Keys by ifindex. */
  const keys = new Map<number, Set<string>>()

  const writeDevice = (ifindex: number, wanted: readonly PodSource[]): number => {
    const rows = new Map(wanted.map((source) => [keyOf(ifindex, source.prefix), source]))
    const have = keys.get(ifindex) ?? new Set()
    for (const key of have) if (!rows.has(key) && mirror.remove(key)) have.delete(key)
    let refused = 0
    for (const [key, { masquerade }] of rows) {
      try {
        mirror.put(key, encodePodSource(masquerade))
        have.add(key)
      } catch (error) {
        if (!isFull(error)) throw error
        refused++
      }
    }
    if (have.size > 0) keys.set(ifindex, have)
    else keys.delete(ifindex)
    return refused
  }

  return {
    mirror,
    load() {
      mirror.load()
      keys.clear()
      for (const key of mirror.rows.keys()) {
        const { ifindex } = decodePodSourceKey(Buffer.from(key, 'hex'))
        keys.set(ifindex, (keys.get(ifindex) ?? new Set()).add(key))
      }
    },
    *write(plan, among) {
      let refused = 0
      yield* eachOf(among ?? new Set([...keys.keys(), ...plan.devices.keys()]), (ifindex) => {
        refused += writeDevice(ifindex, plan.devices.get(ifindex)?.sources ?? [])
      })
      return refused
    }
  }
}

function keyOf(ifindex: number, prefix: Prefix): string {
  const { address, length, family } = splitPrefix(prefix)
  const bytes = Buffer.alloc(STRUCTS.pod_source_key.size)
  bytes.writeUInt32LE(32 + (family === 4 ? 96 : 0) + length, keyAt.prefix_length)
  bytes.writeUInt32LE(ifindex, keyAt.ifindex)
  bytes.write(toMapped(maskAddress(address, length)), keyAt.address, 'hex')
  return bytes.toString('hex')
}

export function decodePodSourceKey(bytes: Buffer): { ifindex: number; prefix: Prefix } {
  return {
    ifindex: bytes.readUInt32LE(keyAt.ifindex),
    prefix: unmappedPrefix(addressIn(bytes, keyAt.address, 16), bytes.readUInt32LE(keyAt.prefix_length) - 32)
  }
}

function encodePodSource(masquerade: boolean): Buffer {
  const bytes = Buffer.alloc(STRUCTS.pod_source.size)
  bytes.writeUInt32LE(masquerade ? CODES.SOURCE_OTHER : CODES.SOURCE_STAYS, STRUCTS.pod_source.offset.source)
  return bytes
}

/** Also of bytes that are none of ours. */
export function decodePodSource(bytes: Buffer): { masquerade: boolean } {
  return { masquerade: bytes.readUInt32LE(STRUCTS.pod_source.offset.source) !== CODES.SOURCE_STAYS }
}
