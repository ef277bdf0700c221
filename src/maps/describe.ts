// A row of any of our maps in words, for `hostroute verify` and for status.

import { formatAddress, formatPrefix } from '../address.js'
import { reasonName } from '../reasons.js'
import {
  decodeAddress,
  decodeClassRouteKey,
  decodeDevice,
  decodeGroup,
  decodeMasquerade,
  decodeMasqueradeKey,
  decodeNeighbour,
  decodeNeighbourKey,
  decodeNexthop,
  decodePod,
  decodePodSlot,
  decodeRoute,
  decodeRouteKey,
  readable
} from './codec.js'
import { splitClassRow } from './keys.js'
import { CODES } from './layout.js'
import { decodePodSource, decodePodSourceKey } from './pod-sources.js'
import { decodeSources } from './snat-sources.js'

/** A map's key as people write it: an address, a prefix, a row's number. */
export function describeKey(map: string, key: Buffer): string {
  switch (map) {
    case 'routes4':
    case 'routes6':
      return formatPrefix(decodeRouteKey(key))
    case 'class_routes4':
    case 'class_routes6': {
      const { number, prefix } = splitClassRow(decodeClassRouteKey(key))
      return `${formatPrefix(prefix)} in class ${number}`
    }
    case 'pods':
      return formatAddress(decodeAddress(key))
    case 'neighbours': {
      const { ifindex, address } = decodeNeighbourKey(key)
      return `device ${ifindex}, ${formatAddress(address)}`
    }
    case 'pod_sources': {
      const { ifindex, prefix } = decodePodSourceKey(key)
      return `device ${ifindex}, ${formatPrefix(prefix)}`
    }
    case 'masquerade': {
      const { epoch, prefix } = decodeMasqueradeKey(key)
      return `${formatPrefix(prefix)} in epoch ${epoch}`
    }
    default:
      return key.length === 4 ? `row ${key.readUInt32LE()}` : key.toString('hex')
  }
}

/** A map's value with fields named; null: the row is absent or empty. */
export function describeValue(map: string, value: Buffer | null): Record<string, unknown> | null {
  return value === null ? null : readable(decode(map, value))
}

function decode(map: string, value: Buffer): object {
  switch (map) {
    case 'routes4':
    case 'routes6':
    case 'class_routes4':
    case 'class_routes6': {
      const { action, nexthop, reason } = decodeRoute(value)
      if (action === CODES.ROUTE_STACK) return { action: 'stack', reason: reasonName(reason) }
      if (action === CODES.ROUTE_MAIN) return { action: 'main' }
      if (action === CODES.ROUTE_NEXTHOP) return { action: 'nexthop', nexthop }
      return action === CODES.ROUTE_GROUP ? { action: 'group', group: nexthop } : { action, nexthop, reason }
    }
    case 'pods':
      return decodePod(value)
    case 'pod_slots':
      return decodePodSlot(value)
    case 'pod_sources':
      return decodePodSource(value)
    case 'devices':
      return decodeDevice(value)
    case 'snat_sources':
      return { addresses: [...new Set(decodeSources(value))] }
    case 'nexthops':
      return decodeNexthop(value)
    case 'groups':
      return { legs: decodeGroup(value) }
    case 'neighbours':
      return decodeNeighbour(value)
    case 'masquerade':
      return { masquerade: decodeMasquerade(value) }
    default:
      return { bytes: value.toString('hex') }
  }
}
