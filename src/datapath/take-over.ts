// From the stack to the fast path, so that no connection breaks: flows that
// conntrack translates are claimed for the stack before the programs begin,
// connections from outside to pods get their entries, and what conntrack knows
// of these is forgotten once the programs have begun.

import { protocols } from '../conntrack/entry.js'
import { type Forgotten, forgetUntranslated } from '../conntrack/forget.js'
import { ConntrackError, tracksNothing } from '../conntrack/table.js'
import { type PodFlow, readTranslated } from '../conntrack/translated.js'
import type { Logger } from '../log.js'
import { encodeOwner, encodePlainFlow, encodeTuple } from '../maps/codec.js'
import { CODES, ECHO_ASKED, STRUCTS } from '../maps/layout.js'
import { markStackPair } from '../maps/stack-pairs.js'
import type { BpfMap, BpfObject, NativeError } from '../native.js'
import { Slice } from '../netlink/slice.js'
import type { Address } from '../state/types.js'
import { Accounts } from './accounts.js'
import { stackConnections } from './carried.js'
import { chargeFlows } from './clock.js'
import type { ControlBlock } from './control-block.js'
import { type LocalPod, type Maps, podsIn } from './live-flows.js'

type Object = Pick<BpfObject, 'map' | 'testRun' | 'readControl'>

export interface Claiming {
  object: Object
  control: Pick<ControlBlock, 'setTranslating' | 'markShared' | 'presumeShared' | 'now'>
  unread: Set<number>
}

/** forwarding: the programs are switched on; tell: log how many there are. */
export interface Claim {
  forwarding: boolean
  tell: boolean
}

const rowsAtOnce = 1000
/** BPF_NOEXIST */
const onlyIfAbsent = 1

/**
 * To be called when to_pod is attached; at enabling, before the programs are
 * switched on, and once more when they are: `forwarding`. Until then every flow
 * is looked up, and for good where conntrack cannot be read: slower, and as
 * right for all but pings.
 */
export async function claimTranslated(
  { object, control, unread }: Claiming,
  { forwarding, tell }: Claim,
  log: Logger
): Promise<void> {
  const pods = podsIn(object)
  const waiting = new Set([...unread, ...[...pods.values()].map(({ ifindex }) => ifindex)])
  if (forwarding) for (const ifindex of waiting) unread.delete(ifindex)
  try {
    const { read, translated, flows, pairs, inbound } = await readTranslated((address) => pods.has(address))
    const left = await writeInbound(object, pods, inbound, Number(control.now() & 0xffff_ffffn))
    if (left > 0)
      log.warn(
        `${left} connections from outside find no room in their pods' shares of limits.flows: their answers may be masqueraded`
      )
    if (translated > 0) {
      control.setTranslating('known', true)
      await markPairs(object.map('stack_pairs'), pairs)
      await writeOwners(object, pods, flows, Number(control.now() & 0xffff_ffffn))
      for (const { pod, remote } of flows) if (pods.has(remote)) control.markShared(pods.get(pod)?.ifindex ?? 0)
      if (tell) log.info(`conntrack translates ${translated} of ${read} connections: they stay with the stack`)
    }
    if (!forwarding) return
    for (const ifindex of waiting) if (!unread.has(ifindex)) control.presumeShared(ifindex, false)
    // another pod may have come meanwhile
    if (unread.size === 0) control.setTranslating('presumed', false)
  } catch (error) {
    if (!(error instanceof ConntrackError)) throw error
    log.warn(`${error.message}; conntrack is asked about each flow instead`)
  }
}

async function markPairs(map: BpfMap, pairs: ReadonlySet<string>): Promise<void> {
  const slice = new Slice()
  for (const pair of pairs) {
    const [one = '', other = ''] = pair.split(' ')
    markStackPair(map, one, other)
    if (slice.due()) await slice.rest()
  }
}

