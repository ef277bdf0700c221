// Addresses, prefixes, MACs and keys made of them: the one place where they are
// made, and taken apart. Inside hostroute an address is its bytes in lowercase
// hexadecimal: 8 digits IPv4, 32 digits IPv6 (src/state/types.ts). Text that
// people read or write is a plain string, which the compiler takes for none of
// them.
//
// Invariants: format* expects well-formed hexadecimal and never fails;
// parse* is strict, returns null for anything else and never throws; what takes
// parts out of bytes or digits does not look at them, but for hex*, which throw.

import type { Address, AddressList, Family, Mac, NeighbourKey, Prefix } from './state/types.js'

const v4Part = /^(0|[1-9][0-9]{0,2})$/
const v6Part = /^[0-9a-fA-F]{1,4}$/
/** No digits: where there is no address, and a place for one. */
export const noAddress = '' as Address
/** Of a device that has none. */
export const noMac = '000000000000' as Mac

export const unspecified: Readonly<Record<Family, Address>> = {
  4: '00000000' as Address,
  6: '00000000000000000000000000000000' as Address
}
/** /0 */
export const everything: Readonly<Record<Family, Prefix>> = {
  4: prefixKey(unspecified[4], 0),
  6: prefixKey(unspecified[6], 0)
}

const mappedPrefix = '00000000000000000000ffff'
const hexOfByte = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'))
const ends = Array.from({ length: 129 }, (_, length) => `/${length}`)
const scratch = Buffer.alloc(16)

/** 4 for 8 digits, 6 for 32. */
export function familyOf(address: Address): Family {
  return address.length === 8 ? 4 : 6
}

/** "0a010002" -> "10.1.0.2"; IPv6 as RFC 5952 writes it (v4-mapped: "::ffff:10.1.0.2"). */
export function formatAddress(address: Address): string {
  return familyOf(address) === 4 ? formatV4(address) : formatV6(address)
}

/** Text to hexadecimal; null if it is not exactly one IPv4 or IPv6 address (no zone, no prefix, no leading zeros in IPv4). */
export function parseAddress(text: string): Address | null {
  return text.includes(':') ? parseV6(text) : parseV4(text)
}

/** "0a000000/8" -> "10.0.0.0/8". */
export function formatPrefix(prefix: Prefix): string {
  const { address, length } = splitPrefix(prefix)
  return `${formatAddress(address)}/${length}`
}

/** "10.1.2.3/8" -> {address: "0a010203", length: 8}: host bits are kept. null if it is not a prefix. */
export function parsePrefix(text: string): { address: Address; length: number } | null {
  const slash = text.indexOf('/')
  if (slash < 0) return null
  const address = parseAddress(text.slice(0, slash))
  const digits = text.slice(slash + 1)
  if (address === null || !v4Part.test(digits)) return null
  const length = Number(digits)
  return length <= address.length * 4 ? { address, length } : null
}

/** "0a0b0c0d0e0f" -> "0a:0b:0c:0d:0e:0f". */
export function formatMac(mac: Mac): string {
  return mac.match(/../g)?.join(':') ?? ''
}

/** "0A:0b:0c:0d:0e:0f" -> "0a0b0c0d0e0f"; null if it is not six bytes separated by colons. */
export function parseMac(text: string): Mac | null {
  return /^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$/.test(text) ? (text.replaceAll(':', '').toLowerCase() as Mac) : null
}

/** The bytes from `at` on, 4 or 16 of them. */
export function addressIn(bytes: Buffer, at: number, length: number): Address {
  return bytes.toString('hex', at, at + length) as Address
}

export function macIn(bytes: Buffer, at: number): Mac {
  return bytes.toString('hex', at, at + 6) as Mac
}

/** Digits that are known to be those of an address: cut out of longer ones. They are not looked at. */
export function addressOf(digits: string): Address {
  return digits as Address
}

/** The digits themselves: for literals. Throws if they are not 8 or 32 in lowercase. */
export function hexAddress(digits: string): Address {
  if (!isAddress(digits)) throw new TypeError(`no address: ${digits}`)
  return digits
}

