// What must hold between a packet as it was sent and as it arrived after one
// or more routers: TTL, MACs, checksums, addresses and ports after SNAT, and
// all else unchanged.

import type { Test } from 'tap'
import type { Capture, LabPacket } from '../lab/capture.js'
import type { LabHost } from '../lab/host.js'
import type { ParsedPacket } from '../packets/packet.js'

export interface Way {
  /** Routers between the two places; 1 when absent. */
  hops?: number
  sourceMac: string
  destinationMac: string
  /** After SNAT; the port may then be another, too. */
  source?: string
  /** After reverse SNAT; the port may then be another, too. */
  destination?: string
}

/** What is the same before and after, so that two captures can be joined by it. */
function identity({ ip, l4, payload }: ParsedPacket): string {
  const { type, code, flags, sequence, acknowledgement } = l4 ?? {}
  const own = [ip?.protocol, ip?.id, ip?.fragmentOffset, type, code, flags, sequence, acknowledgement]
  return [...own, payload.toString('hex')].join(' ')
}

/** Sentences about `arrived` that are wrong; none for a packet forwarded as it should be. */
function faults(sent: ParsedPacket, arrived: ParsedPacket, way: Way): string[] {
  const wrong: string[] = []
  const same = (what: string, found: unknown, wanted: unknown) => {
    if (String(found) !== String(wanted)) wrong.push(`${what} is ${String(found)}, not ${String(wanted)}`)
  }
  const [before, after] = [sent.ip, arrived.ip]
  if (!before || !after) return ['not an IP packet']
  same('TTL', after.ttl, before.ttl - (way.hops ?? 1))
  same('source MAC', arrived.sourceMac, way.sourceMac)
  same('destination MAC', arrived.destinationMac, way.destinationMac)
  same('source', after.source, way.source ?? before.source)
  same('destination', after.destination, way.destination ?? before.destination)
  same('header checksum right', after.headerChecksumOk, true)
  if (arrived.l4?.checksumOk === false) wrong.push(`${arrived.l4.protocol} checksum is wrong`)
  for (const key of ['tos', 'id', 'df', 'mf', 'fragmentOffset', 'length', 'protocol'] as const) {
    same(key, after[key], before[key])
  }
  same('IP options', after.options.toString('hex'), before.options.toString('hex'))
  const [head, tail] = [sent.l4, arrived.l4]
  for (const key of ['sequence', 'acknowledgement', 'window', 'flags'] as const) same(key, tail?.[key], head?.[key])
  same('TCP options', tail?.options?.toString('hex'), head?.options?.toString('hex'))
  if (!way.source) same('source port', tail?.sourcePort, head?.sourcePort)
  if (!way.destination) same('destination port', tail?.destinationPort, head?.destinationPort)
  same('problems', arrived.problems.join(), '')
  return wrong
}

/** Asserts that each of `sent` (at least `least`) is in `arrived` and changed on its way only as a router changes it. */
export function assertForwarded(
  t: Test,
  name: string,
  sent: LabPacket[],
  arrived: LabPacket[],
  way: Way,
  least = 1
): void {
  const waiting = [...arrived]
  const wrong: string[] = []
  for (const { packet } of sent) {
    const key = identity(packet)
    const at = waiting.findIndex((other) => identity(other.packet) === key)
    const [match] = at < 0 ? [] : waiting.splice(at, 1)
    if (!match) wrong.push(`did not arrive: ${key.slice(0, 120)}`)
    else wrong.push(...faults(packet, match.packet, way))
  }
  t.strictSame(wrong, [], `${name}: ${sent.length} packets arrive as a router leaves them`)
  t.ok(sent.length >= least, `${name}: ${sent.length} packets of at least ${least}`)
}

export const from = (packets: LabPacket[], source: string) =>
  packets.filter(({ packet }) => packet.ip?.source === source)
export const to = (packets: LabPacket[], destination: string) =>
  packets.filter(({ packet }) => packet.ip?.destination === destination)

/** Captures on several devices while `traffic` runs; their packets in the same order. */
export async function captureAt(
  places: [host: LabHost, device: string][],
  filter: string,
  traffic: () => Promise<unknown>
): Promise<LabPacket[][]> {
  const captures: Capture[] = await Promise.all(places.map(([host, device]) => host.capture(device, filter)))
  await traffic()
  return Promise.all(captures.map((capture) => capture.stop()))
}
