// Rows of `devices`, the rows of `counters` they point to, and pods' ids.
//
// A pod's id stands for one life of the pod: it stays while the device keeps at
// least one of its addresses and is never given again, so that no flow of an
// earlier pod applies to a later one with its address. Counter rows are dense;
// a row is zeroed before a device gets it.

import { randomInt } from 'node:crypto'
import type { ClassKey } from '../plan/keys.js'
import type { WantedDevice } from '../plan/types.js'
import { REASON_MAX } from '../reasons.js'
import type { Address, Family } from '../state/types.js'
import { CapacityError, type MapAccess } from './access.js'
import { decodeDevice, encodeDevice } from './codec.js'
import { createIndexPool } from './index-pool.js'
import { CODES, DEVICE_SLOTS, STRUCTS } from './layout.js'
import { createMirror, indexKey, type Mirror } from './mirror.js'

/** Ids after a restart begin this far above the highest in the maps, at random: flows of pods now gone had ids too. */
const idGap = 1 << 20

interface Life {
  id: number
  addresses: readonly Address[]
}

export interface DeviceRows {
  mirror: Mirror
  /** pods: what the map `pods` held. */
  load(pods: Iterable<{ address: Address; ifindex: number; id: number }>): void
  /** Id of the pod behind the device, a new one if this is a new life. Before its addresses are written. */
  podId(device: WantedDevice): number
  /** Takes a row for the device, which write() fills. false: none is left. */
  reserve(ifindex: number): boolean
  /**
   * CapacityError: no counters are left. stack: families left to the kernel
   * besides those of the plan. classId: of a class whose routes are written.
   * true: its packets are routed by another class than before.
   */
  write(device: WantedDevice, stack: ReadonlySet<Family>, classId: (key: ClassKey) => number): boolean
  remove(ifindex: number): void
  /** Leaves these families to the kernel on every device, at once. */
  pause(families: Iterable<Family>): void
  settle(): void
  /** Devices with a row, and its number in counters. */
  readonly rows: ReadonlyMap<number, number>
}

