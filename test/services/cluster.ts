// The Services of the lab and the addresses they have, in one family at a time:
// what kube-proxy would learn from the API server. Rules are generated from
// this (iptables-rules.ts, nft-rules.ts, ipvs-rules.ts), cases are named by it.

export type Family = 4 | 6
export type Protocol = 'tcp' | 'udp'
export type NodeName = 'n1' | 'n2'
export type PodName = 'p11' | 'p12' | 'p13' | 'p21' | 'p22'
export type HostName = NodeName | PodName | 'c' | 'd'

export const POD_PORT = 8080
export const NODE_PORT = 9090
/** Where c listens as the backend of a Service: what pods ask at POD_PORT may have the same port outside. */
export const OUTSIDE_PORT = 8181
export const HOST_PORT = 31080
export const PROTOCOLS: readonly Protocol[] = ['tcp', 'udp']

/** A Service as the table of cases describes it; addresses by their last digits. */
export interface Service {
  name: string
  /** ClusterIP: third and fourth number of an IPv4 address. */
  cluster: readonly [number, number]
  /** 80 when absent. */
  port?: number
  backends: readonly HostName[]
  nodePort?: number
  /** externalTrafficPolicy Local. */
  external?: 'Local'
  /** internalTrafficPolicy Local. */
  internal?: 'Local'
  /** Last number of the LoadBalancer's address. */
  loadBalancer?: number
  /** loadBalancerSourceRanges */
  sourceRanges?: readonly HostName[]
  /** Last number of the external address. */
  externalIp?: number
  /** Seconds of ClientIP affinity. */
  affinity?: number
  healthPort?: number
}

const pair = (name: string, last: HostName, cluster: readonly [number, number], more: Partial<Service>) => ({
  name,
  cluster,
  backends: [last],
  ...more
})

/** Those for which the rules were recorded. */
export const SERVICES: readonly Service[] = [
  pair('one-p11', 'p11', [0, 11], {}),
  pair('one-p12', 'p12', [0, 12], {}),
  pair('one-p21', 'p21', [0, 21], {}),
  pair('host-n1', 'n1', [0, 31], {}),
  pair('host-n2', 'n2', [0, 32], {}),
  { name: 'all', cluster: [0, 100], backends: ['p11', 'p12', 'p21', 'p22'] },
  { name: 'dns', cluster: [0, 10], port: 53, backends: ['p12', 'p21'] },
  { name: 'affinity', cluster: [0, 200], backends: ['p12', 'p21', 'p22'], affinity: 600 },
  { name: 'empty', cluster: [0, 250], backends: [] },
  pair('npc12', 'p12', [1, 12], { nodePort: 30012 }),
  pair('npc21', 'p21', [1, 21], { nodePort: 30021 }),
  pair('npl12', 'p12', [2, 12], { nodePort: 30112, external: 'Local', loadBalancer: 11, healthPort: 31112 }),
  pair('npl21', 'p21', [2, 21], { nodePort: 30121, external: 'Local', loadBalancer: 13, healthPort: 31121 }),
  pair('lbc12', 'p12', [3, 12], { nodePort: 30212, loadBalancer: 10 }),
  pair('lbc21', 'p21', [3, 21], { nodePort: 30221, loadBalancer: 12 }),
  pair('ext12', 'p12', [4, 12], { externalIp: 20 }),
  pair('ext21', 'p21', [4, 21], { externalIp: 21 }),
  { name: 'itp', cluster: [5, 1], backends: ['p12', 'p21'], internal: 'Local' }
]

/** In the same form, but not among the recorded ones: source ranges, no endpoints behind external addresses, a backend outside. */
export const MORE_SERVICES: readonly Service[] = [
  {
    ...pair('ranges', 'p12', [6, 1], { nodePort: 30412, external: 'Local', loadBalancer: 14, healthPort: 31412 }),
    sourceRanges: ['d']
  },
  { ...pair('gone', 'p12', [6, 2], { nodePort: 30413, loadBalancer: 15, externalIp: 22 }), backends: [] },
  pair('outside', 'c', [6, 3], {})
]

