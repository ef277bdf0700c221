// Routes by prefix, a million of them in little memory: of a prefix with one
// route only the number of its kind is kept, in a column, and routes that differ
// in nothing but their destination are of one kind.
//
// Invariants
// - What `get` returns is the caller's: to change a prefix is to `set` it.
// - A route by nexthop object keeps the object's list of next hops itself
//   (nexthops.ts), whose contents change under all its routes.
// - Marks are for dumps (replacement.ts). Each `set` takes the prefix's away.

import { noAddress, splitPrefix } from '../address.js'
import { type PrefixColumn, PrefixMap } from '../prefix-map.js'
import type { Prefix, Route, RouteNexthop } from './types.js'

/** All of a route but its destination, which is empty here. */
type Kind = Route

interface Counted {
  kind: Kind
  users: number
  /** Those with the same next hops, this one among them. */
  peers: number[]
}

/** Kinds times this, plus the mark. */
const marks = 8
/** Instead: its routes are kept whole. */
const whole = -1
/** Of kinds with the same next hops: where there are more, each route is kept whole. */
const mostPeers = 32
const keysInStep = 1024

export class RouteTable implements ReadonlyMap<Prefix, Route[]> {
  private readonly rows = new PrefixMap()
  private readonly lists = new Map<Prefix, Route[]>()
  private readonly kinds: (Counted | null)[] = []
  private readonly free: number[] = []
  private readonly byHops = new Map<string, number[]>()
  /** So that most lists of next hops are not read to find their peers. */
  private readonly known = new WeakMap<readonly RouteNexthop[], number[]>()

  get size(): number {
    return this.rows.size
  }

  /** For who handles many: prefixes and their places. Values are not to be changed. */
  get columns(): PrefixMap['columns'] {
    return this.rows.columns
  }

  has(prefix: Prefix): boolean {
    return this.rows.has(prefix)
  }

  get(prefix: Prefix): Route[] | undefined {
    const row = this.rows.get(prefix)
    return row === undefined ? undefined : this.routesOf(prefix, row)
  }

  set(prefix: Prefix, routes: Route[]): this {
    const before = this.rows.get(prefix)
    const [only] = routes
    const kind = routes.length === 1 && only ? this.acquire(only) : null
    this.rows.set(prefix, kind === null ? whole : kind * marks)
    if (kind === null) this.lists.set(prefix, [...routes])
    if (before !== undefined) this.dropRow(prefix, before, kind === null)
    return this
  }

  /** Of a prefix that is new at this place. */
  setAt(column: PrefixColumn, at: number, route: Route): void {
    const kind = this.acquire(route)
    column.values[at] = kind === null ? whole : kind * marks
    if (kind === null) this.lists.set(column.key(at), [withDestination(route, column.key(at))])
  }

  delete(prefix: Prefix): boolean {
    const before = this.rows.get(prefix)
    if (before !== undefined) this.dropRow(prefix, before, false)
    return this.rows.delete(prefix)
  }

  /** The prefix has this route and no other. */
  isOnly(prefix: Prefix, route: Route): boolean {
    const kind = this.kindOf(prefix)
    return kind !== null && sameKind(kind, route)
  }

  /** See RouteUsers. */
  kindOf(prefix: Prefix): Route | null {
    const at = this.rows.find(prefix)
    return at < 0 ? null : this.kindAt(this.rows.columnOf(prefix), at)
  }

  kindAt(column: PrefixColumn, at: number): Route | null {
    const row = column.values[at] as number
    return row < 0 ? null : (this.kinds[Math.floor(row / marks)]?.kind ?? null)
  }

  /** 1 to 7; 0: none. Prefixes with several routes have none. */
  markOf(prefix: Prefix): number {
    const at = this.rows.find(prefix)
    return at < 0 ? 0 : this.markAt(this.rows.columnOf(prefix), at)
  }

  markAt(column: PrefixColumn, at: number): number {
    const row = column.values[at] as number
    return row < 0 ? 0 : row % marks
  }

  mark(prefix: Prefix, mark: number): void {
    const at = this.rows.find(prefix)
    if (at >= 0) this.setMark(this.rows.columnOf(prefix), at, mark)
  }

  setMark(column: PrefixColumn, at: number, mark: number): void {
    const row = column.values[at] as number
    if (row >= 0) column.values[at] = row - (row % marks) + mark
  }

  /** How many kinds there are: for tests. */
  get kindCount(): number {
    return this.kinds.length - this.free.length
  }

  keys(): MapIterator<Prefix> {
    return this.rows.keys()
  }

  /** Keys of those that `isDone` does not take. kind: as kindOf(). null: many have been looked at since. */
  *keysBut(isDone: (kind: Route, column: PrefixColumn, at: number) => boolean): Generator<Prefix | null> {
    let done = 0
    for (const column of Object.values(this.columns)) {
      for (const at of column.places()) {
        const kind = this.kindAt(column, at)
        if (!kind || !isDone(kind, column, at)) yield column.key(at)
        if (++done % keysInStep === 0) yield null
      }
    }
  }

