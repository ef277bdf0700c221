// What the programs cannot finish goes out by the daemon's device and comes
// back by it: here the test is the daemon.
import './namespace.js'
import t from 'tap'
import { checksum } from '../packets/bytes.js'
import { ethernet, fragments, ip, ipv4, type Network, parsePacket, udp } from '../packets/packet.js'
import { Control } from './layout.js'
import { type DeviceName, devices, isPod, macBehind, type TestNode, testNode, to } from './node.js'
import { pod, snatAddress } from './snat_flow.js'

const REDIRECT = 7
const SHOT = 2
const data = Buffer.from(Array.from({ length: 900 }, (_, index) => (index * 7) & 255))
const question = (port: number) => udp({ sourcePort: port, destinationPort: 53 }, data)
const answer = (port: number) => udp({ sourcePort: 53, destinationPort: port }, data)

interface Detoured {
  action: number
  frame: Buffer
  /** null: it does not take the detour. */
  header: { tries: number; mtu: number; ifindex: number } | null
  counted: number
}

/** The device of the detour: lo, which has no row. */
const detourDevice = 1

function detourNode(): TestNode {
  const node = testNode({ detour: true })
  node.setControl({ detour: detourDevice })
  return node
}

function total(node: TestNode): number {
  const all = [devices.a, devices.up0].map((_, index) => node.counters(index === 0 ? 'a' : 'up0'))
  return all.flat().reduce((sum, { packets }) => sum + packets, 0)
}

function run(node: TestNode, program: string, frame: Buffer, ifindex: number): Detoured {
  const before = total(node)
  const { retval, data: after } = node.object.testRun(program, { data: frame, ifindex })
  const counted = total(node) - before
  // what is sent by its neighbour entry still has the header, for the kernel to write over
  const header =
    counted === 0 && after.readUInt32BE(0) === 0x02687264
      ? { tries: after.readUInt8(4), mtu: after.readUInt16BE(6), ifindex: after.readUInt32BE(8) }
      : null
  return { action: retval, frame: after, header, counted }
}

function arrive(node: TestNode, device: DeviceName, network: Network): Detoured {
  const frame = ethernet({ source: macBehind(device), destination: devices[device].mac }, network)
  return run(node, isPod(device) ? 'from_pod' : 'from_uplink', frame, node.ifindexOf(device))
}

/** As the daemon does: it counts the try, and the mtu is done with. */
function comeBack(node: TestNode, frame: Buffer): Detoured {
  const again = Buffer.from(frame)
  again.writeUInt8(again.readUInt8(4) + 1, 4)
  again.writeUInt16BE(0, 6)
  return run(node, 'from_detour', again, detourDevice)
}

t.test('[P2] too big for the next hop, SNAT due, may be cut: goes to be cut, and its pieces leave', async (t) => {
  const node = detourNode()
  t.teardown(() => node.close())
  const big = udp({ sourcePort: 4000, destinationPort: 53 }, 'x'.repeat(1400))
  const whole = (source: string, content = big, ttl = 64) =>
    ipv4({ source, destination: to.smallMtu[4], df: false, id: 99, ttl }, content)
  const sent = arrive(node, 'a', whole(pod('a', 4)))
  t.match(sent, { action: REDIRECT, header: { tries: 0, mtu: 1280, ifindex: node.ifindexOf('a') }, counted: 0 })
  t.same(sent.frame.subarray(14), whole(pod('a', 4)).bytes, 'the packet itself is as it was')

  const pieces = fragments(whole(pod('a', 4)), 1256, 99).map((piece) =>
    comeBack(node, Buffer.concat([sent.frame.subarray(0, 14), piece.bytes]))
  )
  t.equal(pieces.length, 2)
  const first = parsePacket(pieces[0]!.frame)
  const wanted = fragments(
    whole(snatAddress(4), udp({ sourcePort: first.l4!.sourcePort!, destinationPort: 53 }, 'x'.repeat(1400)), 63),
    1256,
    99
  )
  pieces.forEach((piece, at) => {
    t.match(piece, { action: REDIRECT, header: null, counted: 1 })
    t.same(piece.frame.subarray(14), wanted[at]!.bytes, `piece ${at}`)
  })

  const df = arrive(node, 'a', ipv4({ source: pod('a', 4), destination: to.smallMtu[4], df: true }, big))
  t.match(df, { action: -1, header: null, counted: 1 }, 'with DF the kernel tells the pod')
  node.setControl({ detour: 0 })
  const without = arrive(node, 'a', whole(pod('a', 4)))
  t.match(without, { action: -1, header: null, counted: 1 }, 'no device: the pod is told')
  t.equal(without.frame.readUInt16BE(20) & 0x4000, 0x4000, 'DF is set')
})

