// RTM_NEWROUTE, RTM_DELROUTE: struct rtmsg and RTA_*.
//
// An attribute that changes where a packet goes and that Route has no field
// for is named in `unsupported`. Lists that are equal are shared between
// routes; nobody changes them.

import { noAddress, prefixKey, unspecified } from '../address.js'
import type { Address, Route, RouteNexthop } from '../state/types.js'
import {
  afterAttribute,
  aligned,
  attributeEnd,
  attributeType,
  Malformed,
  readAddress,
  readI32,
  readU8,
  readU16,
  readU32
} from './bytes.js'
import { AF_INET, AF_INET6 } from './constants.js'
import { nexthopFlags, shareNexthops } from './nexthop.js'

const RTM_F_CLONED = 0x200
const nexthopHeaderLength = 8
const RTAX_MTU = 2
/** Unicast and local (also broadcast, anycast, multicast) have a device; from here on packets end. */
const RTN_BLACKHOLE = 6

const RTA_DST = 1
const RTA_SRC = 2
const RTA_IIF = 3
const RTA_OIF = 4
const RTA_GATEWAY = 5
const RTA_PRIORITY = 6
const RTA_PREFSRC = 7
const RTA_METRICS = 8
const RTA_MULTIPATH = 9
const RTA_TABLE = 15
const RTA_VIA = 18
const RTA_NEWDST = 19
const RTA_ENCAP_TYPE = 21
const RTA_NH_ID = 30
/** Known, and without influence on where a forwarded packet goes: realms, cache info, preference, ... */
const harmless = new Set([10, 11, 12, 13, 14, 16, 17, 20, 22, 23, 24, 25, 26, 27, 28, 29])

const nothing: string[] = []
const noNexthops: RouteNexthop[] = []

/** null: another address family, or a cached (cloned) route. */
export function decodeRoute(bytes: Buffer, body: number, end: number): Route | null {
  const familyNumber = readU8(bytes, body, end)
  const flags = readU32(bytes, body + 8, end)
  if ((familyNumber !== AF_INET && familyNumber !== AF_INET6) || (flags & RTM_F_CLONED) !== 0) return null
  const family = familyNumber === AF_INET ? 4 : 6
  let destination = unspecified[family]
  let source: Address | null = null
  let table = readU8(bytes, body + 4, end)
  let metric = 0
  let preferredSource: Address | null = null
  let mtu = 0
  let nexthopId = 0
  let ifindex = 0
  let gateway: Address | null = null
  let encap = false
  let multipath: RouteNexthop[] | null = null
  let unsupported = nothing
  const refuse = (what: string): void => {
    unsupported = [...unsupported, what]
  }
  for (let at = body + 12; at < end; at = afterAttribute(bytes, at)) {
    const stop = attributeEnd(bytes, at, end)
    const payload = at + 4
    const type = attributeType(bytes, at)
    switch (type) {
      case RTA_DST:
        destination = readAddress(bytes, payload, stop)
        break
      case RTA_SRC:
        source = readAddress(bytes, payload, stop)
        break
      case RTA_IIF:
        refuse('incoming device')
        break
      case RTA_OIF:
        ifindex = readI32(bytes, payload, stop)
        break
      case RTA_GATEWAY:
        gateway = readAddress(bytes, payload, stop)
        break
      case RTA_VIA:
        gateway = readVia(bytes, payload, stop)
        break
      case RTA_PRIORITY:
        metric = readU32(bytes, payload, stop)
        break
      case RTA_PREFSRC:
        preferredSource = readAddress(bytes, payload, stop)
        break
      case RTA_METRICS:
        mtu = readMtu(bytes, payload, stop)
        break
      case RTA_MULTIPATH:
        multipath = readMultipath(bytes, payload, stop)
        break
      case RTA_TABLE:
        table = readU32(bytes, payload, stop)
        break
      case RTA_NH_ID:
        nexthopId = readU32(bytes, payload, stop)
        break
      case RTA_ENCAP_TYPE:
        encap ||= readU16(bytes, payload, stop) !== 0
        break
      case RTA_NEWDST:
        refuse('new destination')
        break
      default:
        if (!harmless.has(type)) refuse(`attribute ${type}`)
    }
  }
  const prefixLength = readU8(bytes, body + 1, end)
  if (prefixLength > destination.length * 4 || destination.length !== (family === 4 ? 8 : 32))
    throw new Malformed('prefix')
  const sourceLength = readU8(bytes, body + 2, end)
  if (sourceLength > 0) refuse(`${sourceMark}${prefixKey(source ?? noAddress, sourceLength)}`)
  const type = readU8(bytes, body + 7, end)
  let nexthops = noNexthops
  if (type < RTN_BLACKHOLE && multipath) nexthops = shareNexthops(multipath)
  else if (type < RTN_BLACKHOLE && (ifindex !== 0 || gateway !== null)) {
    nexthops = shareNexthops([{ ifindex, gateway, weight: 1, ...nexthopFlags(flags), encap }])
  }
  if (nexthops.some((nexthop) => nexthop.encap)) refuse('encapsulation')
  return {
    family,
    destination,
    prefixLength,
    table,
    type,
    metric,
    tos: readU8(bytes, body + 3, end),
    protocol: readU8(bytes, body + 5, end),
    scope: readU8(bytes, body + 6, end),
    nexthops,
    nexthopId,
    preferredSource,
    mtu,
    unsupported
  }
}

/** How a source prefix (IPv6 subtree) is named in `unsupported`. */
export const sourceMark = 'from '

/** struct rtvia: family, then the address. */
function readVia(bytes: Buffer, at: number, end: number): Address {
  const family = readU16(bytes, at, end)
  if (family !== AF_INET && family !== AF_INET6) throw new Malformed('via')
  return readAddress(bytes, at + 2, end)
}

function readMtu(bytes: Buffer, first: number, end: number): number {
  for (let at = first; at < end; at = afterAttribute(bytes, at)) {
    const stop = attributeEnd(bytes, at, end)
    if (attributeType(bytes, at) === RTAX_MTU) return readU32(bytes, at + 4, stop)
  }
  return 0
}

/** RTA_MULTIPATH: each struct rtnexthop has its own length and attributes. */
function readMultipath(bytes: Buffer, first: number, end: number): RouteNexthop[] {
  const nexthops: RouteNexthop[] = []
  for (let at = first; at < end; ) {
    const length = readU16(bytes, at, end)
    if (length < nexthopHeaderLength || length > end - at) throw new Malformed('next hop length')
    nexthops.push(readNexthop(bytes, at, at + length))
    at += aligned(length)
  }
  return nexthops
}

function readNexthop(bytes: Buffer, start: number, end: number): RouteNexthop {
  const nexthop: RouteNexthop = {
    ifindex: readI32(bytes, start + 4, end),
    gateway: null,
    weight: readU8(bytes, start + 3, end) + 1,
    ...nexthopFlags(readU8(bytes, start + 2, end)),
    encap: false
  }
  for (let at = start + nexthopHeaderLength; at < end; at = afterAttribute(bytes, at)) {
    const stop = attributeEnd(bytes, at, end)
    const type = attributeType(bytes, at)
    if (type === RTA_GATEWAY) nexthop.gateway = readAddress(bytes, at + 4, stop)
    else if (type === RTA_VIA) nexthop.gateway = readVia(bytes, at + 4, stop)
    else if (type === RTA_ENCAP_TYPE) nexthop.encap ||= readU16(bytes, at + 4, stop) !== 0
  }
  return nexthop
}
