// One packet of a SNATed flow, out or back, for the SNAT tables.

import { echo, ip, type Transport, tcp, udp } from '../packets/packet.js'
import { devices, type PodName, type Result, type TestNode, to } from './node.js'

export type Family = 4 | 6
export type Kind = 'tcp' | 'udp' | 'echo'

/** As of two that have said nothing but SYN and SYN-ACK. */
export function numbers(flags: string): { sequence: number; acknowledgement: number } {
  return { sequence: flags.includes('S') ? 1 : 2, acknowledgement: flags.includes('A') ? 2 : 0 }
}

/** A packet of one flow; port is the local port or the echo identifier. */
export function content(kind: Kind, port: number, reply: boolean, flags = 'S', data = 'data'): Transport {
  if (kind === 'echo') return echo({ id: port, reply }, data)
  const ports = reply ? { sourcePort: 443, destinationPort: port } : { sourcePort: port, destinationPort: 443 }
  return kind === 'tcp' ? tcp({ ...ports, flags, ...numbers(flags) }, data) : udp(ports, data)
}

/** Port or identifier that the packet left with. */
export function natPort(result: Result): number {
  const { l4 } = result.packet
  return l4?.id ?? l4?.sourcePort ?? -1
}

export const pod = (name: PodName, family: Family) => devices[name][`v${family}`]
export const snatAddress = (family: Family) => devices.up0[`v${family}`]

/** One packet out; its port after SNAT. */
export function out(
  node: TestNode,
  name: PodName,
  family: Family,
  kind: Kind,
  port: number,
  flags = 'S',
  remote: string = to.external[family]
) {
  return node.send(name, ip({ source: pod(name, family), destination: remote }, content(kind, port, false, flags)))
}

/** The answer to what left with `port`. */
export function back(
  node: TestNode,
  family: Family,
  kind: Kind,
  port: number,
  flags = 'SA',
  remote: string = to.external[family]
) {
  return node.send('up0', ip({ source: remote, destination: snatAddress(family) }, content(kind, port, true, flags)))
}
