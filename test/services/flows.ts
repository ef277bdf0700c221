// Long connections of every kind, TCP and UDP, in both families: opened at one
// moment of a node's life, watched through the next ones. None may break.

import { sleep, slowness } from '../lab/process.js'
import {
  type Family,
  HOST_PORT,
  type HostName,
  labPlan,
  NODE_PORT,
  type Plan,
  POD_PORT,
  PROTOCOLS,
  type Protocol
} from './cluster.js'
import { FAMILIES } from './proxy.js'
import type { ServiceLab } from './service-lab.js'
import type { Flow, FlowReport } from './traffic.js'

interface Kind {
  from: HostName
  /** In words. */
  to: string
  address: (plan: Plan) => string
  port: number
  /** By the rules of Services. */
  masqueraded?: true
}

const pod = (from: HostName, to: HostName): Kind => ({
  from,
  to,
  address: ({ hosts }) => hosts[to],
  port: to.startsWith('n') ? NODE_PORT : POD_PORT
})
const cluster = (from: HostName, third: number, fourth: number): Kind => ({
  from,
  to: `ClusterIP ${third}.${fourth}`,
  address: (plan) => plan.service(third, fourth),
  port: 80
})
const nodePort = (from: HostName, node: HostName, port: number): Kind => ({
  from,
  to: `${node}:${port}`,
  address: ({ hosts }) => hosts[node],
  port
})
const external = (from: HostName, last: number): Kind => ({
  from,
  to: `external .${last}`,
  address: (plan) => plan.external(last),
  port: 80
})

const masqueraded = (kind: Kind): Kind => ({ ...kind, masqueraded: true })

/** Neither destination nor source is translated by the stack. */
export const PLAIN: readonly Kind[] = [
  pod('p11', 'p12'),
  pod('p11', 'p21'),
  pod('p11', 'd'),
  pod('d', 'p12'),
  pod('p11', 'n2'),
  pod('n1', 'p12')
]

/** The stack, or hostroute in its place, masquerades them. */
export const MASQUERADED: readonly Kind[] = [pod('p11', 'c'), pod('p21', 'c')]

/** kube-proxy's or portmap's rules translate them. */
export const TRANSLATED: readonly Kind[] = [
  cluster('p11', 0, 12),
  cluster('p11', 0, 21),
  cluster('p11', 0, 31),
  cluster('p11', 0, 32),
  masqueraded(cluster('p12', 0, 12)),
  masqueraded(cluster('n1', 0, 12)),
  masqueraded(cluster('n1', 0, 21)),
  masqueraded(nodePort('c', 'n1', 30012)),
  masqueraded(nodePort('d', 'n1', 30021)),
  nodePort('c', 'n1', 30112),
  nodePort('p11', 'n1', 30112),
  nodePort('p11', 'n2', 30121),
  external('c', 11),
  masqueraded(external('d', 12)),
  external('p11', 13),
  nodePort('c', 'n1', HOST_PORT),
  nodePort('d', 'n1', HOST_PORT),
  nodePort('p21', 'n1', HOST_PORT),
  nodePort('p11', 'n1', HOST_PORT)
]

export interface FlowSettings {
  /** Milliseconds between two messages. */
  interval?: number | undefined
  bytes?: number
  families?: readonly Family[]
  protocols?: readonly Protocol[]
}

/**
 * Small windows: conntrack allows what lies inside the largest window it has
 * seen, so a flow that goes on past it for a while becomes INVALID to it.
 */
const SMALL = 4_096

export class LongFlows {
  readonly #flows: { name: string; flow: Flow }[] = []

  constructor(
    readonly cluster: ServiceLab,
    /** When they were opened, in words. */
    readonly when: string
  ) {}

  get count(): number {
    return this.#flows.length
  }

  /** Resolves once each of them has had answers, or after a while: ask silent(). */
  static async open(
    lab: ServiceLab,
    when: string,
    kinds: readonly Kind[] = [...PLAIN, ...MASQUERADED, ...TRANSLATED],
    settings: FlowSettings = {}
  ): Promise<LongFlows> {
    const { interval = 25, bytes = 700, families = FAMILIES, protocols = PROTOCOLS } = settings
    const flows = new LongFlows(lab, when)
    for (const family of families) {
      const plan = labPlan(family)
      for (const protocol of protocols) {
        for (const { from, to, address, port } of kinds) {
          const question = { from, protocol, address: address(plan), port, interval, bytes }
          const buffer = protocol === 'tcp' ? { buffer: SMALL } : {}
          const flow = lab.traffic.open({ ...question, ...buffer })
          flows.#flows.push({ name: `IPv${family} ${protocol} ${from} → ${to}`, flow })
        }
      }
    }
    await flows.silent(1_500)
    return flows
  }

  /** Those that are broken or hear nothing for so long, in words. */
  async silent(patience = 1_000): Promise<string[]> {
    const before = await Promise.all(this.#flows.map(({ flow }) => flow.look()))
    const end = Date.now() + patience * slowness
    let silent: string[] = []
    do {
      await sleep(50 * slowness)
      const now = await Promise.all(this.#flows.map(({ flow }) => flow.look()))
      silent = now.flatMap((report, index) => {
        const old = before[index]?.received ?? 0
        const heard = report.received > old + 1 && report.error === ''
        return heard ? [] : [this.#words(index, report)]
      })
    } while (silent.length > 0 && Date.now() < end)
    return silent
  }

  /** Ends them all; those that did not get everything back, in words. */
  async close(): Promise<string[]> {
    const reports = await Promise.all(this.#flows.map(({ flow }) => flow.close()))
    return reports.flatMap((report, index) => {
      const { sent, received, error, portChanges } = report
      const whole = sent === received && error === '' && portChanges === 0
      return whole ? [] : [this.#words(index, report)]
    })
  }

  #words(index: number, { sent, received, longestGap, portChanges, error }: FlowReport): string {
    const changes = portChanges > 0 ? `, seen with ${portChanges + 1} addresses` : ''
    const words = `${received} of ${sent} messages came back, longest gap ${Math.round(longestGap)} ms${changes}`
    return `${this.#flows[index]?.name} (opened ${this.when}): ${words}${error && `, ${error}`}`
  }
}
