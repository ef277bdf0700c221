// RTM_NEWNEXTHOP, RTM_DELNEXTHOP: struct nhmsg and NHA_*; and the sharing of
// equal next hops, because 100,000 routes have a handful of them.

import type { NexthopObject, RouteNexthop } from '../state/types.js'
import { afterAttribute, attributeEnd, attributeType, readAddress, readI32, readU8, readU16, readU32 } from './bytes.js'
import { AF_INET, RTNH_F_DEAD, RTNH_F_LINKDOWN, RTNH_F_ONLINK } from './constants.js'

const NHA_ID = 1
const NHA_GROUP = 2
const NHA_GROUP_TYPE = 3
const NHA_BLACKHOLE = 4
const NHA_OIF = 5
const NHA_GATEWAY = 6
const NHA_ENCAP_TYPE = 7
const NHA_FDB = 11
const groupEntryLength = 8

const sharedLimit = 50_000
const shared = new Map<string, RouteNexthop[]>()

/** Equal lists become one list. What comes back is never changed by anybody. */
export function shareNexthops(nexthops: RouteNexthop[]): RouteNexthop[] {
  let key = ''
  for (const { ifindex, gateway, weight, dead, onlink, encap } of nexthops) {
    key += `${ifindex}/${gateway ?? ''}/${weight}/${(dead ? 1 : 0) | (onlink ? 2 : 0) | (encap ? 4 : 0)} `
  }
  const known = shared.get(key)
  if (known) return known
  // Dropping the table loses sharing, nothing else.
  if (shared.size >= sharedLimit) shared.clear()
  shared.set(key, nexthops)
  return nexthops
}

export function nexthopFlags(flags: number): { dead: boolean; onlink: boolean } {
  return { dead: (flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN)) !== 0, onlink: (flags & RTNH_F_ONLINK) !== 0 }
}

/** null: a bucket or something else without an id. */
export function decodeNexthopObject(bytes: Buffer, body: number, end: number): NexthopObject | null {
  const family = readU8(bytes, body, end)
  const flags = readU32(bytes, body + 4, end)
  const nexthop: RouteNexthop = { ifindex: 0, gateway: null, weight: 1, ...nexthopFlags(flags), encap: false }
  const object: NexthopObject = {
    id: 0,
    family: family === AF_INET ? 4 : 6,
    nexthop: null,
    blackhole: false,
    group: [],
    unsupported: []
  }
  for (let at = body + 8; at < end; at = afterAttribute(bytes, at)) {
    const stop = attributeEnd(bytes, at, end)
    const payload = at + 4
    switch (attributeType(bytes, at)) {
      case NHA_ID:
        object.id = readU32(bytes, payload, stop)
        break
      case NHA_GROUP:
        object.group = decodeGroup(bytes, payload, stop)
        break
      case NHA_GROUP_TYPE:
        if (readU16(bytes, payload, stop) !== 0) object.unsupported.push('resilient group')
        break
      case NHA_BLACKHOLE:
        object.blackhole = true
        break
      case NHA_OIF:
        nexthop.ifindex = readI32(bytes, payload, stop)
        break
      case NHA_GATEWAY:
        nexthop.gateway = readAddress(bytes, payload, stop)
        break
      case NHA_ENCAP_TYPE:
        nexthop.encap = true
        break
      case NHA_FDB:
        object.unsupported.push('bridge forwarding entry')
        break
    }
  }
  if (nexthop.ifindex !== 0 && !object.blackhole) object.nexthop = nexthop
  return object.id === 0 ? null : object
}

/** struct nexthop_grp: weight is stored less one, its upper byte (6.12) was zero before. */
function decodeGroup(bytes: Buffer, first: number, end: number): { id: number; weight: number }[] {
  const group: { id: number; weight: number }[] = []
  for (let at = first; at + groupEntryLength <= end; at += groupEntryLength) {
    const weight = readU8(bytes, at + 4, end) | (readU8(bytes, at + 5, end) << 8)
    group.push({ id: readU32(bytes, at, end), weight: weight + 1 })
  }
  return group
}
