// RTM_NEWADDR, RTM_DELADDR: struct ifaddrmsg and IFA_*.

import type { Address, InterfaceAddress } from '../state/types.js'
import { afterAttribute, attributeEnd, attributeType, readAddress, readI32, readU8, readU32 } from './bytes.js'
import { AF_INET, AF_INET6 } from './constants.js'

const IFA_ADDRESS = 1
const IFA_LOCAL = 2
const IFA_FLAGS = 8
const IFA_F_SECONDARY = 0x01
const IFA_F_OPTIMISTIC = 0x04
const IFA_F_DADFAILED = 0x08
const IFA_F_DEPRECATED = 0x20
const IFA_F_TENTATIVE = 0x40

/** null: another address family, or no address at all. */
export function decodeInterfaceAddress(bytes: Buffer, body: number, end: number): InterfaceAddress | null {
  const ifindex = readI32(bytes, body + 4, end)
  const family = readU8(bytes, body, end)
  if (family !== AF_INET && family !== AF_INET6) return null
  let flags = readU8(bytes, body + 2, end)
  let address: Address | null = null
  let local: Address | null = null
  for (let at = body + 8; at < end; at = afterAttribute(bytes, at)) {
    const stop = attributeEnd(bytes, at, end)
    const type = attributeType(bytes, at)
    if (type === IFA_ADDRESS) address = readAddress(bytes, at + 4, stop)
    else if (type === IFA_LOCAL) local = readAddress(bytes, at + 4, stop)
    else if (type === IFA_FLAGS) flags = readU32(bytes, at + 4, stop)
  }
  address ??= local
  if (address === null) return null
  const tentative = (flags & IFA_F_TENTATIVE) !== 0 && (flags & IFA_F_OPTIMISTIC) === 0
  return {
    ifindex,
    family: family === AF_INET ? 4 : 6,
    address,
    local: local ?? address,
    prefixLength: readU8(bytes, body + 1, end),
    scope: readU8(bytes, body + 3, end),
    // The same bit means "temporary" (privacy address) for IPv6.
    secondary: family === AF_INET && (flags & IFA_F_SECONDARY) !== 0,
    usable: !tentative && (flags & (IFA_F_DEPRECATED | IFA_F_DADFAILED)) === 0
  }
}
