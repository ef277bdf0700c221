// The ring buffer's records as rows for `hostroute monitor` and the log.

import { formatAddress } from '../address.js'
import type { EventRow } from '../control/packet-api.js'
import { decodeEvent } from '../maps/codec.js'
import { CODES } from '../maps/layout.js'
import { REASONS } from '../reasons.js'
import type { Address } from '../state/types.js'
import { protocolName } from './protocols.js'

const kinds = new Map(REASONS.map(({ name, kind }) => [name, kind]))

/** `deviceName` gives the name of an ifindex, also of one that has just gone. */
export function eventRow(record: Buffer, deviceName: (ifindex: number) => string): EventRow {
  const event = decodeEvent(record)
  const time = new Date(Date.now() - Number(process.hrtime.bigint() - event.time) / 1e6).toISOString()
  const family = event.family === 0 ? null : event.family
  const common = {
    time,
    in: deviceName(event.ifindex),
    out: event.out ? deviceName(event.out) : null,
    lost: event.lost
  }
  if (event.type === CODES.EVENT_FLOW_NEW && family) {
    return {
      type: 'flow',
      ...common,
      family,
      protocol: protocolName(event.protocol),
      source: text(event.source) ?? '',
      sourcePort: event.sourcePort,
      destination: text(event.destination) ?? '',
      destinationPort: event.destinationPort,
      natAddress: text(event.natAddress),
      natPort: event.natPort || null
    }
  }
  return {
    type: 'packet',
    ...common,
    reason: event.reason,
    class: kinds.get(event.reason) ?? 'stack',
    family,
    protocol: family ? protocolName(event.protocol) : null,
    source: text(event.source),
    sourcePort: event.sourcePort || null,
    destination: text(event.destination),
    destinationPort: event.destinationPort || null,
    length: event.length
  }
}

function text(address: Address | null): string | null {
  return address === null ? null : formatAddress(address)
}