/** Likewise, for "0a000000/8". */
export function hexPrefix(text: string): Prefix {
  const [digits = '', length = ''] = text.split('/')
  const prefix = prefixKey(hexAddress(digits), Number(length))
  if (prefix !== text || Number(length) > digits.length * 4) throw new TypeError(`no prefix: ${text}`)
  return prefix
}

/** Likewise, for 12 digits. */
export function hexMac(digits: string): Mac {
  if (!isMac(digits)) throw new TypeError(`no MAC: ${digits}`)
  return digits
}

export function isAddress(digits: string): digits is Address {
  return /^([0-9a-f]{8}|[0-9a-f]{32})$/.test(digits)
}

export function isMac(digits: string): digits is Mac {
  return /^[0-9a-f]{12}$/.test(digits)
}

/** As an address: ones, then zeros. */
export function netmask(family: Family, length: number): Address {
  return maskAddress((family === 4 ? 'ffffffff' : 'f'.repeat(32)) as Address, length)
}

/** The address with all bits past the first `length` cleared. */
export function maskAddress(address: Address, length: number): Address {
  const digits = length >> 2
  const rest = length & 3
  if (digits >= address.length) return address
  let masked: string = address.slice(0, digits)
  if (rest > 0) masked += (Number.parseInt(address[digits] ?? '0', 16) & (0xf << (4 - rest)) & 0xf).toString(16)
  return masked.padEnd(address.length, '0') as Address
}

/** The prefix of IPv4 addresses that one of mapped addresses stands for, or the prefix itself. */
export function unmappedPrefix(address: Address, length: number): Prefix {
  return length >= 96 && address.startsWith(mappedPrefix)
    ? prefixKey(unmapped(address), length - 96)
    : prefixKey(address, length)
}

/** The IPv4 address that an IPv6 one maps, or the address itself. */
export function unmapped(address: Address): Address {
  return address.length === 32 && address.startsWith(mappedPrefix) ? (address.slice(24) as Address) : address
}

/** 32 digits: IPv4 as v4-mapped IPv6, IPv6 as it is. */
export function toMapped(address: Address): Address {
  return familyOf(address) === 4 ? ((mappedPrefix + address) as Address) : address
}

/** Host bits are not cleared. */
export function prefixKey(address: Address, length: number): Prefix {
  return `${address}/${length}` as Prefix
}

export function splitPrefix(prefix: Prefix): { address: Address; length: number; family: Family } {
  const digits = prefix[8] === '/' ? 8 : 32
  const address = prefix.slice(0, digits) as Address
  return { address, length: Number(prefix.slice(digits + 1)), family: digits === 8 ? 4 : 6 }
}

/** Of one address. */
export function hostPrefix(address: Address): Prefix {
  return prefixKey(address, address.length * 4)
}

/** The address is given in numbers of 32 bits. */
export function prefixOf(family: Family, length: number, a: number, b = 0, c = 0, d = 0): Prefix {
  const end = ends[length] as string
  if (family === 4) {
    const high = (hexOfByte[a >>> 24] as string) + (hexOfByte[(a >>> 16) & 255] as string)
    return (high + (hexOfByte[(a >>> 8) & 255] as string) + (hexOfByte[a & 255] as string) + end) as Prefix
  }
  scratch.writeUInt32BE(a, 0)
  scratch.writeUInt32BE(b, 4)
  scratch.writeUInt32BE(c, 8)
  scratch.writeUInt32BE(d, 12)
  return (scratch.toString('hex') + end) as Prefix
}

export function familyOfPrefix(prefix: Prefix): Family {
  return prefix[8] === '/' ? 4 : 6
}

/** The fewest prefixes that hold exactly the addresses from first to last, of one family. */
export function prefixesBetween(first: Address, last: Address): Prefix[] {
  const bits = first.length * 4
  if (first === last) return [prefixKey(first, bits)]
  const found: Prefix[] = []
  const end = BigInt(`0x${last}`)
  for (let start = BigInt(`0x${first}`); start <= end; ) {
    let size = 0
    while (size < bits && (start >> BigInt(size)) % 2n === 0n && start + (1n << BigInt(size + 1)) - 1n <= end) size++
    found.push(prefixKey(start.toString(16).padStart(first.length, '0') as Address, bits - size))
    start += 1n << BigInt(size)
  }
  return found
}

