// What hostroute pins, by name, and its removal.
//
// Invariants
// - Nothing is removed that is not on a BPF file system.
// - Of the pin directory only what has a name of ours: pins of our maps, links/PROGRAM-IFINDEX,
//   the guard's pins in guard/, maps in next-part/, next/ and next-done/. All else stays,
//   whichever of these directories it is in: files and directories of others, symbolic links.
// - Without `control`, `links` or a change of maps the directory is none of ours: only an empty
//   one is removed. `control` goes first, so that the next daemon begins anew; `links` goes
//   last, so that what stays is found the next time.
// - A directory that is not empty then, or is a mount point, stays: that is no failure.
// - A name stays in the lists when a version has it no longer: any version removes the pins of those before it.

import { type Dirent, existsSync, lstatSync, readdirSync, rmdirSync, unlinkSync } from 'node:fs'
import { join } from 'node:path'
import { native } from './native.js'

/** Also of earlier versions. */
const maps = new Set([
  ...['control', 'devices', 'pods', 'pod_slots', 'pod_sources', 'nexthops', 'groups', 'neighbours', 'destinations'],
  ...['routes4', 'routes6', 'class_routes4', 'class_routes6', 'masquerade', 'snat_sources', 'snat_ports'],
  ...['flows4', 'flows6', 'reverse4', 'reverse6', 'owners4', 'owners6', 'stack_pairs', 'fragments', 'new_entries'],
  ...['accounts', 'usage', 'counters', 'counted_before', 'traces', 'events', 'event_budgets', 'detour_budgets'],
  ...['flow_keys4', 'flow_keys6', 'merge_rows', 'lease_timers', 'conntrack_scratch', 'fragment_scratch'],
  ...['icmp_answers', 'error_scratch', 'stage_programs']
])
const guardMaps = new Set([
  ...['control', 'cgroup_paths', 'allowed_cgroups', 'allowed_executables', 'exemptions', 'legacy_policies'],
  ...['owned_tables', 'half_checked', 'guard_events', 'guard_counts']
])
/** Of a change of maps (src/datapath/migration.ts). */
const changes = ['next-part', 'next', 'next-done']

export const isOwnMap = (name: string): boolean => maps.has(name)
/** In links/. */
export const isOwnLink = (name: string): boolean => /^[a-z][a-z0-9_]*-\d+$/.test(name)
/** In guard/. */
export const isGuardPin = (name: string): boolean => guardMaps.has(name) || name.startsWith('link_')

/** Removes what is ours in `directory`, and it. Never throws: a sentence for what of ours stays. */
export function removeOwnPins(directory: string): string[] {
  try {
    const found = entries(directory)
    if (found.length > 0 && !native().isBpffs(directory))
      return [
        `what hostroute has pinned in ${directory} cannot be seen, since it is not on a BPF file system; nothing in it was removed`
      ]
    // not symbolic links: what they point to is elsewhere
    const directories = new Set(found.filter((entry) => entry.isDirectory()).map(({ name }) => name))
    const isOurs =
      ['links', ...changes].some((name) => directories.has(name)) ||
      found.some((entry) => entry.name === 'control' && entry.isFile())
    if (isOurs) removeAll(directory, directories)
    removeEmpty(directory)
    return []
  } catch (error) {
    return [`${directory} stays: ${(error as Error).message}`]
  }
}

/** directories: those that are in it. Throws. */
function removeAll(directory: string, directories: ReadonlySet<string>): void {
  const remove = (name: string, isOwn: (name: string) => boolean) =>
    directories.has(name) ? removeIn(join(directory, name), isOwn) : []
  const failed = [
    ...unlinkOwn(directory, isOwnMap),
    ...changes.flatMap((name) => remove(name, isOwnMap)),
    ...remove('guard', isGuardPin),
    ...(directories.has('links') ? unlinkOwn(join(directory, 'links'), isOwnLink) : [])
  ]
  const [first] = failed
  if (first) throw first
  // the rest would be found by it
  if (directories.has('links')) removeEmpty(join(directory, 'links'))
}

/** What of `directory` has such a name, and the directory. Errors for what stays. */
function removeIn(directory: string, isOwn: (name: string) => boolean): Error[] {
  const failed = unlinkOwn(directory, isOwn)
  if (failed.length > 0) return failed
  try {
    removeEmpty(directory)
    return []
  } catch (error) {
    return [error as Error]
  }
}

/** The guard's directory. Throws. */
export function removeGuardPins(directory: string): void {
  const [failed] = removeIn(directory, isGuardPin)
  if (failed) throw failed
}

function unlinkOwn(directory: string, isOwn: (name: string) => boolean): Error[] {
  const own = entries(directory).filter((entry) => entry.isFile() && isOwn(entry.name))
  if (own.length === 0 || !native().isBpffs(directory)) return []
  own.sort((a, b) => Number(b.name === 'control') - Number(a.name === 'control'))
  return own.flatMap(({ name }) => {
    try {
      unlinkSync(join(directory, name))
      return []
    } catch (error) {
      return codeOf(error) === 'ENOENT' ? [] : [error as Error]
    }
  })
}

/** Only where nothing is in it; a mount point stays. Throws. */
function removeEmpty(directory: string): void {
  try {
    if (!existsSync(directory) || !native().isBpffs(directory)) return
    rmdirSync(directory)
  } catch (error) {
    if (!['ENOENT', 'ENOTDIR', 'ENOTEMPTY', 'EEXIST', 'EBUSY'].includes(codeOf(error) ?? '')) throw error
  }
}

/** Our links in `directory`; none where it is not there. Throws. */
export function ownLinks(directory: string): string[] {
  return entries(directory)
    .map(({ name }) => name)
    .filter(isOwnLink)
}

/** None where it is not there, or is no directory; a symbolic link is none. Throws. */
function entries(directory: string): Dirent[] {
  try {
    if (lstatSync(directory).isSymbolicLink()) return []
    return readdirSync(directory, { withFileTypes: true })
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(codeOf(error) ?? '')) return []
    throw error
  }
}

function codeOf(error: unknown): string | undefined {
  return (error as { code?: string }).code
}
