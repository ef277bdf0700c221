// What a neighbour entry is good for, and the entries for on-link destinations.

import { type Mac, type Neighbour, NeighbourState } from '../state/types.js'
import type { WantedNeighbour } from './types.js'

const PROXY = 0x08
/**
 * The kernel itself sends with the MAC at once and, where it is not sure, is
 * already asking: DELAY and PROBE end in REACHABLE or FAILED without a packet
 * of ours. STALE does not: nobody asks until a packet passes through the stack.
 */
const vouchedFor =
  NeighbourState.reachable |
  NeighbourState.delay |
  NeighbourState.probe |
  NeighbourState.permanent |
  NeighbourState.noarp
const resolved = vouchedFor | NeighbourState.stale

/** The kernel has asked for the neighbour and has no answer, or not yet. */
export function isInvalid(neighbour: Neighbour | undefined): boolean {
  return neighbour !== undefined && (neighbour.flags & PROXY) === 0 && (neighbour.state & resolved) === 0
}

export interface Resolution {
  mac: Mac | null
  /** The kernel vouches for it: it may be used without asking. Stale entries are for redirect_neigh, which refreshes them. */
  known: boolean
}

const unresolved: Resolution = { mac: null, known: false }

export function resolve(neighbour: Neighbour | undefined): Resolution {
  if (!neighbour || neighbour.mac === null || (neighbour.flags & PROXY) !== 0) return unresolved
  if ((neighbour.state & resolved) === 0) return unresolved
  return { mac: neighbour.mac, known: (neighbour.state & vouchedFor) !== 0 }
}

/** The entry of an on-link destination on an uplink; null: nothing worth telling. */
export function wantedNeighbour(neighbour: Neighbour | undefined): WantedNeighbour | null {
  const { mac, known } = resolve(neighbour)
  if (!neighbour || mac === null || isGroupMac(mac)) return null
  return { ifindex: neighbour.ifindex, address: neighbour.address, mac, known }
}

/** The kernel keeps entries for multicast and broadcast addresses too. */
function isGroupMac(mac: Mac): boolean {
  return (Number.parseInt(mac.slice(0, 2), 16) & 1) === 1
}
