// A node made for packet tables: devices in this test's own namespace, maps
// filled by hand, packets through the real programs by BPF_PROG_TEST_RUN.
//
//            up0  gateway 192.0.2.1 / 2001:db8::1 (MAC known)
//   pods a,b,c ─ node ┤
//            up1  gateway 203.0.113.1 / 2001:db8:1::1 (second leg of group 0)
//
// Every run asks for a trace first (traced.ts) and checks by itself: exactly one counter moved, by one packet and the
// packet's bytes, on the device's row; a packet for the stack or dropped is as
// it was; a forwarded one has TTL one less and checksums as good as before.

import assert from 'node:assert/strict'
import { DeletionRun } from '../../src/answers/deletion.js'
import { type Clock, readClock } from '../../src/datapath/clock.js'
import { Expiry, type ExpiryResult } from '../../src/datapath/expiry.js'
import { flowBatches } from '../../src/datapath/flow-walk.js'
import type { Deletion, DeletionResult } from '../../src/maps/deletion.js'
import { createGenerations } from '../../src/maps/generations.js'
import { type BpfMap, type BpfObject, native } from '../../src/native.js'
import { addressBytes, checksum } from '../packets/bytes.js'
import { ethernet, type Network, type ParsedPacket, parsePacket } from '../packets/packet.js'
import { key as prefixKey } from '../plan/node.js'
import * as layout from './layout.js'
import { REASON_MAX, type RouteTo, reasons } from './layout.js'
import { makeVeth } from './namespace.js'
import {
  type DeviceName,
  devices,
  isPod,
  macBehind,
  onLink,
  type PodName,
  secondary,
  type UplinkName
} from './topology.js'
import { assertTold, skbContext, type Trace, traceFrame } from './traced.js'

const POD_SLOTS = 16384
const mostPrograms = [
  'from_pod',
  'from_uplink',
  'to_pod',
  'uplink_filter',
  'expire',
  'delete_flows',
  'arm_lease',
  'charge_flows',
  'count_down_openings'
]

export * from './topology.js'

export interface Result {
  verdict: 'stack' | 'drop' | 'forward'
  reason: string
  /** Dropped, and turned into the ICMP error that its sender gets. */
  told: boolean
  frame: Buffer
  packet: ParsedPacket
  /** What the programs said about it before it was sent. */
  trace: Trace
}

export interface NodeOptions {
  /** Ports SNAT may take; 2,000 of them unless given. */
  ports?: number[]
  /** Control.* bits; on and SNAT unless given. */
  flags?: number
  sizes?: Record<string, number>
  timeouts?: number[]
  /** Instead of the embedded object. */
  objectFile?: string
  /** With from_detour, too. */
  detour?: boolean
}

interface RunOptions {
  gsoSize?: number
  /** skb->mark, as another program may have set it; such a packet is not traced: traces have a mark of their own. */
  mark?: number
  /** Destination MAC, unless the device's own. */
  mac?: string
  vlans?: { id: number }[]
}

const indexes: Partial<Record<DeviceName, number>> = {}

/** ifindexes of the devices, made at the first call. */
function ifindexOf(name: DeviceName): number {
  indexes[name] ??= makeVeth(isPod(name) ? `pod-${name}` : name, devices[name].mac)
  return indexes[name]
}

export type TestNode = ReturnType<typeof testNode>

