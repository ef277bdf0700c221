// The stream of made packets that both labs get: every header shape that a pod
// or the wire may send, right and wrong, small and large.

import * as addresses from '../lab/addresses.js'
import { onesSum, pseudoHeader } from '../packets/bytes.js'
import {
  arp,
  type Extension,
  echo,
  ethernet,
  fragmentHeader,
  fragments,
  icmp,
  icmpError,
  ipv4,
  ipv6,
  type Network,
  optionsHeader,
  type ParsedPacket,
  Protocol,
  parsePacket,
  raw,
  routingHeader,
  type Transport,
  tcp,
  udp
} from '../packets/packet.js'
import { MTU, SERVICES, type Sender, type Shot, SNATED, type Translation } from './labs.js'
import { pick, type Random } from './tables.js'

type Family = 4 | 6
type ParsedTransport = NonNullable<ParsedPacket['l4']>
type Place = 'pod1' | 'pod2' | 'remote' | 'outside' | 'snated' | 'service-local' | 'service-remote' | 'node' | 'nowhere'

const one = (random: Random, of: number): boolean => random(of) === 0

function address(place: Place, family: Family): string {
  const key = family === 4 ? 'v4' : 'v6'
  if (place === 'snated') return SNATED[family]
  if (place === 'service-local') return SERVICES[family].local
  if (place === 'service-remote') return SERVICES[family].remote
  if (place === 'outside') return addresses.OUTSIDE[key]
  if (place === 'node') return addresses.nodeAddress(1, 0)[key]
  if (place === 'nowhere') return family === 4 ? '192.0.2.200' : '2001:db8:dead::1'
  return addresses.podAddress(place === 'remote' ? 2 : 1, place === 'pod2' ? 2 : 1)[key]
}

const MACS: Record<Sender, { source: string; destination: string }> = {
  pod: { source: addresses.mac('pod', 1, 1), destination: addresses.mac('host', 1, 1) },
  uplink: { source: addresses.mac('router', 0, 0), destination: addresses.mac('uplink', 1, 0) }
}

/** The way of one packet. */
interface Way {
  from: Sender
  family: Family
  source: string
  destination: string
  /** L3 bytes that pass without being cut. */
  mtu: number
}

const MTUS: Partial<Record<Place, number>> = {
  ...MTU,
  'service-local': MTU.pod2,
  'service-remote': MTU.remote
}
const FORWARDED: Place[] = ['pod2', 'remote', 'outside']

function drawWay(random: Random, translation: Translation): Way {
  const family = pick(random, [4, 6] as const)
  if (translation !== 'none' || !one(random, 3)) {
    const to =
      translation === 'snat'
        ? 'snated'
        : translation === 'services'
          ? pick(random, ['service-local', 'service-remote'] as const)
          : one(random, 12)
            ? pick(random, ['node', 'nowhere', 'pod1'] as const)
            : pick(random, FORWARDED)
    const mtu = MTUS[to] ?? 1500
    return { from: 'pod', family, source: address('pod1', family), destination: address(to, family), mtu }
  }
  const to = pick(random, ['pod1', 'pod2'] as const)
  const from = pick(random, ['remote', 'outside'] as const)
  const mtu = to === 'pod2' ? MTU.pod2 : 1500
  return { from: 'uplink', family, source: address(from, family), destination: address(to, family), mtu }
}

/**
 * `count` draws, tagged with numbers from `first` on; one draw may be several
 * frames (fragments). With a translation all are to where it applies.
 */
export function makeStream(random: Random, first: number, count: number, translation: Translation): Shot[] {
  const shots: Shot[] = []
  for (let number = first; number < first + count; number++) {
    const way = drawWay(random, translation)
    const tag = Buffer.alloc(8)
    tag.write('#orc', 0)
    tag.writeUInt32BE(number, 4)
    shots.push(...draw(random, way, tag, translation !== 'none'))
  }
  return shots
}

