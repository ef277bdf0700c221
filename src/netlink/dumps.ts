// Dump requests, as they go behind nlmsghdr. They pass the kernel's strict
// checking: all fields zero but the family, no attributes but the ones named.

import type { DumpKind } from '../state/messages.js'
import { attributeU32 } from './bytes.js'
import {
  AF_INET,
  AF_INET6,
  RTM_GETADDR,
  RTM_GETLINK,
  RTM_GETNEIGH,
  RTM_GETNEXTHOP,
  RTM_GETROUTE,
  RTM_GETRULE,
  RTNLGRP_IPV6_ROUTE
} from './constants.js'

const IFLA_EXT_MASK = 29
/** Counters are most of a link message and nobody reads them. */
const RTEXT_FILTER_SKIP_STATS = 8

export interface DumpRequest {
  type: number
  body: Buffer
  /**
   * Group whose events make the dump one that was interrupted. After a change
   * the kernel goes on with IPv6 routes by counting those it has shown, from
   * the start again (net/ipv6/ip6_fib.c, fib6_dump_table): some come twice,
   * some not at all, and NLM_F_DUMP_INTR is not set (seen on 6.18).
   */
  events?: number
  /** Netlink protocol; NETLINK_ROUTE when absent. */
  protocol?: number
}

/** The requests that together show all facts of a kind. */
export function dumpRequests(kind: DumpKind): DumpRequest[] {
  switch (kind) {
    case 'links':
      return [
        {
          type: RTM_GETLINK,
          body: Buffer.concat([Buffer.alloc(16), attributeU32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)])
        }
      ]
    case 'addresses':
      return [request(RTM_GETADDR, 8, AF_INET), request(RTM_GETADDR, 8, AF_INET6)]
    case 'nexthops':
      return [request(RTM_GETNEXTHOP, 8, 0)]
    case 'routes4':
      return [request(RTM_GETROUTE, 12, AF_INET)]
    case 'routes6':
      return [{ ...request(RTM_GETROUTE, 12, AF_INET6), events: RTNLGRP_IPV6_ROUTE }]
    case 'rules':
      return [request(RTM_GETRULE, 12, AF_INET), request(RTM_GETRULE, 12, AF_INET6)]
    case 'neighbours':
      return [request(RTM_GETNEIGH, 12, AF_INET), request(RTM_GETNEIGH, 12, AF_INET6)]
  }
}

/** `length` bytes whose first is the address family: so begin all of rtnetlink's structures. */
function request(type: number, length: number, family: number): DumpRequest {
  const body = Buffer.alloc(length)
  body[0] = family
  return { type, body }
}
