// Reading netlink's bytes: messages, attributes and numbers.
//
// Invariants: nothing here or in the decoders reads outside of the message or
// attribute it was given, whatever the lengths say. A reader that would do so
// throws Malformed, which decodeMessage catches and counts. Attribute types
// come without the NLA_F_NESTED and NLA_F_NET_BYTEORDER flags.

import { endianness } from 'node:os'
import { addressIn, macIn } from '../address.js'
import type { Address, Mac } from '../state/types.js'

const little = endianness() === 'LE'

export const headerLength = 16
const attributeHeaderLength = 4

/** Thrown inside decoders by bytes that contradict themselves. */
export class Malformed extends Error {}

/** One message in a buffer: attributes and body lie in [body, end). */
export interface MessageCursor {
  bytes: Buffer
  type: number
  flags: number
  body: number
  end: number
  /** Where the next message starts. */
  next: number
}

/** A cursor before the first message. */
export function messagesOf(bytes: Buffer): MessageCursor {
  return { bytes, type: 0, flags: 0, body: 0, end: 0, next: 0 }
}

/** Moves to the next whole message. 'end': no more; 'malformed': the rest of the buffer cannot be read. */
export function nextMessage(cursor: MessageCursor): 'message' | 'end' | 'malformed' {
  const { bytes, next } = cursor
  const left = bytes.length - next
  if (left === 0) return 'end'
  const length = left < headerLength ? 0 : readU32(bytes, next, bytes.length)
  if (length < headerLength || length > left) {
    cursor.next = bytes.length
    return 'malformed'
  }
  cursor.type = readU16(bytes, next + 4, bytes.length)
  cursor.flags = readU16(bytes, next + 6, bytes.length)
  cursor.body = next + headerLength
  cursor.end = next + length
  cursor.next = Math.min(next + aligned(length), bytes.length)
  return 'message'
}

/**
 * One attribute. Decoders walk with
 * `for (let at = first; at < end; at = afterAttribute(bytes, at)) { const stop = attributeEnd(bytes, at, end) ... }`:
 * its payload lies in [at + 4, stop).
 */
export function attributeEnd(bytes: Buffer, at: number, end: number): number {
  const length = end - at < attributeHeaderLength ? 0 : readU16(bytes, at, end)
  if (length < attributeHeaderLength || length > end - at) throw new Malformed('attribute length')
  return at + length
}

export function attributeType(bytes: Buffer, at: number): number {
  return (little ? bytes.readUInt16LE(at + 2) : bytes.readUInt16BE(at + 2)) & 0x3fff
}

/** Only after attributeEnd has accepted the length. */
export function afterAttribute(bytes: Buffer, at: number): number {
  return at + aligned(little ? bytes.readUInt16LE(at) : bytes.readUInt16BE(at))
}

export function aligned(length: number): number {
  return (length + 3) & ~3
}

export function readU8(bytes: Buffer, at: number, end: number): number {
  if (end - at < 1) throw new Malformed('short')
  return bytes[at] as number
}

export function readU16(bytes: Buffer, at: number, end: number): number {
  if (end - at < 2) throw new Malformed('short')
  return little ? bytes.readUInt16LE(at) : bytes.readUInt16BE(at)
}

export function readU32(bytes: Buffer, at: number, end: number): number {
  if (end - at < 4) throw new Malformed('short')
  return little ? bytes.readUInt32LE(at) : bytes.readUInt32BE(at)
}

export function readI32(bytes: Buffer, at: number, end: number): number {
  return readU32(bytes, at, end) | 0
}

/** Text up to the first NUL. */
export function readText(bytes: Buffer, at: number, end: number): string {
  const nul = bytes.indexOf(0, at)
  return bytes.toString('utf8', at, nul < 0 || nul > end ? end : nul)
}

/** The whole payload as an address: 4 or 16 bytes, nothing else. */
export function readAddress(bytes: Buffer, at: number, end: number): Address {
  if (end - at !== 4 && end - at !== 16) throw new Malformed('address length')
  return addressIn(bytes, at, end - at)
}

/** Payload as a MAC; null when the device has hardware addresses of another length. */
export function readMac(bytes: Buffer, at: number, end: number): Mac | null {
  return end - at === 6 ? macIn(bytes, at) : null
}

export function writeU16(bytes: Buffer, value: number, at: number): void {
  if (little) bytes.writeUInt16LE(value, at)
  else bytes.writeUInt16BE(value, at)
}

export function writeU32(bytes: Buffer, value: number, at: number): void {
  if (little) bytes.writeUInt32LE(value, at)
  else bytes.writeUInt32BE(value, at)
}

/** An attribute, padded. */
export function attribute(type: number, payload: Buffer): Buffer {
  const bytes = Buffer.alloc(aligned(attributeHeaderLength + payload.length))
  writeU16(bytes, attributeHeaderLength + payload.length, 0)
  writeU16(bytes, type, 2)
  payload.copy(bytes, attributeHeaderLength)
  return bytes
}

export function attributeU32(type: number, value: number): Buffer {
  const payload = Buffer.alloc(4)
  writeU32(payload, value, 0)
  return attribute(type, payload)
}
