// Connections of many kinds around one node, all of which have to go on.

import type { Test } from 'tap'
import { OUTSIDE } from '../lab/addresses.js'
import { type PingReport, readPing } from '../lab/host.js'
import type { Lab } from '../lab/lab.js'
import type { Background } from '../lab/process.js'
import { type Connections, open, type Peer, serve } from './support.js'

interface Group {
  name: string
  count: number
  clients: Connections
  server: Connections
  /** As the server saw them at first. */
  peers: string[]
}

export interface Kind {
  name: string
  from: 'pod' | 'outside' | 'far'
  to: 'pod' | 'near' | 'far' | 'outside'
  /** Instead of the server's own address. */
  address?: { v4: string; v6: string }
  count: number
  /** Both when absent. */
  protocols?: readonly ('tcp' | 'udp')[]
}

function seen(peers: Peer[]): string[] {
  return peers.map(({ peer, port }) => `${peer} ${port}`)
}

/** Pod 1 of node 1 is "pod", its pod 2 "near", pod 1 of node 2 "far". */
export class Population {
  private readonly groups: Group[] = []
  private pings: Background[] = []

  private constructor(private readonly t: Test) {}

  /** `count` of each kind for each of TCP and UDP, IPv4 and IPv6. */
  static async open(t: Test, lab: Lab, kinds: Kind[], firstPort = 100): Promise<Population> {
    const population = new Population(t)
    const pod = lab.node(0).pod(0)
    const hosts = { pod, near: lab.node(0).pod(1), far: lab.node(1).pod(0), outside: lab.outside }
    let port = firstPort
    for (const { name, from, to, address, count, protocols = ['tcp', 'udp'] as const } of kinds) {
      for (const family of ['v4', 'v6'] as const) {
        for (const protocol of protocols) {
          const server = await serve(t, hosts[to], ++port)
          const own = to === 'outside' ? OUTSIDE : hosts[to].address
          const clients = await open(t, hosts[from], protocol, (address ?? own)[family], count, port)
          const peers = seen(await server.list())
          population.groups.push({ name: `${name}, ${protocol} IP${family}`, count, clients, server, peers })
        }
      }
    }
    return population
  }

  /** Pings of the pod that are to go on, too. */
  ping(lab: Lab, addresses: string[]): void {
    this.pings = addresses.map((address) => lab.node(0).pod(0).startPing(address, { interval: 50 }))
  }

  /** All are answered whoever speaks first, move data, and are seen as at first. */
  async goOn(first: 'clients' | 'server'): Promise<void> {
    const second = first === 'clients' ? 'server' : 'clients'
    await Promise.all(
      this.groups.map(async (group) => {
        const { name, count, peers, server } = group
        this.t.equal(await group[first].speak(), count, `${name}: ${first} speak first`)
        this.t.equal(await group[second].speak(), count, `${name}: then the other side`)
        if (name.includes('tcp')) {
          this.t.equal(await group[first].blow(50_000), count, `${name}: data flows`)
          this.t.equal(await group[second].blow(50_000), count, `${name}: and back`)
        }
        this.t.strictSame(seen(await server.list()), peers, `${name}: from the same address and port`)
      })
    )
  }

  /** The clients speak once; whoever is not answered is not told. */
  async speak(): Promise<void> {
    await Promise.all(this.groups.map(({ clients }) => clients.speak()))
  }

  /** Speaks all the time until the returned function is called, which tells how often somebody was not answered. */
  chat(): () => Promise<number> {
    let going = true
    let unanswered = 0
    const all = this.groups.map(async ({ clients, count }) => {
      while (going) unanswered += count - (await clients.speak())
    })
    return async () => {
      going = false
      await Promise.all(all)
      return unanswered
    }
  }

  async endPings(): Promise<PingReport[]> {
    await Promise.all(this.pings.map((ping) => ping.stop('SIGINT')))
    return this.pings.map((ping) => readPing(ping.stdout, 2))
  }
}
