// Keys of the plan's tables that are made of several things: put together and
// taken apart here, and nowhere else.

import { joinAddresses, splitAddresses } from '../address.js'
import type { Address, AddressList, Family, Prefix, Text } from '../state/types.js'

/** Identity of a next hop: "3/0a000001/1500/0a000005+0a000006/-", the same key is the same row whatever its MAC. */
export type NexthopKey = Text<'next hop'>
/** Of a class: "4-0123456789ab". The same key is the same way through the tables, whatever is in them. */
export type ClassKey = Text<'class'>
/** "4-0123456789ab 0a000000/8" */
export type ClassRouteKey = Text<'route of a class'>

/** Addresses for SNAT in a next hop's key: several are sorted; '-': the device has none; 'none': some are configured, and the node has none of them; '?': nobody knows. */
export type SourcesInKey = Address | AddressList | '-' | 'none' | '?'

/** gateway null: on-link. */
export function nexthopKey(
  ifindex: number,
  gateway: Address | null,
  mtu: number,
  snat4: SourcesInKey,
  snat6: SourcesInKey
): NexthopKey {
  return `${ifindex}/${gateway ?? 'onlink'}/${mtu}/${snat4}/${snat6}` as NexthopKey
}

export function splitNexthopKey(key: NexthopKey): {
  ifindex: number
  gateway: Address | null
  mtu: number
  snat4: Address[]
  snat6: Address[]
  noSource: boolean
} {
  const [ifindex, gateway, mtu, snat4, snat6] = key.split('/') as [
    string,
    Address | 'onlink',
    string,
    ...SourcesInKey[]
  ]
  return {
    ifindex: Number(ifindex),
    gateway: gateway === 'onlink' ? null : gateway,
    mtu: Number(mtu),
    snat4: addressesIn(snat4),
    snat6: addressesIn(snat6),
    noSource: snat4 === 'none' || snat6 === 'none'
  }
}

function addressesIn(sources: SourcesInKey | undefined): Address[] {
  return sources === undefined || sources === '-' || sources === 'none' || sources === '?'
    ? []
    : splitAddresses(sources as AddressList)
}

/** For SNAT in a key. */
export function sourcesInKey(addresses: readonly Address[]): SourcesInKey {
  return joinAddresses(addresses) || 'none'
}

/** Of a class, not of a prefix. */
export function isClassKey(key: Prefix | ClassKey): key is ClassKey {
  return key[1] === '-'
}

/** digest: of the way through the tables. */
export function classKey(family: Family, digest: string): ClassKey {
  return `${family}-${digest}` as ClassKey
}

export function classRouteKey(key: ClassKey, prefix: Prefix): ClassRouteKey {
  return `${key} ${prefix}` as ClassRouteKey
}

export function splitClassRouteKey(key: ClassRouteKey): { key: ClassKey; prefix: Prefix } {
  const space = key.indexOf(' ')
  return { key: key.slice(0, space) as ClassKey, prefix: key.slice(space + 1) as Prefix }
}

export function isClassRoute(key: Prefix | ClassRouteKey): key is ClassRouteKey {
  return key.includes(' ')
}

/** Of a route of a class or of the node's own. */
export function prefixIn(key: Prefix | ClassRouteKey): Prefix {
  return key.slice(key.indexOf(' ') + 1) as Prefix
}