t.test('[P2] [P4] fragments that are too big, in order: none waits for the first, which is being cut', async (t) => {
  const node = detourNode()
  t.teardown(() => node.close())
  const datagram = udp({ sourcePort: 4000, destinationPort: 53 }, 'x'.repeat(3200))
  const whole = (source: string, content = datagram, ttl = 64) =>
    ipv4({ source, destination: to.smallMtu[4], df: false, id: 98, ttl }, content)
  const sent = fragments(whole(pod('a', 4)), 1480, 98)
  t.equal(sent.length, 3)
  const [one, two, last] = sent.map((each) => arrive(node, 'a', each))
  t.match(one, { action: REDIRECT, header: { tries: 0, mtu: 1280 } }, 'to be cut')
  t.match(two, { action: REDIRECT, header: { tries: 0, mtu: 1280 } }, 'to be cut, not held')
  t.match(last, { action: REDIRECT, header: null, counted: 1 }, 'this one fits, and leaves at once')

  // in the order in which they went there; the first says the port
  const pieces = [one!, two!].flatMap(({ frame }, at) =>
    [0, 1].map((half) => {
      const piece = Buffer.from(sent[at]!.bytes)
      const body = piece.subarray(20)
      const part = half === 0 ? body.subarray(0, 1256) : body.subarray(1256)
      const header = Buffer.from(piece.subarray(0, 20))
      header.writeUInt16BE(20 + part.length, 2)
      header.writeUInt16BE(0x2000 | (at * 185 + half * 157), 6)
      header.writeUInt16BE(0, 10)
      header.writeUInt16BE(checksum(header), 10)
      return comeBack(node, Buffer.concat([frame.subarray(0, 14), header, part]))
    })
  )
  for (const piece of pieces) t.match(piece, { action: REDIRECT, header: null, counted: 1 })
  const port = parsePacket(pieces[0]!.frame).l4!.sourcePort!
  const wanted = whole(snatAddress(4), udp({ sourcePort: port, destinationPort: 53 }, 'x'.repeat(3200)), 63)
  const left = [...pieces, last!].map(({ frame }) => frame)
  t.same(Buffer.concat(left.map((frame) => frame.subarray(34))), wanted.bytes.subarray(20), 'nothing is missing')
  for (const frame of left) t.same(frame.subarray(26, 30), wanted.bytes.subarray(12, 16), 'with the node’s address')
})

t.test(
  '[P2] [K10] an answer to outside that has to be cut is cut beside a nat chain, else the kernel does it',
  async (t) => {
    const node = detourNode()
    t.teardown(() => node.close())
    const [source, remote] = [pod('a', 4), to.smallMtu[4]]
    arrive(node, 'up0', ip({ source: remote, destination: source }, answer(4000)))
    const reply = ipv4(
      { source, destination: remote, df: false },
      udp({ sourcePort: 4000, destinationPort: 53 }, 'x'.repeat(1400))
    )
    t.match(arrive(node, 'a', reply), { action: -1, header: null, counted: 1 }, 'nothing there would masquerade it')
    node.setControl({ flags: Control.on | Control.snat | Control.natChain })
    t.match(arrive(node, 'a', reply), { action: REDIRECT, header: { mtu: 1280 } })
  }
)

