// Which of the three backends guards: the first one that is seen to refuse.
//
// That a program loads and attaches proves nothing: on a kernel without bpf in
// its list of security modules an LSM program attaches and is never called.
// So each backend must refuse real writes in a network namespace made for the
// purpose, and must let the same writes through in another one.
//
// Links and maps are pinned in one directory, so that they outlive the daemon;
// a new daemon takes the maps over and its links replace the old ones.

import { mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { GuardBackendName, GuardBackendRow, GuardWitness } from '../control/guard-api.js'
import { type BpfObject, type NativeError, type NetfilterSocket, native } from '../native.js'
import { probeTransaction } from '../netfilter/nfnetlink.js'
import { removeGuardPins } from '../own-pins.js'
import { cgroupRoot } from './cgroups.js'
import { backendCode, controlOffset, u32, u64 } from './layout.js'
import { chooseWitness, witnessPrograms } from './witness.js'

export const backendNames: GuardBackendName[] = ['lsm', 'fmod_ret', 'cgroup']

const programs: Record<GuardBackendName, string[]> = {
  lsm: ['guard_lsm_netlink', 'guard_lsm_option'],
  fmod_ret: ['guard_fmod_netlink', 'guard_fmod_option'],
  cgroup: ['guard_cgroup_option']
}
const weaker =
  'iptables-legacy is refused by a hook, iptables-nft by tables that the guard owns while nobody exempt needs them; other nf_tables writes are reported'
const linkPrefix = 'link_'

export interface Chosen {
  /** null: none refuses here. */
  name: GuardBackendName | null
  object: BpfObject | null
  tried: GuardBackendRow[]
  /** null: not the backend cgroup. */
  witness: GuardWitness | null
}

/** Loads, attaches and proves backends in turn. What failed is detached again. */
export function chooseBackend(directory: string, candidates: GuardBackendName[]): Chosen {
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const tried: GuardBackendRow[] = []
  for (const name of backendNames) {
    if (!candidates.includes(name)) {
      tried.push({ name, state: 'untried', why: 'the configuration names another one' })
      continue
    }
    const outcome = tryBackend(directory, name)
    if (typeof outcome !== 'string') {
      const witness = name === 'cgroup' ? chooseWitness(directory, outcome, (link) => pinOf(directory, link)) : null
      const stays = witness ? [...programs.cgroup, ...witnessPrograms] : programs[name]
      detachLinks(directory, (link) => !stays.includes(link))
      tried.push({ name, state: 'in use', why: name === 'cgroup' ? weaker : null })
      for (const rest of backendNames.slice(backendNames.indexOf(name) + 1))
        tried.push({ name: rest, state: 'untried', why: `${name} is stronger and works` })
      return { name, object: outcome, tried, witness }
    }
    detachLinks(directory, (link) => programs[name].includes(link))
    tried.push({ name, state: 'failed', why: outcome })
  }
  return { name: null, object: null, tried, witness: null }
}

/** Detaches everything and removes what is ours of the directory, and it. Throws. */
export function removePins(directory: string): void {
  detachLinks(directory, () => true)
  removeGuardPins(directory)
}

function tryBackend(directory: string, name: GuardBackendName): BpfObject | string {
  let object: BpfObject
  try {
    object = load(directory, name)
  } catch (error) {
    return `cannot be loaded: ${(error as Error).message}`
  }
  try {
    attach(object, directory, name)
    const failure = prove(object, name)
    if (failure === null) return object
    object.close()
    return failure
  } catch (error) {
    object.close()
    return (error as Error).message
  }
}

function load(directory: string, name: GuardBackendName): BpfObject {
  const options = { object: 'guard', programs: programs[name], pinDirectory: directory }
  try {
    return native().loadObject(options)
  } catch (error) {
    // Nothing in these maps is worth keeping: another version's go.
    if ((error as NativeError).code !== 'ELAYOUT') throw error
    removePins(directory)
    mkdirSync(directory, { recursive: true, mode: 0o700 })
    return native().loadObject(options)
  }
}

function attach(object: BpfObject, directory: string, name: GuardBackendName): void {
  for (const program of programs[name]) {
    const pin = pinOf(directory, program)
    if (name !== 'cgroup') {
      object.attachTrace(program, pin)
      continue
    }
    const root = cgroupRoot()
    if (root === null) throw new Error('the whole cgroup2 tree is not mounted: mount it at /sys/fs/cgroup')
    object.attachCgroup(program, root, pin)
  }
}

interface Attempt {
  what: string
  write(socket: NetfilterSocket): void
}

const attempts: Record<'netlink' | 'option', Attempt[]> = {
  netlink: [{ what: 'an nf_tables rule', write: (socket) => void socket.request(probeTransaction()) }],
  option: [{ what: 'a legacy table', write: (socket) => socket.setOption(0, 64, Buffer.alloc(96)) }]
}

/** null: it refuses where it should and nowhere else. */
function prove(object: BpfObject, name: GuardBackendName): string | null {
  const watched = native().openNetfilter(true)
  const other = native().openNetfilter(true)
  try {
    // An earlier daemon's programs still stand and read the same section: only this backend's may count.
    object.writeControl(controlOffset.probeBackend, u32(backendCode[name]))
    object.writeControl(controlOffset.probeCookie, u64(watched.cookie))
    for (const { what, write } of [...(name === 'cgroup' ? [] : attempts.netlink), ...attempts.option]) {
      if (!refused(() => write(watched)))
        return `attached without an error, but refuses nothing: ${what} went through${hint(name)}`
      if (refused(() => write(other))) return `refuses ${what} in every network namespace`
    }
    return null
  } finally {
    object.writeControl(controlOffset.probeCookie, u64(0n))
    watched.close()
    other.close()
  }
}

function hint(name: GuardBackendName): string {
  if (name !== 'lsm') return ''
  try {
    const active = readFileSync('/sys/kernel/security/lsm', 'utf8').trim()
    return active.split(',').includes('bpf') ? '' : ` (bpf is not among the active security modules: ${active})`
  } catch {
    return ''
  }
}

function refused(write: () => void): boolean {
  try {
    write()
    return false
  } catch (error) {
    return (error as NativeError).code === 'EPERM'
  }
}

function pinOf(directory: string, program: string): string {
  return join(directory, linkPrefix + program)
}

function detachLinks(directory: string, which: (program: string) => boolean): void {
  for (const entry of entries(directory)) {
    if (entry.startsWith(linkPrefix) && which(entry.slice(linkPrefix.length)))
      native().detachPinned(join(directory, entry))
  }
}

function entries(directory: string): string[] {
  try {
    return readdirSync(directory)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return []
    throw error
  }
}
