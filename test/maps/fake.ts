// Maps in memory that behave as the kernel's do, as far as the writer can see:
// sizes are checked, arrays are full of zeros, hashes and tries fill up. Every
// write is logged in order.

import type { MapAccess } from '../../src/maps/access.js'
import { LAYOUT, ROUTE_SLOTS, STRUCTS } from '../../src/maps/layout.js'
import type { BpfMap, MapInfo, NativeError } from '../../src/native.js'

const HASH = 1
const ARRAY = 2
const PERCPU_ARRAY = 6
const LPM = 11
const cpus = 2

const shapes: Record<string, [type: number, keySize: number, valueSize: number, maxEntries: number]> = {
  devices: [ARRAY, 4, STRUCTS.device.size, 16384],
  pod_slots: [ARRAY, 4, STRUCTS.pod_slot.size, 16384],
  pod_sources: [LPM, STRUCTS.pod_source_key.size, STRUCTS.pod_source.size, 65536],
  pods: [HASH, 16, STRUCTS.pod.size, 16384],
  routes4: [LPM, STRUCTS.route4_key.size, STRUCTS.route.size, 1048576],
  routes6: [LPM, STRUCTS.route6_key.size, STRUCTS.route.size, 1048576],
  class_routes4: [LPM, STRUCTS.class_route4_key.size, STRUCTS.route.size, 65536],
  class_routes6: [LPM, STRUCTS.class_route6_key.size, STRUCTS.route.size, 65536],
  nexthops: [ARRAY, 4, STRUCTS.nexthop.size, 16384],
  snat_sources: [ARRAY, 4, STRUCTS.snat_sources.size, 256],
  groups: [ARRAY, 4, STRUCTS.group.size, 1024],
  neighbours: [HASH, STRUCTS.neighbour_key.size, STRUCTS.neighbour.size, 65536],
  masquerade: [LPM, STRUCTS.masquerade_key.size, STRUCTS.masquerade.size, 8192],
  counters: [PERCPU_ARRAY, 4, STRUCTS.counter.size, 1024 * 32],
  counted_before: [HASH, 4, STRUCTS.counter.size, 1024 * 32]
}

export interface Write {
  map: string
  op: 'update' | 'delete' | 'control'
  key: string
  value: string
}

export interface FakeObject extends MapAccess {
  log: Write[]
  maps: Map<string, BpfMap>
  /** Contents of all maps and of control, comparable. */
  contents(): Record<string, Record<string, string>>
  /** Called before each write; may throw what the kernel would. */
  beforeWrite: ((write: Write) => void) | null
}

export function fakeObject(sizes: Record<string, number> = {}): FakeObject {
  const maps = new Map<string, BpfMap>()
  const data = new Map<string, Map<string, Buffer>>()
  const control = Buffer.alloc(STRUCTS.control.size)
  control.writeUInt32LE(LAYOUT)
  const object: FakeObject = {
    log: [],
    maps,
    beforeWrite: null,
    map(name) {
      const map = maps.get(name)
      if (!map) throw nativeError('ENOENT', `no map ${name}`)
      return map
    },
    readControl: () => Buffer.from(control),
    writeControl(offset, bytes) {
      note({ map: 'control', op: 'control', key: String(offset), value: bytes.toString('hex') })
      bytes.copy(control, offset)
    },
    contents() {
      const all: Record<string, Record<string, string>> = { control: { all: control.toString('hex') } }
      for (const [name, rows] of data) {
        all[name] = Object.fromEntries(
          [...rows].filter(([, value]) => !isZero(value)).map(([key, value]) => [key, value.toString('hex')])
        )
      }
      return all
    }
  }
  const note = (write: Write): void => {
    object.beforeWrite?.(write)
    object.log.push(write)
  }
  for (const [name, [type, keySize, valueSize, maxEntries]] of Object.entries(shapes)) {
    const rows = new Map<string, Buffer>()
    data.set(name, rows)
    maps.set(
      name,
      fakeMap({ name, type, keySize, valueSize, maxEntries: sizes[name] ?? maxEntries, id: maps.size + 1 }, rows, note)
    )
  }
  return object
}

