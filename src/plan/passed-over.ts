// Legs that the kernel passes over because their gateway is not there, and who
// is planned anew when that changes.
//
// In a group of next hop objects the kernel looks at each leg's neighbour entry
// (net/ipv4/nexthop.c, nexthop_is_good_nh), in an IPv4 multipath route only
// with net.ipv4.fib_multipath_use_neigh (net/ipv4/fib_semantics.c, fib_good_nh).
// A leg without an entry is used. Where all are passed over, the first is used.
//
// Invariant: `watched` holds, for each gateway that a user's legs depend on, what
// isThere() said when they were last chosen or told to be; forget() ends it.

import { neighbourKey } from '../address.js'
import type { NeighbourKey, NodeState, Prefix, RouteNexthop } from '../state/types.js'
import type { ClassKey } from './keys.js'
import { isInvalid } from './neighbours.js'
import type { PlanOptions } from './options.js'
import type { Choice } from './routes.js'

export interface Gateways {
  /** The legs that the kernel would use; at least one. `user` (a prefix or a class) is told by turned() when that may change. */
  usable(choice: Choice & { kind: 'forward' }, user: Prefix | ClassKey): readonly RouteNexthop[]
  forget(user: Prefix | ClassKey): void
  /** The neighbour entry changed: whose legs are to be chosen anew. */
  turned(neighbour: NeighbourKey): Iterable<Prefix | ClassKey>
}

const nobody: ReadonlySet<Prefix | ClassKey> = new Set()

export function createGateways(state: NodeState, options: PlanOptions): Gateways {
  const watched = new Map<NeighbourKey, { there: boolean; users: Set<Prefix | ClassKey> }>()
  const gatewaysOf = new Map<Prefix | ClassKey, NeighbourKey[]>()
  const isThere = (key: NeighbourKey): boolean => !isInvalid(state.neighbours.get(key))

  const watch = (key: NeighbourKey, user: Prefix | ClassKey): void => {
    const entry = watched.get(key) ?? { there: isThere(key), users: new Set() }
    entry.users.add(user)
    watched.set(key, entry)
  }

  return {
    usable({ route, legs }, user) {
      const looks = route.nexthopId !== 0 || (route.family === 4 && options.multipathUseNeigh)
      if (!looks || legs.length < 2) return legs
      const keys = legs.map(({ ifindex, gateway }) => (gateway === null ? null : neighbourKey(ifindex, gateway)))
      const own = keys.filter((key) => key !== null)
      for (const key of own) watch(key, user)
      gatewaysOf.set(user, [...(gatewaysOf.get(user) ?? []), ...own])
      const usable = legs.filter((_, index) => {
        const key = keys[index]
        return !key || isThere(key)
      })
      return usable.length > 0 ? usable : legs.slice(0, 1)
    },
    forget(user) {
      for (const key of gatewaysOf.get(user) ?? []) {
        const entry = watched.get(key)
        entry?.users.delete(user)
        if (entry?.users.size === 0) watched.delete(key)
      }
      gatewaysOf.delete(user)
    },
    turned(key) {
      const entry = watched.get(key)
      if (!entry || entry.there === isThere(key)) return nobody
      entry.there = !entry.there
      return entry.users
    }
  }
}
