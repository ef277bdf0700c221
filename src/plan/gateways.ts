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

import type { NodeState, RouteNexthop } from '../state/types.js'
import { isInvalid, neighbourKey } from './neighbours.js'
import type { PlanOptions } from './options.js'
import type { Choice } from './routes.js'

export interface Gateways {
  /** The legs that the kernel would use; at least one. `user` (a prefix or a class) is told by turned() when that may change. */
  usable(choice: Choice & { kind: 'forward' }, user: string): readonly RouteNexthop[]
  forget(user: string): void
  /** The neighbour entry changed: whose legs are to be chosen anew. */
  turned(neighbour: string): Iterable<string>
}

const nobody: ReadonlySet<string> = new Set()

export function createGateways(state: NodeState, options: PlanOptions): Gateways {
  const watched = new Map<string, { there: boolean; users: Set<string> }>()
  const gatewaysOf = new Map<string, string[]>()
  const isThere = (key: string): boolean => !isInvalid(state.neighbours.get(key))

  const watch = (key: string, user: string): void => {
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
      const usable = legs.filter((_, index) => keys[index] === null || isThere(keys[index] as string))
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
