// A small cluster out of network namespaces, for demo, tests and benchmarks.
//
//      pod 1   pod 2          pod 1   pod 2
//        └─ node 1 ─┘            └─ node 2 ─┘
//             up0 └──── router ────┘ up0
//                         │
//                      outside        has no route to pods: only SNATed
//                                     traffic from them gets an answer
//
// Everything is IPv4 and IPv6. Nothing outside the lab's own namespaces is
// touched; what it owns is gone after close(), exit, a signal or an uncaught
// error (lease.ts).

import * as addresses from './addresses.js'
import { LabHost } from './host.js'
import { claim, keep, type Lease, release } from './lease.js'
import { configurePod, LabNode, LabPod, type NodeOptions, prepare, withoutOffloads } from './node.js'
import { run } from './process.js'

export interface LabOptions extends Partial<NodeOptions> {
  /** 2 when absent */
  nodes?: number
  /** On each node; 2 when absent. */
  pods?: number
  /** Of each node, each to its own segment of the router; 1 when absent. */
  uplinks?: number
  /** Nodes as they are without hostroute: conntrack, MASQUERADE and this many filter rules (true: 100). */
  legacy?: boolean | number
  /** Counters in the nodes' netfilter hooks; true when absent, false in legacy labs. */
  counters?: boolean
}

export class Lab {
  readonly nodes: LabNode[]
  /** Joins the uplinks' segments (bridges br0, br1, …) and the outside. */
  readonly router: LabHost
  readonly outside: LabHost
  readonly #lease: Lease

  private constructor(
    lease: Lease,
    readonly options: LabOptions,
    readonly nodeOptions: NodeOptions
  ) {
    this.#lease = lease
    this.router = new LabHost('router', `${lease.name}-router`)
    this.outside = new LabHost('outside', `${lease.name}-outside`)
    const numbers = Array.from({ length: options.nodes ?? 2 }, (_, index) => index + 1)
    this.nodes = numbers.map((number) => new LabNode(lease, number, options.uplinks ?? 1, nodeOptions))
    for (const node of this.nodes) {
      for (let pod = 1; pod <= (options.pods ?? 2); pod++) node.pods.push(new LabPod(node, pod))
    }
  }

  /** Builds it; all devices are up and all routes there when this resolves. On failure nothing is left. */
  static async create(options: LabOptions = {}): Promise<Lab> {
    const mtu = options.mtu ?? 1500
    const { podMtu = mtu, offloads = true, proxyArp = false } = options
    const lease = claim()
    try {
      const lab = new Lab(lease, options, { mtu, podMtu, offloads, proxyArp })
      await lab.#build()
      return lab
    } catch (error) {
      release(lease.name)
      throw error
    }
  }

  /** Its prefix: namespaces are `${name}-n1`, `${name}-n1p1`, `${name}-router`, … */
  get name(): string {
    return this.#lease.name
  }

  /** Private to this lab, gone with it. */
  get directory(): string {
    return this.#lease.directory
  }

  /** By position, from 0. */
  node(index: number): LabNode {
    const node = this.nodes[index]
    if (!node) throw new Error(`the lab has no node ${index}: it has ${this.nodes.length}`)
    return node
  }

  get hosts(): LabHost[] {
    return [...this.nodes, ...this.nodes.flatMap((node) => node.pods), this.router, this.outside]
  }

