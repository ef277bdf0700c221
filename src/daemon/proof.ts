// The last step of enabling: packets of the daemon's own go through the attached
// programs, one of each kind that the node has, must meet maps that know their
// devices, and leave by a device that the kernel would send them by, too. Of one
// that leaves through SNAT the answer must find its way back to the pod. Nothing is
// sent.

import { familyOf, formatAddress, parseAddress } from '../address.js'
import { explain } from '../answers/explain.js'
import type { NodeView } from '../answers/node-view.js'
import { routeAnswer } from '../answers/views.js'
import type { Explanation } from '../control/explain-api.js'
import type { Datapath } from '../datapath/datapath.js'
import { whileAnswerable } from '../datapath/test-answer.js'
import type { BpfObject } from '../native.js'
import { kernelWay } from '../netlink/route-get.js'
import type { WantedPod } from '../plan/types.js'

/** What no packet may meet right after enabling. */
const impossible = new Set(['off', 'unknown-device', 'not-served'])
/** discard */
const toPort = 9
const protocol = 'udp'
const outside = { 4: '192.0.2.1', 6: '2001:db8::1' } as const
/** Routes may change in between: then both are asked again. */
const tries = 5
const pause = 100

/** Rejects with what was tried and what came of it. */
export async function prove(node: NodeView, datapath: Datapath): Promise<void> {
  const { hooks } = datapath
  const served = (ifindex: number) => hooks.attached.get(ifindex)?.error === null
  const pods = [...node.plan.pods.values()].filter(({ ifindex, mac }) => served(ifindex) && mac !== null)
  for (const family of [4, 6] as const) {
    const [one, two] = pods.filter(({ address }) => familyOf(address) === family)
    if (!one) continue
    for (const to of [...(two ? [formatAddress(two.address)] : []), outside[family]])
      await proveWay(node, datapath, one, to)
  }
}

async function proveWay(node: NodeView, { programs }: Datapath, pod: WantedPod, to: string): Promise<void> {
  const from = formatAddress(pod.address)
  let wrong: string | null = null
  for (let attempt = 0; attempt < tries; attempt++) {
    if (attempt > 0) await new Promise((resolve) => setTimeout(resolve, pause))
    const explanation = explain(node, { from, to, protocol, toPort })
    // at once: the port is free now
    const answer = judge(explanation) === null ? judgeAnswer(node, programs, pod, explanation) : null
    wrong = judge(explanation) ?? (await differsFromKernel(node, pod, explanation)) ?? answer
    if (wrong === null) return
  }
  throw new Error(`a packet from ${from} to ${to} ${wrong}`)
}

/** null: it can be so. */
function judge({ verdict, reason, summary }: Explanation): string | null {
  if (impossible.has(reason)) return `is not recognised (${reason}): ${summary}`
  if (verdict === 'drop' && reason === 'drop-spoof') return "with the pod's own address is dropped as forged"
  return null
}

/** Whether the answer to a packet that leaves through SNAT comes to the pod as its own: null, or what becomes of it. */
export function judgeAnswer(
  node: NodeView,
  programs: Pick<BpfObject, 'map'>,
  pod: Pick<WantedPod, 'address' | 'ifindex'>,
  { packet, nat, out }: Pick<Explanation, 'packet' | 'nat' | 'out'>
): string | null {
  if (nat === null || nat.what !== 'source' || out === null) return null
  const [local, remote] = [parseAddress(nat.address), parseAddress(packet.destination)]
  if (local === null || remote === null) return null
  const seen = { local, localPort: nat.port, remote, remotePort: toPort }
  const answer = whileAnswerable(programs, { pod: pod.address, podPort: packet.sourcePort, protocol, seen }, () =>
    explain(node, {
      ...{ from: packet.destination, fromPort: toPort, to: nat.address, toPort: nat.port },
      ...{ protocol, device: out.device }
    })
  )
  if (answer === null) return `leaves by port ${nat.port} of ${nat.address}, which another flow has`
  const { verdict, reason, summary, nat: back, out: to } = answer
  const what = `leaves as ${nat.address}, and its answer`
  if (impossible.has(reason) || reason === 'node') return `${what} is not recognised (${reason}): ${summary}`
  if (verdict === 'drop') return `${what} is dropped (${reason}): ${summary}`
  // what rules leave to the stack is right by itself
  if (verdict !== 'forwarded') return null
  const right =
    back?.what === 'destination' &&
    parseAddress(back.address) === pod.address &&
    back.port === packet.sourcePort &&
    to?.device === node.deviceName(pod.ifindex)
  return right ? null : `${what} does not come to the pod as its own: ${summary}`
}

/** From the way that the kernel would take: in words, or null. What the programs leave to it is right by itself. */
export async function differsFromKernel(
  node: Pick<NodeView, 'plan' | 'deviceName'>,
  pod: Pick<WantedPod, 'address' | 'ifindex'>,
  { packet, out }: Pick<Explanation, 'packet' | 'out'>
): Promise<string | null> {
  const to = parseAddress(packet.destination)
  if (out === null || to === null) return null
  const way = await kernelWay({ from: pod.address, to, iif: pod.ifindex })
  if (way === null) return null
  if (way === 'nowhere') return `leaves over ${out.device}, and the kernel has no way for it`
  const device = node.deviceName(way)
  if (device === out.device) return null
  // of several ways to one destination the kernel may take another
  const legs = routeAnswer(node.plan, to, () => null).route?.legs ?? []
  const both = legs.some((leg) => leg.device === device) && legs.some((leg) => leg.device === out.device)
  return both ? null : `leaves over ${out.device}, and the kernel would send it over ${device}`
}
