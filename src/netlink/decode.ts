// Bytes to facts: which decoder a message goes to, and the counting of what
// could not be read. Nothing here throws, whatever the bytes.

import type { RoutePart, StateMessage } from '../state/messages.js'
import { Malformed, type MessageCursor, messagesOf, nextMessage } from './bytes.js'
import {
  NLM_F_APPEND,
  NLM_F_REPLACE,
  NLMSG_DONE,
  NLMSG_NOOP,
  RTM_DELADDR,
  RTM_DELLINK,
  RTM_DELNEIGH,
  RTM_DELNEXTHOP,
  RTM_DELROUTE,
  RTM_DELRULE,
  RTM_NEWADDR,
  RTM_NEWLINK,
  RTM_NEWNEIGH,
  RTM_NEWNEXTHOP,
  RTM_NEWROUTE,
  RTM_NEWRULE
} from './constants.js'
import type { RouteChunk } from './dump-inbox.js'
import { decodeInterfaceAddress } from './interface-address.js'
import { decodeLink, isRunning } from './link.js'
import { decodeNeighbour } from './neighbour.js'
import { decodeNexthopObject } from './nexthop.js'
import { decodeRoute } from './route.js'
import { decodeRule } from './rule.js'

/** What came by and was not understood. */
export interface DecodeCounters {
  /** Messages or rests of buffers whose lengths contradict themselves. */
  malformed: number
  /** Whole messages of a type nobody here decodes. */
  unknown: number
}

/** The message under the cursor; null when it is of no interest, unknown or malformed (counted). */
export function decodeMessage(cursor: MessageCursor, counters: DecodeCounters): StateMessage | null {
  try {
    return decode(cursor, counters)
  } catch (error) {
    if (!(error instanceof Malformed)) throw error
    counters.malformed++
    return null
  }
}

/** The next message of interest from the cursor on; null when the buffer is used up. */
export function nextFact(cursor: MessageCursor, counters: DecodeCounters): StateMessage | null {
  for (;;) {
    const step = nextMessage(cursor)
    if (step === 'malformed') counters.malformed++
    if (step !== 'message') return null
    const fact = decodeMessage(cursor, counters)
    if (fact) return fact
  }
}

/** All messages of interest in a buffer. */
export function decodeAll(bytes: Buffer, counters: DecodeCounters): StateMessage[] {
  const cursor = messagesOf(bytes)
  const facts: StateMessage[] = []
  for (let fact = nextFact(cursor, counters); fact; fact = nextFact(cursor, counters)) facts.push(fact)
  return facts
}

/** What the addon hands over of a dump of routes; see dumpRoutes(). */
export function decodeRoutes(
  family: RoutePart['family'],
  { kinds, records }: RouteChunk,
  counters: DecodeCounters
): RoutePart {
  const part: RoutePart = { family, kinds: [], records }
  const cursor = messagesOf(kinds)
  while (nextMessage(cursor) === 'message') {
    const fact = decodeMessage(cursor, counters)
    part.kinds.push(fact?.kind === 'route' && !fact.removed && fact.route.family === family ? fact.route : null)
  }
  return part
}

function decode({ bytes, type, flags, body, end }: MessageCursor, counters: DecodeCounters): StateMessage | null {
  switch (type) {
    case RTM_NEWROUTE:
    case RTM_DELROUTE: {
      const route = decodeRoute(bytes, body, end)
      const replace = (flags & NLM_F_REPLACE) !== 0
      const append = (flags & NLM_F_APPEND) !== 0
      return route && { kind: 'route', removed: type === RTM_DELROUTE, replace, append, route }
    }
    case RTM_NEWNEIGH:
    case RTM_DELNEIGH: {
      const neighbour = decodeNeighbour(bytes, body, end)
      return neighbour && { kind: 'neighbour', removed: type === RTM_DELNEIGH, neighbour }
    }
    case RTM_NEWLINK:
    case RTM_DELLINK: {
      const link = decodeLink(bytes, body, end)
      const running = isRunning(bytes, body, end)
      return link && { kind: 'link', removed: type === RTM_DELLINK, link, running }
    }
    case RTM_NEWADDR:
    case RTM_DELADDR: {
      const address = decodeInterfaceAddress(bytes, body, end)
      return address && { kind: 'address', removed: type === RTM_DELADDR, address }
    }
    case RTM_NEWRULE:
    case RTM_DELRULE: {
      const rule = decodeRule(bytes, body, end)
      return rule && { kind: 'rule', removed: type === RTM_DELRULE, rule }
    }
    case RTM_NEWNEXTHOP:
    case RTM_DELNEXTHOP: {
      const object = decodeNexthopObject(bytes, body, end)
      return object && { kind: 'nexthop', removed: type === RTM_DELNEXTHOP, object }
    }
    case NLMSG_DONE:
    case NLMSG_NOOP:
      return null
    default:
      counters.unknown++
      return null
  }
}
