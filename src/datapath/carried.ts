// Whether the fast path carries the connections between two addresses, or leaves
// them to the stack: by what stands in the maps, so that it can be said of the
// pins of a dead daemon, too.

import { familyOf, hostPrefix } from '../address.js'
import {
  decodeDevice,
  decodePod,
  decodeRoute,
  encodeAddress,
  encodeClassRouteKey,
  encodeRouteKey,
  type RouteRow
} from '../maps/codec.js'
import { classRow } from '../maps/keys.js'
import { CODES, DEVICE_SLOTS } from '../maps/layout.js'
import type { Address } from '../state/types.js'
import type { ReadMap } from './flow-reader.js'
import type { Maps } from './live-flows.js'

interface Judged {
  /** A pod of this node; else what lies beyond the node, or is the node itself. */
  isPod: boolean
  /** Of a pod: all that it sends. Else by the routes that hold for all pods. */
  stacks: boolean
  /** Of a pod that ip rules route by tables of their own. */
  routeClass: number | null
}

/** The answers are remembered: for one reading of conntrack, not for longer. */
export function stackConnections(object: Maps): (one: Address, other: Address) => boolean {
  const maps = openOnce(object)
  const known = new Map<Address, Judged>()
  const judged = (address: Address) => {
    const answer = known.get(address) ?? judge(maps, address)
    known.set(address, answer)
    return answer
  }
  const leaves = (pod: Judged, to: Address): boolean => {
    if (!pod.isPod) return false
    if (pod.stacks) return true
    const route = pod.routeClass === null ? null : classRoute(maps, pod.routeClass, to)
    if (route && route.action !== CODES.ROUTE_MAIN) return route.action === CODES.ROUTE_STACK
    const { isPod, stacks } = judged(to)
    return !isPod && stacks
  }
  return (one, other) => leaves(judged(one), other) || leaves(judged(other), one)
}

/** Each map() of an object opens a descriptor. */
function openOnce(object: Maps): Maps {
  const opened = new Map<string, ReadMap>()
  return {
    map: (name) => {
      const map = opened.get(name) ?? object.map(name)
      opened.set(name, map)
      return map
    }
  }
}

function judge(maps: Maps, address: Address): Judged {
  const family = familyOf(address)
  const bytes = maps.map('pods').lookup(encodeAddress(address))
  if (!bytes) {
    const route = maps.map(`routes${family}`).lookup(encodeRouteKey(hostPrefix(address)))
    return { isPod: false, stacks: !route || decodeRoute(route).action === CODES.ROUTE_STACK, routeClass: null }
  }
  const { ifindex } = decodePod(bytes)
  const row = Buffer.alloc(4)
  row.writeUInt32LE(ifindex & (DEVICE_SLOTS - 1))
  const device = decodeDevice(maps.map('devices').lookup(row) ?? Buffer.alloc(maps.map('devices').info.valueSize))
  return {
    isPod: true,
    stacks: device.ifindex !== ifindex || (device.flags & CODES[`DEVICE_STACK${family}`]) !== 0,
    routeClass:
      (device.flags & CODES[`DEVICE_CLASS${family}`]) === 0 ? null : family === 4 ? device.class4 : device.class6
  }
}

function classRoute(maps: Maps, routeClass: number, to: Address): RouteRow | null {
  const bytes = maps
    .map(`class_routes${familyOf(to)}`)
    .lookup(encodeClassRouteKey(classRow(routeClass, hostPrefix(to))))
  return bytes && decodeRoute(bytes)
}
