// A dump of one family's routes on its way into the table, while events go on
// changing that table.
//
//   dumped route ──▶ a mark: the table has it ──┐
//                └─▶ fresh: it has another      ├─▶ difference, prefix by prefix
//   event ──▶ table, and the log ───────────────┘
//
// Invariants
// - The table is right as far as the events tell, at every moment. What the dump
//   shows of a prefix counts after the events since its begin have been applied
//   to it once more: twice, or to a later state, does no harm (routes.ts).
// - Where State has changed a prefix by itself (loss.ts, revival.ts), nobody can
//   tell which of both came first: the table's routes stay, `onDoubt` says that
//   another dump is needed.
// - A dump of what is known already takes no memory: the mark of a prefix is the
//   number of the last attempt that showed its one route.

import { prefixKey, prefixOf } from '../address.js'
import type { PrefixColumn } from '../prefix-map.js'
import { noChanges } from './changes.js'
import { type RoutePart, wholeKind } from './messages.js'
import type { RouteIndex } from './route-index.js'
import { isAlike, type RouteTable, withDestination } from './route-table.js'
import { addDumped, applyRoute, insertDumped, type RouteEvent, sameRoute, withoutCopies } from './routes.js'
import type { Prefix, Route } from './types.js'

/** What an attempt shows and the table does not have, or of prefixes with several routes. */
type Fresh = Map<Prefix, Route[]>

export interface RouteReplacementOptions {
  table: RouteTable
  /** Nobody has looked at the table yet and no events are applied: routes go into it as they come. */
  first: boolean
  /** The prefix has these routes from now on. */
  set(key: Prefix, routes: Route[]): void
  /** The prefix at a new place of the table gets this one route; its destination may be another. */
  setNew(column: PrefixColumn, at: number, route: Route): void
  /** Only another dump can tell. */
  onDoubt(): void
  /** The route is not as its devices and objects are now. */
  isStale(route: Route): boolean
}

const keysInStep = 1024
/** Marks that the table has. */
const mostAttempts = 7

export class RouteReplacement {
  private last: Fresh = new Map()
  private readonly earlier: Fresh[] = []
  /** Events by prefix, since the dump began. */
  private readonly log = new Map<Prefix, RouteEvent[]>()
  /** Prefixes that State changed by itself. */
  private readonly shaken = new Set<Prefix>()
  private disturbed = false
  /** Routes go into the table as they come. */
  private direct: boolean

  constructor(private readonly options: RouteReplacementOptions) {
    this.direct = options.first && options.table.size === 0
  }

  add(route: Route): void {
    const { table } = this.options
    const fresh = this.last
    const key = prefixKey(route.destination, route.prefixLength)
    if (this.direct) {
      const routes = table.get(key)
      if (routes) insertDumped(routes, route)
      this.options.set(key, routes ?? [route])
      return
    }
    if (!fresh.has(key)) {
      if (table.markOf(key) === this.attempt)
        this.unfold(key) // the dump shows several
      else if (table.isOnly(key, route)) {
        table.mark(key, this.attempt)
        return
      }
    }
    addDumped(fresh, route)
  }

  /** Those of the part from one to before another. */
  addPart({ family, kinds, records }: RoutePart, from: number, to: number): void {
    const { table, setNew } = this.options
    const column = table.columns[family]
    const width = family === 4 ? 2 : 5
    /** For each kind, that of the table's which is like it: most are compared by what they are. */
    const alike: (Route | null)[] = []
    for (let first = from * width; first < to * width; first += width) {
      const head = records[first] as number
      const [number, length] = [head >>> 8, head & 255]
      const kind = kinds[number]
      if (!kind) continue
      if (length === wholeKind) {
        this.add({ ...kind })
        continue
      }
      const a = records[first + 1] as number
      const b = family === 4 ? 0 : (records[first + 2] as number)
      const c = family === 4 ? 0 : (records[first + 3] as number)
      const d = family === 4 ? 0 : (records[first + 4] as number)
      const count = column.size
      const at = this.direct ? column.place(length, a, b, c, d) : column.find(length, a, b, c, d)
      if (this.direct && column.size > count) {
        setNew(column, at, kind)
        continue
      }
      const known = this.direct || at < 0 || !this.isUnseen(column, at) ? null : table.kindAt(column, at)
      if (known && (alike[number] === known || isAlike(known, kind))) {
        alike[number] = known
        table.setMark(column, at, this.attempt)
        continue
      }
      this.add(withDestination(kind, prefixOf(family, length, a, b, c, d)))
    }
  }

