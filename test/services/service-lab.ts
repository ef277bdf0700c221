// The lab as a cluster with Services: pods p11, p12, p13 on node n1, p21 and p22
// on n2, a client c outside (masqueraded towards it) and a client d in a private
// network (not masqueraded), kube-proxy's rules on both nodes and a hostPort on
// n1. External addresses are routed to n1.
//
//   p11 p12 p13      p21 p22
//     └─ n1 ─┘        └ n2 ┘
//         └── router ───┘
//          c          d

import { OUTSIDE_ROUTER, podRange } from '../lab/addresses.js'
import { mapPorts } from '../lab/cni.js'
import type { DaemonOptions } from '../lab/daemon.js'
import { LabHost } from '../lab/host.js'
import { Lab } from '../lab/lab.js'
import { type LabNode, prepare } from '../lab/node.js'
import { run } from '../lab/process.js'
import {
  type Family,
  HOST_PORT,
  type HostName,
  labPlan,
  MORE_SERVICES,
  NODE_PORT,
  OUTSIDE_PORT,
  POD_PORT,
  SERVICES,
  type Service
} from './cluster.js'
import { FAMILIES, type Mode, ServiceProxy } from './proxy.js'
import { Traffic } from './traffic.js'

export interface ServiceLabOptions {
  mode: Mode
  /** false: no rules yet; write them with writeRules(). */
  rules?: boolean
  services?: readonly Service[]
}

const NODES = ['n1', 'n2'] as const
export const ALL_SERVICES: readonly Service[] = [...SERVICES, ...MORE_SERVICES]
const SYSCTLS = {
  // kube-proxy sets it for node ports on 127.0.0.1; its KUBE-FIREWALL chain keeps others away from there
  'net.ipv4.conf.all.route_localnet': 1,
  // so many refusals at once exceed what a node tells one client, and all of them; 255 is no type in use
  'net.ipv4.icmp_ratemask': 0,
  'net.ipv6.icmp.ratemask': 255
}
const PRIVATE_ROUTER = { v4: '10.77.0.1', v6: 'fd00:77::1' }

export class ServiceLab {
  readonly traffic = new Traffic()
  readonly proxies: ServiceProxy[]
  readonly #hosts: Record<HostName, LabHost>

  private constructor(
    readonly lab: Lab,
    readonly mode: Mode
  ) {
    const [n1, n2] = [lab.node(0), lab.node(1)]
    const d = new LabHost('private', `${lab.name}-private`)
    const [p11, p12, p13] = [n1.pod(0), n1.pod(1), n1.pod(2)]
    this.#hosts = { n1, n2, p11, p12, p13, p21: n2.pod(0), p22: n2.pod(1), c: lab.outside, d }
    this.proxies = NODES.map((name) => new ServiceProxy(this.host(name), name, mode))
  }

  /** With all servers listening; on failure nothing is left. */
  static async create(options: ServiceLabOptions): Promise<ServiceLab> {
    const lab = await Lab.create({ nodes: 2, pods: 3, counters: false })
    const cluster = new ServiceLab(lab, options.mode)
    try {
      await cluster.#build()
      if (options.rules !== false) await cluster.writeRules(options.services)
      return cluster
    } catch (error) {
      await cluster.close()
      throw error
    }
  }

  host(name: HostName): LabHost {
    return this.#hosts[name]
  }

  address(name: HostName, family: Family): string {
    return labPlan(family).hosts[name]
  }

  get nodes(): LabNode[] {
    return this.lab.nodes
  }

  /** Replaces kube-proxy's rules on both nodes. */
  async writeRules(services: readonly Service[] = ALL_SERVICES): Promise<void> {
    await Promise.all(this.proxies.map((proxy) => proxy.write(services)))
  }

  async removeRules(): Promise<void> {
    await Promise.all(this.proxies.map((proxy) => proxy.remove()))
  }

