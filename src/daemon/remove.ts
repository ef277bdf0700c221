// `hostrouted --remove`: takes everything of hostroute off a node whose daemon
// does not run, as `hostroute disable` does with one that runs.

import { existsSync, lstatSync, readdirSync, rmdirSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { type Config, defaultConfig } from '../config/config.js'
import type { HandedBack } from '../control/api.js'
import { handedBackLines } from '../control/handed-back.js'
import type { Entry } from '../datapath/flow-reader.js'
import { giveBack } from '../datapath/hand-back.js'
import { removeLeftovers } from '../datapath/leftovers.js'
import { PinnedControl } from '../datapath/pinned-control.js'
import { PinnedMaps } from '../datapath/pinned-maps.js'
import { refuseNoPinDirectory } from '../datapath/pins.js'
import { Refusal } from '../datapath/refusal.js'
import { directoriesFile, notedDirectories } from '../directories.js'
import { Guard } from '../guard/guard.js'
import { losesEgress } from '../life/egress.js'
import { guardFile } from '../life/guard-words.js'
import { egressTable, hasEgressTable, removeEgress } from '../life/kernel-egress.js'
import { keptConfigs, loadLastGood } from '../life/last-good.js'
import { keptMasquerade } from '../life/masquerade-policy.js'
import { checkCapabilities, lockRunDirectory } from '../life/preflight.js'
import { switchFile } from '../life/switch.js'
import { isLockMissing, mapHolder } from '../lock-holder.js'
import type { Logger } from '../log.js'
import { decodeAddress, decodeNeighbourKey, decodeNexthop, decodePod } from '../maps/codec.js'
import { openNeighbourRequests } from '../netlink/requests.js'
import type { Address } from '../state/types.js'
import { refuseElsewhere, refuseOtherDirectories } from './noted.js'
import type { Paths } from './options.js'

export interface RemoveOptions extends Paths {
  /** Also where nobody else would masquerade the pods. */
  force: boolean
  log: Logger
}

/** Programs, links, maps, managed neighbours, the table of `onDisable: masquerade` and the files of the state and run directories go. Throws Refusal when a daemon runs, rights are missing, they are another daemon's, the directory of the pins is on no bpffs or, unless forced, pods would lose their way out; Error when something stays, after all else was tried. */
export async function removeFromNode(options: RemoveOptions): Promise<void> {
  const { config: configPath, pinDirectory, runDirectory, stateDirectory, force, log } = options
  checkCapabilities()
  refuseNoPinDirectory(pinDirectory)
  refuseElsewhere(runDirectory)
  refuseOtherDirectories(force ? ['--remove', '--force'] : ['--remove'], options)
  refuseOthersPins(pinDirectory, runDirectory)
  refuseBesideHolder({ pinDirectory, runDirectory })
  const isNew = !existsSync(runDirectory)
  const lock = lockRunDirectory(runDirectory)
  const noted = notedDirectories(runDirectory)
  const config = configOf(configPath, stateDirectory)
  const masquerades = await hasEgressTable()
  if (!force) await (masquerades ? refuseLossOfTable(config) : refuseLoss(pinDirectory, config))
  const pins = hasPins(pinDirectory) || existsSync(join(runDirectory, 'clsact.json'))
  const { released, stays } = await removePinned({ pinDirectory, runDirectory, log }).catch((error: Error) => ({
    released: 0,
    stays: [`programs, links and maps stay: ${error.message}`]
  }))
  const configs = noted === null ? [configPath] : [configPath, noted.config]
  const files = removeFiles(
    [
      switchFile(stateDirectory),
      guardFile(stateDirectory),
      ...keptConfigs(stateDirectory, configs),
      keptMasquerade(stateDirectory),
      join(runDirectory, 'control.sock')
    ],
    stays
  )
  // with what is left above it packets would still be masqueraded
  const table = masquerades && (await takeEgressAway(stays))
  // while something stays the next one has to find it
  if (stays.length === 0) files.push(...removeFiles([directoriesFile(runDirectory)], stays))
  if (stays.length > 0) throw new Error(`not all could be removed: ${stays.join('; ')}`)
  log.info(wordsOf({ pins, released, table, files }, options))
  lock.close()
  rmSync(join(runDirectory, 'hostrouted.lock'), { force: true })
  try {
    if (isNew) rmdirSync(runDirectory)
  } catch {
    // somebody else has begun to use it
  }
}

interface Removed {
  /** There were pins, or filters that the run directory names. */
  pins: boolean
  /** Neighbours. */
  released: number
  /** The table of `onDisable: masquerade` was there. */
  table: boolean
  files: string[]
}

function wordsOf({ pins, released, table, files }: Removed, { pinDirectory, runDirectory, stateDirectory }: Paths) {
  const what = `the nft table inet ${egressTable}, which masqueraded the pods (onDisable: masquerade)`
  if (pins) {
    const own = released > 0 ? `, and ${released} neighbours are the kernel's own again` : ''
    return `removed from this node: programs, links and maps${own}${table ? `; so is ${what}` : ''}`
  }
  const rest = table ? [what, ...files] : files
  if (rest.length === 0) return `nothing of hostroute is in ${pinDirectory}, ${runDirectory} and ${stateDirectory}`
  return `nothing of hostroute is in ${pinDirectory}; removed from this node: ${rest.join(', ')}`
}

/** Those that were there, and are gone. What cannot be removed is added to `stays`. */
function removeFiles(paths: readonly string[], stays: string[]): string[] {
  return paths.filter((path) => {
    try {
      if (lstatSync(path, { throwIfNoEntry: false }) === undefined) return false
      rmSync(path)
      return true
    } catch (error) {
      stays.push(
        `${path} stays (${(error as Error).message}): make ${dirname(path)} writable and run this again, or remove the file yourself`
      )
      return false
    }
  })
}

/** Of what a daemon pins, `links` is made first and `control` last. */
function hasPins(pinDirectory: string): boolean {
  return ['control', 'links', 'guard', 'next'].some((name) => existsSync(join(pinDirectory, name)))
}

/** A directory that no daemon has noted, and that holds other things, is not emptied. Throws Refusal. */
function refuseOthersPins(pinDirectory: string, runDirectory: string): void {
  if (notedDirectories(runDirectory) !== null || hasPins(pinDirectory) || !existsSync(pinDirectory)) return
  if (readdirSync(pinDirectory).length === 0) return
  throw new Refusal(
    `nothing of hostroute is in ${pinDirectory}, which holds other files: it stays as it is. Name the directory that the daemon used with --pin-directory`
  )
}

/** Where the lock says nothing, since its file was removed: a daemon has its maps open. Throws Refusal. */
export function refuseBesideHolder({
  pinDirectory,
  runDirectory
}: Pick<RemoveOptions, 'pinDirectory' | 'runDirectory'>): void {
  if (!isLockMissing(runDirectory)) return
  const control = PinnedControl.open(pinDirectory)
  const holder = control ? mapHolder(control.mapId) : null
  control?.close()
  if (holder !== null)
    throw new Refusal(
      `process ${holder} has the maps in ${pinDirectory} open, and ${runDirectory} has no lock: if that is hostrouted, stop it first (systemctl stop hostrouted, or kill ${holder})`
    )
}

/** null: none can be read. */
export function configOf(path: string, stateDirectory: string): Config | null {
  try {
    return loadLastGood(path, stateDirectory).config
  } catch {
    return null
  }
}

/** true: it was there, and is gone. That it stays is added to `stays`. */
async function takeEgressAway(stays: string[]): Promise<boolean> {
  try {
    return await removeEgress()
  } catch (error) {
    stays.push(
      `the nft table inet ${egressTable} stays and masquerades (${(error as Error).message}): run this again, or nft delete table inet ${egressTable}`
    )
    return false
  }
}

/** What became of what a daemon had left. */
export interface RemovedPins {
  /** null: the programs did not forward, or nothing was pinned. */
  handedBack: HandedBack | null
  /** How many neighbours are the kernel's own again. */
  released: number
  /** What could not be removed: sentences. */
  stays: string[]
}

/** What a daemon that is gone left: its flows go to the stack, then all of it goes. */
export async function removePinned({
  pinDirectory,
  runDirectory,
  log
}: Pick<RemoveOptions, 'pinDirectory' | 'runDirectory' | 'log'>): Promise<RemovedPins> {
  const maps = new PinnedMaps(pinDirectory)
  let handedBack: HandedBack | null
  let released: number
  try {
    handedBack = await handBack(pinDirectory, maps, log)
    released = await releaseNeighbours(maps)
  } finally {
    maps.close()
  }
  const stays: string[] = []
  try {
    Guard.remove({ pinDirectory, runDirectory })
  } catch (error) {
    stays.push(`the guard stays: ${(error as Error).message}`)
  }
  return { handedBack, released, stays: [...stays, ...removeLeftovers(pinDirectory, runDirectory)] }
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

/** Throws Refusal where pods would lose their way out. */
async function refuseLoss(pinDirectory: string, config: Config | null): Promise<void> {
  const loses = await lossOfPinned(pinDirectory)
  if (loses === null) return
  const no =
    config?.onDisable === 'masquerade'
      ? '; onDisable: masquerade is for hostroute disable, --remove leaves nothing of hostroute'
      : ''
  throw new Refusal(`${loses}${no}`)
}

/** What pods would lose if what is pinned went: programs that forward and masquerade, and no rule of the kernel's that does. A sentence, or null. */
export async function lossOfPinned(pinDirectory: string): Promise<string | null> {
  if (!existsSync(join(pinDirectory, 'control'))) return null
  const control = PinnedControl.open(pinDirectory)
  const maps = new PinnedMaps(pinDirectory)
  let pods: Address[]
  try {
    if (!control) throw new Error('the pinned maps cannot be read')
    const isDue = () => maps.rows('masquerade').some(({ value }) => value.some((byte) => byte !== 0))
    if (!control.isForwarding || !control.masquerades || !isDue()) return null
    pods = maps.rows('pods').map(({ key }) => decodeAddress(key))
  } catch (error) {
    return `whether pods would lose their way out cannot be seen (${(error as Error).message}); --force goes on all the same`
  } finally {
    control?.close()
    maps.close()
  }
  return losesEgress({ snat: { enabled: true } }, pods)
}

/** Once the lease is over the stack has had the connections for long: there is nothing to hand back. */
async function handBack(pinDirectory: string, maps: PinnedMaps, log: Logger): Promise<HandedBack | null> {
  const control = PinnedControl.open(pinDirectory)
  if (!control) return null
  let handedBack: HandedBack | null = null
  try {
    if (control.isForwarding) {
      handedBack = await giveBack({ maps, control })
      const words = handedBackLines(handedBack)
      if (words.length > 0) log[handedBack.reasons.length > 0 ? 'warn' : 'info'](words.join(' '))
    }
    control.switchOn(false)
  } catch (error) {
    const why = `connections could not be handed to conntrack: ${(error as Error).message}`
    log.warn(why)
    return { ...(handedBack ?? { continues: 0, cannot: 0 }), reasons: [...(handedBack?.reasons ?? []), why] }
  } finally {
    control.close()
  }
  return handedBack
}

/** Clears the managed mark of the neighbours that the pinned maps name; others' marks stay. Returns how many. */
async function releaseNeighbours(maps: PinnedMaps): Promise<number> {
  const requests = openNeighbourRequests()
  let released = 0
  for (const { ifindex, address } of namedNeighbours(maps)) {
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
function namedNeighbours(maps: PinnedMaps): NamedNeighbour[] {
  const named: NamedNeighbour[] = []
  for (const { key, value } of rowsOf(maps, 'pods')) {
    named.push({ ifindex: decodePod(value).ifindex, address: decodeAddress(key) })
  }
  for (const { value } of rowsOf(maps, 'nexthops')) {
    const { ifindex, gateway } = decodeNexthop(value)
    if (gateway !== null) named.push({ ifindex, address: gateway })
  }
  for (const { key } of rowsOf(maps, 'neighbours')) named.push(decodeNeighbourKey(key))
  return named
}

/** What cannot be read is none. */
function rowsOf(maps: PinnedMaps, name: string): Entry[] {
  try {
    return maps.rows(name)
  } catch {
    return []
  }
}
