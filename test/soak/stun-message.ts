// STUN messages (RFC 8489, RFC 5780), as far as finding out about a NAT needs
// them. IPv4.

import { randomBytes } from 'node:crypto'

const COOKIE = 0x2112a442
const REQUEST = 0x0001
const RESPONSE = 0x0101

const ATTRIBUTES = {
  changeRequest: 0x0003,
  mapped: 0x0001,
  xorMapped: 0x0020,
  responsePort: 0x0027,
  other: 0x802c
} as const

export interface Endpoint {
  address: string
  port: number
}

export interface StunRequest {
  id: Buffer
  changeAddress: boolean
  changePort: boolean
  /** Where the answer is to go instead. */
  responsePort: number | null
}

export interface StunResponse {
  id: Buffer
  mapped: Endpoint | null
  /** The server's other address and port. */
  other: Endpoint | null
}

export const words = ({ address, port }: Endpoint): string => `${address}:${port}`

function attribute(type: number, value: Buffer): Buffer {
  const head = Buffer.alloc(4)
  head.writeUInt16BE(type, 0)
  head.writeUInt16BE(value.length, 2)
  return Buffer.concat([head, value, Buffer.alloc(-value.length & 3)])
}

function message(type: number, id: Buffer, attributes: Buffer[]): Buffer {
  const body = Buffer.concat(attributes)
  const head = Buffer.alloc(8)
  head.writeUInt16BE(type, 0)
  head.writeUInt16BE(body.length, 2)
  head.writeUInt32BE(COOKIE, 4)
  return Buffer.concat([head, id, body])
}

function readAttributes(bytes: Buffer): Map<number, Buffer> {
  const found = new Map<number, Buffer>()
  for (let at = 20; at + 4 <= bytes.length; ) {
    const length = bytes.readUInt16BE(at + 2)
    found.set(bytes.readUInt16BE(at), bytes.subarray(at + 4, at + 4 + length))
    at += 4 + length + (-length & 3)
  }
  return found
}

const fits = (bytes: Buffer, type: number) =>
  bytes.length >= 20 && bytes.readUInt16BE(0) === type && bytes.readUInt32BE(4) === COOKIE

export function encodeRequest(request: Partial<StunRequest> = {}): { id: Buffer; bytes: Buffer } {
  const id = request.id ?? randomBytes(12)
  const attributes: Buffer[] = []
  const change = (request.changeAddress ? 4 : 0) | (request.changePort ? 2 : 0)
  if (change) attributes.push(attribute(ATTRIBUTES.changeRequest, Buffer.from([0, 0, 0, change])))
  if (request.responsePort) {
    const port = Buffer.alloc(4)
    port.writeUInt16BE(request.responsePort, 0)
    attributes.push(attribute(ATTRIBUTES.responsePort, port))
  }
  return { id, bytes: message(REQUEST, id, attributes) }
}

export function decodeRequest(bytes: Buffer): StunRequest | null {
  if (!fits(bytes, REQUEST)) return null
  const attributes = readAttributes(bytes)
  const change = attributes.get(ATTRIBUTES.changeRequest)?.readUInt32BE(0) ?? 0
  return {
    id: Buffer.from(bytes.subarray(8, 20)),
    changeAddress: (change & 4) !== 0,
    changePort: (change & 2) !== 0,
    responsePort: attributes.get(ATTRIBUTES.responsePort)?.readUInt16BE(0) ?? null
  }
}

function encodeEndpoint({ address, port }: Endpoint, xor: boolean): Buffer {
  const value = Buffer.from([0, 1, port >> 8, port & 255, ...address.split('.').map(Number)])
  if (xor) flip(value)
  return value
}

function decodeEndpoint(value: Buffer | undefined, xor: boolean): Endpoint | null {
  if (!value || value.length < 8 || value[1] !== 1) return null
  const bytes = Buffer.from(value)
  if (xor) flip(bytes)
  return { address: [...bytes.subarray(4, 8)].join('.'), port: bytes.readUInt16BE(2) }
}

/** Port and address with the cookie, in place. */
function flip(value: Buffer): void {
  value.writeUInt16BE(value.readUInt16BE(2) ^ (COOKIE >>> 16), 2)
  value.writeUInt32BE((value.readUInt32BE(4) ^ COOKIE) >>> 0, 4)
}

export function encodeResponse(id: Buffer, mapped: Endpoint, other: Endpoint): Buffer {
  return message(RESPONSE, id, [
    attribute(ATTRIBUTES.xorMapped, encodeEndpoint(mapped, true)),
    attribute(ATTRIBUTES.other, encodeEndpoint(other, false))
  ])
}

export function decodeResponse(bytes: Buffer): StunResponse | null {
  if (!fits(bytes, RESPONSE)) return null
  const attributes = readAttributes(bytes)
  return {
    id: Buffer.from(bytes.subarray(8, 20)),
    mapped:
      decodeEndpoint(attributes.get(ATTRIBUTES.xorMapped), true) ??
      decodeEndpoint(attributes.get(ATTRIBUTES.mapped), false),
    other: decodeEndpoint(attributes.get(ATTRIBUTES.other), false)
  }
}
