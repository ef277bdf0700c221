// bpf/types.h as offsets. test/maps/layout.test.ts compares every size, offset
// and code with the BTF that the compiler makes of the header.
//
// Multi-byte fields are little endian: the kernels hostroute is built for
// (x86-64, arm64) are. Addresses are written as the bytes they are.

export const LAYOUT = 6
export const DEVICE_SLOTS = 16384
export const POD_SLOTS = 16384
export const MAX_NEXTHOPS = 16384
export const ROUTE_SLOTS = 1024
export const MAX_PORTS = 65536
export const SOURCE_PLACES = 64
export const GROUP_LEGS = 64
export const CLASS_ROUTES = 65536
export const ACCOUNT_SLOTS = 16384
export const ECHO_ASKED = 1
export const FLOW_BATCH = 512

export interface Struct {
  size: number
  offset: Readonly<Record<string, number>>
}

/** Size and offsets, padding left out. */
export const STRUCTS = {
  device: {
    size: 64,
    offset: {
      ifindex: 0,
      row: 4,
      kind: 8,
      flags: 12,
      pod_id: 16,
      mtu: 20,
      address4: 24,
      class4: 28,
      class6: 30,
      address6: 32,
      mac: 48,
      reply_tag: 54,
      counters: 56
    }
  },
  pod: { size: 28, offset: { ifindex: 0, id: 4, mtu: 8, flags: 12, mac: 16, host_mac: 22 } },
  pod_slot: { size: 52, offset: { address: 0, pod: 16, more: 44, address4: 48 } },
  pod_source_key: { size: 24, offset: { prefix_length: 0, ifindex: 4, address: 8 } },
  pod_source: { size: 4, offset: { source: 0 } },
  route4_key: { size: 8, offset: { prefix_length: 0, address: 4 } },
  route6_key: { size: 20, offset: { prefix_length: 0, address: 4 } },
  class_route4_key: { size: 12, offset: { prefix_length: 0, route_class: 4, address: 8 } },
  class_route6_key: { size: 24, offset: { prefix_length: 0, route_class: 4, address: 8 } },
  route: { size: 16, offset: { action: 0, nexthop: 4, reason: 8 } },
  nexthop: {
    size: 64,
    offset: {
      ifindex: 0,
      flags: 4,
      mac: 8,
      mac_known: 14,
      source_mac: 16,
      sources: 22,
      gateway: 24,
      mtu: 40,
      snat4: 44,
      snat6: 48
    }
  },
  snat_sources: { size: 1024, offset: { address: 0 } },
  group: { size: 256, offset: { leg: 0 } },
  neighbour_key: { size: 20, offset: { ifindex: 0, address: 4 } },
  neighbour: { size: 8, offset: { mac: 0, known: 6 } },
  masquerade_key: { size: 24, offset: { prefix_length: 0, epoch: 4, address: 8 } },
  masquerade: { size: 4, offset: { masquerade: 0 } },
  tuple4: { size: 16, offset: { local: 0, remote: 4, local_port: 8, remote_port: 10, protocol: 12 } },
  tuple6: { size: 40, offset: { local: 0, remote: 16, local_port: 32, remote_port: 34, protocol: 36 } },
  flow: {
    size: 56,
    offset: {
      generation: 0,
      slot: 4,
      nexthop: 6,
      seen: 8,
      pod_id: 12,
      life: 16,
      verdict: 20,
      tcp: 21,
      nat_port: 22,
      nat_address: 24,
      created: 40,
      difference: 44,
      ifindex: 48,
      expected: 52
    }
  },
  snat_difference: { size: 4, offset: { header: 0, transport: 2 } },
  reverse: {
    size: 40,
    offset: { pod: 0, pod_port: 16, tcp: 18, replied: 19, seen: 20, pod_id: 24, life: 28, difference: 32, ifindex: 36 }
  },
  owner: { size: 12, offset: { seen: 0, pod_id: 4, reason: 8 } },
  fragment_key: { size: 40, offset: { source: 0, destination: 16, id: 32, protocol: 36 } },
  fragment: {
    size: 40,
    offset: { way: 0, address: 8, seen: 24, pod_id: 28, verdict: 32, by_stack: 33, next: 34, ifindex: 36 }
  },
  snat_port: { size: 4, offset: { port: 0, may_be_taken: 2 } },
  account: { size: 8, offset: { flows4: 0, flows6: 4 } },
  usage: { size: 16, offset: { flows4: 0, flows6: 4, moved: 8 } },
  counter: { size: 16, offset: { packets: 0, bytes: 8 } },
  translating: { size: 4, offset: { seen: 0, presumed: 1, configured: 2, known: 3 } },
  shared_pod: { size: 4, offset: { delivered: 0, presumed: 1, opening: 2 } },
  control: {
    size: 69720,
    offset: {
      layout: 0,
      flags: 4,
      lease: 8,
      translating: 16,
      masquerade_epoch: 20,
      port_count: 24,
      event_rate: 28,
      timeout: 32,
      jiffies_per_second: 64,
      trace_mark: 68,
      straight: 72,
      port_key: 76,
      flow_limit: 80,
      detour: 84,
      route_generations: 88,
      shared: 4184
    }
  },
  event: {
    size: 88,
    offset: {
      time: 0,
      type: 8,
      reason: 12,
      ifindex: 16,
      out: 20,
      length: 24,
      family: 28,
      protocol: 29,
      source_port: 30,
      destination_port: 32,
      nat_port: 34,
      lost: 36,
      source: 40,
      destination: 56,
      nat_address: 72
    }
  },
  conntrack_tuple: {
    size: 40,
    offset: {
      source: 0,
      source_port: 16,
      family: 18,
      destination: 20,
      destination_port: 36,
      protocol: 38,
      direction: 39
    }
  },
  trace: {
    size: 208,
    offset: {
      stages: 0,
      reason: 4,
      pod: 8,
      nexthop: 12,
      out: 16,
      route: 20,
      to: 36,
      from: 42,
      nat_address: 48,
      nat_port: 64,
      flow: 72,
      original: 128,
      reply: 168
    }
  },
  charge_args: { size: 12, offset: { family: 0, pod_id: 4, entries: 8 } },
  expire_args: {
    size: 48,
    offset: { family: 0, pressure: 4, jiffies: 8, time: 16, live: 24, live_snat: 28, dying: 32, deleted: 36, count: 40 }
  },
  delete_args: {
    size: 88,
    offset: {
      pod: 0,
      remote: 16,
      remote_mask: 32,
      family: 48,
      count: 52,
      filters: 56,
      pod_id: 60,
      age: 64,
      idle: 68,
      started: 72,
      remote_port: 76,
      verdict: 78,
      chosen: 80,
      deleted: 84
    }
  },
  merge_args: { size: 24, offset: { family: 0, reverse: 4, count: 8, knows_since: 12, since: 16, error: 20 } },
  merge_rows: { size: 49_152, offset: { key: 0, value: 20_480 } }
} as const satisfies Record<string, Struct>

