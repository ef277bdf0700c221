// Addresses of the node's devices, by ifindex. The kernel allows one entry for
// each (family, local address, prefix length, peer) of a device.

import { sameFact } from './equal.js'
import type { InterfaceAddress } from './types.js'

export type AddressTable = Map<number, InterfaceAddress[]>

/** true: the table is another now. */
export function applyAddress(addresses: AddressTable, removed: boolean, address: InterfaceAddress): boolean {
  const list = addresses.get(address.ifindex) ?? []
  const index = list.findIndex((known) => sameEntry(known, address))
  if (removed) {
    if (index < 0) return false
    list.splice(index, 1)
    if (list.length === 0) addresses.delete(address.ifindex)
    return true
  }
  if (index < 0) list.push(address)
  else if (sameFact(list[index], address)) return false
  else list[index] = address
  addresses.set(address.ifindex, list)
  return true
}

/** Applies a whole dump, its order too. Returns the devices whose addresses are others now. */
export function replaceAddresses(addresses: AddressTable, dumped: InterfaceAddress[]): number[] {
  const fresh: AddressTable = new Map()
  for (const address of dumped) applyAddress(fresh, false, address)
  const changed: number[] = []
  for (const ifindex of [...addresses.keys()]) {
    if (fresh.has(ifindex)) continue
    addresses.delete(ifindex)
    changed.push(ifindex)
  }
  for (const [ifindex, list] of fresh) {
    if (sameFact(addresses.get(ifindex), list)) continue
    addresses.set(ifindex, list)
    changed.push(ifindex)
  }
  return changed
}

function sameEntry(a: InterfaceAddress, b: InterfaceAddress): boolean {
  return a.family === b.family && a.local === b.local && a.prefixLength === b.prefixLength && a.address === b.address
}