/** `snat`: of either kind. Broken headers have no answer to the question what it should make of them. */
function draw(random: Random, way: Way, tag: Buffer, snat: boolean): Shot[] {
  switch (random(16)) {
    case 0:
      return inFragments(random, way, tag, snat)
    case 1:
      return [snat ? plain(random, way, tag) : linkLayer(random, way, tag)]
    case 2:
      return [snat ? plain(random, way, tag) : broken(random, way, tag)]
    case 3:
      return [segments(random, way, tag)]
    case 4:
      return [snat ? sized(random, way, tag) : errorAbout(random, way, tag)]
    case 5:
      return [sized(random, way, tag)]
    case 6:
    case 7:
      return [extended(random, way, tag, snat)]
    default:
      return [plain(random, way, tag)]
  }
}

function shot(way: Way, network: Network, text: string, offload?: Buffer): Shot {
  const { from, source, destination } = way
  return { from, frame: ethernet(MACS[from], network), offload, text: `${source} → ${destination} ${text}` }
}

/** What errors about packets that are too big say. */
export const TOLD_MTU = 1300
/** As pods draw them. Below, where hostroute takes its own, MASQUERADE would keep one that hostroute uses. */
const EPHEMERAL = 40_000
/** Least source port of packets that open a TCP connection; all others are below. */
const OPENING = 41_000

const payload = (random: Random, tag: Buffer, least = 0, most = 300) =>
  Buffer.concat([tag, Buffer.from(Array.from({ length: least + random(most) }, () => random(256)))])

function transport(random: Random, body: Buffer): { content: Transport; text: string } {
  const ports = { sourcePort: EPHEMERAL + random(40), destinationPort: pick(random, [53, 80, 443, 8080]) }
  const sum = one(random, 8) ? { checksum: random(65536) } : {}
  switch (random(8)) {
    case 0:
    case 1: {
      const flags = pick(random, ['S', 'SA', 'A', 'A', 'PA', 'FA', 'R', 'RA', 'FSRPAUEC', ''])
      const options = one(random, 2) ? Buffer.from([2, 4, 5, 180, 4, 2, 1, 3, 3, 7]) : undefined
      // each opens a flow of its own, so that conntrack does not take the answer for one that is too late
      if (flags === 'S') ports.sourcePort = OPENING + (body.readUInt32BE(4) % 19_000)
      const content = tcp({ ...ports, flags, options, sequence: random(1 << 30), window: random(65536), ...sum }, body)
      return { content, text: `tcp ${flags}` }
    }
    case 2:
    case 3:
      return { content: udp({ ...ports, ...sum }, body), text: 'udp' }
    case 4:
      return { content: udp({ ...ports, checksum: 0 }, body), text: 'udp without checksum' }
    case 5:
      return { content: echo({ id: random(20), reply: one(random, 4), ...sum }, body), text: 'echo' }
    case 6: {
      const length = pick(random, [0, 7, 9, 4000])
      return { content: udp({ ...ports, length }, body), text: `udp of length ${length}` }
    }
    default: {
      const protocol = pick(random, [Protocol.sctp, Protocol.gre, Protocol.esp, Protocol.ipip, Protocol.none, 255, 2])
      return { content: raw(protocol, body), text: `protocol ${protocol}` }
    }
  }
}

const TTLS = [0, 1, 1, 2, 3, 64, 64, 64, 64, 255]

function network(
  random: Random,
  way: Way,
  content: Transport,
  ttl = pick(random, TTLS),
  whole = false
): { network: Network; ttl: number } {
  const { source, destination } = way
  const tos = one(random, 3) ? random(256) : 0
  if (way.family === 4)
    return {
      ttl,
      network: ipv4({ source, destination, ttl, tos, id: random(65536), df: one(random, 2) || whole }, content)
    }
  const flowLabel = one(random, 2) ? random(1 << 20) : 0
  return { ttl, network: ipv6({ source, destination, hopLimit: ttl, trafficClass: tos, flowLabel }, content) }
}

function plain(random: Random, way: Way, tag: Buffer): Shot {
  const { content, text } = transport(random, payload(random, tag))
  const made = network(random, way, content)
  return shot(way, made.network, `${text}, TTL ${made.ttl}`)
}

