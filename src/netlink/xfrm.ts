// IPsec policies of the network namespace, as `ip xfrm policy` lists them:
// struct xfrm_userpolicy_info (include/uapi/linux/xfrm.h).
//
// They are asked for only where xfrm_user is there already: the question would
// load the module. Policies made by PF_KEY are in the same list.

import { readFileSync } from 'node:fs'
import { addressIn, prefixKey } from '../address.js'
import type { Prefix } from '../state/types.js'
import {
  afterAttribute,
  attributeEnd,
  attributeType,
  messagesOf,
  nextMessage,
  readU8,
  readU16,
  readU32
} from './bytes.js'
import { AF_INET6 } from './constants.js'
import { DumpInbox } from './dump-inbox.js'

export const NETLINK_XFRM = 6
/** XFRMNLGRP_POLICY: policies come, change and go. */
export const policyGroup = 4
const XFRM_MSG_NEWPOLICY = 0x13
const XFRM_MSG_GETPOLICY = 0x15
/** struct xfrm_userpolicy_id */
const questionSize = 64
const infoSize = 168
const XFRMA_TMPL = 5
const XFRMA_IF_ID = 31
const directions = ['in', 'out', 'fwd'] as const
const block = 1

export interface IpsecPolicy {
  direction: (typeof directions)[number]
  /** Prefix keys. */
  source: Prefix
  destination: Prefix
  /** none: packets pass as they are. */
  action: 'transform' | 'block' | 'none'
  /** Only for packets of this XFRM interface; 0: for all. */
  interfaceId: number
}

/** The kernel has a socket of this protocol in the namespace (/proc/net/netlink). */
export function hasIpsec(): boolean {
  try {
    return /^[0-9a-f]+ +6 +0 /m.test(readFileSync('/proc/self/net/netlink', 'utf8'))
  } catch {
    return false
  }
}

/** Without those of sockets. Rejects with NativeError; none where the kernel has no IPsec. */
export async function readIpsecPolicies(): Promise<IpsecPolicy[]> {
  if (!hasIpsec()) return []
  const inbox = new DumpInbox({ type: XFRM_MSG_GETPOLICY, body: Buffer.alloc(questionSize), protocol: NETLINK_XFRM })
  const policies: IpsecPolicy[] = []
  for (let chunk = await inbox.next(); chunk; chunk = await inbox.next()) policies.push(...policiesOf(chunk))
  if (inbox.failure) throw inbox.failure
  return policies
}

/** Of whole messages. Throws Malformed. */
export function policiesOf(chunk: Buffer): IpsecPolicy[] {
  const policies: IpsecPolicy[] = []
  const cursor = messagesOf(chunk)
  while (nextMessage(cursor) === 'message') {
    if (cursor.type !== XFRM_MSG_NEWPOLICY) continue
    const { bytes, body, end } = cursor
    const direction = directions[readU8(bytes, body + 160, end)]
    if (!direction) continue
    let transforms = false
    let interfaceId = 0
    for (let at = body + infoSize; at < end; at = afterAttribute(bytes, at)) {
      const stop = attributeEnd(bytes, at, end)
      if (attributeType(bytes, at) === XFRMA_TMPL) transforms = stop > at + 4
      else if (attributeType(bytes, at) === XFRMA_IF_ID) interfaceId = readU32(bytes, at + 4, stop)
    }
    const six = readU16(bytes, body + 40, end) === AF_INET6
    const prefix = (address: number, length: number) => prefixKey(addressIn(bytes, address, six ? 16 : 4), length)
    policies.push({
      direction,
      destination: prefix(body, readU8(bytes, body + 42, end)),
      source: prefix(body + 16, readU8(bytes, body + 43, end)),
      action: readU8(bytes, body + 161, end) === block ? 'block' : transforms ? 'transform' : 'none',
      interfaceId
    })
  }
  return policies
}
