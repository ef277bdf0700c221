// A node that exists only as answers, for the control server and the command.

import type { NodeControl, PacketCounts, Status } from '../../src/control/api.js'
import type { Explanation } from '../../src/control/explain-api.js'
import type { FlowRow, FlowTop } from '../../src/control/flow-api.js'
import { renderMetrics } from '../../src/control/metrics.js'
import type { DropRow, EventRow } from '../../src/control/packet-api.js'

const fill = (used: number, capacity: number) => ({ used, capacity })
const packets = (count: number, perSecond: number): PacketCounts => ({
  packets: count,
  bytes: count * 1000,
  packetsPerSecond: perSecond,
  bytesPerSecond: perSecond * 1000
})

/** All times lie this many seconds before now, so that "ago" is the same in every run. */
export function ago(seconds: number): string {
  return new Date(Date.now() - seconds * 1000 - 200).toISOString()
}

export function fakeStatus(change: Partial<Status> = {}): Status {
  return {
    api: 1,
    version: '0.1.0',
    pid: 4711,
    uptime: 7440,
    mode: 'enabled',
    why: null,
    confirmBefore: null,
    kernel: '6.18.0',
    eventLoop: {
      count: 4000,
      sum: 120,
      longest: 41.5,
      quantiles: [
        { share: 0.5, delay: 0.1 },
        { share: 0.99, delay: 2.5 }
      ]
    },
    problems: [],
    namespace: '4:4026531840',
    libbpf: '1.4',
    node: 'node-1',
    hooks: [
      {
        device: 'vetha',
        ifindex: 7,
        role: 'pod',
        kind: 'veth',
        served: true,
        why: null,
        programs: [{ name: 'from_pod', how: 'tcx' }]
      },
      {
        device: 'eth0',
        ifindex: 2,
        role: 'uplink',
        kind: null,
        served: true,
        why: null,
        programs: [{ name: 'from_uplink', how: 'tcx' }]
      },
      {
        device: 'tun0',
        ifindex: 9,
        role: 'uplink',
        kind: 'tun',
        served: false,
        why: 'it has no MAC address',
        programs: []
      }
    ],
    stack: [
      {
        family: 6,
        devices: ['vetha'],
        destinations: ['fd00:7::/64'],
        rule: '1000: from all dport 53 lookup 100',
        why: 'ip rule 1000: from all dport 53 lookup 100: the maps do not know "dport 53"'
      }
    ],
    sync: {
      state: 'synced',
      lastSync: ago(60),
      events: 1234,
      dumps: 1,
      overruns: 0,
      interrupted: 0,
      malformed: 0,
      unknown: 0
    },
    counts: {
      pods: fill(2, 16384),
      devices: fill(2, 1024),
      routes4: fill(12, 1048576),
      routes6: fill(3, 1048576),
      classRoutes4: fill(12, 65536),
      classRoutes6: fill(0, 65536),
      nexthops: fill(2, 16384),
      neighbours: fill(5, 65536),
      flows4: fill(250000, 262144),
      flows6: fill(0, 262144),
      mostFlows: [
        { device: 'vetha', flows: 240000 },
        { device: 'vethb', flows: 10000 }
      ],
      flowLimit: { configured: 262_144, inForce: 262_144, problem: null },
      movedFlows: 3,
      snatPorts: 33512,
      masquerade: 7
    },
    packets: { forwarded: packets(1234567, 1500), stack: packets(321, 0.25), dropped: packets(5, 0) },
    lease: { duration: 600, renewed: ago(1), until: ago(-599) },
    masquerade: {
      enabled: true,
      semantics: 'ip-masq-agent',
      ipv6: { masqueraded: false, why: 'no file names an IPv6 prefix (snat.masqueradeIPv6: auto)' },
      refused: null,
      agents: [],
      defaultsOnly: null,
      warnings: [],
      prefixes: 2,
      excluded: 1,
      files: [
        {
          path: '/etc/config/ip-masq-agent',
          pod: null,
          present: true,
          kept: false,
          read: ago(120),
          error: null,
          warnings: []
        },
        {
          path: '/etc/config/ip-masq-more',
          pod: null,
          present: true,
          kept: false,
          read: null,
          error: '/etc/config/ip-masq-more:3:3: nonMasqueradeCIDRs: found 5',
          warnings: []
        }
      ],
      policy: [
        { prefix: '0.0.0.0/0', masquerade: true, from: ['default'] },
        { prefix: '10.0.0.0/8', masquerade: false, from: ['/etc/config/ip-masq-agent'] }
      ]
    },
    translated: {
      rows: [{ who: 'kube-proxy', kind: 'nftables', addresses: 43, prefixes: 0 }],
      unbounded: ['ip nat PREROUTING, handle 7: iifname vetha tcp dport 80 redirect']
    },
    guard: { mode: 'enforce', backend: 'fmod_ret', refuses: 'all writes', refused: 3, why: null },
    detour: {
      device: 'hostroute0',
      why: null,
      waiting: 2,
      packets: {
        cut: 12,
        held: 3400,
        ignored: 1,
        'dropped-malformed': 0,
        'dropped-full': 4,
        'dropped-tries': 1,
        'dropped-unwritten': 0
      }
    },
    configuration: { path: '/etc/hostroute/config.yaml', present: false, error: null, loaded: null },
    errors: [{ time: ago(30), subsystem: 'sync', text: 'events were lost, dumping again' }],
    ...change
  }
}