/** Where SNAT is due, nothing too big may be cut: hostroute has the pod cut it (forwarding/undeliverable.test.ts). */
function mustStayWhole(way: Way, bytes: number): boolean {
  return way.destination === SNATED[4] && bytes > way.mtu
}

/** Around the MTU of the way, with and without DF. */
function sized(random: Random, way: Way, tag: Buffer): Shot {
  const header = (way.family === 4 ? 20 : 40) + 8
  const length = way.mtu - header - tag.length + pick(random, [-1, 0, 1, 2, 50])
  const most = 1500 - header - tag.length
  const body = Buffer.concat([tag, Buffer.alloc(Math.min(length, most), random(256))])
  const content = one(random, 3)
    ? echo({ id: random(20) }, body)
    : udp({ sourcePort: EPHEMERAL + random(40), destinationPort: 53 }, body)
  const bytes = body.length + header
  const made = network(random, way, content, 64, mustStayWhole(way, bytes))
  return shot(way, made.network, `${bytes} bytes, MTU ${way.mtu}`)
}

/** Options and extension headers. */
function extended(random: Random, way: Way, tag: Buffer, snat: boolean): Shot {
  const { content, text } = transport(random, payload(random, tag))
  const { source, destination } = way
  const ttl = pick(random, [1, 2, 64, 64])
  if (way.family === 4) {
    const kinds: [string, Buffer][] = [
      ['NOP', Buffer.from([1, 1, 1, 0])],
      ['record route', Buffer.from([7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0])],
      ['record route, full', Buffer.from([7, 7, 8, 1, 2, 3, 4, 0])],
      // with room left the kernel would write the time
      ['timestamp, full', Buffer.from([68, 8, 9, 0, 1, 2, 3, 4])],
      ['router alert', Buffer.from([148, 4, 0, 0])],
      ['loose source route', Buffer.from([131, 7, 4, 10, 0, 0, 1, 0])],
      ['strict source route', Buffer.from([137, 7, 4, 10, 0, 0, 1, 0])],
      ['unknown option', Buffer.from([222, 4, 0, 0])],
      ['option of wrong length', Buffer.from([7, 200, 4, 0])]
    ]
    const [name, options] = pick(random, kinds)
    return shot(
      way,
      ipv4({ source, destination, ttl, id: random(65536), options, df: one(random, 2) }, content),
      `${name}, ${text}`
    )
  }
  const kinds: [string, Extension[]][] = [
    ['hop-by-hop', [optionsHeader(Protocol.hopByHop)]],
    [
      'hop-by-hop, unknown option to be discarded',
      [optionsHeader(Protocol.hopByHop, Buffer.from([0x7e, 0, 1, 0, 1, 0]))]
    ],
    [
      'hop-by-hop, unknown option with an error',
      [optionsHeader(Protocol.hopByHop, Buffer.from([0x9e, 0, 1, 0, 1, 0]))]
    ],
    ['router alert', [optionsHeader(Protocol.hopByHop, Buffer.from([5, 2, 0, 0, 1, 0]))]],
    ['destination options', [optionsHeader(Protocol.destination)]],
    ['routing header 0', [routingHeader(0, [destination])]],
    ['routing header 4', [routingHeader(4)]],
    ['all of them', [optionsHeader(Protocol.hopByHop), routingHeader(4), optionsHeader(Protocol.destination)]],
    ['hop-by-hop in the wrong place', [optionsHeader(Protocol.destination), optionsHeader(Protocol.hopByHop)]]
  ]
  // conntrack takes the header of an atomic fragment away
  if (!snat) kinds.push(['atomic fragment', [fragmentHeader(random(1 << 30), 0, false)]])
  const [name, extensions] = pick(random, kinds)
  return shot(way, ipv6({ source, destination, hopLimit: ttl, extensions }, content), `${name}, ${text}`)
}

/**
 * First, middle and last fragments in any order, some of them twice or not at
 * all. With SNAT whole and in order: conntrack puts datagrams together and cuts
 * them again, hostroute translates fragment by fragment after the first, so
 * only there the two can be the same.
 */