  /** hostroute on both nodes: its process started, or switched on again. */
  async enable(options?: DaemonOptions): Promise<void> {
    await Promise.all(
      this.nodes.map(async (node) => {
        if (!node.daemon.running) await node.startDaemon({ timeout: 60_000, ...options })
        else await this.#command(node, 'enable')
      })
    )
  }

  /** `hostroute disable` on both nodes. */
  async disable(): Promise<void> {
    await Promise.all(this.nodes.map((node) => this.#command(node, 'disable', '--force')))
  }

  async close(): Promise<void> {
    await this.traffic.stop()
    await this.lab.close()
  }

  async #command(node: LabNode, ...words: string[]): Promise<void> {
    const { status, stdout, stderr } = await node.hostroute(words, 60_000)
    if (status !== 0) throw new Error(`hostroute ${words.join(' ')} on ${node.name}: ${stderr}${stdout}`)
  }

  async #build(): Promise<void> {
    await this.#addPrivateClient()
    await this.#addRoutes()
    for (const [name, host] of Object.entries(this.#hosts)) this.traffic.addHost(name, host)
    const servers = Object.keys(this.#hosts).map((name) => {
      if (name.startsWith('n')) return this.traffic.listen(name, NODE_PORT)
      return this.traffic.listen(name, POD_PORT)
    })
    servers.push(this.traffic.listen('c', OUTSIDE_PORT))
    const sysctls = this.nodes.map((node) => node.sysctl(SYSCTLS))
    await Promise.all([...servers, ...sysctls, ...this.proxies.map((proxy) => proxy.writeMasqueradeAgent())])
    await mapPorts(this.lab.node(0).pod(2), [{ hostPort: HOST_PORT, containerPort: POD_PORT }])
    await this.#meetNeighbours()
  }

  /** Everybody has asked a pod of each node: from now on no datagram waits for an address to be resolved. */
  async #meetNeighbours(): Promise<void> {
    const questions = FAMILIES.flatMap((family) =>
      (Object.keys(this.#hosts) as HostName[]).flatMap((from) =>
        (['p11', 'p12', 'p13', 'p21', 'p22'] as const).map((to) => {
          const [address, port] = [this.address(to, family), POD_PORT]
          return { from, protocol: 'tcp', address, port, timeout: 5_000 } as const
        })
      )
    )
    const unknown = questions.filter(({ from }) => from !== 'c')
    const answers = await this.traffic.askAll(unknown)
    const failed = answers.flatMap(({ outcome }, index) => (outcome === 'answered' ? [] : [unknown[index]]))
    if (failed.length > 0) throw new Error(`the lab is not whole: ${JSON.stringify(failed)} got no answer`)
  }

  async #addPrivateClient(): Promise<void> {
    const d = this.host('d')
    await run(['ip', 'netns', 'add', d.namespace])
    await prepare(d)
    await this.lab.router.ip(
      `link add private type veth peer name eth0 netns ${d.namespace}`,
      'link set private up',
      `addr add ${PRIVATE_ROUTER.v4}/24 dev private`,
      `addr add ${PRIVATE_ROUTER.v6}/64 dev private nodad`
    )
    await d.ip(
      'link set eth0 up',
      `addr add ${this.address('d', 4)}/24 dev eth0`,
      `addr add ${this.address('d', 6)}/64 dev eth0 nodad`,
      `route add default via ${PRIVATE_ROUTER.v4}`,
      `route add ::/0 via ${PRIVATE_ROUTER.v6}`
    )
  }

  async #addRoutes(): Promise<void> {
    const pods = this.nodes.flatMap(({ number, address }) => [
      `route add ${podRange(number).v4} via ${address.v4}`,
      `route add ${podRange(number).v6} via ${address.v6}`
    ])
    const external = (gateway: { v4: string; v6: string }) => [
      `route add 198.51.100.0/24 via ${gateway.v4}`,
      `route add 2001:db8:51::/64 via ${gateway.v6}`
    ]
    await this.lab.router.ip(...pods, ...external(this.lab.node(0).address))
    await this.host('c').ip(...external(OUTSIDE_ROUTER))
  }
}
