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

import type { Address, Family, InterfaceAddress, NodeState } from '../state/types.js'
import { contains } from './cover.js'

export interface SourceChooser {
  /** target: the gateway or the on-link prefix's address; null: nothing is known of it. null result: the node has no such address. */
  source(family: Family, ifindex: number, target: Address | null, preferred: Address | null): Address | null
  /** The node has this address. */
  isOwn(address: Address): boolean
}

export function createSourceChooser(state: NodeState): SourceChooser {
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
  const others = [...state.links.values()]
    .filter((link) => state.links.get(link.master)?.kind !== 'vrf' && link.kind !== 'vrf')
    .map((link) => link.ifindex)
    .sort((a, b) => a - b)

  return {
    isOwn: (address) => own.has(address),
    source(family, ifindex, target, preferred) {
      if (preferred !== null && usable.has(preferred)) return preferred
      const onDevice = candidates[family].get(ifindex) ?? []
      const known = target !== null && target.length === (family === 4 ? 8 : 32) ? target : null
      const best = family === 4 ? choose4(onDevice, known) : choose6(onDevice, known)
      if (best !== null) return best
      for (const other of others) {
        const list = candidates[family].get(other)
        const first = list && (family === 4 ? list[0]?.local : choose6(list, known))
        if (first) return first
      }
      return null
    }
  }
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