export const fakeDrops: DropRow[] = [
  {
    device: 'vetha',
    reason: 'drop-spoof',
    class: 'drop',
    packets: 4,
    bytes: 400,
    packetsPerSecond: 0.5,
    bytesPerSecond: 50
  },
  {
    device: 'vethb',
    reason: 'drop-spoof',
    class: 'drop',
    packets: 1,
    bytes: 100,
    packetsPerSecond: 0,
    bytesPerSecond: 0
  },
  {
    device: 'vetha',
    reason: 'to-uplink',
    class: 'forwarded',
    packets: 1234567,
    bytes: 9,
    packetsPerSecond: 1500,
    bytesPerSecond: 9
  },
  { device: 'eth0', reason: 'ttl', class: 'stack', packets: 321, bytes: 9, packetsPerSecond: 0, bytesPerSecond: 0 }
]

export const fakeEvent: EventRow = {
  type: 'packet',
  time: '2026-01-02T03:04:05.678Z',
  reason: 'drop-spoof',
  class: 'drop',
  in: 'vetha',
  out: null,
  family: 4,
  protocol: 'tcp',
  source: '10.9.9.9',
  sourcePort: 1234,
  destination: '203.0.113.7',
  destinationPort: 443,
  length: 74,
  lost: 0
}

export const fakeExplanation: Explanation = {
  packet: {
    family: 4,
    protocol: 'tcp',
    source: '10.1.0.2',
    sourcePort: 40_000,
    destination: '203.0.113.7',
    destinationPort: 443,
    flags: 'S',
    echo: null,
    ttl: 64,
    size: 40
  },
  in: { device: 'vetha', role: 'pod', program: 'from_pod', why: null },
  verdict: 'drop',
  reason: 'drop-ports',
  summary: 'Dropped: no free SNAT port towards this remote.',
  out: null,
  nat: null,
  route: '0.0.0.0/0',
  masquerade: { masquerade: true, prefix: '0.0.0.0/0' },
  stages: [
    { stage: 'device', found: "vetha is a pod's: from_pod decides" },
    { stage: 'next hop', found: '192.0.2.1 on eth0, MTU 1500' }
  ]
}

export const fakeRow: FlowRow = {
  family: 4,
  protocol: 'tcp',
  pod: '10.1.0.2',
  podPort: 40000,
  remote: '203.0.113.7',
  remotePort: 443,
  verdict: 'snat',
  natAddress: '192.0.2.10',
  natPort: 1024,
  state: 'established',
  idle: 0.25,
  age: 3700
}

export const fakeTop: FlowTop = {
  flows: 31_000,
  ports: 33_512,
  window: 10,
  remotes: [
    { protocol: 'udp', remote: '10.0.0.10', remotePort: 53, source: '192.0.2.10', flows: 30_500, share: 0.9101 },
    { protocol: 'tcp', remote: '2001:db8::1', remotePort: 443, source: '2001:db8::10', flows: 12, share: 0.0004 }
  ],
  podsByFlows: [{ pod: '10.1.0.2', device: 'vetha', flows: 30_900, snat: 30_600, newPerSecond: 250.4 }],
  podsByNewFlows: [
    { pod: 'fd00::2', device: null, flows: 100, snat: 12, newPerSecond: 300 },
    { pod: '10.1.0.2', device: 'vetha', flows: 30_900, snat: 30_600, newPerSecond: 250.4 }
  ],
  uncertainty: 0
}

export interface FakeNode extends NodeControl {
  calls: string[]
  emit(event: EventRow): void
  listeners: number
}

