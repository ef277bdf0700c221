// The connections that conntrack has when the fast path begins, as the pods of
// this node see them: those that it translates, which the stack keeps, and those
// that others have opened to pods, whose answers must keep the pod's address.

import type { Address, Family } from '../state/types.js'
import { type Entry, isEcho, isRequest, isTranslated, protocols, type Tuple, tcpState } from './entry.js'
import { readEntries } from './table.js'

/** A flow at the pod; echo: podPort is the identifier, remotePort 0. */
export interface PodFlow {
  family: Family
  protocol: number
  pod: Address
  podPort: number
  remote: Address
  remotePort: number
  /** Echo: the requests are the remote's. */
  remoteAsks: boolean
  /** TCP: the handshake is not over. */
  halfOpen: boolean
}

export interface TranslatedFlows {
  /** Entries read, of all kinds. */
  read: number
  /** Translated ones, whether or not a pod has part in them. */
  translated: number
  flows: PodFlow[]
  /**
   * IPv4 addresses between which translated packets go, on either side of the
   * translation, one of them a pod's: by the source.
   */
  pairs: Map<Address, Set<Address>>
  /** Not translated, opened by others than pods of this node, and not over. */
  inbound: PodFlow[]
}

export async function readTranslated(isPod: (address: Address) => boolean): Promise<TranslatedFlows> {
  const flows: PodFlow[] = []
  const inbound: PodFlow[] = []
  const pairs: TranslatedFlows['pairs'] = new Map()
  let translated = 0
  const read = await readEntries((entry) => {
    if (!isTranslated(entry)) {
      const { source, destination, protocol } = entry.original
      if (isPod(destination) && !isPod(source) && isKnown(protocol) && !isOver(entry))
        inbound.push(flowOf(entry, entry.reply))
      return
    }
    translated++
    // The original direction as the client sends it, and the reply as the server does.
    for (const tuple of [entry.original, entry.reply]) {
      const { source, destination } = tuple
      if (entry.family === 4 && (isPod(source) || isPod(destination)))
        pairs.set(source, (pairs.get(source) ?? new Set()).add(destination))
      if (isPod(tuple.source) && isKnown(tuple.protocol)) flows.push(flowOf(entry, tuple))
    }
  })
  return { read, translated, flows, pairs, inbound }
}

function isOver({ tcp }: Entry): boolean {
  return tcp !== null && (tcp.state === tcpState.timeWait || tcp.state === tcpState.close)
}

function isKnown(protocol: number): boolean {
  return protocol === protocols.tcp || protocol === protocols.udp || isEcho(protocol)
}

function flowOf({ family, tcp }: Entry, tuple: Tuple): PodFlow {
  return {
    family,
    protocol: tuple.protocol,
    pod: tuple.source,
    podPort: tuple.sourcePort,
    remote: tuple.destination,
    remotePort: isEcho(tuple.protocol) ? 0 : tuple.destinationPort,
    remoteAsks: isEcho(tuple.protocol) && !isRequest(tuple),
    halfOpen: tcp !== null && (tcp.state === tcpState.synSent || tcp.state === tcpState.synReceived)
  }
}
