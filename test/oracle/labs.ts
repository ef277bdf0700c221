// Two equal labs: in one the kernel forwards by itself, in the other hostroute
// does. Addresses, MACs, MTUs and neighbours are the same, so what leaves node 1
// must be, too.
//
//   sender   pod 1 of node 1 (`pod`), or the router's end of node 1's uplink (`uplink`)
//   receiver pod 1 and pod 2, and what comes out of node 1's uplink

import { compile } from '../lab/compile.js'
import type { LabHost } from '../lab/host.js'
import { Lab } from '../lab/lab.js'
import type { Background } from '../lab/process.js'
import { until } from '../lab/process.js'
import { readPcap } from '../packets/packet.js'

export type Sender = 'pod' | 'uplink'
export type Receiver = 'pod1' | 'pod2' | 'uplink'
export const receivers: readonly Receiver[] = ['pod1', 'pod2', 'uplink']

/** A frame to be sent; `offload` is its struct virtio_net_hdr. */
export interface Shot {
  from: Sender
  frame: Buffer
  offload?: Buffer
  /** For people. */
  text: string
}

export const SNATED = { 4: '198.51.100.10', 6: '2001:db8:77::10' } as const
/** Route MTUs on the ways out of node 1; the way to pod 2 has a smaller device. */
export const MTU = { pod2: 1400, remote: 1300, snated: 1380 } as const

/** Bytes of the largest frame that is sent. */
export const LARGEST = 9000

/** Service addresses that both nodes' rules translate: to pod 2 of the node, to a pod of the other one. */
export const SERVICES = {
  4: { local: '10.96.0.2', remote: '10.96.0.3' },
  6: { local: 'fd00:96::2', remote: 'fd00:96::3' }
} as const

/**
 * What nodes do about addresses. snat: SNAT by hostroute against MASQUERADE.
 * services: DNAT by the same rules on both nodes, which is the stack's on both.
 */
export type Translation = 'none' | 'snat' | 'services'

export interface LabsOptions {
  translation: Translation
}

/** One of the two. */
export class Side {
  #captures = new Map<Receiver, Background>()

  constructor(
    readonly name: 'kernel' | 'hostroute',
    readonly lab: Lab
  ) {}

  async startCaptures(): Promise<void> {
    // the buffer has room for as many frames of LARGEST as fit into it, however small they are
    const buffer = ['--immediate-mode', '-s', `${LARGEST}`, '-B', '16384']
    const options = [...buffer, '-U', '-n', '-p', '-Q', 'in', '-w', '-']
    for (const receiver of receivers) {
      const [host, device] = this.#place(receiver)
      const tcpdump = host.start(['tcpdump', '-i', device, ...options])
      await tcpdump.waitFor('listening on')
      this.#captures.set(receiver, tcpdump)
    }
  }

  /** Bytes captured until now. */
  count(receiver: Receiver): number {
    return this.#captures.get(receiver)!.output.length
  }

  /** Frames seen until now. */
  seen(receiver: Receiver): Buffer[] {
    const { output } = this.#captures.get(receiver)!
    return output.length < 24 ? [] : readPcap(output).map(({ frame }) => frame)
  }

  /** Sends them, each sender's in order. Resolves with the texts of those the kernel would not take. */
  async send(shots: readonly Shot[]): Promise<string[]> {
    const program = compile('test/oracle/frames.c')
    const refused: string[] = []
    for (const from of ['pod', 'uplink'] as const) {
      const own = shots.filter((shot) => shot.from === from)
      if (own.length === 0) continue
      const [host, device] = this.#place(from === 'pod' ? 'pod1' : 'uplink')
      const child = host.start([program, device])
      child.child.stdin!.end(Buffer.concat(own.map(record)))
      const { status, stderr } = await child.finished(60_000)
      if (status !== 0) throw new Error(`frames: ${stderr}`)
      for (const match of stderr.matchAll(/^refused (\d+)/gm)) refused.push(own[Number(match[1])]!.text)
    }
    return refused
  }

