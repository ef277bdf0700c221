// Network devices by ifindex.

import { sameFact } from './equal.js'
import type { Link } from './types.js'

export type LinkTable = Map<number, Link>

/** Devices whose last message had IFF_RUNNING. */
export type RunningSet = Set<number>

/** What a link event did. 'routes': also up, carrier or existence changed, on which routes vanish or die without a message. */
export type LinkEffect = 'none' | 'changed' | 'routes'

/**
 * The carrier bit follows the device at once, but next hops are marked dead (and
 * revived) up to a second later, when the kernel's link watch changes IFF_RUNNING.
 */
export function applyLink(
  links: LinkTable,
  running: RunningSet,
  removed: boolean,
  link: Link,
  isRunning: boolean
): LinkEffect {
  const known = links.get(link.ifindex)
  const wasRunning = running.has(link.ifindex)
  if (isRunning && !removed) running.add(link.ifindex)
  else running.delete(link.ifindex)
  if (removed) return links.delete(link.ifindex) ? 'routes' : 'none'
  const turned = known !== undefined && wasRunning !== isRunning
  if (known && sameFact(known, link)) return turned ? 'routes' : 'none'
  links.set(link.ifindex, link)
  // A device that is new and down has no routes yet; each route it gets is announced.
  if (!known) return 'changed'
  return turned || known.up !== link.up || known.carrier !== link.carrier || known.master !== link.master
    ? 'routes'
    : 'changed'
}

/** Applies a whole dump. Returns the ifindexes that are gone, and whether anything differed. */
export function replaceLinks(
  links: LinkTable,
  running: RunningSet,
  dumped: { link: Link; running: boolean }[]
): { gone: number[]; changed: boolean } {
  const present = new Set<number>()
  let changed = false
  for (const { link, running: isRunning } of dumped) {
    present.add(link.ifindex)
    if (applyLink(links, running, false, link, isRunning) !== 'none') changed = true
  }
  const gone = [...links.keys()].filter((ifindex) => !present.has(ifindex))
  for (const ifindex of gone) {
    links.delete(ifindex)
    running.delete(ifindex)
  }
  return { gone, changed: changed || gone.length > 0 }
}