export function createDeviceRows(access: MapAccess): DeviceRows {
  const mirror = createMirror(access.map('devices'))
  const counters = access.map('counters')
  const before = access.map('counted_before')
  const pool = createIndexPool(0, () => Math.floor(counters.info.maxEntries / REASON_MAX))
  const rows = new Map<number, number>()
  /** Rows that are not written yet. */
  const reserved = new Set<number>()
  const lives = new Map<number, Life>()
  let nextId = 1

  const newId = (): number => {
    const id = nextId
    nextId = nextId >= 0xffffffff ? 1 : nextId + 1
    return id
  }
  const zeroCounters = (row: number): void => {
    const first = Buffer.from(indexKey(row * REASON_MAX), 'hex')
    const zeros = Buffer.alloc(counters.lookup(first)?.length ?? counters.info.valueSize)
    for (let reason = 0; reason < REASON_MAX; reason++) {
      const key = Buffer.from(indexKey(row * REASON_MAX + reason), 'hex')
      counters.update(key, zeros)
      before.delete(key)
    }
  }

  const reserve = (ifindex: number): boolean => {
    if (rows.has(ifindex)) return true
    const row = pool.take()
    if (row === null) return false
    zeroCounters(row)
    rows.set(ifindex, row)
    reserved.add(ifindex)
    return true
  }

  return {
    mirror,
    rows,
    reserve,
    settle: pool.settle,
    load(pods) {
      mirror.load()
      pool.clear()
      rows.clear()
      reserved.clear()
      lives.clear()
      let highest = 0
      for (const [key, bytes] of [...mirror.rows]) {
        const { ifindex, row, podId } = decodeDevice(bytes)
        highest = Math.max(highest, podId)
        if (ifindex === 0 || keyOf(ifindex) !== key || !pool.reserve(row)) {
          mirror.remove(key)
          continue
        }
        rows.set(ifindex, row)
        if (podId !== 0) lives.set(ifindex, { id: podId, addresses: [] })
      }
      for (const { address, ifindex, id } of pods) {
        const life = lives.get(ifindex) ?? { id, addresses: [] }
        lives.set(ifindex, { id: life.id, addresses: [...life.addresses, address] })
        highest = Math.max(highest, id)
      }
      nextId = (highest + 1 + randomInt(idGap)) % 0xffffffff || 1
    },
    podId(device) {
      const earlier = lives.get(device.ifindex)
      const none = earlier?.addresses.length === 0 && device.addresses.length === 0
      const kept = none || earlier?.addresses.some((address) => device.addresses.includes(address))
      const life = { id: earlier && kept ? earlier.id : newId(), addresses: device.addresses }
      lives.set(device.ifindex, life)
      return life.id
    },
    write(device, stack, classId) {
      const key = keyOf(device.ifindex)
      reserve(device.ifindex)
      const row = rows.get(device.ifindex)
      if (row === undefined)
        throw new CapacityError([4, 6], `no counters left for ${device.name}: ${rows.size} devices`)
      const isNew = reserved.delete(device.ifindex)
      const written = mirror.rows.get(key)
      const address4 = device.addresses.find((address) => address.length === 8) ?? null
      const bytes = encodeDevice({
        ifindex: device.ifindex,
        row,
        kind: device.role === 'pod' ? CODES.DEVICE_POD : CODES.DEVICE_UPLINK,
        flags:
          flagsOf([...stack, ...device.stack.map((entry) => entry.family)]) |
          // without an address there is none that its packets could be compared with
          (device.role === 'pod' && address4 === null ? CODES.DEVICE_STACK4 : 0) |
          (device.class4 === null ? 0 : CODES.DEVICE_CLASS4) |
          (device.class6 === null ? 0 : CODES.DEVICE_CLASS6),
        podId: device.role === 'pod' ? (lives.get(device.ifindex)?.id ?? 0) : 0,
        mtu: device.mtu,
        address4,
        address6: device.addresses.find((address) => address.length === 32) ?? null,
        class4: device.class4 === null ? 0 : classId(device.class4),
        class6: device.class6 === null ? 0 : classId(device.class6),
        replyTag: device.strictReversePath ? 2 + (row % 254) : 0,
        mac: device.mac
      })
      // A row that comes to life is complete before its ifindex shows.
      if (isNew) {
        const hidden = Buffer.from(bytes)
        hidden.writeUInt32LE(0)
        mirror.put(key, hidden)
      }
      mirror.put(key, bytes)
      return written !== undefined && !sameClasses(written, bytes)
    },
    remove(ifindex) {
      const row = rows.get(ifindex)
      if (row === undefined) return
      const key = keyOf(ifindex)
      const bytes = mirror.rows.get(key)
      if (bytes && decodeDevice(bytes).ifindex === ifindex) mirror.remove(key)
      rows.delete(ifindex)
      reserved.delete(ifindex)
      lives.delete(ifindex)
      pool.giveBack(row)
    },
    pause(families) {
      const flags = flagsOf(families)
      for (const [key, bytes] of [...mirror.rows]) {
        const row = decodeDevice(bytes)
        mirror.put(key, encodeDevice({ ...row, flags: row.flags | flags }))
      }
    }
  }
}

function sameClasses(a: Buffer, b: Buffer): boolean {
  const { class4, address6 } = STRUCTS.device.offset
  return a.subarray(class4, address6).equals(b.subarray(class4, address6))
}

function keyOf(ifindex: number): string {
  return indexKey(ifindex & (DEVICE_SLOTS - 1))
}

function flagsOf(families: Iterable<Family>): number {
  let flags = 0
  for (const family of families) flags |= family === 4 ? CODES.DEVICE_STACK4 : CODES.DEVICE_STACK6
  return flags
}
