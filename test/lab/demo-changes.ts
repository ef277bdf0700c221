// Demo, second part: the node changes while traffic flows. How long until
// hostroute forwards the new way, and what was lost meanwhile.

import { OUTSIDE } from './addresses.js'
import { difference, snapshot } from './demo-reach.js'
import { type PingReport, readPing } from './host.js'
import type { Lab } from './lab.js'
import { sleep, until } from './process.js'
import type { Story } from './story.js'

/** Milliseconds between two pings: also how finely times can be told. */
const INTERVAL = 5

export async function showChanges(story: Story, lab: Lab): Promise<void> {
  story.chapter(`Changes on node 1 under traffic, a ping every ${INTERVAL} ms`)
  await showNewPod(story, lab)
  await showNewRoute(story, lab)
  await showNewMac(story, lab)
}

/** Until the daemon has read the event, the prefix that covered the address before still answers: milliseconds. */
async function showNewPod(story: Story, lab: Lab): Promise<void> {
  const node = lab.node(0)
  const from = node.pod(0)
  const begin = Date.now()
  const pod = await node.addPod()
  const ready = Date.now()
  const ping = from.startPing(pod.address.v4, { interval: INTERVAL })
  await until('a reply from the new pod', () => readPing(ping.stdout).received > 0, 10_000, 2)
  const waited = Date.now() - ready
  await sleep(300)
  await ping.stop('SIGINT')
  const { lost } = readPing(ping.stdout, 2)
  story.fact(
    lost.length * INTERVAL <= 100,
    'a new pod',
    `made in ${ready - begin} ms, answered after ${waited} ms; ${loss(lost)}`
  )
  await showFast(story, lab, async () => (await from.ping(pod.address.v4, { count: 40, interval: INTERVAL })).lost)
}

/** The outside gets a host route through node 2: a longer way that shows in the frames' destination. */
async function showNewRoute(story: Story, lab: Lab): Promise<void> {
  const [node, other] = [lab.node(0), lab.node(1)]
  const target = `${OUTSIDE.v4}/32`
  const capture = await node.capture('up0', 'icmp[icmptype] == icmp-echo')
  const ping = node.pod(0).startPing(OUTSIDE.v4, { interval: INTERVAL })
  await sleep(300)
  await node.ip(`route add ${target} via ${other.address.v4}`)
  const added = Date.now()
  await sleep(500)
  await node.ip(`route del ${target}`)
  const removed = Date.now()
  await sleep(300)
  await ping.stop('SIGINT')
  const sent = (await capture.stop()).map(({ time, packet }) => ({ at: time * 1_000, mac: packet.destinationMac }))
  const { lost } = readPing(ping.stdout, 2)
  const there = sent.filter(({ at }) => at < removed).find(({ mac }) => mac === other.uplinks[0]?.mac)
  const back = sent.filter(({ at }) => at > removed).find(({ mac }) => mac !== other.uplinks[0]?.mac)
  const held = there !== undefined && back !== undefined && lost.length === 0
  story.fact(held, 'a new route, through node 2', `used ${since(added, there?.at)}; ${loss(lost)}`)
  story.fact(held, 'the route removed again', `the old one used ${since(removed, back?.at)}`)
  await showFast(story, lab, async () => (await node.pod(0).ping(OUTSIDE.v4, { count: 40, interval: INTERVAL })).lost)
}

/** The router gets another MAC and says so, as a gateway does that has failed over. */
async function showNewMac(story: Story, lab: Lab): Promise<void> {
  const node = lab.node(0)
  const mac = '02:04:00:00:0f:01'
  await lab.router.sysctl({ 'net.ipv4.conf.br0.arp_notify': 1, 'net.ipv6.conf.br0.ndisc_notify': 1 })
  const capture = await node.capture('up0', 'icmp[icmptype] == icmp-echo')
  const ping = node.pod(0).startPing(OUTSIDE.v4, { interval: INTERVAL })
  await sleep(300)
  await lab.router.ip(`link set br0 address ${mac}`)
  const changed = Date.now()
  await sleep(1_000)
  await ping.stop('SIGINT')
  const packets = await capture.stop()
  const first = packets.find(({ packet }) => packet.destinationMac === mac)
  const { lost } = readPing(ping.stdout, 2)
  const held = first !== undefined && lost.length <= 500 / INTERVAL
  story.fact(held, "the gateway's MAC changed", `used ${since(changed, first && first.time * 1_000)}; ${loss(lost)}`)
  await showFast(story, lab, async () => (await node.pod(0).ping(OUTSIDE.v4, { count: 40, interval: INTERVAL })).lost)
}

/** The proof that the fast path does it and not the kernel behind it. */
async function showFast(story: Story, lab: Lab, traffic: () => Promise<PingReport['lost']>): Promise<void> {
  const nodes = [lab.node(0)]
  const before = await snapshot(nodes)
  const lost = await traffic()
  const { forwarded, forward } = difference(before, await snapshot(nodes))
  const held = lost.length === 0 && forward === 0 && forwarded >= 80
  story.fact(held, '  by hostroute, not by the kernel', `${forwarded} forwarded, ${forward} in the forward hook`)
}

function since(start: number, then: number | undefined): string {
  if (then === undefined) return 'never'
  return then <= start ? 'at once' : `after ${Math.ceil(then - start)} ms`
}

function loss(lost: readonly number[]): string {
  return lost.length === 0 ? 'no ping lost' : `${lost.length} ${lost.length === 1 ? 'ping' : 'pings'} lost`
}