function inFragments(random: Random, way: Way, tag: Buffer, snat: boolean): Shot[] {
  const body = Buffer.concat(Array.from({ length: 20 + random(120) }, () => tag))
  const whole = one(random, 2)
    ? udp({ sourcePort: EPHEMERAL + random(40), destinationPort: 53 }, body)
    : echo({ id: random(20) }, body)
  const { source, destination } = way
  const ttl = pick(random, [1, 64, 64, 64])
  const complete =
    way.family === 4
      ? ipv4({ source, destination, ttl, df: false }, whole)
      : ipv6({ source, destination, hopLimit: ttl }, whole)
  const size = 8 * (1 + random(60))
  const parts = fragments(complete, size, 1 + random(60_000))
  // without the fragment header it all fits into one: conntrack does not cut it again
  const fits = complete.bytes.length - (way.family === 4 ? 20 : 40) <= size + 8
  if (snat && fits) return [shot(way, complete, 'whole')]
  const [turned, twice, missing] = [one(random, 2), one(random, 3), one(random, 3)]
  if (turned && !snat) parts.reverse()
  if (twice && !snat) parts.push(pick(random, parts))
  if (missing && !snat) parts.splice(random(parts.length), 1)
  return parts.map((part, index) => shot(way, part, `fragment ${index} of ${parts.length}, TTL ${ttl}`))
}

function linkLayer(random: Random, way: Way, tag: Buffer): Shot {
  const { content } = transport(random, payload(random, tag, 40))
  const { network: inner } = network(random, way, content, 64)
  const macs = MACS[way.from]
  const { from, source, destination } = way
  const kinds: [string, () => Buffer][] = [
    ['VLAN 5', () => ethernet({ ...macs, vlans: [{ id: 5 }] }, inner)],
    ['priority tag', () => ethernet({ ...macs, vlans: [{ id: 0, priority: 3 }] }, inner)],
    ['QinQ', () => ethernet({ ...macs, vlans: [{ id: 7, type: 0x88a8 }, { id: 5 }] }, inner)],
    ['to broadcast', () => ethernet({ ...macs, destination: 'ff:ff:ff:ff:ff:ff' }, inner)],
    ['to a multicast MAC', () => ethernet({ ...macs, destination: '01:00:5e:00:00:05' }, inner)],
    ['to another MAC', () => ethernet({ ...macs, destination: '02:99:00:00:00:01' }, inner)],
    ['unknown ethertype', () => ethernet({ ...macs, etherType: 0x88b5 }, inner)],
    ['802.3 length', () => ethernet({ ...macs, etherType: 100 }, inner)],
    ['the other family’s ethertype', () => ethernet({ ...macs, etherType: way.family === 4 ? 0x86dd : 0x0800 }, inner)],
    ['padded', () => Buffer.concat([ethernet(macs, inner), Buffer.alloc(1 + random(30), 0xaa)])],
    [
      'ARP',
      () => ethernet(macs, arp({ operation: 1, senderMac: macs.source, sender: '10.244.9.9', target: '10.244.9.8' }))
    ]
  ]
  const [name, make] = pick(random, kinds)
  return { from, frame: make(), text: `${source} → ${destination} ${name}` }
}

