// The detour's own part, with a program that takes what it writes back: cutting,
// holding, counting. How the programs use it: test/forwarding.

import t from 'tap'
import { control, servedLab, status } from '../forwarding/served.js'
import { compile } from '../lab/compile.js'
import type { LabNode } from '../lab/node.js'
import { sleep, until } from '../lab/process.js'
import { ipv4, ipv6, raw } from '../packets/packet.js'

const patience = 20_000
/** No device has this index: nothing becomes of what is written back. */
const nowhere = 0x7ffffffe

interface FrameFields {
  tries?: number
  mtu?: number
  etherType?: number
}

/** As a program sends it to the device. */
function frame({ tries = 0, mtu = 0, etherType = 0x0800 }: FrameFields, packet: Buffer): Buffer {
  const head = Buffer.alloc(14)
  head.writeUInt32BE(0x02687264, 0)
  head.writeUInt8(tries, 4)
  head.writeUInt16BE(mtu, 6)
  head.writeUInt32BE(nowhere, 8)
  head.writeUInt16BE(etherType, 12)
  return Buffer.concat([head, packet])
}

const packet4 = (size: number) =>
  ipv4({ source: '10.1.0.2', destination: '192.0.2.9', df: false, id: 99 }, Buffer.alloc(size, 5)).bytes
const packet6 = ipv6({ source: 'fd00::2', destination: '2001:db8::9' }, raw(59, Buffer.alloc(20))).bytes

/** Frames to the device, as if programs had sent them there. */
async function send(node: LabNode, device: string, frames: Buffer[]): Promise<void> {
  const child = node.start([compile('test/oracle/frames.c'), device])
  const records = frames.flatMap((each) => [Buffer.from(Uint32Array.of(each.length).buffer), Buffer.alloc(10), each])
  child.child.stdin?.end(Buffer.concat(records))
  await child.finished(patience)
}

t.setTimeout(240_000)

t.test('what is to be cut is cut, what is to wait waits, and nonsense is counted', async (t) => {
  const node = (await servedLab(t, { pods: 1 })).node(0)
  t.match((await status(node)).detour, { device: 'hostroute0', why: null })
  const capture = await node.capture('hostroute0', 'ether[0:4] = 0x02687264')
  const held = [4, 7].map((tries) => frame({ tries }, packet4(100)))
  const sent = [
    frame({ mtu: 576, tries: 2 }, packet4(1400)),
    ...held,
    frame({ etherType: 0x86dd }, packet6),
    frame({ mtu: 576, etherType: 0x86dd }, packet6),
    frame({ mtu: 67 }, packet4(1400)),
    frame({ mtu: 576 }, packet4(1400).subarray(0, 600)),
    frame({ tries: 10 }, packet4(100)),
    frame({ tries: 255, mtu: 576 }, packet4(1400)),
    frame({ etherType: 0x0806 }, packet4(100)),
    Buffer.alloc(60, 2)
  ]
  await send(node, 'hostroute0', sent)
  const counts = async () => (await status(node)).detour
  await until('all are dealt with', async () => (await counts())?.waiting === 0, patience)
  // by tries, which are others than those of what was sent
  const backOf = (all: { frame: Buffer }[]) => all.filter(({ frame }) => [1, 3, 5, 8].includes(frame[4] as number))
  await until('written back', () => backOf(capture.packets()).length >= 6, patience).catch(() => {})
  await sleep(200)
  const back = backOf(await capture.stop())
  const head = (tries: number) => frame({ tries }, Buffer.alloc(0)).toString('hex')
  const pieces = back.filter(({ frame }) => frame[4] === 3)
  t.strictSame(
    pieces.map(({ frame }) => [frame.subarray(0, 14).toString('hex'), frame.readUInt16BE(20), frame.length]),
    [
      [head(3), 0x2000, 14 + 572],
      [head(3), 0x2000 | 69, 14 + 572],
      [head(3), 138, 14 + 316]
    ],
    'three fragments, with one try more and no mtu'
  )
  for (const [index, tries] of [4, 7].entries()) {
    const own = back.find(({ frame }) => frame[4] === tries + 1)?.frame
    const expected = Buffer.from(held[index] as Buffer)
    expected[4] = tries + 1
    t.ok(own?.equals(expected), `held for ${1 << tries} ms, one try more, else unchanged`)
  }
  t.equal(back.length, 6, 'and the one of IPv6')
  t.match((await counts())?.packets, {
    cut: 1,
    held: 3,
    'dropped-malformed': 4,
    'dropped-tries': 2,
    'dropped-full': 0,
    'dropped-unwritten': 0
  })
  const metrics = (await control(node).text('/v1/metrics')) as string
  t.match(metrics, 'hostroute_detour_packets_total{result="cut"} 1\n')
  t.match(metrics, 'hostroute_detour_packets_total{result="dropped-malformed"} 4\n')
  t.match(metrics, 'hostroute_detour_open 1\n')
  const text = await node.daemon.command(['status'])
  t.match(text.stdout, /detour +hostroute0, .*: 1 cut into fragments, 3 held, 6 dropped\n/)

  const begin = performance.now()
  await send(
    node,
    'hostroute0',
    Array.from({ length: 2000 }, () => frame({ tries: 9 }, packet4(20)))
  )
  // on a slow machine the first ones leave before the last ones come
  const least = performance.now() - begin < 1 << 9 ? 2000 - 1024 - 500 : 1
  const { packets, waiting = 0 } = (await counts()) ?? {}
  const full = packets?.['dropped-full'] ?? 0
  t.ok(full >= least && waiting <= 1024, `at most 1,024 are held: ${full} of 2,000 dropped, ${waiting} wait`)
})
