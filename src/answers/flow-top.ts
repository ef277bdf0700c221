// `hostroute snat top`: who uses most of what SNAT has, in one walk of the flow
// tables and in bounded memory.

import { formatAddress, noAddress } from '../address.js'
import type { FlowTop, PodUse, RemoteUse } from '../control/flow-api.js'
import { entriesOf } from '../datapath/flow-reader.js'
import type { Maps } from '../datapath/live-flows.js'
import { decodeFlow, decodeTuple } from '../maps/codec.js'
import { CODES } from '../maps/layout.js'
import { Slice } from '../netlink/slice.js'
import type { Address, Family } from '../state/types.js'
import { Best } from './best.js'
import { type Now, secondsSince } from './flow-view.js'
import { Frequent } from './frequent.js'
import { protocolName } from './protocols.js'

const sliceMilliseconds = 4
/** Seconds. */
const newWithin = 10
/** Remotes, and pods, that are counted at once; some 5 MB. */
const mostCounted = 16_384

export interface TopOptions {
  maps: Maps
  now: () => Now
  ports: number
  deviceOf: (pod: Address) => string | null
}

interface RemoteCount {
  count: number
  protocol: number
  remote: Address
  remotePort: number
  source: Address
}

interface PodCount {
  count: number
  pod: Address
  snat: number
  young: number
}

/** The first `count` of each list. */
export async function topFlows({ maps, now, ports, deviceOf }: TopOptions, count: number): Promise<FlowTop> {
  const remotes = new Frequent<RemoteCount>(mostCounted)
  const pods = new Frequent<PodCount>(mostCounted)
  const slice = new Slice(sliceMilliseconds)
  let flows = 0
  for (const family of [4, 6] as const satisfies Family[]) {
    for (const entries of entriesOf(maps.map(`flows${family}`))) {
      const moment = now()
      flows += entries.length
      for (const { key, value } of entries) {
        const { local, remote, remotePort, protocol } = decodeTuple(key)
        const flow = decodeFlow(value)
        const pod = pods.add(local, () => ({ count: 0, pod: local, snat: 0, young: 0 }))
        if (secondsSince(flow.created, moment) < newWithin) pod.young++
        if (flow.verdict !== CODES.FLOW_SNAT) continue
        pod.snat++
        const source = flow.natAddress ?? noAddress
        const name = `${source} ${remote} ${remotePort} ${protocol}`
        remotes.add(name, () => ({ count: 0, protocol, remote, remotePort, source }))
      }
      if (slice.due(true)) await slice.rest()
    }
  }
  const podUse = ({ count: all, pod, snat, young }: PodCount): PodUse => ({
    pod: formatAddress(pod),
    device: deviceOf(pod),
    flows: all,
    snat,
    newPerSecond: Math.round((young / newWithin) * 10) / 10
  })
  const remoteUse = ({ protocol, remote, remotePort, source, count: all }: RemoteCount): RemoteUse => ({
    protocol: protocolName(protocol),
    remote: formatAddress(remote),
    remotePort,
    source: formatAddress(source),
    flows: all,
    share: ports > 0 ? Math.round((all / ports) * 10_000) / 10_000 : 1
  })
  return {
    flows,
    ports,
    window: newWithin,
    remotes: best(remotes, count, (row) => row.count).map(remoteUse),
    podsByFlows: best(pods, count, (row) => row.count).map(podUse),
    podsByNewFlows: best(pods, count, (row) => row.young)
      .filter(({ young }) => young > 0)
      .map(podUse),
    uncertainty: Math.max(remotes.uncertainty, pods.uncertainty)
  }
}

function best<T extends { count: number }>(rows: Frequent<T>, count: number, size: (row: T) => number): T[] {
  const kept = new Best<T>(count, (a, b) => size(b) - size(a))
  for (const row of rows.rows()) kept.add(row)
  return kept.takeAll()
}
