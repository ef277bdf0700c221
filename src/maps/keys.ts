// Keys of routes in the maps: prefixes, and for routes of classes prefixes with
// the class's number before them. Made and taken apart here, and nowhere else.

import type { ClassRouteKey } from '../plan/keys.js'
import type { Family, Prefix, Text } from '../state/types.js'

/** A row of class_routes4 or class_routes6: "3 0a000000/8". */
export type ClassRow = Text<'row of a class'>
export type RouteRowKey = Prefix | ClassRow

export function classRow(number: number, prefix: Prefix): ClassRow {
  return `${number} ${prefix}` as ClassRow
}

export function splitClassRow(row: ClassRow): { number: number; prefix: Prefix } {
  const space = row.indexOf(' ')
  return { number: Number(row.slice(0, space)), prefix: row.slice(space + 1) as Prefix }
}

/** Without the class. */
export function prefixOfRow(row: RouteRowKey): Prefix {
  return row.slice(row.indexOf(' ') + 1) as Prefix
}

export function familyOfKey(key: RouteRowKey | ClassRouteKey): Family {
  return key.indexOf('/') - key.indexOf(' ') === 9 ? 4 : 6
}

export function lengthOfKey(key: RouteRowKey | ClassRouteKey): number {
  return Number(key.slice(key.indexOf('/') + 1))
}
