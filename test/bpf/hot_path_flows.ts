// A made node for the hot path (hot_path_ways.ts) with flows of one family
// that it knows: what hot_path.test.ts and hot_path6.test.ts start from.

import type { Test } from 'tap'
import { ip, ipv4, ipv6, type Network, type Transport } from '../packets/packet.js'
import { compareWays, forgetOpenings, hotPathNode, type Options } from './hot_path_ways.js'
import { type DeviceName, devices, to } from './node.js'
import { content, type Family, natPort } from './snat_flow.js'

export type Row = [name: string, device: DeviceName, network: Network, options?: Options]

/** Ports of pod a. */
export const port = { tcp: 41_000, udp: 41_001 } as const
/** Larger than every MTU. */
export const large = Buffer.alloc(3_000, 7)

export interface FlowOptions {
  /** Of the test. */
  name: string
  family: Family
  /** Routed without SNAT, with a known MAC. */
  plain: { address: string; prefix: string }
  /** What pod a has flows to, besides to.external and `plain`. */
  others: readonly string[]
}

/** Both kinds of flows from pod a to all destinations, until they are known; and connections from outside to pod b. */
export function hotPathFlows({ name, family, plain, others }: FlowOptions) {
  const node = hotPathNode(name)
  node.setRoute(plain.prefix, { nexthop: 0 })
  const remote = to.external[family]
  const destinations = [remote, plain.address, ...others]
  /** By kind and destination. */
  const natPorts: Record<string, number> = {}
  const address = (device: 'a' | 'b' | 'up0') => devices[device][`v${family}`]
  const [a, b, up0] = [address('a'), address('b'), address('up0')]

  const send = (device: DeviceName, source: string, destination: string, transport: Transport) =>
    node.send(device, ip({ source, destination }, transport))
  for (const kind of ['tcp', 'udp'] as const) {
    for (const destination of destinations) {
      const out = send('a', a, destination, content(kind, port[kind], false, 'S'))
      natPorts[`${kind} ${destination}`] = natPort(out)
      const back = (flags: string) =>
        destination === plain.address
          ? send('up0', destination, a, content(kind, port[kind], true, flags))
          : send('up0', destination, up0, content(kind, natPort(out), true, flags))
      back('SA')
      send('a', a, destination, content(kind, port[kind], false, 'A'))
      back('A')
    }
    send('up0', remote, b, content(kind, 80, true, 'S'))
    send('b', b, remote, content(kind, 80, false, 'SA'))
    send('up0', remote, b, content(kind, 80, true, 'A'))
    send('b', b, remote, content(kind, 80, false, 'A'))
  }
  forgetOpenings(node)

  const packet = (addresses: { source: string; destination: string }, transport: Transport, fields: object) =>
    family === 4 ? ipv4({ ...addresses, ...fields }, transport) : ipv6({ ...addresses, ...fields }, transport)
  return {
    node,
    remote,
    natPorts,
    /** true: took the hot path, and all three ways agree. */
    compare: (t: Test, name: string, device: DeviceName, frame: Buffer, options: Options = {}): boolean =>
      compareWays(node, t, name, device, frame, options),
    fromA: (destination: string, transport: Transport, fields = {}) =>
      packet({ source: a, destination }, transport, fields),
    toNode: (transport: Transport, fields = {}) => packet({ source: remote, destination: up0 }, transport, fields),
    toB: (transport: Transport, fields = {}) => packet({ source: remote, destination: b }, transport, fields)
  }
}
