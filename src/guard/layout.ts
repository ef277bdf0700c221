// bpf/guard/types.h in TypeScript: offsets of the event and of the control section,
// and the words for its codes. A test compares the sizes with the object's.

import type { GuardBackendName, GuardMode, GuardReason, GuardSystem, GuardVerdict } from '../control/guard-api.js'

export const controlOffset = {
  layout: 0,
  mode: 4,
  namespaceCookie: 8,
  probeCookie: 16,
  cgroupRoot: 24,
  paths: 32,
  executables: 36,
  probeBackend: 40,
  probeSeen: 44,
  version1: 52
}
export const backendCode: Record<GuardBackendName, number> = { lsm: 1, fmod_ret: 2, cgroup: 3 }
export const modeCode: Record<GuardMode, number> = { off: 0, audit: 1, enforce: 2 }

export const eventSize = 1064
/** struct guard_event, what is read of it. */
export const eventOffset = {
  time: 0,
  cgroup: 8,
  inode: 16,
  device: 24,
  pid: 28,
  thread: 32,
  uid: 36,
  verdict: 40,
  reason: 44,
  backend: 48,
  kind: 52,
  message: 56,
  family: 60,
  position: 64,
  argumentsLength: 76,
  exemption: 80,
  command: 88,
  table: 104,
  chain: 168,
  arguments: 232,
  path: 488
}
const parts = 12
const partSize = 48
const nameSize = 64

const verdicts: Record<number, RawEvent['verdict']> = { 1: 'refused', 2: 'audited', 3: 'exempt', 4: 'seen' }
const reasons: Record<number, GuardReason> = { 1: 'write', 2: 'uninspectable', 3: 'policy' }
const backends: Record<number, GuardBackendName> = { 1: 'lsm', 2: 'fmod_ret', 3: 'cgroup' }
const systems: Record<number, GuardSystem> = {
  1: 'nftables',
  2: 'iptables',
  3: 'ip6tables',
  4: 'ebtables',
  5: 'arptables'
}
export const kindCode: Record<GuardSystem, number> = {
  nftables: 1,
  iptables: 2,
  ip6tables: 3,
  ebtables: 4,
  arptables: 5
}

/** Rows of the map guard_counts. */
export const countRow = { refused: 0, audited: 1, exempt: 2, lost: 3, removals: 4 } as const

const messageNames = [
  'NEWTABLE',
  'GETTABLE',
  'DELTABLE',
  'NEWCHAIN',
  'GETCHAIN',
  'DELCHAIN',
  'NEWRULE',
  'GETRULE',
  'DELRULE',
  'NEWSET',
  'GETSET',
  'DELSET',
  'NEWSETELEM',
  'GETSETELEM',
  'DELSETELEM',
  'NEWGEN',
  'GETGEN',
  'TRACE',
  'NEWOBJ',
  'GETOBJ',
  'DELOBJ',
  'GETOBJ_RESET',
  'NEWFLOWTABLE',
  'GETFLOWTABLE',
  'DELFLOWTABLE'
]
const familyNames: Record<number, string> = { 1: 'inet', 2: 'ip', 3: 'arp', 5: 'netdev', 7: 'bridge', 10: 'ip6' }

export function messageName(type: number): string {
  return messageNames[type] ?? `message ${type}`
}

export function familyName(family: number): string {
  return familyNames[family] ?? String(family)
}

/** One record of the ring, as it came. */
export interface RawEvent {
  /** CLOCK_BOOTTIME, nanoseconds. */
  time: bigint
  cgroup: bigint
  inode: bigint
  device: number
  pid: number
  thread: number
  uid: number
  /** seen: by the witness, for what nothing refuses. */
  verdict: GuardVerdict | 'seen'
  reason: GuardReason
  backend: GuardBackendName
  system: GuardSystem
  message: string
  family: string
  position: number
  /** Number of the writer's exemption, 0: none. */
  exemption: number
  command: string
  table: string | null
  chain: string | null
  arguments: string | null
  executable: string | null
}

/** null: a record of another layout. */
export function decodeEvent(record: Buffer): RawEvent | null {
  if (record.length < eventSize) return null
  const code = (offset: number) => record.readUInt32LE(offset)
  const verdict = verdicts[code(eventOffset.verdict)]
  const reason = reasons[code(eventOffset.reason)]
  const backend = backends[code(eventOffset.backend)]
  const system = systems[code(eventOffset.kind)]
  if (!verdict || !reason || !backend || !system) return null
  return {
    time: record.readBigUInt64LE(eventOffset.time),
    cgroup: record.readBigUInt64LE(eventOffset.cgroup),
    inode: record.readBigUInt64LE(eventOffset.inode),
    device: code(eventOffset.device),
    pid: code(eventOffset.pid),
    thread: code(eventOffset.thread),
    uid: code(eventOffset.uid),
    verdict,
    reason,
    backend,
    system,
    message: system === 'nftables' ? messageName(code(eventOffset.message)) : 'REPLACE',
    family: familyName(code(eventOffset.family)),
    position: code(eventOffset.position),
    exemption: code(eventOffset.exemption),
    command: text(record, eventOffset.command, 16) ?? '',
    table: text(record, eventOffset.table, nameSize),
    chain: text(record, eventOffset.chain, nameSize),
    arguments: words(
      record.subarray(eventOffset.arguments, eventOffset.arguments + Math.min(256, code(eventOffset.argumentsLength)))
    ),
    executable: path(record)
  }
}

function text(record: Buffer, offset: number, size: number): string | null {
  const field = record.subarray(offset, offset + size)
  const end = field.indexOf(0)
  const content = field.toString('utf8', 0, end < 0 ? size : end)
  return content === '' ? null : content
}

function words(bytes: Buffer): string | null {
  const line = bytes.toString('utf8').replace(/\0+$/, '').replaceAll('\0', ' ')
  return line === '' ? null : line
}

/** The parts stand from the file up. */
function path(record: Buffer): string | null {
  const names: string[] = []
  for (let part = 0; part < parts; part++) {
    const name = text(record, eventOffset.path + part * partSize, partSize)
    if (name === null) break
    names.unshift(name)
  }
  return names.length === 0 ? null : `/${names.join('/')}`
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value >>> 0)
  return bytes
}

export function u64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(value)
  return bytes
}