/** Codes and flags by their name in the header. */
export const CODES = {
  DEVICE_NONE: 0,
  DEVICE_POD: 1,
  DEVICE_UPLINK: 2,
  DEVICE_STACK4: 1,
  DEVICE_STACK6: 2,
  DEVICE_CLASS4: 4,
  DEVICE_CLASS6: 8,
  POD_READY: 1,
  POD_L3: 2,
  SOURCE_OWN: 0,
  SOURCE_OTHER: 1,
  SOURCE_STAYS: 2,
  ROUTE_STACK: 0,
  ROUTE_NEXTHOP: 1,
  ROUTE_GROUP: 2,
  ROUTE_MAIN: 3,
  NEXTHOP_GATEWAY: 1,
  NEXTHOP_SNAT4: 2,
  NEXTHOP_SNAT6: 4,
  NEXTHOP_NO_SOURCE: 8,
  FLOW_DIRECT: 1,
  FLOW_SNAT: 2,
  FLOW_INBOUND: 3,
  FLOW_STACK: 4,
  FLOW_LIVE: 0,
  FLOW_DYING: 1,
  FLOW_DEAD: 2,
  SEEN_SYN: 1,
  SEEN_FIN: 2,
  SEEN_RST: 4,
  SEEN_ACK: 8,
  SEEN_REMOTE_FIN: 16,
  SEEN_REMOTE_RST: 32,
  SEEN_REMOTE_ACK: 64,
  CONTROL_ON: 1,
  CONTROL_MONITOR: 2,
  CONTROL_SNAT: 4,
  CONTROL_DROP_PROTOCOLS: 8,
  CONTROL_MARKS: 16,
  CONTROL_HAND_OVER: 32,
  CONTROL_PAUSED: 256,
  CONTROL_LINK_LOCAL: 64,
  CONTROL_NAT_CHAIN: 128,
  TIMEOUT_TCP_OPENING: 0,
  TIMEOUT_TCP_ESTABLISHED: 1,
  TIMEOUT_TCP_CLOSING: 2,
  TIMEOUT_UDP_ONE_WAY: 3,
  TIMEOUT_UDP_REPLIED: 4,
  TIMEOUT_ICMP: 5,
  TIMEOUT_MAX: 8,
  TRACE_SOURCE: 0x1,
  TRACE_POD: 0x2,
  TRACE_FLOW: 0x4,
  TRACE_FLOW_OUTDATED: 0x8,
  TRACE_FLOW_NEW: 0x10,
  TRACE_ASKED_REVERSE: 0x20,
  TRACE_REVERSE: 0x40,
  TRACE_ASKED_ROUTE: 0x80,
  TRACE_ROUTE: 0x100,
  TRACE_ASKED_MASQUERADE: 0x200,
  TRACE_MASQUERADE: 0x400,
  TRACE_NEXTHOP: 0x800,
  TRACE_SENT: 0x1000,
  TRACE_ICMP_ERROR: 0x2000,
  TRACE_ASKED_OWNER: 0x4000,
  TRACE_CONNTRACK: 0x8000,
  DELETE_POD_ADDRESS: 0x1,
  DELETE_POD_ID: 0x2,
  DELETE_REMOTE: 0x4,
  DELETE_REMOTE_PORT: 0x8,
  DELETE_OLDER: 0x10,
  DELETE_IDLE: 0x20,
  DELETE_VERDICT: 0x40,
  DELETE_DRY_RUN: 0x80,
  EVENT_PACKET: 1,
  EVENT_FLOW_NEW: 2
} as const
