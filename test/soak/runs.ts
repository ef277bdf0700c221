// The long runs of scripts/soak, in their order.

import { connections } from './connections.js'
import { dns } from './dns.js'
import { failover } from './failover.js'
import { faults, PHASES } from './faults.js'
import { hops } from './hops.js'
import { idle } from './idle.js'
import { iperf3 } from './iperf3.js'
import { kills } from './kills.js'
import { many } from './many.js'
import type { Report } from './report.js'
import { short } from './short.js'
import { stun } from './stun.js'

/** Of the command. */
export interface RunOptions {
  /** --count */
  count?: number
}

export interface Run {
  name: string
  does: string
  go(report: Report, options: RunOptions): Promise<void>
}

export const RUNS: Run[] = [
  {
    name: 'connections',
    does: 'curl, and 1,000 HTTP connections of curl open at a time',
    go: (report) => connections(report, 1_000)
  },
  {
    name: 'dns',
    does: '5,000 DNS questions a second of 20 pods to one resolver, for 5 minutes',
    go: (report) => dns(report, { pods: 20, perSecond: 5_000, seconds: 300 })
  },
  {
    name: 'short',
    does: 'a million short TCP connections to one remote socket',
    go: (report) => short(report, { connections: 1_000_000, pods: 20, parallel: 8 })
  },
  {
    name: 'idle',
    does: '200 idle TCP connections beside SYN, UDP and ACK floods, from a pod and from outside',
    go: (report) => idle(report, { connections: 100, seconds: 30 })
  },
  {
    name: 'iperf3',
    does: 'iperf3 to and from the outside, TCP and UDP',
    go: (report) => iperf3(report, { seconds: 5, megabits: 50, families: ['v4', 'v6'] })
  },
  {
    name: 'stun',
    does: 'STUN clients ask coturn how SNAT behaves (RFC 4787); the kernel beside it',
    go: async (report) => {
      const lifetimes = [20, 27, 45, 100, 117, 150, 175, 200]
      await stun(report, { server: 'coturn', lifetimes, ways: ['hostroute', 'kernel'] })
    }
  },
  {
    name: 'traceroute',
    does: 'traceroute (UDP, ICMP, TCP) and tracepath',
    go: hops
  },
  {
    name: 'many',
    does: '60,000 flows to one remote socket, UDP and TCP; the kernel does the same beside it',
    go: (report) => many(report, { flows: 60_000, ports: '1024-65535', ways: ['hostroute', 'kernel'] })
  },
  {
    name: 'failover',
    does: 'the node’s address, its default route and an uplink go under traffic; the kernel beside it',
    go: (report) => failover(report, ['hostroute', 'kernel'])
  },
  {
    name: 'kills',
    does: 'SIGKILL at random moments (--count, 1,000 when absent) under pings at 1 ms, TCP through SNAT and route churn',
    go: (report, { count = 1_000 }) => kills(report, { count })
  },
  {
    name: 'faults',
    does: 'each native call of start, enable and reload fails, once and for good',
    go: (report) => faults(report, { phases: PHASES, code: 'EMFILE', guard: 'enforce', ways: ['once', 'for good'] })
  }
]