async function writeOwners(
  object: Pick<BpfObject, 'map'>,
  pods: Map<Address, LocalPod>,
  flows: PodFlow[],
  now: number
): Promise<void> {
  const slice = new Slice()
  for (const family of [4, 6] as const) {
    const map = object.map(`owners${family}`)
    const own = flows.filter((flow) => flow.family === family)
    for (let from = 0; from < own.length; from += rowsAtOnce) {
      writeRows(map, pods, own.slice(from, from + rowsAtOnce), now)
      if (slice.due(true)) await slice.rest()
    }
  }
}

/**
 * Who opened a connection decides whether the pod's packets are masqueraded:
 * conntrack is about to forget it. A pod gets no more than its share, as in
 * bpf/account.h; the number of those that have found no room.
 */
async function writeInbound(
  object: Object,
  pods: Map<Address, LocalPod>,
  flows: PodFlow[],
  now: number
): Promise<number> {
  const slice = new Slice()
  const maps = { 4: object.map('flows4'), 6: object.map('flows6') }
  const accounts = new Accounts(object)
  const limit = object.readControl().readUInt32LE(STRUCTS.control.offset.flow_limit)
  let left = 0
  for (const flow of flows) {
    const { family, protocol, pod, halfOpen } = flow
    const podId = pods.get(pod)?.id ?? 0
    const room = limit - accounts.usage.flows[family]
    if (accounts.of(podId)[family] >= room / (halfOpen ? 4 : 2)) {
      left++
      continue
    }
    const both = protocol === protocols.tcp ? CODES.SEEN_ACK | CODES.SEEN_REMOTE_ACK : CODES.SEEN_ACK
    const tcp = halfOpen ? CODES.SEEN_SYN : both
    const value = encodePlainFlow({ seen: now, created: now, podId, verdict: CODES.FLOW_INBOUND, tcp })
    // before it: a daemon that ends in between leaves an account too large by one, not below nothing
    chargeFlows(object, family, podId, 1)
    try {
      maps[family].update(keyOf(flow), value, onlyIfAbsent)
    } catch (error) {
      chargeFlows(object, family, podId, -1)
      // the programs have met it already; or so many are being freed that the kernel gives no more just now
      if (!['EEXIST', 'E2BIG', 'ENOMEM'].includes((error as NativeError).code ?? '')) throw error
    }
    if (slice.due()) await slice.rest()
  }
  return left
}

function keyOf({ protocol, pod, podPort, remote, remotePort, remoteAsks }: PodFlow): Buffer {
  return encodeTuple({
    protocol,
    local: pod,
    localPort: podPort,
    remote,
    remotePort: remoteAsks ? ECHO_ASKED : remotePort
  })
}

function writeRows(map: BpfMap, pods: Map<Address, LocalPod>, flows: PodFlow[], now: number): void {
  const keys = flows.map(keyOf)
  const values = flows.map(({ pod }) =>
    encodeOwner({ seen: now, podId: pods.get(pod)?.id ?? 0, reason: 'translated-flow' })
  )
  map.updateBatch(Buffer.concat(keys), Buffer.concat(values), flows.length)
}

/**
 * Once the programs have begun, and now and then with `idle`: a connection may
 * begin on the stack, because a neighbour or a pod's MAC is not known yet, and
 * go on by the fast path.
 */
export async function forgetStale(object: Maps, log: Logger, idle?: number): Promise<void> {
  if (tracksNothing()) return
  try {
    const pods = podsIn(object)
    const isPod = (address: Address) => pods.has(address)
    const isStacks = stackConnections(object)
    tellForgotten(await forgetUntranslated({ isPod, isStacks, ...(idle === undefined ? {} : { idle }) }), log)
  } catch (error) {
    log.warn(`${(error as Error).message}; untranslated connections may be dropped as invalid when hostroute leaves`)
  }
}

function tellForgotten({ deleted, liberal, failed }: Forgotten, log: Logger): void {
  if (deleted + liberal > 0) {
    const kept = liberal > 0 ? `, and tracks no window of ${liberal}` : ''
    log.info(`conntrack forgets ${deleted} connections that the fast path has now${kept}`)
  }
  for (const [code, times] of failed)
    log.warn(`conntrack keeps ${times} connections that the fast path has now: ${code}`)
}
