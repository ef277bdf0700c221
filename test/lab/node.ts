// A node of the lab and its pods. A pod hangs on the node as a routed CNI
// plugin leaves it: a veth pair, host routes on the node, and inside a default
// route through a link-local gateway that is not on any device.

import type { Pair } from './addresses.js'
import * as addresses from './addresses.js'
import { Daemon, type DaemonOptions } from './daemon.js'
import { LabHost } from './host.js'
import type { Lease } from './lease.js'
import { type HookCounts, installCounters, installLegacyRules, readCounters } from './netfilter.js'
import { enter, type Outcome, run } from './process.js'

export interface NodeOptions {
  /** MTU of the uplinks. */
  mtu: number
  podMtu: number
  /** false: checksums, segmentation and GRO are done in software, so that captures show final bytes. */
  offloads: boolean
  /** Pods find the gateway's MAC by ARP, answered by proxy_arp, instead of a static entry. */
  proxyArp: boolean
}

export interface Uplink {
  device: string
  mac: string
  address: Pair
  router: Pair
}

/** A pod: its namespace, and its device on the node. */
export class LabPod extends LabHost {
  readonly device = 'eth0'

  constructor(
    readonly node: LabNode,
    /** From 1; the last digits of its addresses are one more. */
    readonly number: number
  ) {
    super(`pod ${number} of ${node.name}`, `${node.namespace}p${number}`)
  }

  get address(): Pair {
    return addresses.podAddress(this.node.number, this.number)
  }

  get mac(): string {
    return addresses.mac('pod', this.node.number, this.number)
  }

  /** Name of the node's end of its veth pair. */
  get hostDevice(): string {
    return `pod${this.number}`
  }

  get hostMac(): string {
    return addresses.mac('host', this.node.number, this.number)
  }
}

export class LabNode extends LabHost {
  readonly pods: LabPod[] = []
  readonly uplinks: Uplink[]
  readonly daemon: Daemon
  readonly #options: NodeOptions

  constructor(lease: Lease, number: number, uplinks: number, options: NodeOptions) {
    super(`node ${number}`, `${lease.name}-n${number}`)
    this.number = number
    this.#options = options
    this.uplinks = Array.from({ length: uplinks }, (_, index) => ({
      device: `up${index}`,
      mac: addresses.mac('uplink', number, index),
      address: addresses.nodeAddress(number, index),
      router: addresses.routerAddress(index)
    }))
    this.daemon = new Daemon(this, `${lease.directory}/n${number}`, `${lease.bpffs}/n${number}`)
  }

  /** From 1. */
  readonly number: number

  /** Its first uplink's address. */
  get address(): Pair {
    return addresses.nodeAddress(this.number, 0)
  }

  /** By position, from 0. */
  pod(index: number): LabPod {
    const pod = this.pods[index]
    if (!pod) throw new Error(`${this.name} has no pod ${index}: it has ${this.pods.length}`)
    return pod
  }

