// The node as rtnetlink tells it: all tables together.
//
// Invariants:
// - Only apply and a replacement at its end change anything; between two calls
//   the tables are consistent. Routes are replaced prefix by prefix, other
//   tables at once; so are those that go, or come to life, with an event that is
//   applied in steps.
// - Facts about a device that does not exist are dropped: late events of a
//   dead ifindex leave no trace.
// - What the kernel does to routes without a message when a link, an address or
//   a nexthop object goes (loss.ts) or comes back (revival.ts) is done here at
//   once, for the routes that depend on it; `doubts` asks for the dump that
//   confirms it, when it suits, where more may have happened.
// - What it does that cannot be told is asked for in `needsDump`.
// - Whoever dumps takes the kinds out of both before the dump begins.

import { PrefixSet } from '../prefix-map.js'
import { eachOf, toEnd } from '../slice.js'
import { applyAddress, replaceAddresses } from './addresses.js'
import { noChanges } from './changes.js'
import { applyLink, type LinkEffect, replaceLinks } from './links.js'
import { afterLoss, type Loss } from './loss.js'
import type { DumpKind, RoutePart, StateMessage } from './messages.js'
import { applyNeighbour, removeNeighboursOf, replaceNeighbours } from './neighbours.js'
import { NexthopTable } from './nexthops.js'
import { RouteReplacement } from './replacement.js'
import { afterRevival, type Revival } from './revival.js'
import { RouteIndex } from './route-index.js'
import { RouteTable } from './route-table.js'
import { applyRoute } from './routes.js'
import { addRule, removeRule, replaceRules } from './rules.js'
import type { Changes, InterfaceAddress, Link, Neighbour, NexthopObject, NodeState, Route, Rule } from './types.js'

/** A fresh dump on its way in. */
export interface Replacement {
  /** It is not made after all; to be called when it was not finished. */
  drop(): void
  /** One dumped fact; other kinds and removals are ignored. */
  add(message: StateMessage): void
  /** Dumped routes, those of the part from one to before another; of another family: ignored. */
  addPart(part: RoutePart, from: number, to: number): void
  /** The dump is made again, because the table changed meanwhile. */
  again(): void
  /** Applies the difference; to be run to its end, in pieces if wanted. */
  finish(changes: Changes): Iterable<void>
  /**
   * The same where no dump of the routes was whole: each may lack some and have
   * some twice, so the earlier ones count, too, for what the last does not show.
   */
  unite(changes: Changes): Iterable<void>
}

export class State implements NodeState {
  readonly links = new Map<number, Link>()
  readonly addresses = new Map<number, InterfaceAddress[]>()
  readonly rules: Rule[] = []
  readonly neighbours = new Map<string, Neighbour>()
  /** Dumps that must be made again because the kernel may have changed things silently. */
  readonly needsDump = new Set<DumpKind>()
  /** Dumps that should be made once to confirm what was done without a message. */
  readonly doubts = new Set<DumpKind>()
  readonly routeUsers = new RouteIndex((prefix) => this.routeTables[kindOf(prefix)].kindOf(prefix))
  private readonly running = new Set<number>()
  private readonly nexthopTable = new NexthopTable()
  private readonly mixed = new Set<string>()
  private readonly routeTables: Record<RouteKind, RouteTable> = {
    routes4: new RouteTable(),
    routes6: new RouteTable()
  }
  /** Dumps of routes on their way in. */
  private readonly incoming = new Map<RouteKind, RouteReplacement>()

  get routes4(): ReadonlyMap<string, readonly Route[]> {
    return this.routeTables.routes4
  }

  get routes6(): ReadonlyMap<string, readonly Route[]> {
    return this.routeTables.routes6
  }

  get nexthopObjects(): ReadonlyMap<number, NexthopObject> {
    return this.nexthopTable.objects
  }

  /**
   * One event. What it changed is added to `changes`. `replaying`: the event
   * may be older than the last dump, so a removal that fits nothing is normal.
   */
  apply(message: StateMessage, changes: Changes, replaying = false): void {
    toEnd(this.applying(message, changes, replaying))
  }

