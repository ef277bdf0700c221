// Fragments as the kernel of this machine makes them: packets go in at one TAP
// device, are forwarded and cut, and come out at another.

import { randomInt } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { cut } from '../../src/datapath/cut.js'
import { native, type TapDevice } from '../../src/native.js'
import { ip } from '../bpf/namespace.js'
import { until } from '../lab/process.js'
import { ethernet, type Ipv4Fields, ipv4, udp } from '../packets/packet.js'

const ends = { source: '10.1.0.2', destination: '10.2.0.2' }
const macs = { source: '02:00:00:00:01:02', destination: '02:00:00:00:01:01' }
const ICMP_LIKE = 253 // an experimental protocol: nobody looks into it
const seen: Buffer[] = []
const none = Buffer.alloc(0)

function device(name: string, address: string): TapDevice {
  const tap = native().openTap(name, (frames) => {
    for (const frame of frames ?? []) if (name === 'out' && frame.readUInt16BE(12) === 0x0800) seen.push(frame)
  })
  t.teardown(() => tap.close())
  ip('address', 'add', address, 'dev', name)
  return tap
}

const into = device('in', '10.1.0.1/24')
device('out', '10.2.0.1/24')
ip('link', 'set', 'in', 'address', macs.destination)
ip('neigh', 'add', ends.destination, 'lladdr', '02:00:00:00:02:02', 'dev', 'out', 'nud', 'permanent')
writeFileSync('/proc/sys/net/ipv4/ip_forward', '1')

/** A packet's bytes one hop further: what the kernel cuts. */
const packet = (fields: Partial<Ipv4Fields>, body: Buffer, ttl = 64): Buffer =>
  ipv4({ ...ends, protocol: ICMP_LIKE, df: false, ttl, ...fields }, body).bytes

/** What the kernel sends of it through `out`. */
async function byKernel(fields: Partial<Ipv4Fields>, body: Buffer, pieces: number): Promise<Buffer[]> {
  seen.length = 0
  const network = ipv4({ ...ends, protocol: ICMP_LIKE, df: false, ttl: 64, ...fields }, body)
  if (!into.write(ethernet(macs, network))) throw new Error('not written')
  await until(`${pieces} fragments`, () => seen.length >= pieces, 2_000, 1).catch(() => {})
  return seen.map((frame) => frame.subarray(14))
}

/** cut() and the kernel make the same of it. Returns the number of fragments. */
async function same(t: Test, what: string, fields: Partial<Ipv4Fields>, body: Buffer, mtu: number): Promise<number> {
  const ours = cut(packet(fields, body, 63), mtu, none)
  const theirs = await byKernel(fields, body, ours?.length ?? 1)
  t.strictSame(
    ours?.map((fragment) => fragment.toString('hex')),
    theirs.map((fragment) => fragment.toString('hex')),
    what
  )
  return theirs.length
}

const body = (size: number) => Buffer.from(Array.from({ length: size }, () => randomInt(256)))

t.test('byte for byte what the kernel makes of it', async (t) => {
  const options = {
    none: none,
    'copied and not': Buffer.from([0x5e, 4, 1, 2, 0x88, 4, 3, 4]),
    // what follows an end is zero: a kernel that receives anything else makes it so, before it cuts
    'NOPs and an end': Buffer.from([1, 1, 0x5e, 3, 9, 0, 0, 0]),
    'all of 40 bytes': Buffer.concat([Buffer.from([0x5e, 36]), Buffer.alloc(34, 7), Buffer.from([0x94, 4, 0, 0])])
  }
  for (const mtu of [68, 69, 75, 576, 1279, 1500, 9000]) {
    ip('link', 'set', 'out', 'mtu', `${mtu}`)
    for (const [name, bytes] of Object.entries(options)) {
      const room = mtu - 20 - bytes.length
      for (const size of [room + 1, 2 * room, 2 * (room & ~7), 5 * room - 3]) {
        const fields = { options: bytes, id: randomInt(65536), tos: 0xb8 }
        const count = await same(t, `mtu ${mtu}, ${size} bytes, options: ${name}`, fields, body(size), mtu)
        if (count < 2) t.fail('it was cut')
      }
      for (const mf of [true, false]) {
        const fields = { options: bytes, id: 7, mf, fragmentOffset: 8000 }
        await same(t, `mtu ${mtu}: a fragment, MF ${mf}, options: ${name}`, fields, body(8 * ((3 * room) >> 3)), mtu)
      }
      await same(
        t,
        `mtu ${mtu}: a first fragment, options: ${name}`,
        { options: bytes, mf: true },
        body(8 * (room >> 2)),
        mtu
      )
    }
  }
})