  /** Stops the daemons, then removes everything. */
  async close(): Promise<void> {
    await Promise.all(this.nodes.map((node) => node.stopDaemon().catch(() => {})))
    release(this.#lease.name)
  }

  /** The lab stays when this process ends; `scripts/demo --clean` removes it. */
  keep(): void {
    keep(this.#lease.name)
  }

  async #build(): Promise<void> {
    const routing = new Set<LabHost>([...this.nodes, this.router])
    const namespaces = this.hosts.map((host) => `netns add ${host.namespace}\n`).join('')
    await run(['ip', '-batch', '-'], { input: namespaces })
    await Promise.all(this.hosts.map((host) => prepare(host, routing.has(host))))
    await this.router.ip(...this.#segmentCommands())
    await Promise.all(this.nodes.map((node) => this.#buildNode(node)))
    await this.#buildOutside()
    if (!this.nodeOptions.offloads) await this.#turnOffOffloads()
  }

  /** On the router: a bridge for each uplink number, the veth pairs to the nodes, and the one to the outside. */
  #segmentCommands(): string[] {
    const { mtu } = this.nodeOptions
    const commands: string[] = []
    for (let index = 0; index < (this.options.uplinks ?? 1); index++) {
      const { v4, v6 } = addresses.routerAddress(index)
      const address = addresses.mac('router', 0, index)
      commands.push(
        `link add br${index} mtu ${mtu} address ${address} type bridge stp_state 0 forward_delay 0 mcast_snooping 0`,
        `link set br${index} up`,
        `addr add ${v4}/24 dev br${index}`,
        `addr add ${v6}/64 dev br${index} nodad`
      )
      for (const node of this.nodes) {
        const uplink = node.uplinks[index]
        const port = `n${node.number}u${index}`
        commands.push(
          `link add ${port} mtu ${mtu} type veth peer name up${index} netns ${node.namespace} mtu ${mtu} address ${uplink?.mac}`,
          `link set ${port} master br${index} up`
        )
      }
    }
    const { v4, v6 } = addresses.OUTSIDE_ROUTER
    commands.push(
      `link add outside mtu ${mtu} type veth peer name eth0 netns ${this.outside.namespace} mtu ${mtu} address ${addresses.mac('outside', 0, 0)}`,
      'link set outside up',
      `addr add ${v4}/24 dev outside`,
      `addr add ${v6}/64 dev outside nodad`
    )
    return commands
  }

  async #buildNode(node: LabNode): Promise<void> {
    const uplinks = node.uplinks.flatMap(({ device, address }) => [
      `link set ${device} up`,
      `addr add ${address.v4}/24 dev ${device}`,
      `addr add ${address.v6}/64 dev ${device} nodad`
    ])
    await node.ip(...uplinks, ...node.pods.flatMap((pod) => node.linkCommands(pod)), ...this.#nodeRoutes(node))
    await Promise.all(node.pods.map((pod) => configurePod(pod, this.nodeOptions)))
    await node.ip(...node.pods.flatMap((pod) => node.routeCommands(pod)))
    const { legacy } = this.options
    if (legacy) await node.installLegacyRules(legacy === true ? 100 : legacy)
    if (this.options.counters ?? !legacy) await node.installCounters()
  }

  #nodeRoutes(node: LabNode): string[] {
    const others = this.nodes.filter((other) => other !== node)
    const { v4, v6 } = addresses.routerAddress(0)
    return [
      `route add default via ${v4} dev up0`,
      `route add ::/0 via ${v6} dev up0`,
      ...others.flatMap(({ number, address }) => [
        `route add ${addresses.podRange(number).v4} via ${address.v4} dev up0`,
        `route add ${addresses.podRange(number).v6} via ${address.v6} dev up0`
      ])
    ]
  }

  async #buildOutside(): Promise<void> {
    const { OUTSIDE, OUTSIDE_ROUTER } = addresses
    const ranges = Array.from({ length: this.options.uplinks ?? 1 }, (_, index) => addresses.uplinkRange(index))
    await this.outside.ip(
      'link set eth0 up',
      `addr add ${OUTSIDE.v4}/24 dev eth0`,
      `addr add ${OUTSIDE.v6}/64 dev eth0 nodad`,
      ...ranges.flatMap(({ v4, v6 }) => [
        `route add ${v4} via ${OUTSIDE_ROUTER.v4}`,
        `route add ${v6} via ${OUTSIDE_ROUTER.v6}`
      ])
    )
  }

  async #turnOffOffloads(): Promise<void> {
    const ports = this.nodes.flatMap((node) => node.uplinks.map((_, index) => `n${node.number}u${index}`))
    await Promise.all([
      ...this.nodes.map((node) =>
        withoutOffloads(
          node,
          node.uplinks.map(({ device }) => device)
        )
      ),
      withoutOffloads(this.router, [...ports, 'outside']),
      withoutOffloads(this.outside, ['eth0'])
    ])
  }
}