  /**
   * The same in steps, for all routes may go with a device: between them each prefix is as before the event or as after
   * it, and `changes` may be emptied. No other event may be applied before the last.
   */
  *applying(message: StateMessage, changes: Changes, replaying = false): Generator<void> {
    switch (message.kind) {
      case 'link':
        yield* this.applyLink(message, changes, replaying)
        break
      case 'address':
        yield* this.applyAddress(message.removed, message.address, changes, replaying)
        break
      case 'route': {
        const kind = message.route.family === 4 ? 'routes4' : 'routes6'
        this.adopt(message.route)
        const incoming = this.incoming.get(kind)
        incoming?.note(message)
        const outcome = applyRoute(this.routeTables[kind], message, changes, this.mixed, this.routeUsers)
        const told = replaying || incoming !== undefined
        if (outcome === 'unsure' && !told && !this.wentWithDevice(message.route)) this.needsDump.add(kind)
        if (outcome === 'ambiguous' && (replaying || kind === 'routes6')) this.needsDump.add(kind)
        break
      }
      case 'rule':
        if (message.removed ? removeRule(this.rules, message.rule) : addRule(this.rules, message.rule))
          changes.rules = true
        break
      case 'neighbour':
        if (this.links.has(message.neighbour.ifindex)) {
          applyNeighbour(this.neighbours, message.removed, message.neighbour, changes)
        }
        break
      case 'nexthop':
        if (message.removed) yield* this.forgetObject(message.object.id, changes, replaying)
        else if (this.nexthopTable.set(message.object)) changes.objects.add(message.object.id)
        break
    }
  }

  /** A whole dump at once; see beginReplace. */
  replaceAll(kind: DumpKind, dumped: StateMessage[]): Changes {
    const changes = noChanges()
    const replacement = this.beginReplace(kind)
    for (const message of dumped) replacement.add(message)
    Array.from(replacement.finish(changes))
    return changes
  }

  /**
   * Takes in a fresh dump as a difference. While one of routes is on its way,
   * events are applied as always; while another is, apply must not be called
   * until it has finished or was dropped. first: nobody has looked at the tables
   * yet, and apply must not be called.
   */
  beginReplace(kind: DumpKind, first = false): Replacement {
    return kind === 'routes4' || kind === 'routes6' ? this.replaceRoutes(kind, first) : this.replaceSmall(kind)
  }

  private replaceRoutes(kind: RouteKind, first: boolean): Replacement {
    const family = kind === 'routes4' ? 4 : 6
    // of the first one everything changes, which nobody needs as a list
    let into: Changes | null = null
    const incoming = new RouteReplacement({
      first,
      table: this.routeTables[kind],
      set: (key, routes) => {
        for (const route of routes) this.adopt(route)
        this.putRoutes(key, routes, into)
      },
      setNew: (column, at, route) => {
        this.routeUsers.addAt(column, at, route)
        this.routeTables[kind].setAt(column, at, route)
      },
      onDoubt: () => this.needsDump.add(kind),
      isStale: (route) => this.isStale(route)
    })
    this.incoming.set(kind, incoming)
    const end = () => this.incoming.get(kind) === incoming && this.incoming.delete(kind)
    const finish = function* (changes: Changes, united: boolean): Generator<void> {
      into = changes
      yield* incoming.finish(united)
      end()
    }
    return {
      drop: () => {
        if (end()) incoming.drop()
      },
      add: (message) => {
        if (message.kind !== 'route' || message.removed || message.route.family !== family) return
        this.adopt(message.route)
        incoming.add(message.route)
      },
      addPart: (part, from, to) => {
        if (part.family !== family) return
        for (const route of part.kinds) if (route) this.adopt(route)
        incoming.addPart(part, from, to)
      },
      again: () => incoming.again(),
      finish: (changes) => finish(changes, false),
      unite: (changes) => finish(changes, true)
    }
  }

  private replaceSmall(kind: Exclude<DumpKind, 'routes4' | 'routes6'>): Replacement {
    let dumped: StateMessage[] = []
    const finish = (changes: Changes): [] => {
      this.applyDump(kind, dumped, changes)
      return []
    }
    return {
      finish,
      unite: finish,
      drop: () => {},
      addPart: () => {},
      add: (message) => {
        if (!message.removed) dumped.push(message)
      },
      again: () => {
        dumped = []
      }
    }
  }

  private applyDump(kind: Exclude<DumpKind, 'routes4' | 'routes6'>, dumped: StateMessage[], changes: Changes): void {
    switch (kind) {
      case 'links': {
        const { gone, changed } = replaceLinks(
          this.links,
          this.running,
          dumped.flatMap((message) => (message.kind === 'link' ? [message] : []))
        )
        for (const ifindex of gone) this.forgetDevice(ifindex, changes)
        for (const ifindex of changed) changes.links.add(ifindex)
        break
      }
      case 'addresses': {
        const addresses = dumped.flatMap((message) => (message.kind === 'address' ? [message.address] : []))
        const known = addresses.filter((address) => this.links.has(address.ifindex))
        for (const ifindex of replaceAddresses(this.addresses, known)) changes.addresses.add(ifindex)
        break
      }
      case 'nexthops': {
        const objects = dumped.flatMap((message) => (message.kind === 'nexthop' ? [message.object] : []))
        for (const id of this.nexthopTable.replace(objects)) changes.objects.add(id)
        break
      }
      case 'rules': {
        const rules = dumped.flatMap((message) => (message.kind === 'rule' ? [message.rule] : []))
        if (replaceRules(this.rules, rules)) changes.rules = true
        break
      }
      case 'neighbours': {
        const neighbours = dumped.flatMap((message) => (message.kind === 'neighbour' ? [message.neighbour] : []))
        const known = neighbours.filter((neighbour) => this.links.has(neighbour.ifindex))
        replaceNeighbours(this.neighbours, known, changes)
        break
      }
    }
  }

