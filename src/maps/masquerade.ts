// The masquerade policy: written whole under a new epoch, then switched to by
// one write to control, then the old epoch is deleted, a large one bit by bit. So
// a packet sees the old policy or the new one, never a mixture.
//
// Invariants
// - A policy that does not fit changes nothing: `write` says why.
// - Both policies are in the map for a moment, so it is made twice as large as
//   the largest policy that is accepted (limits.masquerade).
// - After a throw the old policy is in force; the next write reads the map first.

import type { MasqueradeEntry } from '../config/masquerade.js'
import type { Prefix } from '../state/types.js'
import { isFull, type MapAccess } from './access.js'
import { decodeControl, decodeMasquerade, decodeMasqueradeKey, encodeMasquerade, masqueradeKeyWriter } from './codec.js'
import { STRUCTS } from './layout.js'
import { createMirror, type Mirror } from './mirror.js'

export interface MasqueradeRows {
  readonly mirror: Mirror
  epoch(): number
  /** false: nothing was written or read yet. */
  loaded(): boolean
  /** What the map says now, of this daemon or of the one before; unsorted. Throws NativeError. */
  inForce(): MasqueradeEntry[]
  /** wanted: each prefix once. Text: why the policy was not taken; the one before stays. Throws NativeError. */
  write(wanted: readonly MasqueradeEntry[]): string | null
}

/** Some milliseconds' worth. */
const sweptAtOnce = 1024

export function createMasqueradeRows(access: MapAccess): MasqueradeRows {
  const mirror = createMirror(access.map('masquerade'))
  const [due, notDue] = [encodeMasquerade(true), encodeMasquerade(false)]
  let epoch = 0
  let isLoaded = false
  let current = new Map<Prefix, boolean>()
  /** Rows of epochs that nobody asks for any more. */
  let outdated: string[] = []

  const sweep = (most: number): void => {
    const some = outdated.slice(0, most)
    mirror.removeAll(some)
    outdated = outdated.slice(some.length)
  }

  const sweepLater = (): void => {
    setImmediate(() => {
      try {
        sweep(sweptAtOnce)
        if (outdated.length > 0) sweepLater()
      } catch {
        // the map was closed; whoever opens it next drops them
      }
    }).unref()
  }

  const load = (): void => {
    mirror.load()
    epoch = decodeControl(access.readControl()).masqueradeEpoch
    current = new Map()
    const others: string[] = []
    for (const [key, value] of mirror.rows) {
      const row = decodeMasqueradeKey(Buffer.from(key, 'hex'))
      if (row.epoch === epoch) current.set(row.prefix, decodeMasquerade(value))
      else others.push(key)
    }
    outdated = []
    mirror.removeAll(others)
    isLoaded = true
  }

  const isInForce = (wanted: readonly MasqueradeEntry[]): boolean =>
    wanted.length === current.size && wanted.every(({ prefix, masquerade }) => current.get(prefix) === masquerade)

  const put = (under: number, wanted: readonly MasqueradeEntry[]): void => {
    const keyOf = masqueradeKeyWriter(under)
    mirror.putAll(
      wanted.map(({ prefix }) => keyOf(prefix)),
      wanted.map(({ masquerade }) => (masquerade ? due : notDue))
    )
  }

  return {
    mirror,
    epoch: () => epoch,
    loaded: () => isLoaded,
    inForce() {
      if (!isLoaded) load()
      return [...current].map(([prefix, masquerade]) => ({ prefix, masquerade }))
    },
    write(wanted) {
      if (!isLoaded) load()
      if (isInForce(wanted)) return null
      sweep(outdated.length)
      const room = mirror.map.info.maxEntries - mirror.rows.size
      if (wanted.length > room)
        return `it has ${wanted.length} prefixes, and ${room} fit into its map beside the policy in force: raise limits.masquerade`
      isLoaded = false
      const before = [...mirror.rows.keys()]
      const next = (epoch + 1) >>> 0
      try {
        put(next, wanted)
      } catch (error) {
        load()
        if (!isFull(error)) throw error
        return `it has ${wanted.length} prefixes, which do not fit into its map: ${(error as Error).message}`
      }
      const bytes = Buffer.alloc(4)
      bytes.writeUInt32LE(next)
      access.writeControl(STRUCTS.control.offset.masquerade_epoch, bytes)
      epoch = next
      current = new Map(wanted.map(({ prefix, masquerade }) => [prefix, masquerade]))
      isLoaded = true
      outdated = before
      sweep(sweptAtOnce)
      if (outdated.length > 0) sweepLater()
      return null
    }
  }
}
