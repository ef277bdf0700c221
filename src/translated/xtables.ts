// Matches and targets of iptables, as legacy tables and the compat expressions
// of iptables-nft carry them: struct xt_*_info.

import { addressIn } from '../address.js'
import { nothing } from './elements.js'
import { intersect, type Limit } from './ranges.js'

/** Targets after which the destination is another one, or a socket of the node. */
export const translatingTargets: ReadonlySet<string> = new Set([
  'DNAT',
  'DNETMAP',
  'NETMAP',
  'RAWDNAT',
  'REDIRECT',
  'TPROXY'
])

/** Bits of the types of the node's own addresses: local, broadcast, anycast, multicast. */
const ownTypes = (1 << 2) | (1 << 3) | (1 << 4) | (1 << 5)

/** What a match leaves of the destinations; one that is not known leaves them all. */
export function matchLimit(name: string, revision: number, info: Buffer, limit: Limit): Limit {
  if (name === 'addrtype' && isOwn(revision, info)) return nothing
  if (name === 'iprange') return inRange(info, limit)
  return limit
}

/** -m addrtype --dst-type LOCAL and the like. */
function isOwn(revision: number, info: Buffer): boolean {
  if (info.length < 8) return false
  const types = info.readUInt16LE(2)
  if (types === 0 || (types & ~ownTypes) !== 0) return false
  if (revision === 0) return info.length >= 12 && info.readUInt32LE(8) === 0
  return (info.readUInt32LE(4) & 2) === 0 // XT_ADDRTYPE_INVERT_DEST
}

/** -m iprange --dst-range: struct xt_iprange_mtinfo. */
function inRange(info: Buffer, limit: Limit): Limit {
  if (info.length < 65) return limit
  const flags = info[64] as number
  if ((flags & 2) === 0 || (flags & 32) !== 0) return limit
  const between = (length: number) => [{ first: addressIn(info, 32, length), last: addressIn(info, 48, length) }]
  const left = (family: 4 | 6) =>
    limit[family].length === 0 ? limit[family] : intersect(limit[family], between(family === 4 ? 4 : 16))
  return { 4: left(4), 6: left(6) }
}