function fakeMap(info: MapInfo, rows: Map<string, Buffer>, note: (write: Write) => void): BpfMap {
  const isArray = info.type === ARRAY || info.type === PERCPU_ARRAY
  const width = info.type === PERCPU_ARRAY ? info.valueSize * cpus : info.valueSize
  const check = (key: Buffer, value?: Buffer): string => {
    if (key.length !== info.keySize) throw nativeError('EINVAL', `${info.name}: key of ${key.length} bytes`)
    if (value && value.length !== width) throw nativeError('EINVAL', `${info.name}: value of ${value.length} bytes`)
    if (isArray && key.readUInt32LE() >= info.maxEntries) throw nativeError('E2BIG', `${info.name}: row out of range`)
    return key.toString('hex')
  }
  const map: BpfMap = {
    info,
    lookup(key) {
      const value = rows.get(check(key))
      if (value) return Buffer.from(value)
      return isArray ? Buffer.alloc(width) : null
    },
    update(key, value) {
      const name = check(key, value)
      if (!isArray && !rows.has(name) && rows.size >= info.maxEntries)
        throw nativeError(info.type === LPM ? 'ENOSPC' : 'E2BIG', `${info.name} is full`)
      note({ map: info.name, op: 'update', key: name, value: value.toString('hex') })
      rows.set(name, Buffer.from(value))
    },
    delete(key) {
      const name = check(key)
      if (isArray) throw nativeError('EINVAL', 'rows of an array cannot be deleted')
      if (!rows.has(name)) return false
      note({ map: info.name, op: 'delete', key: name, value: '' })
      return rows.delete(name)
    },
    updateBatch(keys, values, count) {
      for (let i = 0; i < count; i++) {
        try {
          map.update(
            keys.subarray(i * info.keySize, (i + 1) * info.keySize),
            values.subarray(i * width, (i + 1) * width)
          )
        } catch (error) {
          throw Object.assign(error as Error, { written: i })
        }
      }
      return count
    },
    deleteBatch(keys, count) {
      let deleted = 0
      for (let i = 0; i < count; i++) if (map.delete(keys.subarray(i * info.keySize, (i + 1) * info.keySize))) deleted++
      return deleted
    },
    readBatch(position, most) {
      if (info.type !== LPM) throw new Error('readBatch is not needed here')
      // begins anew when the entry has gone, as the kernel does
      const names = [...rows.keys()].sort()
      const first = position === null ? 0 : names.indexOf(position.toString('hex')) + 1
      const part = names.slice(first, first + most)
      return {
        keys: Buffer.concat(part.map((key) => Buffer.from(key, 'hex'))),
        values: Buffer.concat(part.map((key) => rows.get(key) ?? Buffer.alloc(0))),
        count: part.length,
        next: first + most < names.length ? Buffer.from(part.at(-1) ?? '', 'hex') : null
      }
    },
    dump() {
      if (!isArray)
        return {
          keys: Buffer.concat([...rows.keys()].map((key) => Buffer.from(key, 'hex'))),
          values: Buffer.concat([...rows.values()]),
          count: rows.size
        }
      const keys = Buffer.alloc(info.maxEntries * 4)
      const values = Buffer.alloc(info.maxEntries * width)
      for (let i = 0; i < info.maxEntries; i++) keys.writeUInt32LE(i, i * 4)
      for (const [key, value] of rows) value.copy(values, Buffer.from(key, 'hex').readUInt32LE() * width)
      return { keys, values, count: info.maxEntries }
    },
    dumpPresent() {
      if (info.type !== ARRAY) return map.dump()
      const present = [...rows].filter(([, value]) => !isZero(value))
      return {
        keys: Buffer.concat(present.map(([key]) => Buffer.from(key, 'hex'))),
        values: Buffer.concat(present.map(([, value]) => value)),
        count: present.length
      }
    },
    layout() {
      throw new Error('layout is not needed here')
    },
    pin() {
      throw nativeError('EPERM', 'a fake map is not pinned')
    },
    become() {
      throw new Error('become is not needed here')
    },
    close() {}
  }
  return map
}

/** control.route_generations */
export function generationsOf(object: FakeObject): number[] {
  const control = object.readControl()
  const { route_generations: first } = STRUCTS.control.offset
  return Array.from({ length: ROUTE_SLOTS }, (_, slot) => control.readUInt32LE(first + slot * 4))
}

function isZero(bytes: Buffer): boolean {
  return bytes.every((byte) => byte === 0)
}

export function nativeError(code: string, message: string): NativeError {
  return Object.assign(new Error(message), { code, errno: 1, syscall: 'bpf' })
}
