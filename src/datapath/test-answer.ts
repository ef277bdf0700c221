// A test packet that answers a flow through SNAT needs an entry by which the
// programs find the pod. It is there for as long as the packet is run, and with it
// nothing else of a flow: nobody is charged for it, no list shows it, and the
// programs, which only look at a traced packet, write nothing to it.

import { familyOf } from '../address.js'
import { protocols } from '../conntrack/entry.js'
import { encodeReverse, encodeTuple, type FlowKey } from '../maps/codec.js'
import type { BpfObject, NativeError } from '../native.js'
import type { Address } from '../state/types.js'
import { podsIn } from './live-flows.js'

export interface Answered {
  pod: Address
  podPort: number
  protocol: 'tcp' | 'udp'
  /** As the remote sees it: `local` is the address and port that the pod's have become. */
  seen: Omit<FlowKey, 'protocol'>
}

const onlyIfAbsent = 1

/** What `run` returns; null: a flow has this port already. Throws NativeError. */
export function whileAnswerable<Result>(
  maps: Pick<BpfObject, 'map'>,
  { pod, podPort, protocol, seen }: Answered,
  run: () => Result
): Result | null {
  const map = maps.map(`reverse${familyOf(pod)}`)
  try {
    const key = encodeTuple({ ...seen, protocol: protocols[protocol] })
    const podId = podsIn(maps).get(pod)?.id ?? 0
    try {
      map.update(key, encodeReverse({ pod, podPort, podId }), onlyIfAbsent)
    } catch (error) {
      if ((error as NativeError).code === 'EEXIST') return null
      throw error
    }
    try {
      return run()
    } finally {
      map.delete(key)
    }
  } finally {
    map.close()
  }
}
