// Uplinks of every kind a kernel has, under the same traffic: those with an
// Ethernet header are served, the others left to the kernel with the reason in
// status, and packets arrive either way. Runs on this machine's kernel with the
// kinds that it has, and in a machine with all of them (test/vm).

import { existsSync } from 'node:fs'
import t, { type Test } from 'tap'
import type { HookRow } from '../../src/control/api.js'
import { OUTSIDE } from '../lab/addresses.js'
import type { Lab } from '../lab/lab.js'
import type { LabNode } from '../lab/node.js'
import { run, until } from '../lab/process.js'
import type { ParsedPacket } from '../packets/packet.js'
import { counted, servedLab, status } from './served.js'

const families = ['v4', 'v6'] as const
const protocols = ['tcp', 'udp'] as const
/** Between node and router over the device under test; the router's end is .1. */
const link = {
  v4: { node: '192.168.107.11', router: '192.168.107.1', mask: 24 },
  v6: { node: 'fd00:168:107::11', router: 'fd00:168:107::1', mask: 64 }
}
const inGuest = process.env['HOSTROUTE_VM'] !== undefined
const patience = inGuest ? { timeout: 60_000 } : {}

interface Kind {
  /** The device under test, on the node. */
  device: string
  served: boolean
  why?: RegExp
  /** Makes both ends, up and without addresses. */
  make(lab: Lab, node: LabNode): Promise<void>
  /** A packet on the wire, the first uplink's pair, that belongs to the device's traffic. */
  wire?: (packet: ParsedPacket) => boolean
  /** Its frames are seen, tagged, on the first uplink. */
  tagged?: boolean
  /** Names the router's end; the same as the node's if absent. */
  peer?: string
}

async function hook(node: LabNode, device: string): Promise<HookRow | undefined> {
  return (await status(node)).hooks.find((row) => row.device === device)
}

const vlan = (parent: string, id: number, name = `${parent}.${id}`) => [
  `link add link ${parent} name ${name} type vlan id ${id}`,
  `link set ${name} up`
]

export const kinds: Record<string, Kind> = {
  'a VLAN made later': {
    device: 'up0.7',
    peer: 'br0.7',
    served: true,
    async make(lab, node) {
      await lab.router.ip(...vlan('br0', 7))
      await node.ip(...vlan('up0', 7))
    },
    tagged: true,
    wire: ({ vlans }) => vlans.map(({ id }) => id).join() === '7'
  },
  'a VLAN within a VLAN (QinQ)': {
    device: 'qinq',
    served: true,
    async make(lab, node) {
      const outer = (parent: string) => [
        `link add link ${parent} name outer type vlan proto 802.1ad id 8`,
        'link set outer up'
      ]
      await lab.router.ip(...outer('br0'), ...vlan('outer', 9, 'qinq'))
      await node.ip(...outer('up0'), ...vlan('outer', 9, 'qinq'))
    },
    tagged: true,
    wire: ({ vlans }) => vlans.map(({ id }) => id).join() === '8,9'
  },
  'a bond': {
    device: 'bond0',
    served: true,
    async make(lab, node) {
      await pairs(lab, node, ['leg0', 'leg1'])
      for (const host of [node, lab.router]) {
        await host.ip('link add bond0 type bond mode balance-xor miimon 20')
        for (const leg of ['leg0', 'leg1']) await host.ip(`link set ${leg} down`, `link set ${leg} master bond0`)
        await host.ip('link set bond0 up')
      }
    }
  },
  'a bridge': {
    device: 'wan',
    served: true,
    peer: 'leg0',
    async make(lab, node) {
      await pairs(lab, node, ['leg0'])
      await node.ip(
        'link add wan type bridge forward_delay 0 stp_state 0 mcast_snooping 0',
        'link set leg0 master wan',
        'link set wan up'
      )
    }
  },
  'a tunnel without Ethernet header (ipip)': {
    device: 'tun0',
    served: false,
    why: /no Ethernet header/,
    async make(lab, node) {
      const { address, router } = node.uplinks[0] ?? { address: node.address, router: node.address }
      for (const [host, local, remote] of [
        [node, address.v6, router.v6],
        [lab.router, router.v6, address.v6]
      ] as const) {
        await host.ip(`link add tun0 type ip6tnl mode any local ${local} remote ${remote}`, 'link set tun0 up')
      }
    },
    wire: ({ ip }) => ip?.family === 6 && (ip.protocol === 4 || ip.protocol === 41)
  },
  WireGuard: {
    device: 'wg0',
    served: false,
    why: /no Ethernet header/,
    async make(lab, node) {
      const { address, router } = node.uplinks[0] ?? { address: node.address, router: node.address }
      const ends = [
        { host: node, own: address.v4, other: router.v4, file: `${lab.directory}/key1`, key: '' },
        { host: lab.router, own: router.v4, other: address.v4, file: `${lab.directory}/key2`, key: '' }
      ]
      for (const end of ends) {
        await run(['sh', '-c', `wg genkey > ${end.file}`])
        end.key = (await run(['sh', '-c', `wg pubkey < ${end.file}`])).trim()
        await end.host.ip('link add wg0 type wireguard')
      }
      for (const [index, { host, other, file }] of ends.entries()) {
        const peer = ['peer', ends[1 - index]?.key ?? '', 'endpoint', `${other}:51820`, 'allowed-ips', '0.0.0.0/0,::/0']
        await host.run(['wg', 'set', 'wg0', 'listen-port', '51820', 'private-key', file, ...peer])
        await host.ip('link set wg0 up')
      }
    },
    wire: ({ l4 }) => l4?.destinationPort === 51820
  }
}

