// Addresses as text and bytes, and the Internet checksum. Written apart from
// src/address.ts on purpose: the tests must not share a fault with the product.

/** 6 bytes of 'aa:bb:cc:dd:ee:ff'. */
export function macBytes(text: string): Buffer {
  const bytes = Buffer.from(text.replaceAll(':', ''), 'hex')
  if (bytes.length !== 6) throw new Error(`"${text}" is not a MAC address`)
  return bytes
}

export function macText(bytes: Buffer): string {
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':')
}

/** 4 or 16 bytes of an address in text. */
export function addressBytes(text: string): Buffer {
  return text.includes(':') ? bytesOf6(text) : bytesOf4(text)
}

function bytesOf4(text: string): Buffer {
  const parts = text.split('.').map(Number)
  if (parts.length !== 4 || !parts.every((part) => Number.isInteger(part) && part >= 0 && part < 256)) {
    throw new Error(`"${text}" is not an IPv4 address`)
  }
  return Buffer.from(parts)
}

function bytesOf6(text: string): Buffer {
  const dotted = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(text)
  if (dotted) {
    const tail = bytesOf4(dotted[2]!)
    return bytesOf6(`${dotted[1]}${tail.readUInt16BE(0).toString(16)}:${tail.readUInt16BE(2).toString(16)}`)
  }
  const [head, tail, extra] = text.split('::')
  const left = head ? head.split(':') : []
  const right = tail ? tail.split(':') : []
  const gap = tail === undefined ? 0 : 8 - left.length - right.length
  const words = [...left, ...new Array<string>(Math.max(gap, 0)).fill('0'), ...right]
  if (extra !== undefined || words.length !== 8) throw new Error(`"${text}" is not an IPv6 address`)
  const bytes = Buffer.alloc(16)
  words.forEach((word, index) => bytes.writeUInt16BE(Number.parseInt(word, 16), index * 2))
  return bytes
}

/** Text of 4 or 16 bytes; IPv6 as RFC 5952 wants it. */
export function addressText(bytes: Buffer): string {
  if (bytes.length === 4) return [...bytes].join('.')
  const words = Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(index * 2))
  const [start, length] = longestZeroRun(words)
  const text = (part: number[]) => part.map((word) => word.toString(16)).join(':')
  if (length < 2) return text(words)
  return `${text(words.slice(0, start))}::${text(words.slice(start + length))}`
}

function longestZeroRun(words: number[]): [start: number, length: number] {
  let best: [number, number] = [0, 0]
  for (let start = 0; start < words.length; start++) {
    let end = start
    while (words[end] === 0) end++
    if (end - start > best[1]) best = [start, end - start]
  }
  return best
}

/** One's complement sum, folded to 16 bits. Correct data with its checksum in place gives 0xffff. */
export function onesSum(...parts: Buffer[]): number {
  const bytes = Buffer.concat(parts)
  let sum = 0
  for (let at = 0; at < bytes.length; at += 2) {
    sum += (bytes[at]! << 8) | (bytes[at + 1] ?? 0)
  }
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000)
  return sum
}

/** The value for a checksum field that is zero in `parts`. */
export function checksum(...parts: Buffer[]): number {
  return ~onesSum(...parts) & 0xffff
}

/** Pseudo header of IPv4 or IPv6, told apart by the address length. */
export function pseudoHeader(source: Buffer, destination: Buffer, protocol: number, length: number): Buffer {
  const tail = Buffer.alloc(source.length === 4 ? 4 : 8)
  if (source.length === 4) {
    tail.writeUInt8(protocol, 1)
    tail.writeUInt16BE(length & 0xffff, 2)
  } else {
    tail.writeUInt32BE(length, 0)
    tail.writeUInt8(protocol, 7)
  }
  return Buffer.concat([source, destination, tail])
}
