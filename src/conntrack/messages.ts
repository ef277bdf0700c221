// Requests to ctnetlink, written one after the other into one buffer: a batch
// is sent in one piece and the kernel works on its messages in order. Nobody
// asks for acknowledgements, so only failures are answered, each with the
// sequence number of its message.

import type { Address, Family } from '../state/types.js'
import { addressFamilies, attributes, type Entry, isEcho, protocols, type Tuple } from './entry.js'

const subsystem = 1
export const messageType = { new: subsystem << 8, get: (subsystem << 8) | 1, delete: (subsystem << 8) | 2 } as const
/** NLM_F_* */
export const flags = { request: 0x1, exclusive: 0x200, create: 0x400 } as const
const nested = 0x8000
const longest = 512

export class Batch {
  count = 0
  private bytes: Buffer
  private length = 0
  private readonly opened: number[] = []

  constructor(messages: number) {
    this.bytes = Buffer.alloc(Math.min(messages, 256) * 160 + longest)
  }

  /** The messages so far. */
  get content(): Buffer {
    return this.bytes.subarray(0, this.length)
  }

  /** Begins a message and returns its sequence number, from 1. Attributes follow, then end(). */
  begin(type: number, flag: number, family: Family): number {
    if (this.bytes.length - this.length < longest) {
      const larger = Buffer.alloc(this.bytes.length * 2)
      this.bytes.copy(larger)
      this.bytes = larger
    }
    this.opened.push(this.length)
    this.bytes.writeUInt16LE(type, this.length + 4)
    this.bytes.writeUInt16LE(flag | flags.request, this.length + 6)
    this.bytes.writeUInt32LE(++this.count, this.length + 8)
    this.bytes.writeUInt8(addressFamilies[family], this.length + 16)
    this.length += 20
    return this.count
  }

  end(): void {
    const start = this.opened.pop() ?? 0
    this.bytes.writeUInt32LE(this.length - start, start)
  }

  /** Asks for the entry that has this tuple in either direction. */
  get(family: Family, tuple: Tuple): void {
    this.begin(messageType.get, 0, family)
    this.tuple(attributes.entry.original, family, tuple)
    this.end()
  }

  /** With its id, so that no younger entry of the same tuple is hit. */
  delete({ family, original, zone, id }: Entry): void {
    this.begin(messageType.delete, 0, family)
    this.key(family, original, zone)
    this.u32(attributes.entry.id, id)
    this.end()
  }

  key(family: Family, tuple: Tuple, zone: number): void {
    this.tuple(attributes.entry.original, family, tuple)
    if (zone !== 0) this.u16(attributes.entry.zone, zone)
  }

  nest(type: number, content: () => void): void {
    const start = this.length
    this.length += 4
    content()
    this.bytes.writeUInt16LE(this.length - start, start)
    this.bytes.writeUInt16LE(type | nested, start + 2)
  }

  u8(type: number, value: number): void {
    this.bytes.writeUInt8(value, this.attribute(type, 1))
  }

  u16(type: number, value: number): void {
    this.bytes.writeUInt16BE(value, this.attribute(type, 2))
  }

  u32(type: number, value: number): void {
    this.bytes.writeUInt32BE(value >>> 0, this.attribute(type, 4))
  }

  address(type: number, address: Address): void {
    this.bytes.write(address, this.attribute(type, address.length / 2), 'hex')
  }

  /** struct nf_ct_tcp_flags: sets `value`, leaves other flags alone. */
  tcpFlags(type: number, value: number): void {
    const at = this.attribute(type, 2)
    this.bytes.writeUInt8(value, at)
    this.bytes.writeUInt8(value, at + 1)
  }

  /** Where the value goes; padding is zero as the buffer is. */
  private attribute(type: number, length: number): number {
    const at = this.length + 4
    this.bytes.writeUInt16LE(4 + length, this.length)
    this.bytes.writeUInt16LE(type, this.length + 2)
    this.length += (4 + length + 3) & ~3
    return at
  }

  tuple(type: number, family: Family, tuple: Tuple): void {
    const { address, protocol } = attributes
    this.nest(type, () => {
      this.nest(attributes.tuple.addresses, () => {
        this.address(family === 4 ? address.source4 : address.source6, tuple.source)
        this.address(family === 4 ? address.destination4 : address.destination6, tuple.destination)
      })
      this.nest(attributes.tuple.protocol, () => {
        this.u8(protocol.number, tuple.protocol)
        if (isEcho(tuple.protocol)) {
          const six = tuple.protocol === protocols.icmp6
          this.u16(six ? protocol.id6 : protocol.id4, tuple.sourcePort)
          this.u8(six ? protocol.type6 : protocol.type4, tuple.type)
          this.u8(six ? protocol.code6 : protocol.code4, tuple.code)
        } else {
          this.u16(protocol.sourcePort, tuple.sourcePort)
          this.u16(protocol.destinationPort, tuple.destinationPort)
        }
      })
      if (tuple.zone !== 0) this.u16(attributes.tuple.zone, tuple.zone)
    })
  }

  tcp(state: number | null, flag: number): void {
    const { tcp } = attributes
    this.nest(attributes.entry.protocolInfo, () => {
      this.nest(attributes.protocolInfo.tcp, () => {
        if (state !== null) this.u8(tcp.state, state)
        this.tcpFlags(tcp.flagsOriginal, flag)
        this.tcpFlags(tcp.flagsReply, flag)
      })
    })
  }

  /** Exactly this source address and port (echo: identifier). */
  sourceNat(family: Family, address: Address, port: number): void {
    const { nat, ports } = attributes
    this.nest(attributes.entry.sourceNat, () => {
      this.address(family === 4 ? nat.minimum4 : nat.minimum6, address)
      this.address(family === 4 ? nat.maximum4 : nat.maximum6, address)
      this.nest(nat.ports, () => {
        this.u16(ports.minimum, port)
        this.u16(ports.maximum, port)
      })
    })
  }
}