/** The one before it; of the first of all there is none. */
export function addressBefore(address: Address): Address {
  return (BigInt(`0x${address}`) - 1n).toString(16).padStart(address.length, '0') as Address
}

export function neighbourKey(ifindex: number, address: Address): NeighbourKey {
  return `${ifindex}/${address}` as NeighbourKey
}

export function splitNeighbourKey(key: NeighbourKey): { ifindex: number; address: Address } {
  const slash = key.indexOf('/')
  return { ifindex: Number(key.slice(0, slash)), address: key.slice(slash + 1) as Address }
}

export function joinAddresses(addresses: readonly Address[]): AddressList {
  return addresses.join('+') as AddressList
}

export function splitAddresses(list: AddressList): Address[] {
  return list === '' ? [] : (list.split('+') as Address[])
}

function formatV4(address: string): string {
  const n = Number.parseInt(address, 16)
  return `${n >>> 24}.${(n >>> 16) & 255}.${(n >>> 8) & 255}.${n & 255}`
}

function formatV6(address: Address): string {
  if (address.startsWith(mappedPrefix)) return `::ffff:${formatV4(address.slice(24))}`
  const groups: string[] = []
  for (let i = 0; i < 32; i += 4) groups.push(Number.parseInt(address.slice(i, i + 4), 16).toString(16))
  const { start, length } = longestZeroRun(groups)
  if (length < 2) return groups.join(':')
  return `${groups.slice(0, start).join(':')}::${groups.slice(start + length).join(':')}`
}

/** The first of the longest runs of zero groups. */
function longestZeroRun(groups: string[]): { start: number; length: number } {
  const best = { start: 0, length: 0 }
  let length = 0
  groups.forEach((group, index) => {
    length = group === '0' ? length + 1 : 0
    if (length > best.length) {
      best.start = index - length + 1
      best.length = length
    }
  })
  return best
}

/** By hand: a file may hold ten thousand prefixes. */
function parseV4(text: string): Address | null {
  let address = ''
  let part = -1
  for (let i = 0; i <= text.length; i++) {
    const digit = text.charCodeAt(i) - 48
    if (digit >= 0 && digit <= 9) {
      if (part === 0) return null
      part = part < 0 ? digit : part * 10 + digit
      if (part > 255) return null
    } else {
      if (part < 0 || (i < text.length && digit !== -2)) return null
      address += part < 16 ? `0${part.toString(16)}` : part.toString(16)
      part = -1
    }
  }
  return address.length === 8 ? (address as Address) : null
}

function parseV6(text: string): Address | null {
  const halves = text.split('::')
  if (halves.length > 2) return null
  const head = parseGroups(halves[0] ?? '', halves.length === 1)
  const tail = halves.length === 2 ? parseGroups(halves[1] ?? '', true) : ''
  if (head === null || tail === null) return null
  const digits = head.length + tail.length
  if (halves.length === 1) return digits === 32 ? (head as Address) : null
  // "::" stands for at least one group
  return digits <= 28 ? ((head + '0'.repeat(32 - digits) + tail) as Address) : null
}

/** Groups joined by single colons to hexadecimal; the last may be an embedded IPv4 address where allowed. */
function parseGroups(text: string, embeddedAllowed: boolean): string | null {
  if (text === '') return ''
  const parts = text.split(':')
  let digits = ''
  for (const [index, part] of parts.entries()) {
    const embedded = embeddedAllowed && index === parts.length - 1 && part.includes('.') ? parseV4(part) : null
    if (embedded !== null) digits += embedded
    else if (v6Part.test(part)) digits += part.toLowerCase().padStart(4, '0')
    else return null
  }
  return digits
}

/** The longest prefix of the address that `has` knows. */
export function longestPrefix(address: Address, has: (prefix: Prefix) => boolean): Prefix | null {
  for (let length = address.length * 4; length >= 0; length--) {
    const key = prefixKey(maskAddress(address, length), length)
    if (has(key)) return key
  }
  return null
}