export function testNode(options: NodeOptions = {}) {
  const names = Object.keys(devices) as DeviceName[]
  const ports = options.ports ?? Array.from({ length: 2000 }, (_, index) => 20000 + index)
  const object = native().loadObject({
    ...(options.objectFile === undefined ? {} : { objectFile: options.objectFile }),
    ...(options.detour || options.objectFile ? {} : { programs: mostPrograms }),
    sizes: {
      counters: 8 * REASON_MAX,
      routes4: 1024,
      routes6: 1024,
      flows4: 4096,
      flows6: 4096,
      reverse4: 4096,
      reverse6: 4096,
      ...options.sizes
    }
  })
  const maps = new Map<string, BpfMap>()
  const map = (name: string) => {
    const known = maps.get(name) ?? object.map(name)
    maps.set(name, known)
    return known
  }
  const control: layout.ControlValues = {
    flags: options.flags ?? layout.Control.on | layout.Control.snat,
    lease: 0x7fffffffffffffffn,
    translating: false,
    routeGeneration: 1,
    epoch: 1,
    portCount: ports.length,
    eventRate: 1000,
    timeouts: options.timeouts ?? [100000, 100000, 100000, 100000, 100000, 100000]
  }

  /** Changes some of the control values. */
  function setControl(change: Partial<layout.ControlValues>): void {
    Object.assign(control, change)
    object.writeControl(0, layout.encodeControl(control))
  }

  /** As the daemon does after it has changed routes of these prefixes; until the next setControl(). */
  function raiseFor(...prefixes: string[]): void {
    const generations = createGenerations(object)
    generations.load()
    for (const prefix of prefixes) generations.note(prefixKey(prefix))
    generations.raise()
  }

  function setDevice(name: DeviceName, change: Partial<layout.DeviceRow> = {}): void {
    const ifindex = ifindexOf(name)
    const row = names.indexOf(name)
    const value = layout.encodeDevice({
      ifindex,
      row,
      kind: isPod(name) ? 'pod' : 'uplink',
      podId: isPod(name) ? row + 100 : 0,
      mac: devices[name].mac,
      ...(isPod(name) ? { address4: devices[name].v4, address6: devices[name].v6 } : {}),
      ...change
    })
    map('devices').update(index(ifindex % 16384), value)
  }

  /** Puts an address of a pod into both tables; `shared`: only a foreign address in its slot. */
  function setPod(name: PodName, address: string, change: Partial<layout.PodRow> = {}, shared = false): void {
    const pod = {
      ifindex: ifindexOf(name),
      id: names.indexOf(name) + 100,
      flags: name === 'c' ? 0 : 1,
      mac: devices[name].podMac,
      hostMac: devices[name].mac,
      ...change
    }
    map('pods').update(layout.mapped(address), layout.encodePod(pod))
    const other = address.includes(':') ? 'fd00:ffff::1' : '10.99.0.1'
    map('pod_slots').update(podSlot(address), layout.encodePodSlot(shared ? other : address, pod, shared))
  }

  /** The pod may send from the prefix, too; `stays`: whatever the masquerade policy says. */
  function setPodSource(name: PodName, prefix: string, stays = false): void {
    map('pod_sources').update(layout.encodePodSource(ifindexOf(name), prefix), index(stays ? 2 : 1))
  }

  function setNexthop(at: number, uplink: UplinkName, change: Partial<layout.NexthopRow> = {}): void {
    const { mac, podMac, v4, v6 } = devices[uplink]
    const value = { ifindex: ifindexOf(uplink), mac: podMac, sourceMac: mac, snat4: v4, snat6: v6, ...change }
    map('nexthops').update(index(at), layout.encodeNexthop(value))
  }

  function setRoute(prefix: string, route: RouteTo | null): void {
    const routes = map(prefix.includes(':') ? 'routes6' : 'routes4')
    if (route) routes.update(layout.encodePrefix(prefix), layout.encodeRoute(route))
    else routes.delete(layout.encodePrefix(prefix))
  }

  function setClassRoute(routeClass: number, prefix: string, route: RouteTo): void {
    const routes = map(prefix.includes(':') ? 'class_routes6' : 'class_routes4')
    routes.update(layout.encodeClassPrefix(routeClass, prefix), layout.encodeRoute(route))
  }

  function setMasquerade(epoch: number, policy: Record<string, boolean>): void {
    for (const [prefix, masquerade] of Object.entries(policy)) {
      map('masquerade').update(layout.encodeMasquerade(epoch, prefix), index(masquerade ? 1 : 0))
    }
  }

  function setNeighbour(uplink: UplinkName, address: string, mac: string, known = true): void {
    const { key, value } = layout.encodeNeighbour(ifindexOf(uplink), address, mac, known)
    map('neighbours').update(key, value)
  }

  /** As to_pod would remember it, seen now. */
  function setOwner(pod: PodName, tuple: layout.Tuple, reason: string | null): void {
    const value = layout.encodeOwner(Number(expire(0).jiffies & 0xffffffffn), names.indexOf(pod) + 100, reason)
    map(tuple.local.includes(':') ? 'owners6' : 'owners4').update(layout.encodeTuple(tuple), value)
    if (!tuple.local.includes(':')) map('stack_pairs').update(index(layout.stackPairRow(tuple)), Buffer.from([1]))
  }

  /** Rows of stack_pairs that are set. */
  function clearStackPairs(): void {
    const { keys, values, count } = map('stack_pairs').dump()
    map('stack_pairs').updateBatch(keys, values.fill(0), count)
  }

  function stackPairs(): number[] {
    const { values, count } = map('stack_pairs').dump()
    return Array.from({ length: count }, (_, row) => row).filter((row) => values[row] !== 0)
  }

  /** Local pods reach the pod through the stack, too. */
  function share(pod: PodName, shared: boolean): void {
    object.writeControl(layout.CONTROL.shared + 4 * (ifindexOf(pod) % 16384), Buffer.from([shared ? 1 : 0, 0]))
  }

  function fill(): void {
    for (const name of names) setDevice(name)
    for (const name of ['a', 'b', 'c'] as const) {
      setPod(name, devices[name].v4)
      setPod(name, devices[name].v6, {}, name === 'b')
    }
    setPod('a', secondary[4], {}, true)
    setPod('a', secondary[6])
    ports.forEach((port, at) => {
      writePort(at, 0, port)
      writePort(port, 2, 1)
    })
    setMasquerade(1, { '0.0.0.0/0': true, '10.0.0.0/8': false, '::/0': true, 'fd00::/8': false })
    setControl({})
  }

  function writePort(row: number, offset: number, value: number): void {
    const bytes = map('snat_ports').lookup(index(row)) ?? Buffer.alloc(4)
    bytes.writeUInt16LE(value, offset)
    map('snat_ports').update(index(row), bytes)
  }

  function fillRoutes(): void {
    // One row for both families: a gateway of each would be two rows in life.
    setNexthop(0, 'up0', { gateway: '192.0.2.1' })
    setNexthop(1, 'up0')
    setNexthop(2, 'up0', { gateway: '192.0.2.2', known: false })
    setNexthop(3, 'up1', { gateway: '203.0.113.1' })
    setNexthop(4, 'up0', { gateway: '192.0.2.1', mtu: 1280 })
    setNexthop(5, 'up0', { gateway: '192.0.2.1', snat4: undefined, snat6: undefined })
    map('groups').update(index(0), layout.encodeGroup([0, 3]))
    const table: [four: string, six: string, RouteTo][] = [
      ['0.0.0.0/0', '::/0', { nexthop: 0 }],
      ['192.0.2.0/24', '2001:db8::/64', { nexthop: 1 }],
      ['10.2.0.0/16', 'fd00:2::/64', { nexthop: 2 }],
      ['198.18.0.0/16', '2001:db8:18::/64', { group: 0 }],
      ['198.51.100.0/24', '2001:db8:51::/64', { stack: 'route' }],
      ['198.51.100.7/32', '2001:db8:51::7/128', { nexthop: 0 }],
      ['192.0.2.10/32', '2001:db8::10/128', { stack: 'local' }],
      ['198.19.0.0/16', '2001:db8:19::/64', { nexthop: 4 }],
      ['198.20.0.0/16', '2001:db8:20::/64', { nexthop: 5 }]
    ]
    for (const [four, six, route] of table) {
      setRoute(four, route)
      setRoute(six, route)
    }
    for (const address of [onLink[4], onLink[6]]) setNeighbour('up0', address, onLink.mac)
  }

  /** Sends `network` from the far side of `device` through its program. */
  function send(device: DeviceName, network: Network, run: RunOptions = {}): Result {
    const macs = { source: macBehind(device), destination: run.mac ?? devices[device].mac, vlans: run.vlans }
    return sendFrame(device, ethernet(macs, network), run)
  }

  function sendFrame(device: DeviceName, frame: Buffer, run: RunOptions = {}): Result {
    const program = isPod(device) ? 'from_pod' : 'from_uplink'
    const ifindex = ifindexOf(device)
    const before = counters(device)
    const trace = traceFrame(object, map, program, frame, ifindex, run.gsoSize)
    const context = run.gsoSize || run.mark ? skbContext(ifindex, run.gsoSize ?? 0, run.mark) : undefined
    const { retval, data } = object.testRun(program, context ? { data: frame, context } : { data: frame, ifindex })
    const counted = countedSince(before, counters(device))
    const reason = reasons[counted.reason]!
    assert.equal(counted.packets, 1, 'counted once')
    const verdict = verdictOf(counted.reason)
    const told = retval === 7 && ['drop-ttl', 'drop-mtu'].includes(reason)
    if (!told) {
      assert.equal(counted.bytes, frame.length, 'counted with all its bytes')
      assert.equal(retval, { stack: -1, drop: 2, forward: 7 }[verdict], `action for ${reason}`)
    }
    const packet = parsePacket(data)
    if (verdict === 'forward') checkForwarded(parsePacket(frame), packet)
    else if (!told && reason !== 'rewritten' && !onlyDfSet(reason, frame, data)) {
      assert.equal(data.toString('hex'), frame.toString('hex'), `unchanged when ${reason}`)
    }
    if (!run.mark) assertTold(trace, reason, parsePacket(frame), packet)
    return { verdict, reason, frame: data, packet, trace, told }
  }

  /** Through the XDP program: 'pass' or the drop's reason. The device needs the program attached. */
  function filter(device: UplinkName, frame: Buffer): string {
    const before = counters(device)
    const { retval, data } = object.testRun('uplink_filter', {
      data: frame,
      context: xdpContext(ifindexOf(device), frame.length)
    })
    assert.equal(data.toString('hex'), frame.toString('hex'), 'the filter changes nothing')
    const counted = countedSince(before, counters(device), 0)
    if (retval === 2) {
      assert.equal(counted.packets, 0, 'a passed packet is counted by the next program')
      return 'pass'
    }
    assert.equal(retval, 1)
    assert.equal(counted.packets, 1)
    assert.equal(counted.bytes, frame.length)
    return reasons[counted.reason]!
  }

  function counters(device: DeviceName): { packets: number; bytes: number }[] {
    const first = names.indexOf(device) * REASON_MAX
    return Array.from({ length: REASON_MAX }, (_, reason) => {
      const cpus = map('counters').lookup(index(first + reason))!
      const sum = { packets: 0, bytes: 0 }
      for (let at = 0; at < cpus.length; at += 16) {
        sum.packets += Number(cpus.readBigUInt64LE(at))
        sum.bytes += Number(cpus.readBigUInt64LE(at + 8))
      }
      return sum
    })
  }

  function flows(family: 4 | 6): layout.FlowView[] {
    return entries(map(`flows${family}`), layout.decodeFlow)
  }

  function reverses(family: 4 | 6): layout.ReverseView[] {
    return entries(map(`reverse${family}`), layout.decodeReverse)
  }

  function owners(family: 4 | 6): layout.OwnerView[] {
    return entries(map(`owners${family}`), layout.decodeOwner)
  }

  /** What the stack delivers to the pod: through to_pod, which never touches it. */
  function deliver(device: PodName, network: Network): void {
    const macs = { source: devices[device].mac, destination: devices[device].podMac }
    const frame = ethernet(macs, network)
    const { retval, data } = object.testRun('to_pod', { data: frame, ifindex: ifindexOf(device) })
    assert.equal(retval, -1)
    assert.equal(data.toString('hex'), frame.toString('hex'))
  }

  /** control.translating, and whether local pods reach the pod through the stack, as the programs left them. */
  function translating(device?: PodName): { translating: boolean; shared: boolean } {
    const control = object.readControl()
    return {
      translating: control.readUInt32LE(16) !== 0,
      shared:
        device !== undefined && control.readUInt16LE(layout.CONTROL.shared + 4 * (ifindexOf(device) % 16384)) !== 0
    }
  }

  /** One round of the expiry program. family 0 only reads the clock. */
  function expire(family: 0 | 4 | 6, pressure = false): Clock & ExpiryResult {
    const expiry = new Expiry(object, family || 4, pressure)
    if (family) for (const count of flowBatches(object, family)) expiry.run(count)
    return { ...readClock(object), ...expiry.result }
  }

  /** Deletes flows, those of this very moment included. */
  function deleteFlows(family: 4 | 6, deletion: Partial<Deletion> = {}): DeletionResult {
    const started = Number(readClock(object).jiffies & 0xffffffffn)
    const deleting = new DeletionRun(object, family, { started, dryRun: false, ...deletion })
    for (const count of flowBatches(object, family)) deleting.run(count)
    return deleting.result
  }

  fill()
  fillRoutes()
  const setters = {
    setOwner,
    share,
    stackPairs,
    clearStackPairs,
    setControl,
    raiseFor,
    setDevice,
    setPod,
    setPodSource,
    setNexthop,
    setRoute,
    setClassRoute,
    setMasquerade,
    setNeighbour
  }
  /** byHand: the test has written or deleted entries, of which the accounts know nothing. */
  const close = ({ byHand = false } = {}) => {
    if (!byHand) checkAccounts(map)
    object.close()
  }
  return {
    object,
    map,
    ifindexOf,
    ...setters,
    send,
    sendFrame,
    deliver,
    translating,
    filter,
    counters,
    flows,
    reverses,
    owners,
    expire,
    deleteFlows,
    close
  }
}

