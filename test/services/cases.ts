// The kinds of connections that a node with Services has: who asks what, and by
// whom it must be answered and as whom the server must see the client. 53 rows,
// each over TCP and UDP and in both families.

import {
  type Family,
  HOST_PORT,
  type HostName,
  type NodeName,
  type Plan,
  POD_PORT,
  PROTOCOLS,
  type Protocol
} from './cluster.js'

export interface Case {
  /** "p11 → one-p12 (10.96.0.12:80) tcp" */
  name: string
  from: HostName
  protocol: Protocol
  address: string
  port: number
  /** How often: three times, more where chance decides. */
  times: number
  outcome: 'answered' | 'refused' | 'timeout'
  /** Hosts that may answer. */
  servers: readonly HostName[]
  /** 'all': each of the servers has to answer at least once; 'same': always the same one. */
  choice: 'any' | 'all' | 'same'
  /** Host whose address the server sees. */
  seenAs: HostName | null
}

interface Row {
  from: readonly HostName[]
  to: string
  address: (plan: Plan) => string
  port: number
  servers?: readonly HostName[]
  outcome?: 'refused' | 'timeout'
  choice?: 'all' | 'same'
  /** 'client' when absent; 'node': the client's own */
  seenAs?: NodeName | 'client' | 'node'
}

const client = 'client' as const
const direct = (from: HostName, to: HostName, seenAs: NodeName | 'client' = client): Row => ({
  from: [from],
  to: `${to} itself`,
  address: ({ hosts }) => hosts[to],
  port: POD_PORT,
  servers: [to],
  seenAs
})

const service = (
  from: readonly HostName[],
  numbers: readonly [number, number],
  servers: readonly HostName[],
  more: Partial<Row> = {}
): Row => ({
  from,
  to: 'a ClusterIP',
  address: (plan) => plan.service(...numbers),
  port: 80,
  servers,
  ...more
})

const nodePort = (
  from: readonly HostName[],
  node: NodeName,
  port: number,
  server: HostName | null,
  seenAs: NodeName | 'client'
): Row => ({
  from,
  to: `a port of ${node}`,
  address: ({ hosts }) => hosts[node],
  port,
  seenAs,
  ...(server === null ? { outcome: 'timeout' } : { servers: [server] })
})

const external = (from: readonly HostName[], last: number, server: HostName, seenAs: NodeName | 'client'): Row => ({
  from,
  to: 'an external address',
  address: (plan) => plan.external(last),
  port: 80,
  servers: [server],
  seenAs
})

const clients = ['c', 'd'] as const

const ROWS: readonly Row[] = [
  direct('p11', 'p12'),
  direct('p11', 'p21'),
  direct('p11', 'c', 'n1'),
  direct('p11', 'd'),
  direct('d', 'p12'),
  service(['p11'], [0, 12], ['p12']),
  service(['p11'], [0, 21], ['p21']),
  service(['p11'], [0, 31], ['n1']),
  service(['p11'], [0, 32], ['n2']),
  service(['p11'], [0, 10], ['p12', 'p21'], { port: 53 }),
  service(['p11'], [0, 200], ['p12', 'p21', 'p22'], { choice: 'same' }),
  service(['p11'], [5, 1], ['p12']),
  service(['p13'], [0, 100], ['p11', 'p12', 'p21', 'p22'], { choice: 'all' }),
  service(['p12'], [0, 12], ['p12'], { seenAs: 'n1' }),
  service(['p11', 'n1'], [0, 250], [], { outcome: 'refused' }),
  service(['n1'], [0, 12], ['p12']),
  service(['n1'], [0, 21], ['p21']),
  nodePort(clients, 'n1', 30012, 'p12', 'n1'),
  nodePort(clients, 'n1', 30021, 'p21', 'n1'),
  nodePort(clients, 'n2', 30012, 'p12', 'n2'),
  nodePort(clients, 'n1', 30112, 'p12', client),
  nodePort(clients, 'n2', 30112, null, client),
  nodePort(['p11'], 'n1', 30012, 'p12', 'n1'),
  nodePort(['p11'], 'n1', 30021, 'p21', 'n1'),
  nodePort(['p11'], 'n1', 30112, 'p12', client),
  nodePort(['p11'], 'n2', 30021, 'p21', 'n2'),
  nodePort(['p11'], 'n2', 30012, 'p12', 'n2'),
  nodePort(['p11'], 'n2', 30121, 'p21', client),
  external(clients, 10, 'p12', 'n1'),
  external(clients, 12, 'p21', 'n1'),
  external(clients, 11, 'p12', client),
  external(clients, 20, 'p12', 'n1'),
  external(clients, 21, 'p21', 'n1'),
  external(['p11'], 10, 'p12', 'n1'),
  external(['p11'], 11, 'p12', client),
  external(['p11'], 13, 'p21', client),
  external(['p11'], 21, 'p21', 'n1'),
  nodePort(['c', 'd', 'p11', 'p21', 'n1'], 'n1', HOST_PORT, 'p13', client)
]

/** Services of the second list, and pods that reach themselves, or a node its own ports. */
const MORE_ROWS: readonly Row[] = [
  external(['d'], 14, 'p12', client),
  { ...external(['c', 'p11'], 14, 'p12', client), outcome: 'timeout' },
  nodePort(clients, 'n1', 30412, 'p12', client),
  { ...external(['c', 'd', 'p11'], 15, 'p12', client), outcome: 'refused' },
  { ...external(['c'], 22, 'p12', client), outcome: 'refused' },
  { ...nodePort(['c', 'p11'], 'n1', 30413, 'p12', client), outcome: 'refused' },
  service(['p11', 'p21'], [6, 3], ['c'], { seenAs: 'node' }),
  nodePort(['p12', 'n1'], 'n1', 30012, 'p12', 'n1'),
  nodePort(['n2'], 'n1', 30012, 'p12', 'n1'),
  nodePort(['p13'], 'n1', HOST_PORT, 'p13', 'n1'),
  external(['p12'], 10, 'p12', 'n1')
]

/** Asked so often where each of four must answer: one is missed once in 100,000 runs. */
const OFTEN = 44

/** Those of the recorded Services: 106. */
export function casesOf(plan: Plan): Case[] {
  return casesOfRows(plan, ROWS)
}

export function moreCasesOf(plan: Plan): Case[] {
  return casesOfRows(plan, MORE_ROWS)
}

function casesOfRows(plan: Plan, rows: readonly Row[]): Case[] {
  return rows.flatMap((row) =>
    row.from.flatMap((from) => {
      const address = row.address(plan)
      return PROTOCOLS.map((protocol): Case => {
        const outcome = row.outcome ?? 'answered'
        const own = from[1] === '1' ? 'n1' : 'n2'
        const named = row.seenAs === 'node' ? own : row.seenAs
        const seenAs = named === undefined || named === client ? from : named
        return {
          name: `IPv${plan.family} ${protocol} ${from} → ${row.to}, ${socket(plan.family, address, row.port)}`,
          from,
          protocol,
          address,
          port: row.port,
          times: row.choice === 'all' ? OFTEN : 3,
          outcome,
          servers: row.servers ?? [],
          choice: row.choice ?? 'any',
          seenAs: outcome === 'answered' ? seenAs : null
        }
      })
    })
  )
}

const socket = (family: Family, address: string, port: number) =>
  family === 6 ? `[${address}]:${port}` : `${address}:${port}`
