// Which prefixes may have to do with some others, told by the first 16 bits:
// for passes over a million of which few are of interest.

import { splitPrefix } from './address.js'
import type { PrefixColumn } from './prefix-map.js'
import type { Family, Prefix } from './state/types.js'

const bits = 16

export class PrefixBegins {
  private readonly begins: Record<Family, Uint8Array> = { 4: new Uint8Array(2 ** bits), 6: new Uint8Array(2 ** bits) }

  constructor(prefixes: Iterable<Prefix> = []) {
    for (const prefix of prefixes) this.add(prefix)
  }

  add(prefix: Prefix): void {
    const { address, length, family } = splitPrefix(prefix)
    const count = 2 ** Math.max(0, bits - length)
    const first = Math.floor(Number.parseInt(address.slice(0, bits / 4), 16) / count) * count
    this.begins[family].fill(1, first, first + count)
  }

  /** false: what is at this place is neither one of the prefixes nor inside one. */
  has({ family, words }: PrefixColumn, at: number): boolean {
    const first = words[family === 4 ? at : at * 4] as number
    return this.begins[family][first >>> (32 - bits)] === 1
  }
}
