// RTM_NEWNEIGH, RTM_DELNEIGH: struct ndmsg and NDA_*.

import { noAddress } from '../address.js'
import type { Address, Neighbour } from '../state/types.js'
import {
  afterAttribute,
  attributeEnd,
  attributeType,
  readAddress,
  readI32,
  readMac,
  readU8,
  readU16,
  readU32
} from './bytes.js'
import { AF_INET, AF_INET6 } from './constants.js'

export const NDA_DST = 1
const NDA_LLADDR = 2
export const NDA_FLAGS_EXT = 15
export const NTF_EXT_MANAGED = 0x01
const NTF_PROXY = 0x08

/**
 * null: no neighbour but a bridge's forwarding entry, a proxy entry, or a
 * multicast address (the kernel makes those entries without an event).
 */
export function decodeNeighbour(bytes: Buffer, body: number, end: number): Neighbour | null {
  const family = readU8(bytes, body, end)
  const ifindex = readI32(bytes, body + 4, end)
  const flags = readU8(bytes, body + 10, end)
  if ((family !== AF_INET && family !== AF_INET6) || (flags & NTF_PROXY) !== 0) return null
  const neighbour: Neighbour = {
    ifindex,
    family: family === AF_INET ? 4 : 6,
    address: noAddress,
    mac: null,
    state: readU16(bytes, body + 8, end),
    flags,
    managed: false
  }
  for (let at = body + 12; at < end; at = afterAttribute(bytes, at)) {
    const stop = attributeEnd(bytes, at, end)
    const type = attributeType(bytes, at)
    if (type === NDA_DST) neighbour.address = readAddress(bytes, at + 4, stop)
    else if (type === NDA_LLADDR) neighbour.mac = readMac(bytes, at + 4, stop)
    else if (type === NDA_FLAGS_EXT) neighbour.managed = (readU32(bytes, at + 4, stop) & NTF_EXT_MANAGED) !== 0
  }
  return neighbour.address === noAddress || isMulticast(neighbour.address) ? null : neighbour
}

function isMulticast(address: Address): boolean {
  return address.length === 8 ? address.startsWith('e') : address.startsWith('ff')
}