/** One field contradicts the rest, or the frame ends too early. */
function broken(random: Random, way: Way, tag: Buffer): Shot {
  const { content } = transport(random, payload(random, tag, 20))
  const { source, destination } = way
  const base = { source, destination }
  if (one(random, 4)) {
    const { network: whole } = network(random, way, content, 64)
    const frame = ethernet(MACS[way.from], whole)
    const kept = 14 + random(frame.length - 14)
    return {
      from: way.from,
      frame: frame.subarray(0, kept),
      text: `${source} → ${destination} cut after ${kept} bytes`
    }
  }
  if (way.family === 4) {
    const fields = pick(random, [
      { checksum: random(65536) },
      { version: 5 },
      { version: 6 },
      { ihl: 4 },
      { ihl: 15 },
      { totalLength: 10 },
      { totalLength: 20 },
      { totalLength: 24 },
      { totalLength: 9000 },
      { destination: '127.0.0.1' },
      { destination: '0.0.0.0' },
      { destination: '224.0.0.9' },
      { destination: '255.255.255.255' },
      { destination: '240.0.0.1' }
    ])
    return shot(way, ipv4({ ...base, ...fields }, content), JSON.stringify(fields))
  }
  const fields = pick(random, [
    { version: 4 },
    { version: 7 },
    { payloadLength: 0 },
    { payloadLength: 4 },
    { payloadLength: 9000 },
    { destination: '::1' },
    { destination: '::' },
    { destination: 'ff02::9' },
    { destination: 'fe80::99' },
    { destination: '::ffff:10.244.1.3' }
  ])
  return shot(way, ipv6({ ...base, ...fields }, content), JSON.stringify(fields))
}

/** An ICMP error about a packet that the other side has sent. */
function errorAbout(random: Random, way: Way, tag: Buffer): Shot {
  const { family, source, destination } = way
  const back = { ...way, source: destination, destination: source }
  const { content: about } = transport(random, payload(random, tag))
  const { network: original } = network(random, back, about, 60)
  const quote = pick(random, [28, 48, 100, 548, 4])
  const [type, code] =
    family === 4
      ? pick(random, [
          [3, 1],
          [3, 3],
          [3, 4],
          [11, 0],
          [12, 0],
          [5, 1],
          [4, 0]
        ] as const)
      : pick(random, [
          [1, 0],
          [1, 4],
          [2, 0],
          [3, 0],
          [4, 1]
        ] as const)
  const sum = one(random, 8) ? { checksum: random(65536) } : {}
  const content = one(random, 12)
    ? icmp(() => type, code, Buffer.alloc(random(8)))
    : icmpError({ type, code, rest: TOLD_MTU, quote, ...sum }, original)
  const made = network(random, way, content)
  return shot(way, made.network, `ICMP error ${type}/${code} with ${quote} bytes, TTL ${made.ttl}`)
}

/** A packet that the device is to cut: TSO and UDP segmentation, as a pod's kernel hands them over. */
function segments(random: Random, way: Way, tag: Buffer): Shot {
  const tcpSegments = one(random, 2)
  const l3 = way.family === 4 ? 20 : 40
  const l4 = tcpSegments ? 20 : 8
  const size = pick(random, [500, way.mtu - l3 - l4, way.mtu - l3 - l4 + 1, 1200])
  const count = 2 + random(Math.floor(8800 / size) - 1)
  const body = Buffer.alloc(size * count - random(size - tag.length), random(256))
  for (let at = 0; at < body.length; at += size) tag.copy(body, at)
  const ports = { sourcePort: EPHEMERAL + random(40), destinationPort: 443 }
  const content = tcpSegments
    ? tcp({ ...ports, flags: pick(random, ['A', 'PA']), sequence: random(1 << 30) }, body)
    : udp(ports, body)
  const ttl = pick(random, [1, 64, 64, 64])
  const { network: made } = network(random, way, content, ttl, mustStayWhole(way, l3 + l4 + size))
  const frame = ethernet(MACS[way.from], made)
  const at = 14 + l3 + (tcpSegments ? 16 : 6)
  const addressesAt = way.family === 4 ? 26 : 22
  const half = way.family === 4 ? 4 : 16
  const pseudo = pseudoHeader(
    frame.subarray(addressesAt, addressesAt + half),
    frame.subarray(addressesAt + half, addressesAt + 2 * half),
    tcpSegments ? 6 : 17,
    frame.length - 14 - l3
  )
  frame.writeUInt16BE(onesSum(pseudo), at)
  const offload = Buffer.alloc(10)
  offload.writeUInt8(1, 0) // VIRTIO_NET_HDR_F_NEEDS_CSUM
  offload.writeUInt8(tcpSegments ? (way.family === 4 ? 1 : 4) : 5, 1) // TCPV4, TCPV6, UDP_L4
  offload.writeUInt16LE(14 + l3 + l4, 2)
  offload.writeUInt16LE(size, 4)
  offload.writeUInt16LE(14 + l3, 6)
  offload.writeUInt16LE(tcpSegments ? 16 : 6, 8)
  const { from, source, destination } = way
  const text = `${source} → ${destination} ${tcpSegments ? 'tcp' : 'udp'}, ${count} segments of ${size}, MTU ${way.mtu}`
  return { from, frame, offload, text }
}