/** veth pairs between node and router, beside the first uplink. */
async function pairs(lab: Lab, node: LabNode, names: string[]): Promise<void> {
  for (const name of names) {
    await node.exec(['ip', 'link', 'del', name]) // left by another kind
    await node.ip(`link add ${name} type veth peer name ${name} netns ${lab.router.namespace}`, `link set ${name} up`)
    await lab.router.ip(`link set ${name} up`)
  }
}

async function address(lab: Lab, node: LabNode, device: string, peer: string): Promise<void> {
  const { v4, v6 } = link
  await lab.router.ip(
    `addr add ${v4.router}/${v4.mask} dev ${peer}`,
    `addr add ${v6.router}/${v6.mask} dev ${peer} nodad`
  )
  await lab.outside.ip(
    'route replace 192.168.107.0/24 via 203.0.113.1',
    'route replace fd00:168:107::/64 via 2001:db8:99::1'
  )
  await node.ip(
    `addr add ${v4.node}/${v4.mask} dev ${device}`,
    `addr add ${v6.node}/${v6.mask} dev ${device} nodad`,
    `route replace ${OUTSIDE.v4}/32 via ${v4.router} dev ${device}`,
    `route replace ${OUTSIDE.v6}/128 via ${v6.router} dev ${device}`
  )
}

/** TCP, UDP and echo through SNAT; by the programs or by the kernel, as the kind says. */
async function traffic(t: Test, lab: Lab, node: LabNode, kind: Kind): Promise<void> {
  const pod = node.pod(0)
  for (const family of families) {
    const answered = async () => (await pod.ping(OUTSIDE[family], { count: 1 })).received === 1
    await until(`${family}: the way is there`, answered)
  }
  const capture = await lab.router.capture('n1u0', '')
  const { forward } = await node.readCounters()
  const before = { fast: await counted(node, 'forwarded', 'pod1'), tagged: await counted(node, 'vlan', 'up0') }
  const timeout = inGuest ? 20_000 : 5_000
  const answers = await pod.askAll(
    families.flatMap((family) =>
      protocols.map((protocol) => ({ protocol, address: OUTSIDE[family], port: 7, bytes: 900, timeout }))
    )
  )
  const wanted = families.flatMap((family) =>
    protocols.map(() => ({ echoed: 900, peer: link[family].node, error: null }))
  )
  t.match(answers, wanted, `TCP and UDP, with the address of ${kind.device}`)
  for (const family of families)
    t.equal((await pod.ping(OUTSIDE[family], { count: 3, wait: 5_000 })).received, 3, `${family}: echo`)
  const seen = (await node.readCounters()).forward - forward
  const fast = (await counted(node, 'forwarded', 'pod1')) - before.fast
  if (kind.served) t.match({ seen, fast: fast >= 16 }, { seen: 0, fast: true }, 'all by the programs')
  else t.match({ fast, seen: seen >= 32 }, { fast: 0, seen: true }, 'all by the kernel')
  const packets = await capture.stop()
  const { wire } = kind
  if (wire) t.ok(packets.filter(({ packet }) => wire(packet)).length >= 30, 'on the wire as the device makes it')
  if (kind.tagged) t.ok((await counted(node, 'vlan', 'up0')) > before.tagged, 'tagged frames are left to the parent')
  t.equal(await counted(node, 'drop'), 0, 'nothing dropped')
}

/** One after the other on one node; each device is made, used and removed. */
export function testKinds(names: string[]): void {
  t.test('uplinks', async (t) => {
    // MASQUERADE by the kernel for what is left to it
    const lab = await servedLab(t, { pods: 1, legacy: 1, counters: true }, patience)
    const node = lab.node(0)
    if (existsSync('/proc/sys/net/bridge')) await node.run(['sh', '-c', noBridgeNetfilter])
    for (const name of names) {
      const kind = kinds[name] as Kind
      await t.test(kind.served ? `[F14] ${name}` : `[F13] ${name}`, (t) => testKind(t, lab, node, kind))
    }
    const report = await node.hostroute(['verify'], 60_000)
    t.equal(report.status, 0, report.stdout)
  })
}

async function testKind(t: Test, lab: Lab, node: LabNode, kind: Kind): Promise<void> {
  await kind.make(lab, node)
  await address(lab, node, kind.device, kind.peer ?? kind.device)
  await until('judged', async () => (await hook(node, kind.device))?.served === kind.served)
  if (kind.why) {
    t.match((await hook(node, kind.device))?.why, kind.why, 'with the reason')
    t.match((await node.hostroute(['status'])).stdout, kind.why, 'in status')
  }
  await traffic(t, lab, node, kind)
  await lab.router.ip(`link del ${kind.peer ?? kind.device}`)
  await node.ip(`link del ${kind.device}`)
  await until('gone', async () => (await hook(node, kind.device)) === undefined)
  t.equal((await node.pod(0).ping(OUTSIDE.v4, { count: 3 })).received, 3, 'then by the first uplink again')
}

export const noBridgeNetfilter = 'for each in /proc/sys/net/bridge/bridge-nf-call-ip*; do echo 0 > $each; done'
