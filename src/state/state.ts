// The node as rtnetlink tells it: all tables together.
//
// Invariants:
// - Only apply and a finished replacement change anything; between two calls
//   the tables are consistent, and a replacement shows itself all at once.
// - Facts about a device that does not exist are dropped: late events of a
//   dead ifindex leave no trace.
// - What the kernel does without a message (routes that vanish with a link, an
//   address or a nexthop object) is asked for in `needsDump`. Whoever dumps
//   takes the kinds out before the dump begins.

import { applyAddress, replaceAddresses } from './addresses.js'
import { noChanges } from './changes.js'
import { applyLink, replaceLinks } from './links.js'
import type { DumpKind, StateMessage } from './messages.js'
import { applyNeighbour, removeNeighboursOf, replaceNeighbours } from './neighbours.js'
import { NexthopTable } from './nexthops.js'
import { addDumped, applyRoute, compareTables, type RouteTable, uniteDumps } from './routes.js'
import { addRule, removeRule, replaceRules } from './rules.js'
import type { Changes, InterfaceAddress, Link, Neighbour, NexthopObject, NodeState, Route, Rule } from './types.js'

/** A fresh dump on its way in. Dropping it half way changes nothing. */
export interface Replacement {
  /** One dumped fact; other kinds and removals are ignored. */
  add(message: StateMessage): void
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
  private readonly running = new Set<number>()
  private readonly nexthopTable = new NexthopTable()
  private readonly mixed = new Set<string>()
  private routeTables: Record<'routes4' | 'routes6', RouteTable> = { routes4: new Map(), routes6: new Map() }

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
    switch (message.kind) {
      case 'link':
        this.applyLink(message, changes)
        break
      case 'address':
        this.applyAddress(message.removed, message.address, changes)
        break
      case 'route': {
        const kind = message.route.family === 4 ? 'routes4' : 'routes6'
        this.adopt(message.route)
        const outcome = applyRoute(this.routeTables[kind], message, changes, this.mixed)
        if (outcome === 'unsure' && !replaying) this.needsDump.add(kind)
        if (outcome === 'ambiguous' && (replaying || kind === 'routes6')) this.needsDump.add(kind)
        break
      }
      case 'rule':
        if (message.removed ? removeRule(this.rules, message.rule) : addRule(this.rules, message.rule))
          changes.all = true
        break
      case 'neighbour':
        if (this.links.has(message.neighbour.ifindex)) {
          applyNeighbour(this.neighbours, message.removed, message.neighbour, changes)
        }
        break
      case 'nexthop':
        if (this.nexthopTable.apply(message.removed, message.object)) changes.all = true
        // Groups lose the member, routes vanish: mostly unannounced.
        if (message.removed) this.askRoutes()
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

  /** Takes in a fresh dump as a difference. apply must not be called until it has finished or was dropped. */
  beginReplace(kind: DumpKind): Replacement {
    return kind === 'routes4' || kind === 'routes6' ? this.replaceRoutes(kind) : this.replaceSmall(kind)
  }

  private replaceRoutes(kind: 'routes4' | 'routes6'): Replacement {
    const old = this.routeTables[kind]
    const family = kind === 'routes4' ? 4 : 6
    let fresh: RouteTable = new Map()
    const earlier: RouteTable[] = []
    const finish = function* (this: State, changes: Changes): Generator<void> {
      yield* compareTables(old, fresh, changes)
      this.routeTables[kind] = fresh
    }.bind(this)
    return {
      finish,
      add: (message) => {
        if (message.kind !== 'route' || message.removed || message.route.family !== family) return
        this.adopt(message.route)
        addDumped(fresh, old, message.route)
      },
      again: () => {
        earlier.push(fresh)
        fresh = new Map()
      },
      *unite(changes) {
        yield* uniteDumps(fresh, earlier)
        yield* finish(changes)
      }
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
        if (changed) changes.all = true
        break
      }
      case 'addresses': {
        const addresses = dumped.flatMap((message) => (message.kind === 'address' ? [message.address] : []))
        const known = addresses.filter((address) => this.links.has(address.ifindex))
        if (replaceAddresses(this.addresses, known)) changes.all = true
        break
      }
      case 'nexthops':
        if (
          this.nexthopTable.replace(dumped.flatMap((message) => (message.kind === 'nexthop' ? [message.object] : [])))
        ) {
          changes.all = true
        }
        break
      case 'rules':
        if (
          replaceRules(
            this.rules,
            dumped.flatMap((message) => (message.kind === 'rule' ? [message.rule] : []))
          )
        ) {
          changes.all = true
        }
        break
      case 'neighbours': {
        const neighbours = dumped.flatMap((message) => (message.kind === 'neighbour' ? [message.neighbour] : []))
        const known = neighbours.filter((neighbour) => this.links.has(neighbour.ifindex))
        replaceNeighbours(this.neighbours, known, changes)
        break
      }
    }
  }

  private applyLink(message: StateMessage & { kind: 'link' }, changes: Changes): void {
    const { removed, link, running } = message
    const effect = applyLink(this.links, this.running, removed, link, running)
    if (effect === 'none') return
    changes.all = true
    if (effect === 'routes') this.askRoutes()
    if (removed) this.forgetDevice(link.ifindex, changes)
  }

  private applyAddress(removed: boolean, address: InterfaceAddress, changes: Changes): void {
    if (!this.links.has(address.ifindex) && !removed) return
    if (!applyAddress(this.addresses, removed, address)) return
    changes.all = true
    // A new IPv4 address silently revives next hops that died with the old one.
    if (address.family === 4) this.needsDump.add('routes4')
    else if (removed) this.needsDump.add('routes6')
  }

  private forgetDevice(ifindex: number, changes: Changes): void {
    this.addresses.delete(ifindex)
    removeNeighboursOf(this.neighbours, ifindex, changes)
  }

  private askRoutes(): void {
    for (const kind of ['nexthops', 'routes4', 'routes6'] as const) this.needsDump.add(kind)
  }

  /** A route by nexthop object shows the object's next hops, not those of the message. */
  private adopt(route: Route): void {
    if (route.nexthopId !== 0) route.nexthops = this.nexthopTable.resolved(route.nexthopId) as Route['nexthops']
  }
}
