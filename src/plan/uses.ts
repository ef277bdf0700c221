// How many unicast routes use a device, kept up to date prefix by prefix: those
// of table main, and of tables that ip rules send packets to (only main's host
// routes count: they make a device a pod's). From the counts the roles of
// devices follow.

import { splitPrefix } from '../address.js'
import { type PrefixColumn, PrefixMap } from '../prefix-map.js'
import type { Family, NodeState, Prefix } from '../state/types.js'
import { isKernelsOwn } from './cover.js'
import { type DeviceUse, unused } from './devices.js'
import { legsOf, TABLE_LOCAL, TABLE_MAIN, UNICAST } from './routes.js'

type UseKind = keyof DeviceUse
const kinds: readonly UseKind[] = ['hosts', 'gateways', 'onlinks']

export interface UseIndex {
  useOf(ifindex: number): DeviceUse
  /** Reads the prefix again from the state; devices whose counts changed are added to `touched`. */
  refresh(prefix: Prefix, state: NodeState, touched?: Set<number>): void
  /** Room for so many more prefixes. */
  reserve(count: number, family: Family): void
  /** What the prefix adds. */
  usesOf(prefix: Prefix): number | number[] | undefined
  /** The prefix at this place of a column, which is new, adds the same as another. */
  addAs(column: PrefixColumn, at: number, uses: number | number[] | undefined): void
}

/** In the column, where `several` has it. */
const severalUses = -1

/** tables: besides main; asked for each time. */
export function createUseIndex(tables: (family: Family) => ReadonlySet<number>): UseIndex {
  const rows = new Map<number, DeviceUse>()
  /** By prefix, what it adds: ifindex * 4 + index of the kind. */
  const added = new PrefixMap()
  /** The same where it is not one number of 31 bits. */
  const several = new Map<Prefix, number | number[]>()

  const get = (prefix: Prefix): number | number[] | undefined => {
    const uses = added.get(prefix)
    return uses === severalUses ? several.get(prefix) : uses
  }
  const set = (prefix: Prefix, uses: number | number[] | undefined): void => {
    several.delete(prefix)
    if (uses === undefined) added.delete(prefix)
    else added.set(prefix, isSmall(uses) ? uses : severalUses)
    if (uses !== undefined && !isSmall(uses)) several.set(prefix, uses)
  }

  const count = (use: number, step: 1 | -1): void => {
    const ifindex = Math.floor(use / 4)
    let row = rows.get(ifindex)
    if (!row) {
      row = { hosts: 0, gateways: 0, onlinks: 0 }
      rows.set(ifindex, row)
    }
    row[kinds[use % 4] ?? 'onlinks'] += step
    if (row.hosts + row.gateways + row.onlinks === 0) rows.delete(ifindex)
  }

  return {
    useOf: (ifindex) => rows.get(ifindex) ?? unused,
    usesOf: get,
    reserve: (count, family) => added.reserve(count, family),
    addAs(column, at, uses) {
      if (uses === undefined) return
      for (const use of listOf(uses)) count(use, 1)
      if (!isSmall(uses)) {
        set(column.key(at), uses)
        return
      }
      const own = added.columns[column.family]
      const place = own.placeAs(column, at)
      own.values[place] = uses
    },
    refresh(prefix, state, touched) {
      const before = get(prefix)
      const after = usesOf(prefix, state, tables)
      if (before === after || (before !== undefined && after !== undefined && String(before) === String(after))) return
      for (const use of listOf(before)) count(use, -1)
      for (const use of listOf(after)) count(use, 1)
      set(prefix, after)
      if (touched) for (const use of [...listOf(before), ...listOf(after)]) touched.add(Math.floor(use / 4))
    }
  }
}

function isSmall(uses: number | number[]): uses is number {
  return typeof uses === 'number' && uses < 2 ** 31
}

function listOf(uses: number | number[] | undefined): readonly number[] {
  if (uses === undefined) return []
  return typeof uses === 'number' ? [uses] : uses
}

function usesOf(
  prefix: Prefix,
  state: NodeState,
  tables: (family: Family) => ReadonlySet<number>
): number | number[] | undefined {
  const { address, length, family } = splitPrefix(prefix)
  const routes = (family === 4 ? state.routes4 : state.routes6).get(prefix)
  if (!routes || isKernelsOwn(address, length)) return undefined
  const full = length === address.length * 4
  // A host route to an address of the node itself says nothing about a pod.
  if (full && routes.some((route) => route.table === TABLE_LOCAL)) return undefined
  let single: number | undefined
  let many: number[] | undefined
  const others = tables(family)
  for (const route of routes) {
    if (route.type !== UNICAST || (route.table !== TABLE_MAIN && !others.has(route.table))) continue
    const legs = legsOf(route, state.nexthopObjects)
    if (typeof legs === 'string') continue
    for (const leg of legs) {
      const kind = leg.gateway !== null ? 1 : full ? 0 : 2
      if (kind === 0 && route.table !== TABLE_MAIN) continue
      const use = leg.ifindex * 4 + kind
      if (single === undefined) single = use
      else if (single !== use) {
        many ??= [single]
        if (!many.includes(use)) many.push(use)
      }
    }
  }
  return many ?? single
}
