// What src/netlink tells src/state: one decoded rtnetlink message each.

import type { InterfaceAddress, Link, Neighbour, NexthopObject, Route, Rule } from './types.js'

export type StateMessage =
  | { kind: 'link'; removed: boolean; link: Link /** IFF_RUNNING */; running: boolean }
  | { kind: 'address'; removed: boolean; address: InterfaceAddress }
  | {
      kind: 'route'
      removed: boolean /** NLM_F_REPLACE */
      replace: boolean /** NLM_F_APPEND */
      append: boolean
      route: Route
    }
  | { kind: 'rule'; removed: boolean; rule: Rule }
  | { kind: 'neighbour'; removed: boolean; neighbour: Neighbour }
  | { kind: 'nexthop'; removed: boolean; object: NexthopObject }

/** Some routes of a dump, in its order, with what they share told once (native/route_parts.h). */
export interface RoutePart {
  family: 4 | 6
  /** Of no other destination than 0, or whole (wholeKind). null: nothing of interest. */
  kinds: (Route | null)[]
  /**
   * For each route a number, 256 * its kind + the prefix's length, and the address in
   * one number (IPv4) or four.
   */
  records: Uint32Array
}

/** In the place of a length: the route is its kind, destination and all. */
export const wholeKind = 255

/** The tables that can be dumped on their own. */
export type DumpKind = 'links' | 'addresses' | 'nexthops' | 'routes4' | 'routes6' | 'rules' | 'neighbours'

/** Every kind, in the order of a full dump: links first, because facts about unknown devices are dropped. */
export const dumpKinds: readonly DumpKind[] = [
  'links',
  'addresses',
  'nexthops',
  'routes4',
  'routes6',
  'rules',
  'neighbours'
]
