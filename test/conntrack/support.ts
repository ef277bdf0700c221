// A node of the lab without hostroute, with MASQUERADE and the rule that
// kube-proxy has against invalid packets; and what the tests do on it.

import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import type { Forgotten } from '../../src/conntrack/forget.js'
import type { HandBackResult, LiveFlow } from '../../src/conntrack/hand-back.js'
import type { TranslatedFlows } from '../../src/conntrack/translated.js'
import type { Address } from '../../src/state/types.js'
import type { LabHost } from '../lab/host.js'
import { Lab, type LabOptions } from '../lab/lab.js'
import type { LabNode } from '../lab/node.js'
import type { Background } from '../lab/process.js'
import { hex } from '../plan/node.js'
import type { Act } from './act.js'

const ACT = fileURLToPath(new URL('./act.js', import.meta.url))
const CONNECTIONS = fileURLToPath(new URL('./connections.js', import.meta.url))
const slowness = process.env['HOSTROUTE_VM'] ? 10 : 1

/** Drops what conntrack cannot place, as kube-proxy does, and counts it. */
const INVALID = `table inet kube_proxy_like {
  chain forward {
    type filter hook forward priority 0;
    ct state invalid counter drop
    ct state established,related accept
  }
}
`

export const MASQUERADE = `table inet masquerade_like {
  chain postrouting {
    type nat hook postrouting priority 100;
    oifname "up0" ip saddr 10.244.0.0/16 ip daddr != 10.0.0.0/8 masquerade fully-random
    oifname "up0" ip6 saddr fd00:244::/32 ip6 daddr != fd00::/8 masquerade fully-random
  }
}
`

export async function strictNode(t: Pick<Test, 'teardown'>, options: LabOptions = {}): Promise<Lab> {
  const lab = await Lab.create({ nodes: 1, pods: 2, counters: false, ...options })
  t.teardown(() => lab.close())
  for (const node of lab.nodes) await strict(node)
  return lab
}

export async function strict(node: LabNode): Promise<void> {
  await node.run(['nft', '-f', '-'], { input: INVALID })
  // a test on a busy machine is slower than conntrack's patience with UDP and pings
  const patience = { udp_timeout: 600, udp_timeout_stream: 600, icmp_timeout: 600, icmpv6_timeout: 600 }
  const settings = Object.entries({ tcp_be_liberal: 0, ...patience })
  await node.sysctl(Object.fromEntries(settings.map(([key, value]) => [`net.netfilter.nf_conntrack_${key}`, value])))
}

/** Packets that were dropped because conntrack could not place them. */
export async function invalid(node: LabNode): Promise<number> {
  const text = await node.run(['nft', 'list', 'table', 'inet', 'kube_proxy_like'])
  return Number(/invalid counter packets (\d+)/.exec(text)?.[1])
}

/** While `action` runs no packet reaches conntrack: what comes late from before is lost and sent again later. */
export async function paused<Result>(node: LabNode, action: () => Promise<Result>): Promise<Result> {
  const chain = 'chain early { type filter hook prerouting priority -500; iifname != "lo" drop; }'
  await node.run(['nft', '-f', '-'], { input: `table inet paused {\n${chain}\n}\n` })
  try {
    return await action()
  } finally {
    await node.run(['nft', 'delete', 'table', 'inet', 'paused'])
  }
}

/** While `action` runs conntrack sees no packet, as when the fast path carries them. */
export async function unseen(node: LabNode, action: () => Promise<void>): Promise<void> {
  const chain = 'chain early { type filter hook prerouting priority -300; notrack; }'
  await node.run(['nft', '-f', '-'], { input: `table inet unseen {\n${chain}\n}\n` })
  try {
    await action()
  } finally {
    await node.run(['nft', 'delete', 'table', 'inet', 'unseen'])
  }
}

export interface Done<Result> {
  result: Result
  milliseconds: number
  /** Longest time that the event loop was held. */
  held: number
}

interface Results {
  translated: TranslatedFlows
  forget: Omit<Forgotten, 'failed'> & { failed: Record<string, number> }
  handBack: HandBackResult
  fill: HandBackResult
}

export async function act<Verb extends Act['verb']>(
  host: LabHost,
  question: Extract<Act, { verb: Verb }>
): Promise<Done<Results[Verb]>> {
  const text = await host.run(
    ['env', 'MALLOC_ARENA_MAX=1', process.execPath, '--max-semi-space-size=1', '--expose-gc', ACT],
    {
      input: JSON.stringify(question),
      timeout: 60_000
    }
  )
  return JSON.parse(text) as Done<Results[Verb]>
}

export { hex }

export function podsOf(node: LabNode): Address[] {
  return node.pods.flatMap(({ address }) => [hex(address.v4), hex(address.v6)])
}

export function addressesOf(node: LabNode): Address[] {
  return [hex(node.address.v4), hex(node.address.v6)]
}

export interface Peer {
  peer: string
  port: number
  own: number
}

/** One end of many connections. */
export class Connections {
  constructor(readonly program: Background) {}

  async ask<Answer>(words: string): Promise<Answer> {
    const before = this.#lines().length
    this.program.child.stdin?.write(`${words}\n`)
    const end = Date.now() + 30_000 * slowness
    while (this.#lines().length === before) {
      if (!this.program.running || Date.now() > end) throw new Error(`no answer to "${words}": ${this.program.stderr}`)
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    return JSON.parse(this.#lines().at(-1) ?? 'null') as Answer
  }

  /** On how many connections the other side has answered. */
  speak(): Promise<number> {
    return this.ask('speak')
  }

  blow(bytes: number): Promise<number> {
    return this.ask(`blow ${bytes}`)
  }

  list(): Promise<Peer[]> {
    return this.ask('list')
  }

  #lines(): string[] {
    return this.program.stdout.split('\n').slice(0, -1)
  }

  stop(): Promise<void> {
    return this.program.stop()
  }
}

export async function serve(t: Pick<Test, 'teardown'>, host: LabHost, port = 9): Promise<Connections> {
  const server = new Connections(host.start([process.execPath, CONNECTIONS, 'serve', `${port}`]))
  t.teardown(() => server.stop())
  await server.program.waitFor('ready')
  return server
}

export async function open(
  t: Pick<Test, 'teardown'>,
  host: LabHost,
  protocol: 'tcp' | 'udp',
  address: string,
  count: number,
  port = 9
): Promise<Connections> {
  const client = new Connections(
    host.start([process.execPath, CONNECTIONS, 'connect', protocol, address, `${port}`, `${count}`])
  )
  t.teardown(() => client.stop())
  await client.program.waitFor('ready', 30_000)
  return client
}

/** Connections of a pod to the outside as the server there sees them. */
export function liveFlows(pod: string, remote: string, protocol: number, peers: Peer[], remotePort = 9): LiveFlow[] {
  return peers.map(({ peer, port, own }) => ({
    family: pod.includes(':') ? 6 : 4,
    protocol,
    pod: hex(pod),
    podPort: own,
    remote: hex(remote),
    remotePort,
    nat: { address: hex(peer), port },
    opener: 'pod',
    stage: 'established'
  }))
}

/** Entries as conntrack(8) lists them, one a line. */
export async function listed(node: LabNode, ...filter: string[]): Promise<string[]> {
  const families = filter.includes('-f')
    ? [[]]
    : [
        ['-f', 'ipv4'],
        ['-f', 'ipv6']
      ]
  const texts = await Promise.all(
    families.map((family) => node.run(['conntrack', '-L', '-o', 'id', ...family, ...filter]))
  )
  return texts.join('').split('\n').filter(Boolean)
}
