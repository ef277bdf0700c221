// RTM_NEWRULE, RTM_DELRULE: struct fib_rule_hdr and FRA_*. Any selector that
// Rule has no field for is named in `unsupported`: it narrows what the rule
// matches, so it must not be overlooked.

import type { Rule } from '../state/types.js'
import {
  afterAttribute,
  attributeEnd,
  attributeType,
  readAddress,
  readI32,
  readText,
  readU8,
  readU16,
  readU32
} from './bytes.js'
import { AF_INET, AF_INET6 } from './constants.js'

const FIB_RULE_INVERT = 0x02

const FRA_DST = 1
const FRA_SRC = 2
const FRA_IIFNAME = 3
const FRA_GOTO = 4
const FRA_PRIORITY = 6
const FRA_FWMARK = 10
const FRA_FLOW = 11
const FRA_TUN_ID = 12
const FRA_SUPPRESS_IFGROUP = 13
const FRA_SUPPRESS_PREFIXLEN = 14
const FRA_TABLE = 15
const FRA_FWMASK = 16
const FRA_OIFNAME = 17
const FRA_PAD = 18
const FRA_L3MDEV = 19
const FRA_UID_RANGE = 20
const FRA_PROTOCOL = 21
const FRA_IP_PROTO = 22
const FRA_SPORT_RANGE = 23
const FRA_DPORT_RANGE = 24
const FRA_DSCP = 25
const FRA_FLOWLABEL = 26
/** Masks of flow label, ports and DSCP: there only beside the selectors themselves. */
const FRA_FLOWLABEL_MASK = 27
const FRA_SPORT_MASK = 28
const FRA_DPORT_MASK = 29
const FRA_DSCP_MASK = 30

/** Names as `ip rule` has them; others are numbers. */
const protocols: Record<number, string> = {
  1: 'icmp',
  6: 'tcp',
  17: 'udp',
  47: 'gre',
  50: 'esp',
  58: 'ipv6-icmp',
  132: 'sctp'
}

/** null: another address family (multicast routing has rules of its own). */
export function decodeRule(bytes: Buffer, body: number, end: number): Rule | null {
  const family = readU8(bytes, body, end)
  const flags = readU32(bytes, body + 8, end)
  if (family !== AF_INET && family !== AF_INET6) return null
  const rule: Rule = {
    family: family === AF_INET ? 4 : 6,
    priority: 0,
    action: readU8(bytes, body + 7, end),
    table: readU8(bytes, body + 4, end),
    source: null,
    sourceLength: readU8(bytes, body + 2, end),
    destination: null,
    destinationLength: readU8(bytes, body + 1, end),
    iif: null,
    oif: null,
    mark: 0,
    markMask: 0,
    invert: (flags & FIB_RULE_INVERT) !== 0,
    tos: readU8(bytes, body + 3, end),
    suppressPrefixLength: -1,
    suppressGroup: -1,
    l3mdev: false,
    goto: 0,
    uidRange: null,
    tunnelId: null,
    unsupported: []
  }
  for (let at = body + 12; at < end; at = afterAttribute(bytes, at)) {
    decodeAttribute(rule, attributeType(bytes, at), bytes, at + 4, attributeEnd(bytes, at, end))
  }
  return rule
}

function decodeAttribute(rule: Rule, type: number, bytes: Buffer, at: number, end: number): void {
  switch (type) {
    case FRA_DST:
      rule.destination = readAddress(bytes, at, end)
      break
    case FRA_SRC:
      rule.source = readAddress(bytes, at, end)
      break
    case FRA_IIFNAME:
      rule.iif = readText(bytes, at, end)
      break
    case FRA_OIFNAME:
      rule.oif = readText(bytes, at, end)
      break
    case FRA_GOTO:
      rule.goto = readU32(bytes, at, end)
      break
    case FRA_PRIORITY:
      rule.priority = readU32(bytes, at, end)
      break
    case FRA_FWMARK:
      rule.mark = readU32(bytes, at, end)
      break
    case FRA_FWMASK:
      rule.markMask = readU32(bytes, at, end)
      break
    case FRA_TABLE:
      rule.table = readU32(bytes, at, end)
      break
    case FRA_SUPPRESS_PREFIXLEN:
      rule.suppressPrefixLength = readI32(bytes, at, end)
      break
    case FRA_SUPPRESS_IFGROUP:
      rule.suppressGroup = readI32(bytes, at, end)
      break
    case FRA_L3MDEV:
      rule.l3mdev = readU8(bytes, at, end) !== 0
      break
    case FRA_TUN_ID:
      readU32(bytes, at + 4, end)
      rule.tunnelId = bytes.readBigUInt64BE(at).toString()
      break
    case FRA_UID_RANGE:
      rule.uidRange = { first: readU32(bytes, at, end), last: readU32(bytes, at + 4, end) }
      break
    case FRA_IP_PROTO:
      rule.unsupported.push(`ipproto ${protocols[readU8(bytes, at, end)] ?? readU8(bytes, at, end)}`)
      break
    case FRA_SPORT_RANGE:
      rule.unsupported.push(`sport ${readRange(bytes, at, end)}`)
      break
    case FRA_DPORT_RANGE:
      rule.unsupported.push(`dport ${readRange(bytes, at, end)}`)
      break
    case FRA_DSCP:
      rule.unsupported.push(`dscp ${readU8(bytes, at, end)}`)
      break
    case FRA_FLOWLABEL:
      rule.unsupported.push('flowlabel')
      break
    case FRA_FLOW:
    case FRA_PAD:
    case FRA_PROTOCOL:
    case FRA_FLOWLABEL_MASK:
    case FRA_SPORT_MASK:
    case FRA_DPORT_MASK:
    case FRA_DSCP_MASK:
      break
    default:
      rule.unsupported.push(`attribute ${type}`)
  }
}

/** struct fib_rule_port_range */
function readRange(bytes: Buffer, at: number, end: number): string {
  const first = readU16(bytes, at, end)
  const last = readU16(bytes, at + 2, end)
  return first === last ? String(first) : `${first}-${last}`
}
