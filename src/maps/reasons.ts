// enum reason of bpf/types.h, in its order: why a packet went where it went.

export type ReasonKind = 'forwarded' | 'stack' | 'drop'

export interface Reason {
  /** Row within a device's counters. */
  code: number
  name: string
  kind: ReasonKind
  /** For people. */
  text: string
}

/** REASON_MAX: counters a device has. */
export const REASON_MAX = 64

function list(kind: ReasonKind, first: number, entries: [name: string, text: string][]): Reason[] {
  return entries.map(([name, text], index) => ({ code: first + index, name, kind, text }))
}

const forwarded = list('forwarded', 0, [
  ['to-pod', 'redirected into a pod of this node'],
  ['to-uplink', 'sent out with a MAC from the maps'],
  ['to-neighbour', 'sent out through the kernel neighbour entry']
])

const stack = list('stack', forwarded.length, [
  ['off', 'hostroute is switched off, or its daemon has been gone for too long'],
  ['unknown-device', 'a device or an address that the maps do not have yet'],
  ['not-for-router', 'for another MAC address, broadcast or multicast'],
  ['not-ip', 'ARP or another protocol that is not IP'],
  ['vlan', 'tagged frame on the parent device'],
  ['malformed', 'short or contradictory headers'],
  ['options', 'IP options or extension headers'],
  ['fragment', 'fragment for the node, of no answer to a pod that is known'],
  ['ttl', 'TTL or hop limit too low to be forwarded'],
  ['mtu', 'larger than the next hop takes'],
  ['link-local', 'link-local, multicast, loopback or unspecified address'],
  ['policy', 'left to the kernel by ip rules or configuration'],
  ['no-route', 'no route in the maps covers the destination'],
  ['local', 'for an address of the node itself'],
  ['route', 'a route that the maps cannot express'],
  ['pod-not-ready', 'the MAC address of the pod is not known yet'],
  ['same-pod', 'a pod that sends to itself'],
  ['protocol', 'SNAT is due and the protocol has no ports'],
  ['translated-flow', 'conntrack translates this flow'],
  ['translated-destination', "the node's own rules translate this destination"],
  ['unknown-owner', 'conntrack cannot be asked about it, and has or may have its other direction'],
  ['no-source', 'SNAT is due and the device has no source address'],
  ['node', 'from an uplink, for the node or beyond it'],
  ['unresolved', 'the MAC address of the next hop is not known yet'],
  ['rewritten', 'an answer for a pod, already translated, that the stack has to cut into fragments']
])

const drop = list('drop', forwarded.length + stack.length, [
  ['drop-spoof', 'the source address does not belong to the pod'],
  ['drop-ports', 'no free SNAT port towards this remote'],
  ['drop-flows', 'no room for another flow of this pod'],
  ['drop-protocol', 'SNAT is due, the protocol has no ports, and it is configured to be dropped'],
  ['drop-malformed', 'a header no stack would take'],
  ['drop-martian', 'a source address that cannot be on the wire'],
  ['drop-fragment', 'SNAT is due, and the first fragment of the datagram has not been seen'],
  ['drop-ttl', 'TTL or hop limit of an answer for a pod used up; its sender is told'],
  ['drop-mtu', 'an answer for a pod is larger than the pod takes; its sender is told'],
  ['drop-source', 'SNAT is due, and the node has none of the addresses in snat.addresses']
])

/** By code. */
export const REASONS: readonly Reason[] = [...forwarded, ...stack, ...drop]

const byName = new Map(REASONS.map((reason) => [reason.name, reason]))

/** Code of a reason by name. Throws for a name that is none: names come from the program, not from outside. */
export function reasonCode(name: string): number {
  const reason = byName.get(name)
  if (!reason) throw new Error(`there is no reason "${name}"`)
  return reason.code
}

/** 'reason 31' for a code without a name. */
export function reasonName(code: number): string {
  return REASONS[code]?.name ?? `reason ${code}`
}

/** What it means, for people. */
export function reasonText(name: string): string {
  return byName.get(name)?.text ?? name
}
