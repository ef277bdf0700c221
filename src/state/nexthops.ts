// Nexthop objects (ip nexthop) by id, and what they mean to routes.
//
// All routes of one object share one list of next hops, `resolved(id)`. It is
// the same array for ever; when the object changes its contents change, so
// 100,000 routes follow in one step.

import { sameFact } from './equal.js'
import type { NexthopObject, RouteNexthop } from './types.js'

export class NexthopTable {
  readonly objects = new Map<number, NexthopObject>()
  private readonly lists = new Map<number, RouteNexthop[]>()

  /** The next hops of an object or group; empty while it is unknown or a blackhole. */
  resolved(id: number): readonly RouteNexthop[] {
    return this.listOf(id)
  }

  /** true: the table is another now. */
  apply(removed: boolean, object: NexthopObject): boolean {
    const known = this.objects.get(object.id)
    if (removed ? !known : known && sameFact(known, object)) return false
    if (removed) this.remove(object.id)
    else this.objects.set(object.id, object)
    this.resolveWith(object.id)
    return true
  }

  /** Applies a whole dump. true: the table is another now. */
  replace(dumped: NexthopObject[]): boolean {
    const fresh = new Map(dumped.map((object) => [object.id, object]))
    let changed = false
    for (const id of [...this.objects.keys()]) {
      if (!fresh.has(id)) changed = this.remove(id)
    }
    for (const [id, object] of fresh) {
      if (sameFact(this.objects.get(id), object)) continue
      this.objects.set(id, object)
      changed = true
    }
    if (changed) for (const [id, list] of this.lists) this.resolve(id, list)
    return changed
  }

  private listOf(id: number): RouteNexthop[] {
    let list = this.lists.get(id)
    if (!list) {
      list = []
      this.lists.set(id, list)
      this.resolve(id, list)
    }
    return list
  }

  /** Routes that still show its list see it empty; they are about to vanish as well. */
  private remove(id: number): boolean {
    const list = this.lists.get(id)
    if (list) list.length = 0
    this.lists.delete(id)
    return this.objects.delete(id)
  }

  /** The object's own list and those of the groups it is in. */
  private resolveWith(id: number): void {
    for (const [user, list] of this.lists) {
      if (user === id || this.objects.get(user)?.group.some((member) => member.id === id)) this.resolve(user, list)
    }
  }

  private resolve(id: number, list: RouteNexthop[]): void {
    const object = this.objects.get(id)
    list.length = 0
    if (!object || object.blackhole) return
    if (object.group.length === 0) {
      if (object.nexthop) list.push(object.nexthop)
      return
    }
    // Members of a group are never groups (the kernel refuses those).
    for (const member of object.group) {
      const nexthop = this.objects.get(member.id)?.nexthop
      if (nexthop) list.push({ ...nexthop, weight: member.weight })
    }
  }
}
