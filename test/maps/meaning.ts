// What a writer's maps say, comparable between objects.

import * as codec from '../../src/maps/codec.js'
import { indexKey } from '../../src/maps/mirror.js'
import type { FakeObject } from './fake.js'

/** What the maps mean, free of indexes and ids: comparable with the plan and between objects. */
export function meaning(object: FakeObject): Record<string, unknown> {
  const nexthop = (index: number): string => {
    const row = codec.decodeNexthop(
      object.map('nexthops').lookup(Buffer.from(indexKey(index), 'hex')) ?? Buffer.alloc(64)
    )
    return JSON.stringify(row)
  }
  const group = (index: number): string[] =>
    codec
      .decodeGroup(object.map('groups').lookup(Buffer.from(indexKey(index), 'hex')) ?? Buffer.alloc(256))
      .map(nexthop)
  const rows = (name: string): [string, string][] => Object.entries(object.contents()[name] ?? {})
  const routes = ['routes4', 'routes6'].flatMap((name) =>
    rows(name).map(([prefix, value]) => {
      const row = codec.decodeRoute(Buffer.from(value, 'hex'))
      return [
        codec.decodeRouteKey(Buffer.from(prefix, 'hex')),
        row.action === 0 ? row.reason : row.action === 1 ? nexthop(row.nexthop) : group(row.nexthop)
      ]
    })
  )
  // A class is known by the devices that have it.
  const holders = (family: 4 | 6, number: number): string =>
    rows('devices')
      .map(([, value]) => codec.decodeDevice(Buffer.from(value, 'hex')))
      .filter((row) => (family === 4 ? row.class4 : row.class6) === number)
      .map((row) => row.ifindex)
      .sort()
      .join()
  const ofClasses = ([4, 6] as const).flatMap((family) =>
    rows(`class_routes${family}`).map(([key, value]) => {
      const [number, prefix] = codec.decodeClassRouteKey(Buffer.from(key, 'hex')).split(' ')
      const row = codec.decodeRoute(Buffer.from(value, 'hex'))
      const where = [row.reason, nexthop(row.nexthop), group(row.nexthop), 'main'][row.action]
      return [`${holders(family, Number(number)) || 'nobody'} ${prefix}`, where]
    })
  )
  const epoch = codec.decodeControl(object.readControl()).masqueradeEpoch
  const masquerade = rows('masquerade').map(([prefix, value]) => {
    const decoded = codec.decodeMasqueradeKey(Buffer.from(prefix, 'hex'))
    return [decoded.prefix, decoded.epoch === epoch, value]
  })
  const pods = rows('pods').map(([address, value]) => [
    address,
    { ...codec.decodePod(Buffer.from(value, 'hex')), id: 0 }
  ])
  const devices = rows('devices').map(([slot, value]) => [
    slot,
    {
      ...codec.decodeDevice(Buffer.from(value, 'hex')),
      row: 0,
      podId: 0,
      class4: 0,
      class6: 0
    }
  ])
  return {
    ofClasses: Object.fromEntries(ofClasses),
    routes: Object.fromEntries(routes),
    masquerade: masquerade.sort(),
    pods: Object.fromEntries(pods),
    devices: Object.fromEntries(devices),
    neighbours: Object.fromEntries(rows('neighbours'))
  }
}

/** Keys in order. */
export function sorted(value: unknown): unknown {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) return value
  return Object.entries(value)
    .map(([name, inner]) => [name, sorted(inner)])
    .sort((a, b) => String(a[0]).localeCompare(String(b[0])))
}
