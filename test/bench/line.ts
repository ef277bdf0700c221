// The benchmark's road: one node, two pods, and one host right behind the
// uplink, so that each figure is of known hops and nothing else.
//
//   pod a ──┐
//           ├── node ── up0 ─────── eth0 ── peer
//   pod b ──┤       192.168.100.11        .1 gateway, .12 another node
//   pod c ──┘
//
//   pod       a → b: two veth pairs, one node between them
//   remote    a → 10.244.2.2, a pod range behind .12: pod's pair and uplink's pair, source kept
//   outside   a → 203.0.113.10 through the gateway: the same two pairs, with SNAT
//   service   c → 10.96.0.12 → b, by kube-proxy's rules: through the stack, with hostroute, too
//
// The floor is the same node with programs that do nothing but redirect: what
// its ways cost more than a bare pair is the kernel's.

import { execFileSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import * as addresses from '../lab/addresses.js'
import { LabHost } from '../lab/host.js'
import { claim, release } from '../lab/lease.js'
import { configurePod, LabNode, LabPod, prepare } from '../lab/node.js'
import { createBarePair } from '../lab/pair.js'
import { type Background, run } from '../lab/process.js'
import { labPlan, POD_PORT, SERVICES } from '../services/cluster.js'
import { ServiceProxy } from '../services/proxy.js'
import type { Redirect } from './floor.js'

/**
 * Who forwards: the kernel alone, the kernel with conntrack, MASQUERADE and 100 filter rules, or hostroute;
 * and the kernel with kube-proxy's rules in mode nftables, without and with hostroute.
 */
export const FORWARDERS = ['kernel', 'legacy', 'hostroute', 'services', 'services+hostroute'] as const
export type Forwarder = (typeof FORWARDERS)[number] | 'floor'
export const DESTINATIONS = ['pod', 'remote', 'outside', 'service'] as const
export type Destination = (typeof DESTINATIONS)[number]

/** A way for traffic: from, to, and the address that `to` serves on; `service`: what `from` connects to instead. */
export interface Way {
  name: string
  from: LabHost
  to: LabHost
  address: string
  port: number
  service?: { address: string; port: number }
}

export interface Line {
  ways: Way[]
  /** null without hostroute */
  node: LabNode | null
  close(): Promise<void>
}

const OPTIONS = { mtu: 1500, podMtu: 1500, offloads: true, proxyArp: false }
const RULES = 100
const PORT = 11_111
const root = fileURLToPath(new URL('../../../../', import.meta.url))
const REMOTE_POD = addresses.podAddress(2, 1).v4
const REMOTE_NODE = addresses.nodeAddress(2, 0).v4

/** Two namespaces and one veth pair. */
export async function bareLine(): Promise<Line> {
  const pair = await createBarePair()
  const way = { name: 'bare', from: pair.left, to: pair.right, address: pair.rightAddress, port: PORT }
  return { ways: [way], node: null, close: async () => pair.close() }
}

/** A node of this kind; with hostroute its daemon runs and is ready. On failure nothing is left. */
export async function createLine(forwarder: Forwarder, timeout?: number): Promise<Line> {
  const lease = claim()
  try {
    const node = new LabNode(lease, 1, 1, OPTIONS)
    // the third pod is the floor's for what leaves the node, or uses the Service
    for (let number = 1; number <= 3; number++) node.pods.push(new LabPod(node, number))
    const peer = new LabHost('peer', `${lease.name}-peer`)
    await build(node, peer)
    if (forwarder === 'legacy') await node.installLegacyRules(RULES)
    if (forwarder.startsWith('services')) await new ServiceProxy(node, 'n1', 'nftables').write(SERVICES)
    if (forwarder.endsWith('hostroute'))
      await node.startDaemon({ config: { guard: { mode: 'off' } }, ...(timeout ? { timeout } : {}) })
    const redirector = forwarder === 'floor' ? await startRedirector(node, timeout) : null
    const close = async () => {
      await redirector?.stop('SIGKILL')
      await node.stopDaemon().catch(() => {})
      release(lease.name)
    }
    return { ways: waysOf(forwarder, node, peer), node: forwarder.endsWith('hostroute') ? node : null, close }
  } catch (error) {
    release(lease.name)
    throw error
  }
}

/** Attaches floor.bpf.c to all devices of the node, for as long as this runs. */
async function startRedirector(node: LabNode, timeout?: number): Promise<Background> {
  const object = `${root}build/bench/floor.bpf.o`
  mkdirSync(`${root}build/bench`, { recursive: true })
  execFileSync(`${root}scripts/build-native`, ['--bpf', `${root}test/bench/floor.bpf.c`, object])
  const toPod = (device: string, { hostDevice: to, mac, hostMac: sourceMac }: LabPod): Redirect => {
    return { device, program: 'to_pod', to, mac, sourceMac }
  }
  const [one, two, three] = [node.pod(0), node.pod(1), node.pod(2)]
  const uplink = { to: 'up0', mac: addresses.mac('router', 0, 0), sourceMac: node.uplinks[0]?.mac ?? '' }
  const redirects: Redirect[] = [
    toPod(one.hostDevice, two),
    toPod(two.hostDevice, one),
    { device: three.hostDevice, program: 'to_uplink', ...uplink },
    toPod('up0', three)
  ]
  const script = fileURLToPath(new URL('./floor.js', import.meta.url))
  const redirector = node.start([process.execPath, script, object, JSON.stringify(redirects)])
  await redirector.waitFor('ready', timeout)
  return redirector
}

function waysOf(forwarder: Forwarder, node: LabNode, peer: LabHost): Way[] {
  const [from, other] = [node.pod(0), node.pod(1)]
  if (forwarder === 'floor')
    return [
      { name: 'floor pod', from, to: other, address: other.address.v4, port: PORT },
      { name: 'floor uplink', from: node.pod(2), to: peer, address: REMOTE_POD, port: PORT }
    ]
  const pod = { name: `${forwarder} pod`, from, to: other, address: other.address.v4, port: PORT }
  const remote = { name: `${forwarder} remote`, from, to: peer, address: REMOTE_POD, port: PORT }
  if (!forwarder.startsWith('services'))
    return [pod, remote, { ...remote, name: `${forwarder} outside`, address: addresses.OUTSIDE.v4 }]
  const service = { address: labPlan(4).service(0, 12), port: 80 }
  return [{ ...pod, name: `${forwarder} service`, from: node.pod(2), port: POD_PORT, service }, pod, remote]
}

async function build(node: LabNode, peer: LabHost): Promise<void> {
  const hosts = [node, ...node.pods, peer]
  await run(['ip', '-batch', '-'], { input: hosts.map((host) => `netns add ${host.namespace}\n`).join('') })
  for (const host of hosts) await prepare(host, host === node)
  const [uplink] = node.uplinks
  const gateway = addresses.routerAddress(0)
  const peerMac = addresses.mac('router', 0, 0)
  await node.ip(
    `link add up0 address ${uplink?.mac} type veth peer name eth0 netns ${peer.namespace} address ${peerMac}`,
    'link set up0 up',
    `addr add ${node.address.v4}/24 dev up0`
  )
  await peer.ip(
    'link set eth0 up',
    `addr add ${gateway.v4}/24 dev eth0`,
    `addr add ${REMOTE_NODE}/24 dev eth0`,
    `addr add ${REMOTE_POD}/32 dev eth0`,
    `addr add ${addresses.OUTSIDE.v4}/32 dev eth0`,
    `route add ${addresses.podRange(1).v4} via ${node.address.v4}`,
    `neigh replace ${node.address.v4} lladdr ${uplink?.mac} dev eth0 nud permanent`
  )
  // Permanent neighbours: no probe falls into a measurement.
  await node.ip(
    ...node.pods.flatMap((pod) => [...node.linkCommands(pod)]),
    ...[gateway.v4, REMOTE_NODE].map((each) => `neigh replace ${each} lladdr ${peerMac} dev up0 nud permanent`),
    `route add default via ${gateway.v4} dev up0`,
    `route add ${addresses.podRange(2).v4} via ${REMOTE_NODE} dev up0`
  )
  for (const pod of node.pods) await configurePod(pod, OPTIONS)
  await node.ip(
    ...node.pods.flatMap((pod) => [
      ...node.routeCommands(pod),
      `neigh replace ${pod.address.v4} lladdr ${pod.mac} dev ${pod.hostDevice} nud permanent`
    ])
  )
}