/** What every test leaves behind: each pod's account says how many entries it has. */
function checkAccounts(map: (name: string) => BpfMap): void {
  for (const [family, at] of [
    [4, 0],
    [6, 4]
  ] as const) {
    const counted = new Map<number, number>()
    for (const { podId } of entries(map(`flows${family}`), layout.decodeFlow))
      counted.set(podId, (counted.get(podId) ?? 0) + 1)
    const { values, count } = map('accounts').dump()
    const accounts = Array.from({ length: count }, (_, row) => [row, values.readUInt32LE(row * 8 + at)] as const)
    assert.deepEqual(new Map(accounts.filter(([, flows]) => flows !== 0)), counted, `IPv${family} accounts`)
    const all = [...counted.values()].reduce((sum, flows) => sum + flows, 0)
    assert.equal(map('usage').lookup(index(0))?.readUInt32LE(at), all, `IPv${family} flows of all pods`)
  }
}

function verdictOf(reason: number): Result['verdict'] {
  if (reason >= reasons.indexOf('drop-spoof')) return 'drop'
  return reason >= reasons.indexOf('off') ? 'stack' : 'forward'
}

function countedSince(before: { packets: number; bytes: number }[], after: typeof before, least = 1) {
  const counted = { reason: -1, packets: 0, bytes: 0 }
  after.forEach((counter, reason) => {
    if (counter.packets === before[reason]!.packets) return
    counted.reason = reason
    counted.packets += counter.packets - before[reason]!.packets
    counted.bytes += counter.bytes - before[reason]!.bytes
  })
  assert.ok(counted.packets >= least, 'counted at all')
  return counted
}