  async close(): Promise<void> {
    for (const capture of this.#captures.values()) await capture.stop('SIGINT')
    await this.lab.close()
  }

  #place(receiver: Receiver): [LabHost, string] {
    const node = this.lab.node(0)
    if (receiver === 'uplink') return [this.lab.router, 'n1u0']
    return [node.pod(receiver === 'pod1' ? 0 : 1), 'eth0']
  }
}

function record({ frame, offload }: Shot): Buffer {
  const length = Buffer.alloc(4)
  length.writeUInt32LE(frame.length)
  return Buffer.concat([length, offload ?? Buffer.alloc(10), frame])
}

/** Both, ready to send. On failure nothing is left. */
export async function openLabs(
  options: LabsOptions
): Promise<{ kernel: Side; hostroute: Side; close(): Promise<void> }> {
  const labs: Lab[] = []
  try {
    for (let count = 0; count < 2; count++) labs.push(await Lab.create({ nodes: 2, pods: 2, counters: false }))
    await Promise.all(labs.map((lab) => prepare(lab)))
    const [kernel, hostroute] = [new Side('kernel', labs[0]!), new Side('hostroute', labs[1]!)]
    // ip-masq-agent's rules stay on a node with hostroute, for what it leaves to the kernel
    if (options.translation === 'snat') for (const lab of labs) await masquerade(lab)
    if (options.translation === 'services') for (const lab of labs) await serve(lab)
    const all = ['0.0.0.0/0', '::/0']
    const some = ['10.0.0.0/8', '192.168.0.0/16', '203.0.113.0/24', 'fd00::/8', '2001:db8:99::/64']
    await hostroute.lab.node(0).startDaemon({
      masquerade: { nonMasqueradeCIDRs: options.translation === 'snat' ? some : all },
      config: { snat: { otherProtocols: 'stack' } }
    })
    await waitForNeighbours(hostroute.lab)
    for (const side of [kernel, hostroute]) await side.startCaptures()
    return { kernel, hostroute, close: async () => void (await Promise.all([kernel.close(), hostroute.close()])) }
  } catch (error) {
    await Promise.all(labs.map((lab) => lab.close()))
    throw error
  }
}