t.test('the largest there is, and one that fits', async (t) => {
  ip('link', 'set', 'out', 'mtu', '1400')
  await same(t, '65,535 bytes', { id: 1 }, body(65_515), 1400)
  await same(t, 'it fits', { id: 1 }, body(1380), 1400)
})

t.test('random packets', async (t) => {
  for (let round = 0; round < 8; round++) {
    const mtu = randomInt(68, 2000)
    ip('link', 'set', 'out', 'mtu', `${mtu}`)
    for (let count = 0; count < 25; count++) {
      const mf = randomInt(2) === 1
      const kinds = [0x5e, 0x9e, 1, 0x88].map((type) => (type === 1 ? [1] : [type, 3, 0]))
      const options = Buffer.from(Array.from({ length: randomInt(6) }, () => kinds[randomInt(4)] as number[]).flat())
      const size = mf ? 8 * randomInt(1, 500) : randomInt(1, 4000)
      const fields = { options, id: randomInt(65536), mf, fragmentOffset: randomInt(2) * 8 * randomInt(1000) }
      await same(t, `mtu ${mtu}: ${JSON.stringify({ ...fields, size })}`, fields, body(size), mtu)
    }
  }
})

t.test('padding goes, the prefix stands in front of each', async (t) => {
  const prefix = Buffer.from('abcdefghijklmn')
  const whole = ipv4({ ...ends, df: false }, udp({ sourcePort: 1, destinationPort: 2 }, 'x'.repeat(100))).bytes
  const padded = Buffer.concat([whole, Buffer.alloc(30, 0xee)])
  const made = cut(padded, 100, prefix)
  t.strictSame(
    made?.map((fragment) => [fragment.subarray(0, 14).toString(), fragment.length]),
    [
      [prefix.toString(), 14 + 20 + 80],
      [prefix.toString(), 14 + 20 + 28]
    ]
  )
  const data = Buffer.concat((made ?? []).map((fragment) => fragment.subarray(34)))
  t.strictSame(data, whole.subarray(20))
})

t.test('nonsense is not cut', async (t) => {
  const good = packet({}, body(1000))
  const wrong = (change: (bytes: Buffer) => void) => {
    const bytes = Buffer.from(good)
    change(bytes)
    return cut(bytes, 576, none)
  }
  t.ok(cut(good, 576, none))
  t.equal(cut(good, 67, none), null, 'an mtu below 68')
  t.equal(cut(good, 0, none), null)
  t.equal(cut(none, 576, none), null, 'nothing')
  t.equal(cut(good.subarray(0, 19), 576, none), null, 'less than a header')
  t.equal(cut(good.subarray(0, 1019), 576, none), null, 'shorter than it says')
  t.equal(
    wrong((bytes) => bytes.writeUInt8(0x65, 0)),
    null,
    'version 6'
  )
  t.equal(
    wrong((bytes) => bytes.writeUInt8(0x44, 0)),
    null,
    'a header of 16 bytes'
  )
  t.equal(
    wrong((bytes) => bytes.writeUInt16BE(19, 2)),
    null,
    'a length below the header'
  )
  t.equal(
    wrong((bytes) => bytes.writeUInt16BE(0x4000, 6)),
    null,
    'DF'
  )
  t.equal(
    wrong((bytes) => bytes.writeUInt16BE(0x1fff, 6)),
    null,
    'an offset that leaves the field'
  )
  for (let round = 0; round < 20_000; round++) {
    const bytes = body(randomInt(120))
    if (bytes.length > 0 && round % 2) bytes[0] = 0x45 + randomInt(11)
    const made = cut(bytes, randomInt(200), none)
    const size = (made ?? []).reduce((sum, fragment) => sum + fragment.length, 0)
    if (size > bytes.length + 60 * (made?.length ?? 0)) t.fail(`${bytes.toString('hex')} grew to ${size}`)
  }
})
