// Random and damaged frames through all programs. send() of node.ts checks each
// run: counted once, unchanged unless forwarded, checksums and TTL of what is
// forwarded. Set HOSTROUTE_SEED and HOSTROUTE_FRAMES to repeat or to run longer.
import './namespace.js'
import t from 'tap'
import {
  arp,
  echo,
  ethernet,
  fragmentHeader,
  fragments,
  icmpError,
  ip,
  ipv4,
  ipv6,
  type Network,
  neighbourDiscovery,
  optionsHeader,
  Protocol,
  raw,
  type Transport,
  tcp,
  udp
} from '../packets/packet.js'
import { reasons } from './layout.js'
import { type DeviceName, devices, isPod, testNode, to } from './node.js'

const seed = Number(process.env.HOSTROUTE_SEED ?? Date.now() % 1_000_000_000)
const frames = Number(process.env.HOSTROUTE_FRAMES ?? 20_000)
const random = generator(seed)
t.setTimeout(30_000 + frames * 5)
t.comment(`seed ${seed}, ${frames} frames`)

/** mulberry32 */
function generator(start: number): (below: number) => number {
  let state = start >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296) * below)
  }
}

const pick = <T>(list: readonly T[]): T => list[random(list.length)]!
const bytes = (length: number) => Buffer.from(Array.from({ length }, () => random(256)))
const port = () => pick([1, 53, 80, 443, 20000 + random(50), 40000 + random(4)])

function addresses(family: 4 | 6, device: DeviceName): { source: string; destination: string } {
  const known = Object.values(devices).map((each) => each[`v${family}`] as string)
  const remotes = Object.values(to).map((each) => each[family] as string)
  const odd =
    family === 4 ? ['127.0.0.1', '0.0.0.0', '255.255.255.255', '224.0.0.1'] : ['::', '::1', 'ff02::1', 'fe80::1']
  const any = () => pick([...known, ...remotes, ...odd])
  if (random(10) === 0) return { source: any(), destination: any() }
  if (isPod(device)) return { source: devices[device][`v${family}`], destination: pick([...remotes, ...known]) }
  return { source: pick(remotes), destination: pick(known) }
}

function transport(family: 4 | 6, depth: number): Transport {
  const body = bytes(pick([0, 1, 7, 30, 200]))
  const ports = { sourcePort: port(), destinationPort: port() }
  switch (random(7)) {
    case 0:
    case 1:
      return tcp({ ...ports, flags: pick(['S', 'SA', 'A', 'PA', 'FA', 'R', 'RA', '', 'FSRPAU']) }, body)
    case 2:
    case 3:
      return udp({ ...ports, ...(random(4) ? {} : { checksum: 0 }) }, body)
    case 4:
      return echo({ id: port(), reply: random(2) === 0 }, body)
    case 5: {
      if (depth > 1) return raw(pick([Protocol.gre, Protocol.esp, Protocol.sctp]), body)
      const inner = addresses(family, pick(['a', 'up0'] as const))
      const turned = { source: inner.destination, destination: inner.source }
      const type = pick(family === 4 ? [3, 11, 12, 5] : [1, 2, 3, 4])
      const quote = pick([undefined, 28, 48, random(60)])
      return icmpError({ type, code: random(3), quote }, ip(turned, transport(family, depth + 1)))
    }
    default:
      return raw(random(256), body)
  }
}

function network(device: DeviceName): Network {
  const family = pick([4, 6] as const)
  const between = addresses(family, device)
  const content = transport(family, 0)
  const ttl = pick([64, 64, 64, 1, 0, 2, 255])
  switch (random(12)) {
    case 0:
      return arp({ operation: 1, senderMac: devices.a.podMac, sender: '10.1.0.2', target: '10.1.0.1' })
    case 1:
      return family === 4
        ? ipv4({ ...between, options: bytes(random(41)) }, content)
        : ipv6(
            {
              ...between,
              extensions: [optionsHeader(pick([0, 60])), fragmentHeader(1, random(3) * 8, random(2) === 0)]
            },
            content
          )
    case 2:
      return pick(fragments(ip(between, content), 8)) ?? ip(between, content)
    case 3:
      return ip(
        { source: devices.a.v6, destination: devices.b.v6, ttl: 255 },
        neighbourDiscovery(135, devices.b.v6, devices.a.podMac)
      )
    default:
      return ip({ ...between, ttl }, content)
  }
}

/** BPF_PROG_TEST_RUN refuses IP frames without a whole IP header. */
const SHORTEST = 54

/** Flips bytes, cuts, or appends. */
function damage(frame: Buffer): Buffer {
  const copy = Buffer.from(frame)
  switch (random(4)) {
    case 0:
      return copy.subarray(0, Math.max(SHORTEST, random(copy.length)))
    case 1:
      return Buffer.concat([copy, bytes(random(40))])
    default:
      for (let count = 1 + random(4); count > 0; count--) copy.writeUInt8(random(256), 12 + random(copy.length - 12))
      return copy
  }
}

t.test(
  `[P6] ${frames} random frames: counted once, unchanged or rightly forwarded, dropped only for a named reason`,
  async (t) => {
    const node = testNode()
    const seen = new Map<string, number>()
    const drops = ['drop-spoof', 'drop-ports', 'drop-flows', 'drop-fragment', 'drop-ttl', 'drop-mtu', 'drop-options']
    let failures = 0
    for (let round = 0; round < frames && failures < 5; round++) {
      const device = pick(['a', 'a', 'b', 'up0', 'up0', 'up1'] as const)
      const macs = { source: devices[device].podMac, destination: devices[device].mac }
      const whole =
        random(40) === 0
          ? Buffer.concat([ethernet(macs, Buffer.alloc(0)), bytes(SHORTEST + random(120))])
          : ethernet(macs, network(device))
      const frame = random(3) === 0 ? damage(whole) : whole
      try {
        const result = node.sendFrame(device, frame)
        seen.set(result.reason, (seen.get(result.reason) ?? 0) + 1)
        if (result.verdict === 'drop' && !drops.includes(result.reason)) throw new Error(`dropped: ${result.reason}`)
      } catch (error) {
        failures++
        t.fail(`round ${round} on ${device}: ${(error as Error).message}`, { frame: frame.toString('hex') })
      }
      if (round % 5000 === 4999) for (const family of [4, 6] as const) node.expire(family)
    }
    t.comment([...seen].map(([reason, count]) => `${reason} ${count}`).join(', '))
    for (const reason of ['to-pod', 'to-uplink', 'to-neighbour', 'malformed', 'options', 'drop-spoof', 'node']) {
      t.ok(seen.has(reason), `the frames reach ${reason}`)
    }
    t.ok([...seen.keys()].every((reason) => reasons.includes(reason)))
    node.close()
  }
)

t.test('[P6] random frames through the XDP filter: pass, or a named drop', async (t) => {
  const node = testNode()
  node.object.attachXdp('uplink_filter', node.ifindexOf('up0'), 'native')
  const macs = { source: devices.up0.podMac, destination: devices.up0.mac }
  const seen = new Set<string>()
  for (let round = 0; round < frames / 4; round++) {
    const frame = damage(ethernet(macs, network('up0')))
    const verdict = node.filter('up0', frame)
    seen.add(verdict)
    if (!['pass', 'drop-malformed', 'drop-martian'].includes(verdict)) t.fail(`${verdict}: ${frame.toString('hex')}`)
  }
  t.same([...seen].sort(), ['drop-malformed', 'drop-martian', 'pass'])
  node.close()
})
