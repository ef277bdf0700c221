// Which way the kernel itself would forward a packet: RTM_GETROUTE with the
// device it comes in by (net/ipv4/route.c inet_rtm_getroute, net/ipv6/route.c).
// Equivalent to: `ip route get TO from FROM iif DEVICE`.

import { constants } from 'node:os'
import { createNetlink } from 'netlink/dist/netlink.js'
import { familyOf } from '../address.js'
import type { Address } from '../state/types.js'
import { attribute, attributeU32, readI32 } from './bytes.js'
import { AF_INET, AF_INET6, NLMSG_ERROR, RTM_GETROUTE, RTM_NEWROUTE } from './constants.js'

const NETLINK_ROUTE = 0
const RTA_DST = 1
const RTA_SRC = 2
const RTA_IIF = 3
const RTA_OIF = 4
const RTN_UNICAST = 1
const rtmsgSize = 12
const timeout = 2000
const nowhere = new Set([-constants.errno.ENETUNREACH, -constants.errno.EACCES])

export interface ForwardedPacket {
  from: Address
  to: Address
  /** ifindex. */
  iif: number
}

/**
 * ifindex: the device it leaves by. 'nowhere': no route leads there, or one that
 * prohibits it. null: another answer, such as delivery to the node itself or a
 * source that rp_filter refuses. Rejects when the kernel does not answer.
 */
export async function kernelWay({ from, to, iif }: ForwardedPacket): Promise<number | 'nowhere' | null> {
  const head = Buffer.alloc(rtmsgSize)
  const bits = to.length * 4
  head.set([familyOf(to) === 4 ? AF_INET : AF_INET6, bits, bits])
  const request = Buffer.concat([
    head,
    attribute(RTA_DST, Buffer.from(to, 'hex')),
    attribute(RTA_SRC, Buffer.from(from, 'hex')),
    attributeU32(RTA_IIF, iif)
  ])
  const socket = createNetlink(NETLINK_ROUTE)
  const failed = new Promise<never>((_, reject) => socket.on('error', reject))
  try {
    const asked = socket.request(RTM_GETROUTE, request, { timeout, checkError: false })
    const [[answer]] = await Promise.race([asked, failed])
    const data = Buffer.from(answer?.data ?? [])
    if (answer?.type === NLMSG_ERROR) {
      const code = readI32(data, 0, data.length)
      return nowhere.has(code) ? 'nowhere' : null
    }
    return answer?.type === RTM_NEWROUTE && data[7] === RTN_UNICAST ? outgoing(data) : null
  } finally {
    socket.close()
  }
}

function outgoing(data: Buffer): number | null {
  for (let offset = rtmsgSize; offset + 4 <= data.length; ) {
    const length = data.readUInt16LE(offset)
    if (length < 4) break
    if (data.readUInt16LE(offset + 2) === RTA_OIF && length >= 8) return data.readUInt32LE(offset + 4)
    offset += (length + 3) & ~3
  }
  return null
}
