// Rows of `snat_sources`: addresses of the node that share its pods. A list of
// addresses is known by them joined with '+', sorted, as in a next hop's key.
//
// Row 0 is never used: to a next hop it means that it has one address at most.

import { joinAddresses, splitAddresses, toMapped } from '../address.js'
import type { Address, AddressList } from '../state/types.js'
import { CapacityError, type MapAccess } from './access.js'
import { decodeAddress } from './codec.js'
import { createIndexPool } from './index-pool.js'
import { SOURCE_PLACES, STRUCTS } from './layout.js'
import { createMirror, indexKey, type Mirror } from './mirror.js'

export interface SnatSourceRows {
  mirror: Mirror
  load(): void
  /** Of a row found by load(); null: there is nothing in it. */
  listAt(index: number): AddressList | null
  /** After load: a next hop in the maps refers to the row. */
  adopt(index: number): void
  /** Row of the list, one more user. CapacityError: no row is left. */
  acquire(list: AddressList): number
  release(index: number): void
  /** Zeroes the rows that lost their last user, and those that load() found and nobody adopted; they may be taken again. */
  settle(): void
}

export function createSnatSourceRows(access: MapAccess): SnatSourceRows {
  const mirror = createMirror(access.map('snat_sources'))
  const pool = createIndexPool(1, mirror.map.info.maxEntries)
  const indexes = new Map<AddressList, number>()
  const lists = new Map<number, AddressList>()
  const users = new Map<number, number>()
  const addUser = (index: number): void => {
    users.set(index, (users.get(index) ?? 0) + 1)
  }

  return {
    mirror,
    load() {
      mirror.load()
      pool.clear()
      for (const table of [indexes, lists, users]) table.clear()
      for (const [name, bytes] of mirror.rows) {
        const index = Buffer.from(name, 'hex').readUInt32LE()
        const list = listOf(bytes)
        if (!pool.reserve(index)) continue
        lists.set(index, list)
        if (!indexes.has(list)) indexes.set(list, index)
      }
    },
    listAt: (index) => lists.get(index) ?? null,
    adopt: addUser,
    acquire(list) {
      let index = indexes.get(list)
      if (index === undefined) {
        const free = pool.take()
        if (free === null)
          throw new CapacityError([4, 6], `more than ${mirror.map.info.maxEntries - 1} lists of source addresses`)
        index = free
        indexes.set(list, index)
        lists.set(index, list)
        mirror.put(indexKey(index), encodeSources(splitAddresses(list)))
      }
      addUser(index)
      return index
    },
    release(index) {
      const others = (users.get(index) ?? 0) - 1
      if (others > 0) users.set(index, others)
      else users.delete(index)
    },
    settle() {
      pool.settle()
      for (const [index, list] of lists) {
        if (users.has(index)) continue
        mirror.remove(indexKey(index))
        lists.delete(index)
        if (indexes.get(list) === index) indexes.delete(list)
        pool.giveBack(index)
      }
    }
  }
}

function encodeSources(addresses: readonly Address[]): Buffer {
  return Buffer.from(spreadSources(addresses).map(toMapped).join(''), 'hex')
}

/** The addresses of a row by place. */
export function decodeSources(bytes: Buffer): Address[] {
  const width = STRUCTS.snat_sources.size / SOURCE_PLACES
  return Array.from({ length: SOURCE_PLACES }, (_, place) =>
    decodeAddress(bytes.subarray(place * width, (place + 1) * width))
  )
}

function listOf(bytes: Buffer): AddressList {
  return joinAddresses([...new Set(decodeSources(bytes))].sort())
}

/**
 * SOURCE_PLACES places shared evenly. Each place prefers some addresses to
 * others whatever else there is, so that few pods get another address when one
 * comes or goes.
 */
export function spreadSources(addresses: readonly Address[]): Address[] {
  const places: Address[] = []
  const shares = new Map<Address, number>()
  const ranked = addresses
    .flatMap((address) =>
      Array.from({ length: SOURCE_PLACES }, (_, place) => ({ place, address, rank: hash(`${place} ${address}`) }))
    )
    .sort((a, b) => b.rank - a.rank)
  const least = Math.floor(SOURCE_PLACES / addresses.length)
  for (const most of [least, least + 1]) {
    for (const { place, address } of ranked) {
      const share = shares.get(address) ?? 0
      if (places[place] !== undefined || share >= most) continue
      places[place] = address
      shares.set(address, share + 1)
    }
  }
  return places
}

/** FNV-1a, mixed once more: its upper bits hardly depend on the last characters. */
function hash(text: string): number {
  let value = 0x811c9dc5
  for (let at = 0; at < text.length; at++) value = Math.imul(value ^ text.charCodeAt(at), 0x01000193)
  value = Math.imul(value ^ (value >>> 16), 0x85ebca6b)
  return (value ^ (value >>> 13)) >>> 0
}
