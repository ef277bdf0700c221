// Numbers of the rtnetlink protocol that more than one file needs. Attribute
// numbers stand in the decoder of their message.

export const AF_INET = 2
export const AF_INET6 = 10

export const NLM_F_REQUEST = 0x001
export const NLM_F_ACK = 0x004
/** In RTM_NEW*. */
export const NLM_F_REPLACE = 0x100
export const NLM_F_EXCL = 0x200
export const NLM_F_CREATE = 0x400
export const NLM_F_APPEND = 0x800

export const NLMSG_NOOP = 1
export const NLMSG_ERROR = 2
export const NLMSG_DONE = 3

export const RTM_NEWLINK = 16
export const RTM_DELLINK = 17
export const RTM_GETLINK = 18
export const RTM_NEWADDR = 20
export const RTM_DELADDR = 21
export const RTM_GETADDR = 22
export const RTM_NEWROUTE = 24
export const RTM_DELROUTE = 25
export const RTM_GETROUTE = 26
export const RTM_NEWNEIGH = 28
export const RTM_DELNEIGH = 29
export const RTM_GETNEIGH = 30
export const RTM_NEWRULE = 32
export const RTM_DELRULE = 33
export const RTM_GETRULE = 34
export const RTM_NEWNEXTHOP = 104
export const RTM_DELNEXTHOP = 105
export const RTM_GETNEXTHOP = 106

export const RTNH_F_DEAD = 0x01
export const RTNH_F_ONLINK = 0x04
export const RTNH_F_LINKDOWN = 0x10

export const RTNLGRP_IPV6_ROUTE = 11

/** What joinedGroups subscribes to: RTNLGRP_* link, neigh, ipv4 and ipv6 ifaddr, route and rule, nexthop. */
export const joinedGroups = [1, 3, 5, 7, 8, 9, RTNLGRP_IPV6_ROUTE, 19, 32]