async function prepare(lab: Lab): Promise<void> {
  const [node, other] = [lab.node(0), lab.node(1)]
  const [pod1, pod2] = [node.pod(0), node.pod(1)]
  const [up, outside] = [node.uplinks[0]!, lab.outside]
  // a node may send errors as fast as it likes: both labs must send all
  for (const host of [node, other, lab.router]) {
    await host.sysctl({
      'net.ipv4.icmp_ratemask': 0,
      'net.ipv6.icmp.ratelimit': 0,
      'net.ipv6.icmp.ratemask': '255',
      'net.ipv4.icmp_msgs_per_sec': 100_000,
      'net.ipv4.icmp_msgs_burst': 100_000
    })
  }
  await lab.router.ip(
    // no route to "nowhere" would be told at a rate that no setting lifts, and so not the same in both labs
    'route add blackhole 192.0.2.200/32',
    'route add blackhole 2001:db8:dead::1/128',
    // nor to a Service, where conntrack takes a packet for invalid and does not translate it
    'route add blackhole 10.96.0.0/16',
    'route add blackhole fd00:96::/64',
    'link set outside address 02:04:00:00:01:00',
    'link set n1u0 address 02:04:00:00:01:01',
    `route add 10.244.1.0/24 via ${node.address.v4}`,
    `route add fd00:244:1::/64 via ${node.address.v6}`,
    `route add 10.244.2.0/24 via ${other.address.v4}`,
    `route add fd00:244:2::/64 via ${other.address.v6}`,
    `route add ${SNATED[4]}/32 via 203.0.113.10`,
    `route add ${SNATED[6]}/128 via 2001:db8:99::10`
  )
  await outside.ip(
    `addr add ${SNATED[4]}/32 dev lo`,
    `addr add ${SNATED[6]}/128 dev lo`,
    'route add 10.244.0.0/16 via 203.0.113.1',
    'route add fd00:244::/32 via 2001:db8:99::1'
  )
  const mac = (await lab.router.ipJson<{ address: string }>('link', 'show', 'dev', 'br0'))[0]!.address
  await node.ip(
    `link set pod2 mtu ${MTU.pod2}`,
    `route replace 10.244.2.0/24 via ${other.address.v4} dev up0 mtu ${MTU.remote}`,
    `route replace fd00:244:2::/64 via ${other.address.v6} dev up0 mtu ${MTU.remote}`,
    `route add ${SNATED[4]}/32 via ${up.router.v4} dev up0 mtu ${MTU.snated}`,
    `route add ${SNATED[6]}/128 via ${up.router.v6} dev up0 mtu ${MTU.snated}`,
    ...[pod1, pod2].flatMap((pod) =>
      [pod.address.v4, pod.address.v6].map(
        (each) => `neigh replace ${each} lladdr ${pod.mac} dev ${pod.hostDevice} nud permanent`
      )
    ),
    ...[up.router.v4, up.router.v6].map((each) => `neigh replace ${each} lladdr ${mac} dev up0 nud permanent`),
    ...[other.address.v4, other.address.v6].map(
      (each) => `neigh replace ${each} lladdr ${other.uplinks[0]!.mac} dev up0 nud permanent`
    )
  )
  // Nobody answers: what comes back comes from routers.
  for (const host of [pod1, pod2, other.pod(0), other.pod(1), outside]) {
    await host.run(['iptables-legacy', '-P', 'OUTPUT', 'DROP'])
    const accept = ['135', '136'].flatMap((type) => `-A OUTPUT -p icmpv6 --icmpv6-type ${type} -j ACCEPT`)
    await host.run(['ip6tables-legacy-restore'], {
      input: ['*filter', ':OUTPUT DROP [0:0]', ...accept, 'COMMIT', ''].join('\n')
    })
  }
}

/** What a node does without hostroute about what leaves the cluster. */
async function masquerade(lab: Lab): Promise<void> {
  const node = lab.node(0)
  // what conntrack takes for damaged would leave with the pod's address
  const rule = (destination: string) => `*nat\n-A POSTROUTING -o up0 -d ${destination} -j MASQUERADE\nCOMMIT\n`
  await node.run(['iptables-legacy-restore'], { input: rule(`${SNATED[4]}/32`) })
  await node.run(['ip6tables-legacy-restore'], { input: rule(`${SNATED[6]}/128`) })
  await node.sysctl({ 'net.netfilter.nf_conntrack_checksum': 0, 'net.netfilter.nf_conntrack_tcp_be_liberal': 1 })
}

/** As a service proxy does. */
async function serve(lab: Lab): Promise<void> {
  const node = lab.node(0)
  const [local, remote] = [node.pod(1).address, lab.node(1).pod(0).address]
  const table = (family: 'ip' | 'ip6', services: { local: string; remote: string }, key: 'v4' | 'v6') => `
    table ${family} services {
      chain prerouting {
        type nat hook prerouting priority dstnat
        ${family} daddr ${services.local} dnat to ${local[key]}
        ${family} daddr ${services.remote} dnat to ${remote[key]}
      }
    }`
  await node.run(['nft', '-f', '-'], { input: table('ip', SERVICES[4], 'v4') + table('ip6', SERVICES[6], 'v6') })
  await node.sysctl({ 'net.netfilter.nf_conntrack_checksum': 0, 'net.netfilter.nf_conntrack_tcp_be_liberal': 1 })
}

async function waitForNeighbours(lab: Lab): Promise<void> {
  const { daemon } = lab.node(0)
  await until('pods with their MACs in the maps', async () => {
    const { stdout } = await daemon.command(['pods', '--json'])
    return (stdout.match(/"mac": ?"02:/g) ?? []).length >= 4
  })
}
