// The source address SNAT takes for a next hop: the route's preferred source if
// the node has it, else what the kernel's MASQUERADE would choose.
//
// IPv4 follows inet_select_addr(device, gateway, universe): the first primary
// address of universal scope whose subnet has the gateway, else the first such
// address of the device, else the first of any other device outside VRFs.
// IPv6 approximates RFC 6724 as far as it can be said for a next hop: global,
// usable, on the device, not temporary, of the target's kind (unique local or
// not), then the longest common prefix with a global gateway or an on-link
// prefix. Addresses keep the order in which the kernel tells them.
//
// Where addresses are configured, they and no others are used: those on the next
// hop's own device if there are any, since answers to others may not come back
// that way, else all. A device counts for both families.

import { isDeepStrictEqual } from 'node:util'
import { familyOfPrefix, formatAddress, formatPrefix, splitPrefix } from '../address.js'
import { matchesGlob } from '../config/glob.js'
import type { Address, Family, InterfaceAddress, NodeState } from '../state/types.js'
import { contains } from './cover.js'
import type { SnatAddress } from './options.js'
import type { LackingSources } from './types.js'

export interface SourceChooser {
  /** target: the gateway or the on-link prefix's address; null: nothing is known of it. null result: the node has no such address. */
  source(family: Family, ifindex: number, target: Address | null, preferred: Address | null): Address | null
  /** Addresses configured for what leaves by the device, sorted, SOURCE_PLACES of the maps at most; null: none are configured. */
  configured(family: Family, ifindex: number): readonly Address[] | null
  lacking(): LackingSources
  /** The node has this address. */
  isOwn(address: Address): boolean
  /** Reads addresses and links again: for what source() or configured() may say something else now, of these devices and their gateways. */
  refresh(devices: ReadonlyMap<number, Iterable<Address>>): {
    moves: SourceMoves[] /** Usable now or no longer: of routes that prefer them. */
    turned: Address[]
  }
}

/** Routes of one family through the device, `through` these gateways (null: on-link, or a gateway of the other family), or all. */
export interface SourceMoves {
  family: Family
  ifindex: number
  through: (Address | null)[] | 'all'
}

type Candidates = ReadonlyMap<number, InterfaceAddress[]>

/** The node's addresses, sorted out. */
interface Sources {
  own: ReadonlySet<Address>
  usable: ReadonlySet<Address>
  /** By device: what is chosen from. */
  candidates: Record<Family, Candidates>
  /** Lists of candidates in the order in which they are asked when a device has none of its own. */
  others: Record<Family, InterfaceAddress[][]>
  listed: ReturnType<typeof findConfigured> | null
}

const families: readonly Family[] = [4, 6]

export function createSourceChooser(state: NodeState, snatAddresses: 'auto' | SnatAddress[] = 'auto'): SourceChooser {
  let now = readSources(state, snatAddresses)

  return {
    isOwn: (address) => now.own.has(address),
    configured: (family, ifindex) => now.listed?.of(family, ifindex) ?? null,
    lacking: () => now.listed?.lacking ?? { entries: [], families: [] },
    source(family, ifindex, target, preferred) {
      if (preferred !== null && now.usable.has(preferred)) return preferred
      return choose(now, family, ifindex, target)
    },
    refresh(devices) {
      const before = now
      now = readSources(state, snatAddresses)
      const moves: SourceMoves[] = []
      const turned: Address[] = []
      for (const family of families) {
        const others = !isDeepStrictEqual(before.others[family], now.others[family])
        for (const [ifindex, gateways] of devices) {
          const [was, is] = [before, now].map((sources) => sources.listed?.of(family, ifindex))
          if (!isDeepStrictEqual(was, is)) moves.push({ family, ifindex, through: 'all' })
          const [old, own] = [before.candidates[family].get(ifindex), now.candidates[family].get(ifindex)]
          if (own ? isDeepStrictEqual(old, own) : !others && !old) continue
          const moved = [...gateways].filter(
            (gateway) => choose(before, family, ifindex, gateway) !== choose(now, family, ifindex, gateway)
          )
          moves.push({ family, ifindex, through: [null, ...moved] })
        }
      }
      for (const address of [...before.usable, ...now.usable])
        if (before.usable.has(address) !== now.usable.has(address)) turned.push(address)
      return { moves, turned }
    }
  }
}

/** As the kernel's MASQUERADE would. */
function choose(sources: Sources, family: Family, ifindex: number, target: Address | null): Address | null {
  const onDevice = sources.candidates[family].get(ifindex) ?? []
  const known = target !== null && target.length === (family === 4 ? 8 : 32) ? target : null
  const best = family === 4 ? choose4(onDevice, known) : choose6(onDevice, known)
  if (best !== null) return best
  for (const list of sources.others[family]) {
    const first = family === 4 ? list[0]?.local : choose6(list, known)
    if (first) return first
  }
  return null
}