/**
 * The remote's answers to SNATed packets as they left the node, by the packet's
 * flow as the pod knows it and its tag. The ports in them are the node's own.
 */
export function answersTo(left: readonly Buffer[], shots: readonly Shot[]): Map<string, Map<string, Shot[]>> {
  // of a packet that the device is to cut, the checksum is not there yet: it cannot be quoted
  const whole = shots.filter(({ offload }) => offload === undefined)
  const sent = new Map(whole.map(({ frame }) => [tagOf(frame), parsePacket(frame)]))
  const answers = new Map<string, Map<string, Shot[]>>()
  for (const frame of left) {
    const tag = tagOf(frame)
    const { ip, l4, payload: data } = parsePacket(frame)
    const before = tag === null ? undefined : sent.get(tag)?.l4
    if (!ip || !l4 || !before || ip.fragment || (ip.family === 4 ? /^10\./ : /^fd00:244:/).test(ip.source)) continue
    const flow = `${ip.family} ${l4.protocol} ${before.sourcePort ?? before.id} ${l4.destinationPort ?? ''}`
    const way: Way = { from: 'uplink', family: ip.family, source: ip.destination, destination: ip.source, mtu: 1500 }
    const list = answerTo(way, frame, l4, Buffer.from(`#orc${data.subarray(4, 40).toString('hex')}`))
    const known = answers.get(flow) ?? new Map<string, Shot[]>()
    if (list.length > 0) answers.set(flow, known.set(tag!, list))
  }
  return answers
}

/** The tag that the frame carries or quotes. */
export function tagOf(frame: Buffer): string | null {
  const at = frame.indexOf('#orc')
  return at < 0 ? null : frame.subarray(at, at + 8).toString('hex')
}

function answerTo(way: Way, left: Buffer, l4: ParsedTransport, body: Buffer): Shot[] {
  const { family, source, destination } = way
  const ip = (content: Transport, ttl = 60) =>
    family === 4
      ? ipv4({ source, destination, ttl, id: 7 }, content)
      : ipv6({ source, destination, hopLimit: ttl }, content)
  const ports = { sourcePort: l4.destinationPort ?? 0, destinationPort: l4.sourcePort ?? 0 }
  const contents: [string, Transport][] = []
  if (l4.protocol === 'tcp' && l4.flags === 'S') {
    contents.push(['SYN-ACK', tcp({ ...ports, flags: 'SA', acknowledgement: (l4.sequence ?? 0) + 1 })])
  } else if (l4.protocol === 'udp') {
    contents.push(['udp', udp(ports, body)], ['udp without checksum', udp({ ...ports, checksum: 0 }, body)])
  } else if (l4.type === (family === 4 ? 8 : 128))
    contents.push(['echo reply', echo({ id: l4.id ?? 0, reply: true }, body)])
  if (contents.length === 0) return []
  const shots = contents.flatMap(([text, content]) => [
    shot(way, ip(content), `answer: ${text}`),
    shot(way, ip(content, 2), `answer: ${text}, TTL 2`)
  ])
  const types =
    family === 4
      ? ([
          [3, 1],
          [3, 4],
          [11, 0]
        ] as const)
      : ([
          [1, 0],
          [2, 0],
          [3, 0]
        ] as const)
  for (const [type, code] of types)
    for (const quote of family === 4 ? [28, 548] : [48, 1200])
      shots.push(
        shot(
          way,
          ip(icmpError({ type, code, rest: TOLD_MTU, quote }, left.subarray(14))),
          `answer: error ${type}/${code}, ${quote} bytes`
        )
      )
  return shots
}
