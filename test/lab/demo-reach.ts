// Demo, first part: who reaches whom, by which way, and what the nodes'
// netfilter saw of it.

import type { Status } from '../../src/control/api.js'
import { OUTSIDE } from './addresses.js'
import type { Answer } from './echo.js'
import type { PingReport } from './host.js'
import type { Lab } from './lab.js'
import type { HookCounts } from './netfilter.js'
import type { LabNode, LabPod } from './node.js'
import type { Story } from './story.js'

const FAMILIES = { v4: 'IPv4', v6: 'IPv6' } as const
const PINGS = 20

type Family = keyof typeof FAMILIES

export async function showReach(story: Story, lab: Lab): Promise<void> {
  const one = lab.node(0).pod(0)
  const [near, far] = [lab.node(0).pod(1), lab.node(1).pod(0)]
  await Promise.all([near.echo(), far.echo(), lab.outside.echo()])
  await warmUp(lab)
  const before = await snapshot(lab.nodes)
  story.chapter('Who reaches whom')
  for (const family of ['v4', 'v6'] as const) {
    await showPod(story, one, near, 'pod → pod on the same node', family, 63)
    await showPod(story, one, far, 'pod → pod on the other node', family, 62)
    await showOutside(story, lab, one, family)
  }
  story.chapter("What the nodes' kernels saw of it")
  const after = await snapshot(lab.nodes)
  const moved = difference(before, after)
  story.fact(moved.forwarded > 6 * PINGS, 'packets that hostroute forwarded', `${moved.forwarded}`)
  story.fact(moved.forward === 0, "packets in the nodes' netfilter forward hook", `${moved.forward}`)
  story.fact(moved.prerouting === 0, "pods' packets in the prerouting hook", `${moved.prerouting}`)
  story.fact(moved.postrouting === 0, "pods' packets in the postrouting hook", `${moved.postrouting}`)
}

/** Neighbours nobody has talked to yet are the kernel's to resolve: once, before counting. */
async function warmUp(lab: Lab): Promise<void> {
  const one = lab.node(0).pod(0)
  for (const family of ['v4', 'v6'] as const) {
    for (const target of [lab.node(0).pod(1).address, lab.node(1).pod(0).address, OUTSIDE]) {
      await one.ping(target[family], { count: 3, interval: 50 })
    }
  }
}

async function showPod(
  story: Story,
  from: LabPod,
  to: LabPod,
  what: string,
  family: Family,
  ttl: number
): Promise<void> {
  const address = to.address[family]
  const ping = await from.ping(address, { count: PINGS })
  const tcp = await from.ask({ protocol: 'tcp', address, port: 7, bytes: 20_000 })
  const udp = await from.ask({ protocol: 'udp', address, port: 7 })
  const seen = [tcp.peer, udp.peer].every((peer) => peer === from.address[family])
  const held = all(ping, ttl) && tcp.echoed === 20_000 && udp.echoed === 32 && seen
  story.fact(held, `${FAMILIES[family]}  ${what}`, describe(ping, tcp, udp))
}

async function showOutside(story: Story, lab: Lab, from: LabPod, family: Family): Promise<void> {
  const address = OUTSIDE[family]
  const node = lab.node(0).address[family]
  const ping = await from.ping(address, { count: PINGS })
  const tcp = await from.ask({ protocol: 'tcp', address, port: 7, bytes: 20_000 })
  const udp = await from.ask({ protocol: 'udp', address, port: 7 })
  const held = all(ping, 62) && tcp.echoed === 20_000 && udp.echoed === 32 && tcp.peer === node && udp.peer === node
  const evidence = `${describe(ping, tcp, udp)}; it saw ${tcp.peer} instead of ${from.address[family]}`
  story.fact(held, `${FAMILIES[family]}  pod → outside, through SNAT`, evidence)
}

function all(ping: PingReport, ttl: number): boolean {
  return ping.received === PINGS && ping.ttl === ttl
}

function describe(ping: PingReport, tcp: Answer, udp: Answer): string {
  const words = (answer: Answer) => answer.error ?? 'ok'
  return `ping ${ping.received}/${ping.sent}, TTL 64 → ${ping.ttl}, TCP ${words(tcp)}, UDP ${words(udp)}`
}

export interface Snapshot extends HookCounts {
  forwarded: number
}

/** Sums over the nodes: hostroute's own count and netfilter's. */
export async function snapshot(nodes: readonly LabNode[]): Promise<Snapshot> {
  const sum: Snapshot = { forwarded: 0, prerouting: 0, forward: 0, postrouting: 0 }
  for (const node of nodes) {
    const counts = await node.readCounters()
    const { packets } = await node.daemon.json<Status>('status')
    sum.forwarded += packets.forwarded.packets
    sum.prerouting += counts.prerouting
    sum.forward += counts.forward
    sum.postrouting += counts.postrouting
  }
  return sum
}

export function difference(before: Snapshot, after: Snapshot): Snapshot {
  return {
    forwarded: after.forwarded - before.forwarded,
    prerouting: after.prerouting - before.prerouting,
    forward: after.forward - before.forward,
    postrouting: after.postrouting - before.postrouting
  }
}
