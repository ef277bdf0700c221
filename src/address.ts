// Addresses as text and back. Inside hostroute an address is its bytes in
// lowercase hexadecimal: 8 digits IPv4, 32 digits IPv6 (src/state/types.ts).
// Only what people read or write passes through here.
//
// Invariants: format* expects well-formed hexadecimal and never fails;
// parse* is strict, returns null for anything else and never throws.

import type { Address, Family, Mac } from './state/types.js'

const v4Part = /^(0|[1-9][0-9]{0,2})$/
const v6Part = /^[0-9a-fA-F]{1,4}$/
const mappedPrefix = '00000000000000000000ffff'

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
export function formatPrefix(key: string): string {
  const slash = key.indexOf('/')
  return `${formatAddress(key.slice(0, slash))}/${key.slice(slash + 1)}`
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
  return /^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$/.test(text) ? text.replaceAll(':', '').toLowerCase() : null
}

/** The address with all bits past the first `length` cleared. */
export function maskAddress(address: Address, length: number): Address {
  const digits = length >> 2
  const rest = length & 3
  if (digits >= address.length) return address
  let masked = address.slice(0, digits)
  if (rest > 0) masked += (Number.parseInt(address[digits] ?? '0', 16) & (0xf << (4 - rest)) & 0xf).toString(16)
  return masked.padEnd(address.length, '0')
}

/** 32 digits: IPv4 as v4-mapped IPv6, IPv6 as it is. */
export function toMapped(address: Address): string {
  return familyOf(address) === 4 ? mappedPrefix + address : address
}

/** Key of a prefix in the state's and the plan's tables: "0a010000/16". Host bits are not cleared. */
export function prefixKey(address: Address, length: number): string {
  return `${address}/${length}`
}

function formatV4(address: Address): string {
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
  return address.length === 8 ? address : null
}

function parseV6(text: string): Address | null {
  const halves = text.split('::')
  if (halves.length > 2) return null
  const head = parseGroups(halves[0] ?? '', halves.length === 1)
  const tail = halves.length === 2 ? parseGroups(halves[1] ?? '', true) : ''
  if (head === null || tail === null) return null
  const digits = head.length + tail.length
  if (halves.length === 1) return digits === 32 ? head : null
  // "::" stands for at least one group
  return digits <= 28 ? head + '0'.repeat(32 - digits) + tail : null
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
export function longestPrefix(address: Address, has: (key: string) => boolean): string | null {
  for (let length = address.length * 4; length >= 0; length--) {
    const key = prefixKey(maskAddress(address, length), length)
    if (has(key)) return key
  }
  return null
}