/** IPv4 too big to leave, SNAT due: DF is set so that the kernel tells the pod. */
function onlyDfSet(reason: string, before: Buffer, after: Buffer): boolean {
  const withDf = Buffer.from(before)
  if (reason !== 'mtu' || before.readUInt16BE(12) !== 0x0800) return false
  withDf.writeUInt16BE(before.readUInt16BE(20) | 0x4000, 20)
  withDf.writeUInt16BE(0, 24)
  withDf.writeUInt16BE(checksum(withDf.subarray(14, 34)), 24)
  return withDf.equals(after)
}

function checkForwarded(before: ParsedPacket, after: ParsedPacket): void {
  assert.ok(before.ip && after.ip, 'only IP is forwarded')
  assert.equal(after.ip.ttl, before.ip.ttl - 1, 'TTL one less')
  assert.equal(after.ip.length, before.ip.length, 'length kept')
  assert.equal(after.ip.headerChecksumOk, before.ip.headerChecksumOk, 'IP header checksum')
  assert.equal(after.l4?.checksumOk, before.l4?.checksumOk, 'transport checksum')
  if (before.embedded && after.embedded) {
    assert.equal(after.embedded.ip.headerChecksumOk, before.embedded.ip.headerChecksumOk, 'embedded IP header checksum')
    assert.equal(after.embedded.l4?.checksumOk, before.embedded.l4?.checksumOk, 'embedded transport checksum')
  } else {
    assert.equal(after.payload.toString('hex'), before.payload.toString('hex'), 'payload kept')
  }
}

function entries<T>(map: BpfMap, decode: (key: Buffer, value: Buffer) => T): T[] {
  const { keys, values, count } = map.dump()
  const { keySize, valueSize } = map.info
  const part = (bytes: Buffer, size: number, at: number) => bytes.subarray(at * size, (at + 1) * size)
  return Array.from({ length: count }, (_, at) => decode(part(keys, keySize, at), part(values, valueSize, at)))
}

function index(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}

/** pod_slot_index() of bpf/pods.h. */
function podSlot(address: string): Buffer {
  const bytes = addressBytes(address)
  if (bytes.length === 4) return index(bytes.readUInt32BE(0) % POD_SLOTS)
  const folded = [0, 4, 8, 12].reduce((sum, at) => sum ^ bytes.readUInt32BE(at), 0)
  return index(Math.imul(folded, 0x9e3779b1) >>> 18)
}

/** struct xdp_md: data_end at 4, ingress_ifindex at 12. */
function xdpContext(ifindex: number, length: number): Buffer {
  const context = Buffer.alloc(24)
  context.writeUInt32LE(length, 4)
  context.writeUInt32LE(ifindex, 12)
  return context
}

export type { BpfObject }