export function fakeNode(change: Partial<NodeControl> = {}, status: () => Status = fakeStatus): FakeNode {
  const listeners = new Set<(event: EventRow) => void>()
  const pod = {
    address: '10.1.0.2',
    device: 'vetha',
    ifindex: 7,
    mac: '02:00:00:00:00:02',
    hostMac: '02:00:00:00:00:01',
    mtu: 1500,
    ready: true,
    l3: false
  }
  const leg = { device: 'eth0', gateway: '192.0.2.1', weight: 1, snat: '192.0.2.10' }
  const route = {
    prefix: '0.0.0.0/0',
    family: 4 as const,
    class: null,
    action: 'nexthop' as const,
    why: null,
    legs: [leg]
  }
  const calls: string[] = []
  const note = <T>(name: string, value: T): T => {
    calls.push(name)
    return value
  }
  return {
    calls,
    emit: (event) => {
      for (const listener of listeners) listener(event)
    },
    get listeners() {
      return listeners.size
    },
    status,
    masquerade: async () => (await (change.status ?? status)()).masquerade,
    masqueradeTest: (address) =>
      note(`masqueradeTest ${address}`, {
        address,
        masquerade: false,
        prefix: '10.0.0.0/8',
        entries: [{ path: '/etc/config/ip-masq-agent', pod: null, line: 2, key: 'nonMasqueradeCIDRs' }],
        origin: null,
        instead: null,
        refused: null
      }),
    pods: () => [pod, { ...pod, address: 'fd00::2', mac: null, ready: false }],
    async *routes(filter) {
      yield note(`routes ${JSON.stringify(filter)}`, [
        route,
        {
          prefix: '10.5.0.0/16',
          family: 4,
          class: null,
          action: 'group',
          why: null,
          legs: [leg, { ...leg, device: 'eth1', gateway: null, weight: 3, snat: '198.51.100.10' }]
        },
        { prefix: '10.6.0.0/16', family: 4, class: null, action: 'stack', why: 'blackhole', legs: [] },
        { ...route, class: '4-0123456789ab', legs: [{ ...leg, device: 'eth1', gateway: '198.51.100.1' }] },
        { ...route, class: '4-0123456789ab', prefix: '10.0.0.0/8', action: 'main', legs: [] }
      ])
      return {
        classes: [{ class: '4-0123456789ab', family: 4, tables: 'main for 10.0.0.0/8, 100, main', devices: ['vetha'] }],
        total: 6
      }
    },
    explain: (request) => note(`explain ${JSON.stringify(request)}`, fakeExplanation),
    routeGet: (address, from) => ({
      address,
      from: from ?? '10.1.0.2',
      reason: 'to-uplink',
      verdict: 'uplink',
      why: 'sent over eth0',
      pod: null,
      route,
      masquerade: { masquerade: true, prefix: '0.0.0.0/0' },
      out: { device: 'eth0', nextHop: '192.0.2.1', mac: '02:00:00:00:00:09', mtu: 1500 },
      source: '192.0.2.10'
    }),
    nexthops: () => [
      {
        index: 0,
        device: 'eth0',
        gateway: '192.0.2.1',
        mac: '02:00:00:00:00:09',
        macKnown: true,
        sourceMac: '02:00:00:00:00:0a',
        mtu: 1500,
        snat4: '192.0.2.10',
        snat6: null,
        routes: 1200
      }
    ],
    neighbours: () => [],
    async *flows(filter, limit) {
      yield note(`flows ${JSON.stringify(filter)} ${limit}`, [
        fakeRow,
        {
          family: 6,
          protocol: 'udp',
          pod: 'fd00::2',
          podPort: 5353,
          remote: '2001:db8::1',
          remotePort: 53,
          verdict: 'direct',
          natAddress: null,
          natPort: null,
          state: 'one-way',
          idle: 2,
          age: 2
        }
      ])
      return { total: 2 }
    },
    flowTop: async (count) => note(`flowTop ${count}`, fakeTop),
    deleteFlows: async (selection, dryRun, caller) =>
      note(`deleteFlows ${JSON.stringify(selection)} ${dryRun} ${caller?.uid}`, {
        deleted: dryRun ? 0 : 1200,
        matching: 1200,
        duration: 0.012
      }),
    drops: () => fakeDrops,
    verify: async (repair) =>
      note(`verify ${repair}`, {
        time: '2026-01-02T03:04:05Z',
        ok: repair,
        checked: 100,
        differences: [{ map: 'routes4', key: '10.7.0.0/16', kind: 'missing', wanted: 'nexthop 1', found: null }],
        total: 1,
        repaired: repair,
        duration: 0.012
      }),
    metrics: () => renderMetrics({ status: status(), drops: fakeDrops, guard: null }),
    enable: async (options) =>
      note(`enable ${JSON.stringify(options)}`, {
        done: true,
        mode: 'enabled',
        why: null,
        confirmBefore: options.confirmWithin ? ago(-options.confirmWithin) : null,
        report: null,
        handedBack: null
      }),
    confirm: async () => ({
      done: false,
      mode: 'enabled',
      why: 'nothing waits for a confirmation',
      confirmBefore: null,
      report: null,
      handedBack: null
    }),
    disable: async () =>
      note('disable', { done: true, mode: 'disabled', why: null, confirmBefore: null, report: null, handedBack: null }),
    events: (listener, all) => {
      if (all) calls.push('events of all packets')
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    reload: async () => ({ ok: true, problems: [], restartNeeded: ['uplink.xdp'] }),
    ...change
  }
}
