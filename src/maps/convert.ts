// Keys and values of another version's maps as this version has them, field by
// field: both say in their BTF what they look like. A field that the other does
// not know is zero; one that was renamed stands in `renamed`.

import { type BpfMap, native } from '../native.js'

/** What native/map_layout.h makes. */
export interface Type {
  size: number
  name?: string
  fields?: { name: string; offset: number; type: Type }[]
  count?: number
  element?: Type
}

export interface Layout {
  key: Type | null
  value: Type | null
}

/** struct -> field as it is called now -> its earlier names. */
const renamed: Record<string, Record<string, readonly string[]>> = {
  // layout 5 had generation << 32 | nexthop there: the leg of a group stays, the answer is asked for again
  flow: { nexthop: ['route'] }
}

export function layoutOf(map: Pick<BpfMap, 'layout'>): Layout {
  return JSON.parse(map.layout()) as Layout
}

export interface Piece {
  from: number
  to: number
  length: number
}

/** What to copy from the old to the new; all else is zero. */
export function piecesOf(old: Type, now: Type): Piece[] {
  const pieces: Piece[] = []
  collect(old, now, 0, 0, pieces)
  const joined: Piece[] = []
  for (const piece of pieces) {
    const last = joined.at(-1)
    if (last && last.from + last.length === piece.from && last.to + last.length === piece.to)
      last.length += piece.length
    else joined.push({ ...piece })
  }
  return joined
}

/** Rows of `stride` bytes each as rows of `to` bytes. */
export function converter(old: Type | null, now: Type | null): (bytes: Buffer, stride: number, to: number) => Buffer {
  const pieces = old && now ? piecesOf(old, now) : []
  const words = Buffer.from(Uint32Array.from(pieces.flatMap(({ from, to, length }) => [from, to, length])).buffer)
  return (bytes, stride, to) => (bytes.length === 0 ? Buffer.alloc(0) : native().rearrange(bytes, stride, to, words))
}

/** Where the field begins; null: there is none. */
export function offsetOf(type: Type | null, name: string): number | null {
  return type?.fields?.find((field) => field.name === name)?.offset ?? null
}

function collect(old: Type, now: Type, from: number, to: number, pieces: Piece[]): void {
  // with its padding, and in one piece
  if (JSON.stringify(old) === JSON.stringify(now)) pieces.push({ from, to, length: now.size })
  else if (now.fields && old.fields) {
    for (const field of now.fields) {
      const names = [field.name, ...(renamed[now.name ?? '']?.[field.name] ?? [])]
      const earlier = old.fields.find(({ name }) => names.includes(name))
      if (earlier && !/^pad\d*$/.test(field.name))
        collect(earlier.type, field.type, from + earlier.offset, to + field.offset, pieces)
    }
  } else if (now.element && old.element) {
    const { element: wanted } = now
    const { element } = old
    for (let index = 0; index < Math.min(old.count ?? 0, now.count ?? 0); index++)
      collect(element, wanted, from + index * element.size, to + index * wanted.size, pieces)
  } else if (Boolean(now.fields ?? now.element) === Boolean(old.fields ?? old.element)) {
    // little endian: a wider number begins with the narrower one
    pieces.push({ from, to, length: Math.min(old.size, now.size) })
  }
}