function readSources(state: NodeState, snatAddresses: 'auto' | SnatAddress[]): Sources {
  const own = new Set<Address>()
  const usable = new Set<Address>()
  const candidates = { 4: new Map<number, InterfaceAddress[]>(), 6: new Map<number, InterfaceAddress[]>() }
  for (const [ifindex, addresses] of state.addresses) {
    for (const address of addresses) {
      own.add(address.local)
      if (!address.usable) continue
      usable.add(address.local)
      if (address.secondary || address.scope !== 0) continue
      const list = candidates[address.family].get(ifindex)
      if (list) list.push(address)
      else candidates[address.family].set(ifindex, [address])
    }
  }
  const isOutsideVrfs = (ifindex: number): boolean => {
    const link = state.links.get(ifindex)
    return link !== undefined && link.kind !== 'vrf' && state.links.get(link.master)?.kind !== 'vrf'
  }
  const othersOf = (of: Candidates): InterfaceAddress[][] =>
    [...of]
      .filter(([ifindex]) => isOutsideVrfs(ifindex))
      .sort(([a], [b]) => a - b)
      .map(([, list]) => list)
  return {
    own,
    usable,
    candidates,
    others: { 4: othersOf(candidates[4]), 6: othersOf(candidates[6]) },
    listed: snatAddresses === 'auto' ? null : findConfigured(state, snatAddresses)
  }
}

/** SOURCE_PLACES of bpf/types.h. */
const most = 64

function findConfigured(
  state: NodeState,
  entries: readonly SnatAddress[]
): { of(family: Family, ifindex: number): readonly Address[] | null; lacking: LackingSources } {
  const lists = { 4: new Map<Address, number>(), 6: new Map<Address, number>() }
  const lacking: LackingSources = { entries: [], families: [] }
  const asked = new Set<Family>()
  for (const entry of entries) {
    const found = [...state.addresses.values()].flat().filter((address) => isMeant(entry, address, state))
    for (const { family, local, ifindex } of found) lists[family].set(local, ifindex)
    for (const family of [4, 6] as const)
      if ('device' in entry || familyOfPrefix(entry.prefix) === family) asked.add(family)
    if (found.length === 0) lacking.entries.push(entryText(entry))
  }
  for (const family of asked) if (lists[family].size === 0) lacking.families.push(family)
  const byDevice = new Map<string, readonly Address[]>()
  const choose = (family: Family, ifindex: number): readonly Address[] => {
    const all = [...lists[family].keys()].sort()
    const own = all.filter((address) => lists[family].get(address) === ifindex)
    return (own.length > 0 ? own : all).slice(0, most)
  }
  return {
    lacking,
    of(family, ifindex) {
      if (!asked.has(family)) return null
      const key = `${family} ${ifindex}`
      const known = byDevice.get(key) ?? choose(family, ifindex)
      byDevice.set(key, known)
      return known
    }
  }
}

/** Named by itself an address may be of any kind; of a prefix or device not those that come and go with privacy extensions. */
/** RT_SCOPE_HOST */
const hostScope = 254

function isMeant(entry: SnatAddress, address: InterfaceAddress, state: NodeState): boolean {
  const { family, local, ifindex, usable, scope, secondary } = address
  if (!usable) return false
  if ('prefix' in entry) {
    const { address: outer, length } = splitPrefix(entry.prefix)
    // one that is named may have any scope but the host's own: nobody outside could answer to it
    if (length === outer.length * 4) return local === outer && scope !== hostScope
    if (!contains(outer, length, local)) return false
  } else if (!matchesGlob(entry.device, state.links.get(ifindex)?.name ?? '')) return false
  return scope === 0 && !(family === 6 && secondary)
}

function entryText(entry: SnatAddress): string {
  if ('device' in entry) return entry.device
  const { address, length } = splitPrefix(entry.prefix)
  return length === address.length * 4 ? formatAddress(address) : formatPrefix(entry.prefix)
}

function choose4(addresses: readonly InterfaceAddress[], target: Address | null): Address | null {
  const inSubnet = target && addresses.find((entry) => contains(entry.address, entry.prefixLength, target))
  return (inSubnet || addresses[0])?.local ?? null
}

function choose6(addresses: readonly InterfaceAddress[], target: Address | null): Address | null {
  const globalTarget = target !== null && !/^(fe[89ab]|ff)/.test(target) ? target : null
  const wantsUniqueLocal = globalTarget !== null && isUniqueLocal(globalTarget)
  let best: Address | null = null
  let bestScore = -1
  for (const { local } of addresses) {
    const kind = isUniqueLocal(local) === wantsUniqueLocal ? 1000 : 0
    const score = kind + (globalTarget === null ? 0 : commonBits(local, globalTarget))
    if (score <= bestScore) continue
    best = local
    bestScore = score
  }
  return best
}

function isUniqueLocal(address: Address): boolean {
  return address.startsWith('fc') || address.startsWith('fd')
}

function commonBits(a: Address, b: Address): number {
  let digit = 0
  while (digit < a.length && a[digit] === b[digit]) digit++
  if (digit === a.length) return digit * 4
  const difference = Number.parseInt(a[digit] ?? '0', 16) ^ Number.parseInt(b[digit] ?? '0', 16)
  return digit * 4 + Math.clz32(difference) - 28
}