  *entries(): MapIterator<[Prefix, Route[]]> {
    for (const [prefix, row] of this.rows) yield [prefix, this.routesOf(prefix, row)]
  }

  *values(): MapIterator<Route[]> {
    for (const [prefix, row] of this.rows) yield this.routesOf(prefix, row)
  }

  [Symbol.iterator](): MapIterator<[Prefix, Route[]]> {
    return this.entries()
  }

  forEach(callback: (routes: Route[], prefix: Prefix, table: ReadonlyMap<Prefix, Route[]>) => void): void {
    for (const [prefix, routes] of this.entries()) callback(routes, prefix, this)
  }

  private routesOf(prefix: Prefix, row: number): Route[] {
    if (row < 0) return [...(this.lists.get(prefix) ?? [])]
    return [withDestination((this.kinds[Math.floor(row / marks)] as Counted).kind, prefix)]
  }

  private dropRow(prefix: Prefix, row: number, keepsList: boolean): void {
    if (row >= 0) this.release(Math.floor(row / marks))
    else if (!keepsList) this.lists.delete(prefix)
  }

  /** null: there are too many kinds like it. */
  private acquire(route: Route): number | null {
    const peers = this.peersOf(route)
    for (const number of peers) {
      const counted = this.kinds[number] as Counted
      if (!sameKind(counted.kind, route)) continue
      counted.users++
      return number
    }
    if (peers.length >= mostPeers) return null
    const number = this.free.pop() ?? this.kinds.length
    const first = peers[0] === undefined ? null : this.kinds[peers[0]]
    // routes with equal next hops share one list of them
    const nexthops = route.nexthopId === 0 && first ? first.kind.nexthops : route.nexthops
    this.kinds[number] = { kind: { ...route, destination: noAddress, prefixLength: 0, nexthops }, users: 1, peers }
    peers.push(number)
    return number
  }

  private release(number: number): void {
    const counted = this.kinds[number] as Counted
    if (--counted.users > 0) return
    const { kind, peers } = counted
    peers.splice(peers.indexOf(number), 1)
    if (peers.length === 0) {
      this.byHops.delete(hopsText(kind))
      this.known.delete(kind.nexthops)
    }
    this.kinds[number] = null
    this.free.push(number)
  }

  private peersOf(route: Route): number[] {
    const known = route.nexthopId === 0 ? this.known.get(route.nexthops) : undefined
    // empty: its last kind has gone, and another list may stand in its place
    if (known && known.length > 0) return known
    const text = hopsText(route)
    const peers = this.byHops.get(text) ?? []
    this.byHops.set(text, peers)
    if (route.nexthopId === 0) this.known.set(route.nexthops, peers)
    return peers
  }
}

/** The route of another prefix. */
export function withDestination(route: Route, prefix: Prefix): Route {
  const { address, length } = splitPrefix(prefix)
  return { ...route, destination: address, prefixLength: length }
}

/** Alike but for their destinations. */
export function isAlike(kind: Route, route: Route): boolean {
  return sameKind(kind, route)
}

function hopsText({ family, nexthopId, nexthops }: Route): string {
  if (nexthopId !== 0) return `${family} object ${nexthopId}`
  let text = `${family}`
  for (const { ifindex, gateway, weight, dead, onlink, encap } of nexthops)
    text += ` ${ifindex}/${gateway ?? ''}/${weight}/${(dead ? 1 : 0) | (onlink ? 2 : 0) | (encap ? 4 : 0)}`
  return text
}

/** Alike but for their destinations; asked of kinds with the same next hops, or of any. */
function sameKind(a: Kind, b: Route): boolean {
  return (
    a.family === b.family &&
    a.table === b.table &&
    a.type === b.type &&
    a.metric === b.metric &&
    a.tos === b.tos &&
    a.protocol === b.protocol &&
    a.scope === b.scope &&
    a.mtu === b.mtu &&
    a.preferredSource === b.preferredSource &&
    a.nexthopId === b.nexthopId &&
    (a.nexthops === b.nexthops || (a.nexthopId === 0 && sameHops(a.nexthops, b.nexthops))) &&
    sameTexts(a.unsupported, b.unsupported)
  )
}

function sameHops(a: readonly RouteNexthop[], b: readonly RouteNexthop[]): boolean {
  return a.length === b.length && a.every((hop, at) => sameHop(hop, b[at] as RouteNexthop))
}

function sameHop(a: RouteNexthop, b: RouteNexthop): boolean {
  return (
    a.ifindex === b.ifindex &&
    a.gateway === b.gateway &&
    a.weight === b.weight &&
    a.dead === b.dead &&
    a.onlink === b.onlink &&
    a.encap === b.encap
  )
}

function sameTexts(a: readonly string[], b: readonly string[]): boolean {
  return a === b || (a.length === b.length && a.every((text, at) => text === b[at]))
}