  /** A pod made while the node runs. `number` chooses its address; the lowest free one when absent. */
  async addPod(number = this.#freeNumber()): Promise<LabPod> {
    const pod = new LabPod(this, number)
    await run(['ip', 'netns', 'add', pod.namespace])
    await prepare(pod)
    await this.ip(...this.linkCommands(pod))
    await configurePod(pod, this.#options)
    await this.ip(...this.routeCommands(pod))
    this.pods.push(pod)
    return pod
  }

  /** Removes the pod as a CNI plugin does: its namespace, and with it both devices and the routes. */
  async removePod(pod: LabPod): Promise<void> {
    await this.ip(`link del ${pod.hostDevice}`)
    await run(['ip', 'netns', 'del', pod.namespace])
    const at = this.pods.indexOf(pod)
    if (at >= 0) this.pods.splice(at, 1)
  }

  /** `ip` commands on the node that make the pod's device and its peer in the pod. */
  linkCommands(pod: LabPod): string[] {
    const { mtu, device } = { mtu: this.#options.podMtu, device: pod.hostDevice }
    const peer = `peer name eth0 netns ${pod.namespace} mtu ${mtu} address ${pod.mac}`
    return [
      `link add ${device} mtu ${mtu} address ${pod.hostMac} type veth ${peer}`,
      `link set ${device} addrgenmode none`,
      `link set ${device} up`,
      `addr add ${addresses.POD_GATEWAY.v6}/64 dev ${device} nodad`
    ]
  }

  /** `ip` commands on the node that make the pod reachable. */
  routeCommands(pod: LabPod): string[] {
    const { v4, v6 } = pod.address
    return [`route add ${v4}/32 dev ${pod.hostDevice} scope link`, `route add ${v6}/128 dev ${pod.hostDevice}`]
  }

  /** Starts hostrouted in this node; resolves once it is enabled and in step with the kernel. */
  startDaemon(options?: DaemonOptions): Promise<Daemon> {
    return this.daemon.start(options)
  }

  stopDaemon(): Promise<void> {
    return this.daemon.stop()
  }

  /** The hostroute command against this node's daemon. */
  hostroute(words: readonly string[], timeout?: number): Promise<Outcome> {
    return this.daemon.command(words, timeout)
  }

  installCounters(): Promise<void> {
    return installCounters(this, addresses.PODS.v4, addresses.PODS.v6)
  }

  readCounters(): Promise<HookCounts> {
    return readCounters(this)
  }

  installLegacyRules(rules: number): Promise<void> {
    const range = addresses.podRange(this.number)
    return installLegacyRules(this, range.v4, range.v6, rules)
  }

  #freeNumber(): number {
    for (let number = 1; ; number++) if (!this.pods.some((pod) => pod.number === number)) return number
  }
}

const SYSCTLS = {
  host: ['ipv6/conf/all/accept_dad=0', 'ipv6/conf/default/accept_dad=0', 'ipv6/conf/default/router_solicitations=0'],
  forwarding: [
    'ipv4/ip_forward=1',
    'ipv6/conf/all/forwarding=1',
    ...['all', 'default'].flatMap((each) => [`ipv4/conf/${each}/rp_filter=0`, `ipv4/conf/${each}/send_redirects=0`])
  ]
}

/** Loopback and sysctls of a fresh namespace, before it has other devices. */
export async function prepare(host: LabHost, forwarding = false): Promise<void> {
  const values = [...SYSCTLS.host, ...(forwarding ? SYSCTLS.forwarding : [])]
  const writes = values.map((each) => each.replace(/(.*)=(.*)/, 'echo $2 > /proc/sys/net/$1'))
  await run(enter(host.namespace, ['sh', '-e']), { input: `${writes.join('\n')}\nip link set lo up\n` })
}

/** Addresses and routes inside a pod whose device exists. */
export async function configurePod(pod: LabPod, options: NodeOptions): Promise<void> {
  const { v4, v6 } = addresses.POD_GATEWAY
  await pod.ip(
    `link set eth0 up`,
    `addr add ${pod.address.v4}/32 dev eth0`,
    `addr add ${pod.address.v6}/128 dev eth0 nodad`,
    `route add ${v4} dev eth0 scope link`,
    `route add default via ${v4} dev eth0`,
    `route add ::/0 via ${v6} dev eth0`,
    ...(options.proxyArp ? [] : [`neigh replace ${v4} lladdr ${pod.hostMac} dev eth0 nud permanent`])
  )
  if (options.proxyArp) {
    const device = pod.hostDevice
    await pod.node.sysctl({ [`net.ipv4.conf.${device}.proxy_arp`]: 1, [`net.ipv4.neigh.${device}.proxy_delay`]: 0 })
  }
  if (!options.offloads) {
    await withoutOffloads(pod, ['eth0'])
    await withoutOffloads(pod.node, [pod.hostDevice])
  }
}

/** Turns off what would leave checksums or segments unfinished in a capture. */
export async function withoutOffloads(host: LabHost, devices: readonly string[]): Promise<void> {
  for (const device of devices) {
    await host.run(['ethtool', '-K', device, 'tx', 'off', 'tso', 'off', 'gso', 'off', 'gro', 'off'])
  }
}
