// The masquerade policy: written whole under a new epoch, then switched to by
// one write to control, then the old epoch is deleted. So a packet sees the old
// policy or the new one, never a mixture.

import type { WantedMasquerade } from '../plan/types.js'
import type { MapAccess } from './access.js'
import { decodeControl, decodeMasqueradeKey, encodeMasquerade, encodeMasqueradeKey } from './codec.js'
import { STRUCTS } from './layout.js'
import { createMirror, type Mirror } from './mirror.js'

export interface MasqueradeRows {
  mirror: Mirror
  epoch(): number
  load(): void
  /** Text: why the policy was not taken; the one before stays. */
  write(wanted: readonly WantedMasquerade[]): string | null
}

export function createMasqueradeRows(access: MapAccess): MasqueradeRows {
  const mirror = createMirror(access.map('masquerade'))
  const capacity = mirror.map.info.maxEntries
  let epoch = 0
  const isCurrent = (key: string): boolean => decodeMasqueradeKey(Buffer.from(key, 'hex')).epoch === epoch
  const dropOthers = (): void => {
    for (const key of [...mirror.rows.keys()]) if (!isCurrent(key)) mirror.remove(key)
  }
  return {
    mirror,
    epoch: () => epoch,
    load() {
      mirror.load()
      epoch = decodeControl(access.readControl()).masqueradeEpoch
      dropOthers()
    },
    write(wanted) {
      const rows = (under: number): [string, Buffer][] =>
        wanted.map((entry) => [
          encodeMasqueradeKey(under, entry.prefix).toString('hex'),
          encodeMasquerade(entry.masquerade)
        ])
      const current = rows(epoch)
      if (current.length === mirror.rows.size && current.every(([key, value]) => mirror.rows.get(key)?.equals(value)))
        return null
      if (wanted.length > capacity - mirror.rows.size) {
        return `the masquerade policy has ${wanted.length} prefixes, ${capacity - mirror.rows.size} fit beside the one in force, which stays`
      }
      const next = (epoch + 1) >>> 0
      for (const [key, value] of rows(next)) mirror.put(key, value)
      const bytes = Buffer.alloc(4)
      bytes.writeUInt32LE(next)
      access.writeControl(STRUCTS.control.offset.masquerade_epoch, bytes)
      epoch = next
      dropOthers()
      return null
    }
  }
}