for (const family of [4, 6] as const) {
  const [source, outside, destination] = [pod('a', family), snatAddress(family), to.external[family]]

  t.test(`[P4] IPv${family}: a fragment that overtakes the first of a pod is held until that has come`, async (t) => {
    const node = detourNode()
    t.teardown(() => node.close())
    const [one, two] = fragments(ip({ source, destination }, question(4000)), 600, 5)
    let held = arrive(node, 'a', two!)
    for (const tries of [0, 1, 2]) {
      t.match(held, { action: REDIRECT, header: { tries, mtu: 0 }, counted: 0 })
      held = comeBack(node, held.frame)
    }
    const first = node.send('a', one!)
    t.equal(first.verdict, 'forward')
    const sent = comeBack(node, held.frame)
    t.match(sent, { action: REDIRECT, header: null, counted: 1 })
    const port = first.packet.l4!.sourcePort!
    t.same(
      sent.frame.subarray(14),
      fragments(ip({ source: outside, destination, ttl: 63 }, question(port)), 600, 5)[1]!.bytes
    )
  })

  t.test(`[P4] IPv${family}: one whose first never comes is dropped by name after eight tries`, async (t) => {
    const node = detourNode()
    t.teardown(() => node.close())
    let held = arrive(node, 'a', fragments(ip({ source, destination }, question(4000)), 600, 5)[1]!)
    let tries = 0
    while (held.header) {
      tries++
      held = comeBack(node, held.frame)
    }
    t.equal(tries, 8)
    t.match(held, { action: SHOT, counted: 1 })
  })

  t.test(
    `[P4] IPv${family}: of an answer's fragment that comes first a copy is held, and the kernel has it`,
    async (t) => {
      const node = detourNode()
      t.teardown(() => node.close())
      const port = node.send('a', ip({ source, destination }, question(4000))).packet.l4!.sourcePort!
      const [one, two] = fragments(ip({ source: destination, destination: outside, ttl: 60 }, answer(port)), 600, 9)
      t.match(arrive(node, 'up0', two!), { action: -1, header: null, counted: 1 }, 'as it came')
      // the copy has left by up1; what the daemon reads there
      const copy = Buffer.concat([Buffer.alloc(14), two!.bytes])
      copy.writeUInt32BE(0x02687264, 0)
      copy.writeUInt32BE(node.ifindexOf('up0'), 8)
      copy.writeUInt16BE(two!.etherType, 12)
      const held = comeBack(node, copy)
      t.match(held, { action: REDIRECT, header: { tries: 1, ifindex: node.ifindexOf('up0') }, counted: 0 })
      node.send('up0', one!)
      const sent = comeBack(node, held.frame)
      t.match(sent, { action: REDIRECT, header: null, counted: 1 })
      t.same(
        sent.frame.subarray(14),
        fragments(ip({ source: destination, destination: source, ttl: 59 }, answer(4000)), 600, 9)[1]!.bytes
      )
      t.equal(parsePacket(sent.frame).destinationMac, devices.a.podMac)
    }
  )
}

t.test('[P6] what nobody has sent there goes nowhere', async (t) => {
  const node = detourNode()
  t.teardown(() => node.close())
  const network = ip({ source: pod('a', 4), destination: to.external[4] }, question(4000))
  const plain = ethernet({ source: macBehind('a'), destination: devices.a.mac }, network)
  t.match(run(node, 'from_detour', plain, detourDevice), { action: SHOT, header: null, counted: 0 }, 'no header')
  const unknown = Buffer.from(plain)
  unknown.writeUInt32BE(0x02687264, 0)
  unknown.writeUInt32BE(999_999, 8)
  t.match(run(node, 'from_detour', unknown, detourDevice), { action: SHOT, counted: 0 }, 'no such device')
  const forged = Buffer.from(unknown)
  forged.writeUInt32BE(node.ifindexOf('a'), 8)
  forged.writeUInt32BE(0x09090909, 26)
  forged.writeUInt16BE(0, 24)
  forged.writeUInt16BE(checksum(forged.subarray(14, 34)), 24)
  t.match(run(node, 'from_detour', forged, detourDevice), { action: SHOT, counted: 1 }, 'source not the pod’s')
})

t.test('[P2] the daemon was killed, and its device is gone: the pod is told', async (t) => {
  const node = detourNode()
  t.teardown(() => node.close())
  node.setControl({ detour: 999_999 })
  const big = udp({ sourcePort: 4000, destinationPort: 53 }, 'x'.repeat(1400))
  const sent = arrive(node, 'a', ipv4({ source: pod('a', 4), destination: to.smallMtu[4], df: false }, big))
  t.match(sent, { action: -1, header: null, counted: 1 })
  t.equal(sent.frame.readUInt16BE(20) & 0x4000, 0x4000, 'DF is set')
})

t.test('[S10] a pod that sends more than its share of detours takes none of another pod’s', async (t) => {
  const node = detourNode()
  t.teardown(() => node.close())
  const big = (name: 'a' | 'b') =>
    ipv4(
      { source: pod(name, 4), destination: to.smallMtu[4], df: false },
      udp({ sourcePort: 4000, destinationPort: 53 }, 'x'.repeat(1400))
    )
  let refused = 0
  for (let sent = 0; sent < 50_000 && refused === 0; sent++) if (!arrive(node, 'a', big('a')).header) refused++
  t.equal(refused, 1, 'one pod has had its share')
  t.ok(arrive(node, 'b', big('b')).header, 'the other has its own')
})

t.test('[S10] a flood takes no more detours than the daemon can bear', async (t) => {
  const node = detourNode()
  t.teardown(() => node.close())
  const [, two] = fragments(ip({ source: pod('a', 4), destination: to.external[4] }, question(4000)), 600, 5)
  let detours = 0
  let drops = 0
  const begin = performance.now()
  for (let sent = 0; sent < 20_000 && drops === 0; sent++) {
    if (arrive(node, 'a', two!).header) detours++
    else drops++
  }
  t.ok(drops > 0, 'some are dropped')
  const seconds = (performance.now() - begin) / 1000
  t.ok(detours <= 250 * (Math.ceil(seconds) + 1), `${detours} in ${seconds} s`)
})
