// Pins that somebody has removed while no daemon ran. The attached programs still
// hold the maps; without the pins a start would make empty ones, and the rest would
// not fit to them: what a pod is charged for (accounts) belongs to its entries.

import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from '../log.js'
import { native } from '../native.js'
import { ownLinks } from '../own-pins.js'

const flowTables = ['flows4', 'flows6', 'reverse4', 'reverse6'] as const
/** Each is worth nothing without the others. */
const together = [...flowTables, 'accounts', 'usage'] as const
/** The kernel cuts longer names (BPF_OBJ_NAME_LEN); these maps hold nothing from one packet to the next. */
const longestName = 14
/** A program's own (bpf/detour.h). */
const programArray = 3

/** Before anything is loaded by the pins. Where `control` has none, a start begins anew with all maps. Throws. */
export function pinLost(pinDirectory: string, log: Logger): void {
  const at = (name: string) => join(pinDirectory, name)
  // two generations of maps: which of them a program uses is not told by its name
  if (!existsSync(at('control')) || ['next', 'next-done'].some((name) => existsSync(at(name)))) return
  const again: string[] = []
  for (const id of mapsInUse(at('links'))) {
    const map = native().openMap(id)
    try {
      const { name, type } = map.info
      if (name.includes('.') || name.length > longestName) continue
      if (type === programArray || existsSync(at(name))) continue
      map.pin(at(name))
      again.push(name)
    } finally {
      map.close()
    }
  }
  if (again.length > 0)
    log.warn(
      `somebody removed the pins of ${again.length} maps (${again.join(', ')}) while no daemon ran; pinned again`
    )
  const gone = flowTables.filter((name) => !existsSync(at(name)))
  if (gone.length === 0) return
  for (const name of together) rmSync(at(name), { force: true })
  log.error(
    `the pins of ${gone.join(', ')} are gone, and no attached program has these maps: flows begin anew, connections through SNAT are cut`
  )
}

/** The kernel's ids. A link that cannot be read, or is none, keeps no start from its work. */
function mapsInUse(links: string): Set<number> {
  const ids = new Set<number>()
  for (const name of ownLinks(links)) {
    try {
      for (const id of native().linkedMaps(join(links, name))) ids.add(id)
    } catch {
      // who attaches there says what is wrong with it
    }
  }
  return ids
}
