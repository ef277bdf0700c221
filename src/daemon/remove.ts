// `hostrouted --remove`: takes everything of hostroute off a node whose daemon
// does not run, as `hostroute disable` does with one that runs.

import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { handedBackLines } from '../control/handed-back.js'
import { Guard } from '../guard/guard.js'
import type { Logger } from '../log.js'
import { decodeAddress, decodeNeighbourKey, decodeNexthop, decodePod } from '../maps/codec.js'
import { type BpfMap, native } from '../native.js'
import { openNeighbourRequests } from '../netlink/requests.js'
import type { Address } from '../state/types.js'
import { giveBack } from './hand-back.js'
import { removeLeftovers } from './leftovers.js'
import { keptMasquerade } from './masquerade.js'
import { PinnedControl } from './pinned-control.js'
import { checkCapabilities, lockRunDirectory } from './preflight.js'
import { disabledFile } from './switch-file.js'

export interface RemoveOptions {
  pinDirectory: string
  runDirectory: string
  log: Logger
}

/** Programs, links, maps, managed neighbours and the run directory's files go. Throws Refusal when a daemon runs or rights are missing. */
export async function removeFromNode({ pinDirectory, runDirectory, log }: RemoveOptions): Promise<void> {
  checkCapabilities()
  const lock = lockRunDirectory(runDirectory)
  await handBack(pinDirectory, log)
  const released = await releaseNeighbours(pinDirectory)
  Guard.remove({ pinDirectory, runDirectory })
  removeLeftovers(pinDirectory, runDirectory)
  for (const path of [disabledFile(runDirectory), keptMasquerade(runDirectory), join(runDirectory, 'control.sock')])
    rmSync(path, { force: true })
  log.info(
    `removed from this node: programs, links and maps${released > 0 ? `, and ${released} neighbours are the kernel's own again` : ''}`
  )
  lock.close()
  rmSync(join(runDirectory, 'hostrouted.lock'), { force: true })
}

/** Once the lease is over the stack has had the connections for long: there is nothing to hand back. */
async function handBack(pinDirectory: string, log: Logger): Promise<void> {
  const control = PinnedControl.open(pinDirectory)
  if (!control) return
  const maps = new PinnedMaps(pinDirectory)
  try {
    if (control.isForwarding) {
      const handedBack = await giveBack({ maps, control })
      const words = handedBackLines(handedBack)
      if (words.length > 0) log[handedBack.reasons.length > 0 ? 'warn' : 'info'](words.join(' '))
    }
    control.switchOn(false)
  } catch (error) {
    log.warn(`connections could not be handed to conntrack: ${(error as Error).message}`)
  } finally {
    control.close()
    maps.close()
  }
}

class PinnedMaps {
  private readonly opened = new Map<string, BpfMap>()

  constructor(private readonly pinDirectory: string) {}

  map(name: string): BpfMap {
    const map = this.opened.get(name) ?? native().openPinnedMap(join(this.pinDirectory, name))
    this.opened.set(name, map)
    return map
  }

  close(): void {
    for (const map of this.opened.values()) map.close()
  }
}

/** Clears the managed mark of the neighbours that the pinned maps name; others' marks stay. Returns how many. */
async function releaseNeighbours(pinDirectory: string): Promise<number> {
  const requests = openNeighbourRequests()
  let released = 0
  for (const { ifindex, address } of namedNeighbours(pinDirectory)) {
    // one that refuses is about to go with its device
    const outcome = await requests.setManaged(ifindex, address, false).catch(() => 'gone')
    if (outcome === 'done') released++
  }
  requests.close()
  return released
}

interface NamedNeighbour {
  ifindex: number
  address: Address
}

/** Pods, gateways, and who was reached on a link: all that the daemon may have marked. */
function namedNeighbours(pinDirectory: string): NamedNeighbour[] {
  const named: NamedNeighbour[] = []
  for (const { key, value } of pinnedRows(pinDirectory, 'pods')) {
    named.push({ ifindex: decodePod(value).ifindex, address: decodeAddress(key) })
  }
  for (const { value } of pinnedRows(pinDirectory, 'nexthops')) {
    const { ifindex, gateway } = decodeNexthop(value)
    if (gateway !== null) named.push({ ifindex, address: gateway })
  }
  for (const { key } of pinnedRows(pinDirectory, 'neighbours')) {
    const [ifindex = '', address = ''] = decodeNeighbourKey(key).split('/')
    named.push({ ifindex: Number(ifindex), address })
  }
  return named
}

function pinnedRows(pinDirectory: string, name: string): { key: Buffer; value: Buffer }[] {
  try {
    const map = native().openPinnedMap(join(pinDirectory, name))
    const { keySize, valueSize } = map.info
    const { keys, values, count } = map.dump()
    map.close()
    return Array.from({ length: count }, (_, row) => ({
      key: keys.subarray(row * keySize, (row + 1) * keySize),
      value: values.subarray(row * valueSize, (row + 1) * valueSize)
    }))
  } catch {
    // never pinned, or gone
    return []
  }
}
