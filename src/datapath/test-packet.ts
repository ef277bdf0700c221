// A packet of the daemon's own, run through a loaded program to be told about
// (bpf/trace.h). Nothing is sent: BPF_PROG_TEST_RUN gives it to the program only.

import { randomInt } from 'node:crypto'
import { blankTrace, decodeTrace, type TraceRow } from '../maps/trace.js'
import type { BpfObject, NativeError } from '../native.js'
import type { Address, Family, Mac } from '../state/types.js'
import type { ControlBlock } from './control-block.js'

export type ProbeProtocol = 'tcp' | 'udp' | 'icmp'

export interface Probe {
  family: Family
  protocol: ProbeProtocol
  source: Address
  destination: Address
  /** ICMP: the identifier. */
  sourcePort: number
  /** Not for ICMP. */
  destinationPort: number
  /** TCP: letters of FSRPAU. */
  flags: string
  /** ICMP: an echo reply, not a request. */
  reply: boolean
  ttl: number
  /** Bytes of the IP packet, at least headerSize(). */
  size: number
}

const flagLetters = 'FSRPAU'
const transportHeader = { tcp: 20, udp: 8, icmp: 8 } as const
const ethernetHeader = 14
/** struct __sk_buff. */
const skb = { size: 192, mark: 8, ingressIfindex: 36, ifindex: 40 } as const

/** The smallest packet of its kind. */
export function headerSize(family: Family, protocol: ProbeProtocol): number {
  return (family === 4 ? 20 : 40) + transportHeader[protocol]
}

/** An Ethernet frame with right lengths and checksums, and zeros for payload. */
export function probeFrame(probe: Probe, macs: { source: Mac; destination: Mac }): Buffer {
  const { family, size } = probe
  const ipHeader = family === 4 ? 20 : 40
  const frame = Buffer.alloc(ethernetHeader + size)
  frame.write(macs.destination, 0, 'hex')
  frame.write(macs.source, 6, 'hex')
  frame.writeUInt16BE(family === 4 ? 0x0800 : 0x86dd, 12)
  const ip = frame.subarray(ethernetHeader)
  const transport = ip.subarray(ipHeader)
  const number = { tcp: 6, udp: 17, icmp: family === 4 ? 1 : 58 }[probe.protocol]
  if (family === 4) writeIpv4(ip, probe, number)
  else writeIpv6(ip, probe, number)
  writeTransport(transport, probe)
  const at = { tcp: 16, udp: 6, icmp: 2 }[probe.protocol]
  const covered = number === 1 ? [transport] : [pseudoHeader(probe, number, transport.length), transport]
  transport.writeUInt16BE(checksum(covered) || (probe.protocol === 'udp' ? 0xffff : 0), at)
  return frame
}

function writeIpv4(ip: Buffer, { source, destination, ttl, size }: Probe, protocol: number): void {
  ip.writeUInt8(0x45, 0)
  ip.writeUInt16BE(size, 2)
  ip.writeUInt16BE(0x4000, 6)
  ip.writeUInt8(ttl, 8)
  ip.writeUInt8(protocol, 9)
  ip.write(source + destination, 12, 'hex')
  ip.writeUInt16BE(checksum([ip.subarray(0, 20)]), 10)
}

function writeIpv6(ip: Buffer, { source, destination, ttl, size }: Probe, protocol: number): void {
  ip.writeUInt8(0x60, 0)
  ip.writeUInt16BE(size - 40, 4)
  ip.writeUInt8(protocol, 6)
  ip.writeUInt8(ttl, 7)
  ip.write(source + destination, 8, 'hex')
}

function writeTransport(bytes: Buffer, probe: Probe): void {
  const { family, protocol, sourcePort, destinationPort, flags, reply } = probe
  if (protocol === 'icmp') {
    bytes.writeUInt8(family === 4 ? (reply ? 0 : 8) : reply ? 129 : 128, 0)
    bytes.writeUInt16BE(sourcePort, 4)
    bytes.writeUInt16BE(1, 6)
    return
  }
  bytes.writeUInt16BE(sourcePort, 0)
  bytes.writeUInt16BE(destinationPort, 2)
  if (protocol === 'udp') {
    bytes.writeUInt16BE(bytes.length, 4)
    return
  }
  bytes.writeUInt8(5 << 4, 12)
  bytes.writeUInt8(
    [...flags].reduce((bits, letter) => bits | (1 << flagLetters.indexOf(letter)), 0),
    13
  )
  bytes.writeUInt16BE(0xffff, 14)
}

function pseudoHeader({ family, source, destination }: Probe, protocol: number, length: number): Buffer {
  const tail = Buffer.alloc(family === 4 ? 4 : 8)
  tail.writeUInt8(protocol, family === 4 ? 1 : 7)
  if (family === 4) tail.writeUInt16BE(length, 2)
  else tail.writeUInt32BE(length, 0)
  return Buffer.concat([Buffer.from(source + destination, 'hex'), tail])
}

/** Internet checksum (RFC 1071) over parts of which only the last may be odd. */
function checksum(parts: Buffer[]): number {
  let sum = 0
  for (const part of parts) {
    for (let at = 0; at + 1 < part.length; at += 2) sum += part.readUInt16BE(at)
    if (part.length % 2 === 1) sum += part.readUInt8(part.length - 1) << 8
  }
  while (sum > 0xffff) sum = (sum & 0xffff) + Math.floor(sum / 0x10000)
  return ~sum & 0xffff
}

/**
 * What the loaded program says about a frame that came in by `ifindex`. The
 * mark is valid for this run only, so no packet from elsewhere can have it.
 * Throws NativeError: ENODEV or EINVAL when the device is gone, EINVAL too
 * when the frame is longer than the kernel takes (a page less its overhead).
 */
export function runTrace(
  object: BpfObject,
  control: ControlBlock,
  program: 'from_pod' | 'from_uplink',
  frame: Buffer,
  ifindex: number
): TraceRow {
  const mark = randomInt(1, 2 ** 32)
  const context = Buffer.alloc(skb.size)
  context.writeUInt32LE(mark, skb.mark)
  context.writeUInt32LE(ifindex, skb.ifindex)
  context.writeUInt32LE(ifindex, skb.ingressIfindex)
  const traces = object.map('traces')
  const row = Buffer.alloc(4)
  try {
    traces.update(row, blankTrace())
    control.trace(mark)
    object.testRun(program, { data: frame, context })
    return decodeTrace(traces.lookup(row) ?? blankTrace())
  } finally {
    control.trace(0)
    traces.close()
  }
}

/** The kernel takes no test packet this long. */
export function isTooLong(error: unknown, frame: Buffer): boolean {
  const { code } = error as Partial<NativeError>
  return code === 'EINVAL' && frame.length > 3000
}
