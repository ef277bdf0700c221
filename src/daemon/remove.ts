// `hostrouted --remove`: takes everything of hostroute off a node whose daemon
// does not run, as `hostroute disable` does with one that runs.

import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { type Config, defaultConfig } from '../config/config.js'
import { handedBackLines } from '../control/handed-back.js'
import { giveBack } from '../datapath/hand-back.js'
import { removeLeftovers } from '../datapath/leftovers.js'
import { PinnedControl } from '../datapath/pinned-control.js'
import { Refusal } from '../datapath/refusal.js'
import { Guard } from '../guard/guard.js'
import { losesEgress } from '../life/egress.js'
import { guardFile } from '../life/guard-words.js'
import { egressTable, hasEgressTable, removeEgress } from '../life/kernel-egress.js'
import { keptConfig, loadLastGood } from '../life/last-good.js'
import { keptMasquerade } from '../life/masquerade-policy.js'
import { checkCapabilities, lockRunDirectory } from '../life/preflight.js'
import { switchFile } from '../life/switch.js'
import type { Logger } from '../log.js'
import { decodeAddress, decodeNeighbourKey, decodeNexthop, decodePod } from '../maps/codec.js'
import { type BpfMap, native } from '../native.js'
import { openNeighbourRequests } from '../netlink/requests.js'
import type { Address } from '../state/types.js'

export interface RemoveOptions {
  /** The configuration's file. */
  config: string
  pinDirectory: string
  runDirectory: string
  stateDirectory: string
  /** Also where nobody else would masquerade the pods. */
  force: boolean
  log: Logger
}

/** Programs, links, maps, managed neighbours, the table of `onDisable: masquerade` and the run directory's files go. Throws Refusal when a daemon runs, rights are missing or, unless forced, pods would lose their way out. */
export async function removeFromNode({
  config: configPath,
  pinDirectory,
  runDirectory,
  stateDirectory,
  force,
  log
}: RemoveOptions): Promise<void> {
  checkCapabilities()
  const lock = lockRunDirectory(runDirectory)
  const config = configOf(configPath, stateDirectory)
  const masquerades = await hasEgressTable()
  if (!force) await (masquerades ? refuseLossOfTable(config) : refuseLoss(pinDirectory, config))
  const { released, stays } = await removePinned({ pinDirectory, runDirectory, log })
  for (const path of [
    switchFile(stateDirectory),
    guardFile(stateDirectory),
    keptConfig(stateDirectory),
    keptMasquerade(stateDirectory),
    join(runDirectory, 'control.sock')
  ])
    rmSync(path, { force: true })
  // last: with what is left above it packets would still be masqueraded
  const table = masquerades && (await takeEgressAway())
  const own = released > 0 ? `, and ${released} neighbours are the kernel's own again` : ''
  const egress = table
    ? `; so is the nft table inet ${egressTable}, which masqueraded the pods (onDisable: masquerade)`
    : ''
  if (stays.length > 0) throw new Error(`not all could be removed: ${stays.join('; ')}`)
  log.info(`removed from this node: programs, links and maps${own}${egress}`)
  lock.close()
  rmSync(join(runDirectory, 'hostrouted.lock'), { force: true })
}

/** null: none can be read. */
function configOf(path: string, stateDirectory: string): Config | null {
  try {
    return loadLastGood(path, stateDirectory).config
  } catch {
    return null
  }
}

async function takeEgressAway(): Promise<boolean> {
  try {
    return await removeEgress()
  } catch (error) {
    throw new Error(
      `all else is removed, but the nft table inet ${egressTable} stays and masquerades: ${(error as Error).message}`,
      { cause: error }
    )
  }
}

/** What a daemon that is gone left: its flows go to the stack, then all of it goes. released: how many neighbours are the kernel's own again; stays: sentences. */
export async function removePinned({
  pinDirectory,
  runDirectory,
  log
}: Pick<RemoveOptions, 'pinDirectory' | 'runDirectory' | 'log'>): Promise<{ released: number; stays: string[] }> {
  await handBack(pinDirectory, log)
  const released = await releaseNeighbours(pinDirectory)
  const stays: string[] = []
  try {
    Guard.remove({ pinDirectory, runDirectory })
  } catch (error) {
    stays.push(`the guard stays: ${(error as Error).message}`)
  }
  return { released, stays: [...stays, ...removeLeftovers(pinDirectory, runDirectory)] }
}

/** While hostroute is disabled, or is gone, its table masquerades: it goes, too. Throws Refusal where nothing else does. */
async function refuseLossOfTable(config: Config | null): Promise<void> {
  const { readNode } = await import('../check/node.js')
  let pods: Address[]
  try {
    const { plan } = await readNode(config ?? defaultConfig)
    pods = [...plan.pods.keys()]
  } catch (error) {
    throw new Refusal(
      `the nft table inet ${egressTable} masquerades, and goes; whether pods would lose their way out cannot be seen (${(error as Error).message}); --force removes it all the same`,
      error
    )
  }
  const loses = await losesEgress({ snat: { enabled: true } }, pods, egressTable)
  if (loses !== null) throw new Refusal(loses)
}

/** Throws Refusal where pods would lose their way out: programs that forward and masquerade, and no rule of the kernel's that does. */
async function refuseLoss(pinDirectory: string, config: Config | null): Promise<void> {
  const control = PinnedControl.open(pinDirectory)
  const forwards = control?.isForwarding === true
  control?.close()
  const masquerades = pinnedRows(pinDirectory, 'masquerade').some(({ value }) => value.some((byte) => byte !== 0))
  if (!forwards || !masquerades) return
  const pods = pinnedRows(pinDirectory, 'pods').map(({ key }) => decodeAddress(key))
  const loses = await losesEgress({ snat: { enabled: true } }, pods)
  if (loses === null) return
  const no =
    config?.onDisable === 'masquerade'
      ? '; onDisable: masquerade is for hostroute disable, --remove leaves nothing of hostroute'
      : ''
  throw new Refusal(`${loses}${no}`)
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
    named.push(decodeNeighbourKey(key))
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
