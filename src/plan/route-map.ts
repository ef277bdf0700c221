// The plan's routes: a Map by prefix key in little memory, for a million
// prefixes have a few different routes. Equal objects are one number; routes
// that are equal but not the same object count as different ones.

import { type PrefixColumn, PrefixMap, PrefixSet } from '../prefix-map.js'
import type { Family, Prefix } from '../state/types.js'
import type { WantedRoute } from './types.js'

const keysInStep = 1024

export class RouteMap extends Map<Prefix, WantedRoute> {
  /** Numbers of routes. */
  private readonly rows = new PrefixMap()
  private readonly routes: (WantedRoute | null)[] = []
  private readonly users: number[] = []
  private readonly numbers = new Map<WantedRoute, number>()
  private readonly free: number[] = []

  /** Values are numbers for routeAt(). Not to be changed. */
  get columns(): PrefixMap['columns'] {
    return this.rows.columns
  }

  /** Room for so many more prefixes. */
  reserve(count: number, family: Family): void {
    this.rows.reserve(count, family)
  }

  copyOfKeys(): Set<Prefix> {
    return PrefixSet.of(this.rows)
  }

  /** undefined: no prefix has this number. */
  routeAt(number: number): WantedRoute | undefined {
    return this.routes[number] ?? undefined
  }

  override get size(): number {
    return this.rows.size
  }

  override has(prefix: Prefix): boolean {
    return this.rows.has(prefix)
  }

  override get(prefix: Prefix): WantedRoute | undefined {
    const number = this.rows.get(prefix)
    return number === undefined ? undefined : this.routeAt(number)
  }

  override set(prefix: Prefix, route: WantedRoute): this {
    const before = this.rows.get(prefix)
    this.rows.set(prefix, this.acquire(route))
    if (before !== undefined) this.release(before)
    return this
  }

  /** A prefix that has none yet: as another column has it at this place. */
  addAs(column: PrefixColumn, at: number, route: WantedRoute): void {
    const own = this.rows.columns[column.family]
    const place = own.placeAs(column, at)
    own.values[place] = this.acquire(route)
  }

  override delete(prefix: Prefix): boolean {
    const before = this.rows.get(prefix)
    if (before !== undefined) this.release(before)
    return this.rows.delete(prefix)
  }

  override clear(): void {
    for (const prefix of this.keys()) this.delete(prefix)
  }

  override keys(): MapIterator<Prefix> {
    return this.rows.keys()
  }

  override *values(): MapIterator<WantedRoute> {
    for (const number of this.rows.values()) yield this.routeAt(number) as WantedRoute
  }

  override *entries(): MapIterator<[Prefix, WantedRoute]> {
    for (const [prefix, number] of this.rows) yield [prefix, this.routeAt(number) as WantedRoute]
  }

  override [Symbol.iterator](): MapIterator<[Prefix, WantedRoute]> {
    return this.entries()
  }

  /** Each route once, with how many prefixes have it. */
  *counts(): Generator<[WantedRoute, number]> {
    for (const [number, route] of this.routes.entries()) if (route) yield [route, this.users[number] ?? 0]
  }

  /** Prefixes that are in one of both, or have routes that are not the same; two of many users are compared once. In steps. */
  *keysUnlike(before: RouteMap, isSame: (a: WantedRoute, b: WantedRoute) => boolean): Generator<void, Set<Prefix>> {
    const found = new PrefixSet()
    const answers: Map<number, boolean>[] = []
    const same = (number: number, old: number): boolean => {
      const known = answers[number]?.get(old)
      if (known !== undefined) return known
      const [route, other] = [this.routeAt(number), before.routeAt(old)]
      const answer = route !== undefined && other !== undefined && isSame(other, route)
      if (this.users[number] === 1) return answer
      answers[number] ??= new Map()
      answers[number].set(old, answer)
      return answer
    }
    let done = 0
    for (const column of Object.values(this.columns)) {
      const old = before.columns[column.family]
      for (const at of column.places()) {
        if (++done % keysInStep === 0) yield
        const place = old.findAs(column, at)
        if (place >= 0 && same(column.values[at] as number, old.values[place] as number)) continue
        found.add(column.key(at))
      }
      for (const at of old.places()) {
        if (++done % keysInStep === 0) yield
        if (column.findAs(old, at) < 0) found.add(old.key(at))
      }
    }
    return found
  }

  /** Those whose route passes, at a place that passes; routes are asked about once each. */
  *entriesOf(
    passes: (route: WantedRoute) => boolean,
    isNear: (column: PrefixColumn, at: number) => boolean = () => true
  ): Generator<[Prefix, WantedRoute] | null> {
    const passing = this.routes.map((route) => route !== null && passes(route))
    for (const column of Object.values(this.rows.columns)) {
      for (const at of column.places()) {
        const number = column.values[at] as number
        const route = passing[number] && isNear(column, at) ? this.routeAt(number) : undefined
        yield route ? [column.key(at), route] : null
      }
    }
  }

  override forEach(callback: (route: WantedRoute, prefix: Prefix, map: Map<Prefix, WantedRoute>) => void): void {
    for (const [prefix, route] of this) callback(route, prefix, this)
  }

  private acquire(route: WantedRoute): number {
    let number = this.numbers.get(route)
    if (number === undefined) {
      number = this.free.pop() ?? this.routes.length
      this.routes[number] = route
      this.users[number] = 0
      this.numbers.set(route, number)
    }
    this.users[number] = (this.users[number] ?? 0) + 1
    return number
  }

  private release(number: number): void {
    const left = (this.users[number] ?? 0) - 1
    this.users[number] = left
    const route = this.routes[number]
    if (left > 0 || !route) return
    this.numbers.delete(route)
    this.routes[number] = null
    this.free.push(number)
  }
}
