// `pods` and its direct-mapped front `pod_slots`. bpf/pods.h computes the same
// index.
//
// A slot is larger than a word and is not written in one step. So that no program
// meets an address with another pod's row, a slot changes its pod in three
// writes: its address goes, the row changes, the new address comes.

import { noMac } from '../address.js'
import type { WantedPod } from '../plan/types.js'
import type { Address } from '../state/types.js'
import { CapacityError, isFull, type MapAccess } from './access.js'
import { decodeAddress, decodePod, decodePodSlot, encodeAddress, encodePod, encodePodSlot } from './codec.js'
import { CODES, POD_SLOTS, STRUCTS } from './layout.js'
import { createMirror, indexKey, type Mirror } from './mirror.js'

const podAt = STRUCTS.pod_slot.offset.pod

/** Row of pod_slots for an address. IPv4: the low bits. IPv6: the four words folded and multiplied. */
export function podSlotIndex(address: Address): number {
  if (address.length === 8) return Number.parseInt(address, 16) & (POD_SLOTS - 1)
  let folded = 0
  for (let at = 0; at < 32; at += 8) folded ^= Number.parseInt(address.slice(at, at + 8), 16)
  return Math.imul(folded, 0x9e3779b1) >>> 18
}

export interface PodRows {
  pods: Mirror
  slots: Mirror
  load(): void
  /** The hash first, then the slot. CapacityError: the hash is full. */
  write(wanted: WantedPod, id: number): void
  /** The slot first, then the hash. */
  remove(address: Address): void
  has(address: Address): boolean
  addresses(): Iterable<Address>
  /** Addresses by device with the id they have, as read at the start. */
  found(): { address: Address; ifindex: number; id: number }[]
}

export function createPodRows(access: MapAccess): PodRows {
  const pods = createMirror(access.map('pods'))
  const slots = createMirror(access.map('pod_slots'))
  /** Addresses that share a slot; the first is in it. */
  const sharing = new Map<number, Address[]>()
  const rowOf = (address: Address): Buffer | undefined => pods.rows.get(keyOf(address))

  const writeSlot = (index: number): void => {
    const [first = null, ...others] = sharing.get(index) ?? []
    const key = indexKey(index)
    const before = slots.rows.get(key)
    if (first === null) {
      slots.remove(key)
      return
    }
    const pod = rowOf(first)
    if (!pod || !isReady(pod)) {
      slots.put(key, encodePodSlot(null, null, true))
      return
    }
    const after = encodePodSlot(first, pod, others.length > 0)
    if (!(before && samePod(before, after))) {
      if (before) slots.put(key, encodePodSlot(null, before.subarray(podAt, podAt + pod.length), true))
      slots.put(key, encodePodSlot(null, pod, true))
    }
    slots.put(key, after)
  }

  return {
    pods,
    slots,
    has: (address) => pods.rows.has(keyOf(address)),
    *addresses() {
      for (const key of pods.rows.keys()) yield decodeAddress(Buffer.from(key, 'hex'))
    },
    found() {
      return [...pods.rows].map(([key, bytes]) => {
        const { ifindex, id } = decodePod(bytes)
        return { address: decodeAddress(Buffer.from(key, 'hex')), ifindex, id }
      })
    },
    load() {
      pods.load()
      slots.load()
      sharing.clear()
      for (const key of pods.rows.keys()) {
        const address = decodeAddress(Buffer.from(key, 'hex'))
        const index = podSlotIndex(address)
        const list = sharing.get(index) ?? []
        const slot = slots.rows.get(indexKey(index))
        if (slot && decodePodSlot(slot).address === address) list.unshift(address)
        else list.push(address)
        sharing.set(index, list)
      }
      for (const key of [...slots.rows.keys()])
        if (!sharing.has(Buffer.from(key, 'hex').readUInt32LE())) slots.remove(key)
      for (const index of sharing.keys()) writeSlot(index)
    },
    write(wanted, id) {
      const index = podSlotIndex(wanted.address)
      const key = keyOf(wanted.address)
      try {
        pods.put(key, encodeWanted(wanted, id))
      } catch (cause) {
        if (!isFull(cause)) throw cause
        const family = wanted.address.length === 8 ? 4 : 6
        throw new CapacityError([family], `pods is full at ${pods.map.info.maxEntries} addresses`, { cause })
      }
      const list = sharing.get(index) ?? []
      if (!list.includes(wanted.address)) list.push(wanted.address)
      sharing.set(index, list)
      writeSlot(index)
    },
    remove(address) {
      const index = podSlotIndex(address)
      const list = (sharing.get(index) ?? []).filter((other) => other !== address)
      if (list.length > 0) sharing.set(index, list)
      else sharing.delete(index)
      writeSlot(index)
      pods.remove(keyOf(address))
    }
  }
}

function isReady(row: Buffer): boolean {
  return (decodePod(row).flags & CODES.POD_READY) !== 0
}

function keyOf(address: Address): string {
  return encodeAddress(address).toString('hex')
}

function encodeWanted(wanted: WantedPod, id: number): Buffer {
  const ready = wanted.mac !== null || wanted.l3
  return encodePod({
    ifindex: wanted.ifindex,
    id,
    mtu: wanted.mtu,
    flags: (ready ? CODES.POD_READY : 0) | (wanted.l3 ? CODES.POD_L3 : 0),
    mac: wanted.mac ?? noMac,
    hostMac: wanted.hostMac
  })
}

/** Same address, device and life: what else differs may be written in place. */
function samePod(a: Buffer, b: Buffer): boolean {
  return a.subarray(0, 24).equals(b.subarray(0, 24))
}
