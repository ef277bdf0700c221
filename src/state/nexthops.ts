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
  set(object: NexthopObject): boolean {
    const known = this.objects.get(object.id)
    if (known && sameFact(known, object)) return false
    this.objects.set(object.id, object)
    this.resolveWith(object.id)
    return true
  }

  /** Applies a whole dump. Returns the objects that are others now, or gone. */
  replace(dumped: NexthopObject[]): number[] {
    const fresh = new Map(dumped.map((object) => [object.id, object]))
    const changed: number[] = []
    for (const id of [...this.objects.keys()]) {
      if (fresh.has(id)) continue
      this.remove(id)
      changed.push(id)
    }
    for (const [id, object] of fresh) {
      if (sameFact(this.objects.get(id), object)) continue
      this.objects.set(id, object)
      changed.push(id)
    }
    if (changed.length > 0) for (const [id, list] of this.lists) this.resolve(id, list)
    return changed
  }

  /** Objects, no groups, whose next hop is on the device. */
  onDevice(ifindex: number): NexthopObject[] {
    return [...this.objects.values()].filter(({ nexthop }) => nexthop?.ifindex === ifindex)
  }

  /** As the kernel does when an object goes: groups lose it, and go with their last member. Returns all that are others now, or gone. */
  forget(id: number): number[] {
    const touched = [id]
    this.remove(id)
    for (const [user, object] of this.objects) {
      const group = object.group.filter((member) => member.id !== id)
      if (group.length === object.group.length) continue
      touched.push(user)
      if (group.length === 0) this.remove(user)
      else this.objects.set(user, { ...object, group })
    }
    for (const user of touched) {
      const list = this.lists.get(user)
      if (list) this.resolve(user, list)
    }
    return touched
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