  /** The dump is made again, because the table changed meanwhile. */
  again(): void {
    const { table } = this.options
    if (this.direct) {
      this.direct = false
      for (const key of table.keys()) {
        table.mark(key, this.attempt)
        if (table.markOf(key) === 0) this.last.set(key, table.get(key) ?? [])
      }
    }
    if (this.attempt === mostAttempts) return
    this.earlier.push(this.last)
    this.last = new Map()
  }

  /** Not to be finished after all. */
  drop(): void {
    const { table } = this.options
    for (const column of Object.values(table.columns)) for (const at of column.places()) table.setMark(column, at, 0)
  }

  /** The last attempt has not shown the prefix yet. */
  private isUnseen(column: PrefixColumn, at: number): boolean {
    if (this.options.table.markAt(column, at) === this.attempt) return false
    return this.last.size === 0 || !this.last.has(column.key(at))
  }

  private get attempt(): number {
    return this.earlier.length + 1
  }

  /** Before an event is applied to the table. */
  note(event: RouteEvent): void {
    const key = prefixKey(event.route.destination, event.route.prefixLength)
    this.keep(key)
    const events = this.log.get(key)
    if (events) events.push(event)
    else this.log.set(key, [event])
  }

  /** State changes what it knows of by itself; the dump may show what it does not. */
  disturb(): void {
    this.disturbed = true
  }

  /** Before State changes the prefix by itself. */
  shake(key: Prefix): void {
    this.keep(key)
    this.shaken.add(key)
  }

  /** Takes the difference in, in steps between which events may be applied. united: see Replacement.unite. */
  *finish(united: boolean): Generator<void> {
    if (this.direct) return
    const { table } = this.options
    if (united) yield* this.unite()
    const fresh = this.last
    let done = 0
    for (const column of Object.values(table.columns)) {
      for (const at of column.places()) {
        const mark = table.markAt(column, at)
        if (mark > 0) table.setMark(column, at, 0)
        const shown = united ? mark > 0 : mark === this.attempt
        const key = shown ? null : column.key(at)
        if (key !== null && !fresh.has(key)) this.settle(key, [])
        if (++done % keysInStep === 0) yield
      }
    }
    for (const [key, list] of fresh) {
      this.settle(key, list)
      if (++done % keysInStep === 0) yield
    }
  }

  private settle(key: Prefix, dumped: Route[]): void {
    const { table, set, onDoubt, isStale } = this.options
    const routes = this.replay(key, dumped)
    const known = table.get(key) ?? []
    if (known.length === routes.length && routes.every((route, at) => sameRoute(route, known[at] as Route))) return
    if (this.shaken.has(key) || (this.disturbed && routes.some(isStale))) onDoubt()
    else set(key, routes)
  }

  /** What the dump shows of a prefix, after the events. */
  private replay(key: Prefix, dumped: Route[]): Route[] {
    const events = this.log.get(key)
    if (!events) return dumped
    const one: Fresh = new Map(dumped.length > 0 ? [[key, [...dumped]]] : [])
    for (const event of events)
      if (applyRoute(one, event, noChanges(), new Set(), noIndex) === 'ambiguous') this.options.onDoubt()
    return one.get(key) ?? []
  }

  /** The table's route is about to be another: what the dumps have shown of it is kept apart. */
  private keep(key: Prefix): void {
    const mark = this.options.table.markOf(key)
    if (mark > 0) this.unfold(key, this.earlier[mark - 1])
  }

  private unfold(key: Prefix, fresh = this.last): void {
    const { table } = this.options
    fresh.set(key, table.get(key) ?? [])
    table.mark(key, 0)
  }

  /** What the last attempt lacks and earlier ones show; then no route stands twice. */
  private *unite(): Generator<void> {
    const { table } = this.options
    const fresh = this.last
    let done = 0
    for (const [at, shown] of [...this.earlier.entries()].toReversed()) {
      for (const [key, list] of shown) {
        if (!fresh.has(key) && table.markOf(key) <= at + 1) fresh.set(key, list)
        if (++done % keysInStep === 0) yield
      }
    }
    for (const [key, list] of fresh) {
      fresh.set(key, withoutCopies(list))
      if (++done % keysInStep === 0) yield
    }
  }
}

const noIndex: Pick<RouteIndex, 'add' | 'remove'> = { add() {}, remove() {} }