/** One family's addresses. */
export interface Plan {
  family: Family
  hosts: Record<HostName, string>
  podRange: string
  service(third: number, fourth: number): string
  external(last: number): string
  /** Destinations for which ip-masq-agent keeps the pod's address. */
  notMasqueraded: readonly string[]
}

export interface Endpoint {
  host: HostName
  ip: string
  port: number
}

/** One port of a Service in one family, as kube-proxy sees it on one node. */
export interface ServicePort {
  /** "default/npc12" */
  qualified: string
  /** "default/npc12:tcp" */
  name: string
  protocol: Protocol
  clusterIp: string
  port: number
  endpoints: Endpoint[]
  /** Of these, on this node. */
  local: Endpoint[]
  nodePort: number | null
  externalLocal: boolean
  internalLocal: boolean
  loadBalancer: string | null
  /** null: everybody may. */
  sourceRanges: string[] | null
  externalIp: string | null
  affinity: number | null
  healthPort: number | null
}

const portOf = (host: HostName) => (host.startsWith('n') ? NODE_PORT : host === 'c' ? OUTSIDE_PORT : POD_PORT)

const onNode = (host: HostName, node: NodeName) => host[1] === node[1]

export function servicePorts(plan: Plan, node: NodeName, services: readonly Service[] = SERVICES): ServicePort[] {
  const bits = plan.family === 4 ? 32 : 128
  return services.flatMap((service) => {
    const endpoints = service.backends.map((host) => ({
      host,
      ip: plan.hosts[host],
      port: portOf(host)
    }))
    return PROTOCOLS.map((protocol) => ({
      qualified: `default/${service.name}`,
      name: `default/${service.name}:${protocol}`,
      protocol,
      clusterIp: plan.service(...service.cluster),
      port: service.port ?? 80,
      endpoints,
      local: endpoints.filter(({ host }) => onNode(host, node)),
      nodePort: service.nodePort ?? null,
      externalLocal: service.external === 'Local',
      internalLocal: service.internal === 'Local',
      loadBalancer: service.loadBalancer === undefined ? null : plan.external(service.loadBalancer),
      sourceRanges: service.sourceRanges?.map((host) => `${plan.hosts[host]}/${bits}`) ?? null,
      externalIp: service.externalIp === undefined ? null : plan.external(service.externalIp),
      affinity: service.affinity ?? null,
      healthPort: service.healthPort ?? null
    }))
  })
}

/** The lab's addresses; those of Services are the recorded ones, and the same numbers in IPv6. */
export function labPlan(family: Family): Plan {
  const six = family === 6
  const pod = (node: number, last: number) => (six ? `fd00:244:${node}::${last}` : `10.244.${node}.${last}`)
  return {
    family,
    hosts: {
      n1: six ? 'fd00:168:100::11' : '192.168.100.11',
      n2: six ? 'fd00:168:100::12' : '192.168.100.12',
      p11: pod(1, 2),
      p12: pod(1, 3),
      p13: pod(1, 4),
      p21: pod(2, 2),
      p22: pod(2, 3),
      c: six ? '2001:db8:99::10' : '203.0.113.10',
      d: six ? 'fd00:77::10' : '10.77.0.10'
    },
    podRange: six ? 'fd00:244::/32' : '10.244.0.0/16',
    service: (third, fourth) =>
      (six ? `fd00:96::${third}:${fourth}` : `10.96.${third}.${fourth}`).replace('::0:', '::'),
    external: (last) => (six ? `2001:db8:51::${last}` : `198.51.100.${last}`),
    notMasqueraded: six ? ['fd00::/8'] : ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16']
  }
}

/** The addresses of the cluster in which kube-proxy was recorded. */
export const RECORDED: Plan = {
  ...labPlan(4),
  hosts: {
    ...labPlan(4).hosts,
    p11: '10.244.1.11',
    p12: '10.244.1.12',
    p13: '10.244.1.13',
    p21: '10.244.2.21',
    p22: '10.244.2.22'
  }
}