  private *applyLink(message: StateMessage & { kind: 'link' }, changes: Changes, replaying: boolean): Generator<void> {
    const { removed, link, running } = message
    const master = this.links.get(link.ifindex)?.master ?? link.master
    const effect = applyLink(this.links, this.running, removed, link, running)
    if (effect === 'none') return
    changes.links.add(link.ifindex)
    if (isLoss(effect)) yield* this.lose(link.ifindex, effect, changes, replaying)
    if (!removed && master !== link.master && this.shiftsRoutes(link.ifindex, [master, link.master])) this.ask(false)
    if (effect === 'up') yield* this.revive(link.ifindex, 'up', changes, replaying)
    if (effect === 'back') yield* this.revive(link.ifindex, 'carrier', changes, replaying)
    if (removed) this.forgetDevice(link.ifindex, changes)
  }

  /** Into a VRF and out of it the kernel takes a device's routes away, unannounced; no other master does anything to them. */
  private shiftsRoutes(ifindex: number, masters: readonly number[]): boolean {
    const isVrf = (master: number): boolean => master !== 0 && (this.links.get(master)?.kind ?? 'vrf') === 'vrf'
    if (masters.some(isVrf)) for (const _ of this.routeUsers.throughDevice(ifindex)) return true
    return false
  }

  private *applyAddress(
    removed: boolean,
    address: InterfaceAddress,
    changes: Changes,
    replaying: boolean
  ): Generator<void> {
    const { ifindex, family, local } = address
    if (!this.links.has(ifindex) && !removed) return
    if (!applyAddress(this.addresses, removed, address)) return
    changes.addresses.add(ifindex)
    // Routes that prefer it go with it (IPv4) or prefer none any more (IPv6).
    if (removed && this.routeUsers.prefers(local)) this.needsDump.add(family === 4 ? 'routes4' : 'routes6')
    if (family === 6) return
    // A dump may show routes that went with it.
    if (removed && this.incoming.has('routes4')) this.needsDump.add('routes4')
    // A new address revives next hops that died with the last one.
    if (!removed) yield* this.revive(ifindex, 'address', changes, replaying)
    const last = removed && !this.addresses.get(ifindex)?.some((other) => other.family === 4)
    if (last) yield* this.lose(ifindex, 'addresses', changes, replaying)
  }

  /** Does to the device's routes and next hop objects what the kernel does. */
  private *lose(ifindex: number, loss: Loss, changes: Changes, replaying: boolean): Generator<void> {
    let confirm = false
    let any = false
    this.disturb()
    const isUp = (other: number): boolean => this.links.get(other)?.up === true
    yield* eachOf(yield* gathered(this.routeUsers.throughDevice(ifindex)), (key) => {
      const routes = this.tableOf(key).get(key) ?? []
      const left = afterLoss(routes, ifindex, loss, isUp)
      if (!left) return
      any = true
      confirm ||= !routes.every((route) => isPlainLoss(route, loss))
      this.setRoutes(key, left, changes)
    })
    const objects = loss === 'addresses' ? [] : this.nexthopTable.onDevice(ifindex)
    for (const { id } of objects) yield* this.dropObject(id, changes)
    if (replaying ? any || objects.length > 0 : confirm || objects.length > 0) this.ask(!replaying)
  }

  /** Lets the device's next hops live again as the kernel does. */
  private *revive(ifindex: number, revival: Revival, changes: Changes, replaying: boolean): Generator<void> {
    const link = this.links.get(ifindex)
    if (!link?.up) return
    this.disturb()
    // What the kernel does to those depends on how they were made.
    if (this.nexthopTable.onDevice(ifindex).some(({ nexthop }) => nexthop?.dead)) this.needsDump.add('nexthops')
    if (!this.routeUsers.hasDead(ifindex)) return
    const running = this.running.has(ifindex)
    const lives = { routes4: running || link.carrier, routes6: running && revival !== 'address' }
    const bound =
      revival !== 'carrier' || (this.addresses.get(ifindex)?.some((address) => address.family === 4) ?? false)
    yield* eachOf(yield* gathered(this.routeUsers.throughDevice(ifindex)), (key) => {
      const kind = kindOf(key)
      if (!lives[kind]) return
      const { routes, sure } = afterRevival(this.routeTables[kind].get(key) ?? [], ifindex, bound)
      if (!sure) this.needsDump.add(kind)
      if (!routes) return
      this.setRoutes(key, routes, changes)
      if (replaying) this.doubts.add(kind)
    })
  }

