// Network devices by ifindex.

import { sameFact } from './equal.js'
import type { Link } from './types.js'

export type LinkTable = Map<number, Link>

/** Devices whose last message had IFF_RUNNING. */
export type RunningSet = Set<number>

/**
 * What a link event means for routes: 'changed', nothing; 'up' and 'back', next
 * hops may have come to life again: with the device, with its carrier.
 */
export type LinkEffect = 'none' | 'changed' | 'gone' | 'down' | 'carrier' | 'up' | 'back'

/**
 * The carrier bit follows the device at once, but next hops are marked dead (and
 * revived) up to a second later, when the kernel's link watch changes
 * IFF_RUNNING: they are dead when both are gone.
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
  if (removed) return links.delete(link.ifindex) ? 'gone' : 'none'
  const turned = known !== undefined && wasRunning !== isRunning
  if (known && sameFact(known, link) && !turned) return 'none'
  links.set(link.ifindex, link)
  // A device that is new and down has no routes yet; each route it gets is announced.
  if (!known) return 'changed'
  if (known.up && !link.up) return 'down'
  if (link.up && !link.carrier && !isRunning) {
    if (known.carrier || wasRunning) return 'carrier'
    return known.up ? 'changed' : 'up'
  }
  if (!known.up && link.up) return 'up'
  return turned || known.carrier !== link.carrier ? 'back' : 'changed'
}

/** Applies a whole dump. Returns the devices that are gone, and all that changed. */
export function replaceLinks(
  links: LinkTable,
  running: RunningSet,
  dumped: { link: Link; running: boolean }[]
): { gone: number[]; changed: number[] } {
  const present = new Set<number>()
  const changed: number[] = []
  for (const { link, running: isRunning } of dumped) {
    present.add(link.ifindex)
    if (applyLink(links, running, false, link, isRunning) !== 'none') changed.push(link.ifindex)
  }
  const gone = [...links.keys()].filter((ifindex) => !present.has(ifindex))
  for (const ifindex of gone) {
    links.delete(ifindex)
    running.delete(ifindex)
  }
  return { gone, changed: [...changed, ...gone] }
}