  /** By State itself; see putRoutes. */
  private setRoutes(key: string, routes: Route[], changes: Changes): void {
    this.incoming.get(kindOf(key))?.shake(key)
    this.putRoutes(key, routes, changes)
  }

  private putRoutes(key: string, routes: Route[], changes: Changes | null): void {
    const table = this.tableOf(key)
    this.routeUsers.replace(key, table.get(key) ?? [], routes)
    if (routes.length > 0) table.set(key, routes)
    else {
      table.delete(key)
      this.mixed.delete(key)
    }
    changes?.prefixes.add(key)
  }

  /** What a dump shows cannot be what the kernel has now: it was made before the device or the object changed. */
  private isStale({ nexthopId, nexthops }: Route): boolean {
    if (nexthopId !== 0) return !this.nexthopTable.objects.has(nexthopId)
    return nexthops.some(({ ifindex, dead }) => {
      const link = this.links.get(ifindex)
      if (!link) return true
      return dead === (link.up && (link.carrier || this.running.has(ifindex)))
    })
  }

  private disturb(): void {
    for (const incoming of this.incoming.values()) incoming.disturb()
  }

  private tableOf(key: string): RouteTable {
    return this.routeTables[kindOf(key)]
  }

  /** RTM_DELNEXTHOP: its routes go with it, unannounced. */
  private *forgetObject(id: number, changes: Changes, replaying: boolean): Generator<void> {
    const known = this.nexthopTable.objects.has(id)
    if (known) yield* this.dropObject(id, changes)
    if (known || replaying) this.ask(!replaying)
  }

  private *dropObject(id: number, changes: Changes): Generator<void> {
    this.disturb()
    for (const touched of this.nexthopTable.forget(id)) {
      changes.objects.add(touched)
      if (this.nexthopTable.objects.has(touched)) continue
      yield* eachOf(yield* gathered(this.routeUsers.byObject(touched)), (key) => {
        const routes = this.tableOf(key).get(key) ?? []
        const others = routes.filter(({ nexthopId }) => nexthopId !== touched)
        this.setRoutes(key, others, changes)
      })
    }
  }

  /** The kernel tells of each IPv6 route that goes with a device, which `lose` has taken away already. */
  private wentWithDevice({ family, nexthops }: Route): boolean {
    return family === 6 && nexthops.length > 0 && nexthops.every(({ ifindex }) => !this.links.get(ifindex)?.up)
  }

  private forgetDevice(ifindex: number, changes: Changes): void {
    for (const { family, local } of this.addresses.get(ifindex) ?? [])
      if (this.routeUsers.prefers(local)) this.needsDump.add(family === 4 ? 'routes4' : 'routes6')
    if (this.addresses.delete(ifindex)) changes.addresses.add(ifindex)
    removeNeighboursOf(this.neighbours, ifindex, changes)
  }

  /** confirm: it is done as far as known. */
  private ask(confirm: boolean): void {
    const kinds = confirm ? this.doubts : this.needsDump
    for (const kind of ['nexthops', 'routes4', 'routes6'] as const) kinds.add(kind)
  }

  /** A route by nexthop object shows the object's next hops, not those of the message. */
  private adopt(route: Route): void {
    if (route.nexthopId !== 0) route.nexthops = this.nexthopTable.resolved(route.nexthopId) as Route['nexthops']
  }
}

type RouteKind = 'routes4' | 'routes6'

/** What is about to change. */
function* gathered(keys: Iterable<string>): Generator<void, Set<string>> {
  const found = new PrefixSet()
  yield* eachOf(keys, (key) => found.add(key))
  return found
}

function kindOf(key: string): RouteKind {
  return key[8] === '/' ? 'routes4' : 'routes6'
}

/** Nothing else could have happened to the route of a pod, or of a network on the device, when the device is no longer up. */
function isPlainLoss({ nexthops, nexthopId }: Route, loss: Loss): boolean {
  return (loss === 'gone' || loss === 'down') && nexthopId === 0 && nexthops.every(({ gateway }) => gateway === null)
}

function isLoss(effect: LinkEffect): effect is Loss & LinkEffect {
  return effect === 'gone' || effect === 'down' || effect === 'carrier'
}
