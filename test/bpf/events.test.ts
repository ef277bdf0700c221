// What the ring buffer tells: the device a packet goes out by (BPF_PROG_TEST_RUN
// shows the packet only), drops always, everything when monitored, within a rate.
// Mostly waits: for events that may come.
import './namespace.js'
import { execFileSync } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { native } from '../../src/native.js'
import { addressText } from '../packets/bytes.js'
import { ip, tcp, udp } from '../packets/packet.js'
import { Control, reasons } from './layout.js'
import { devices, type TestNode, testNode, to } from './node.js'

const monitored = { flags: Control.on | Control.snat | Control.monitor }

/** struct event; addresses as text without the v4-mapped prefix. */
function decode(bytes: Buffer) {
  const address = (at: number) => {
    const text = addressText(bytes.subarray(at, at + 16))
    return text.startsWith('::ffff:') ? addressText(bytes.subarray(at + 12, at + 16)) : text
  }
  return {
    type: bytes.readUInt32LE(8),
    reason: reasons[bytes.readUInt32LE(12)],
    from: bytes.readUInt32LE(16),
    out: bytes.readUInt32LE(20),
    length: bytes.readUInt32LE(24),
    family: bytes.readUInt8(28),
    protocol: bytes.readUInt8(29),
    sourcePort: bytes.readUInt16BE(30),
    destinationPort: bytes.readUInt16BE(32),
    natPort: bytes.readUInt16BE(34),
    lost: bytes.readUInt32LE(36),
    source: address(40),
    destination: address(56),
    nat: address(72)
  }
}

/** Events that `run` causes; at least so many are waited for. */
async function eventsOf(node: TestNode, run: () => void, least = 0) {
  const records: Buffer[] = []
  const reader = native().readRing(node.map('events'), (batch) => records.push(...batch))
  run()
  for (let waits = 0; waits < 100 && records.length < least; waits++) await sleep(50)
  await sleep(300)
  reader.close()
  return records.map(decode)
}

for (const family of [4, 6] as const) {
  const source = devices.a[`v${family}`]
  const content = udp({ sourcePort: 1000, destinationPort: 53 }, 'x')

  t.test(`[F1] [F3] IPv${family} packets go out by the device that the tables say`, async (t) => {
    const node = testNode(monitored)
    node.setMasquerade(2, {})
    node.setControl({ epoch: 2 })
    const outs: [destination: string, device: keyof typeof devices][] = [
      [devices.b[`v${family}`], 'b'],
      [to.external[family], 'up0'],
      [to.remoteNode[family], 'up0'],
      [to.onLink[family], 'up0']
    ]
    for (const [destination, device] of outs) {
      const events = await eventsOf(node, () => node.send('a', ip({ source, destination }, content)), 1)
      const last = events.at(-1)
      t.match(last, { type: 1, from: node.ifindexOf('a'), out: node.ifindexOf(device), family, source, destination })
    }
    const back = await eventsOf(
      node,
      () => node.send('up0', ip({ source: to.external[family], destination: source }, content)),
      1
    )
    t.match(back, [{ reason: 'to-pod', from: node.ifindexOf('up0'), out: node.ifindexOf('a') }])
    node.close()
  })

  t.test(`[F11] an IPv${family} leg's MAC, source and device belong together`, async (t) => {
    const node = testNode(monitored)
    for (let sourcePort = 1000; sourcePort < 1012; sourcePort++) {
      let mac = ''
      const events = await eventsOf(
        node,
        () => {
          const packet = ip(
            { source, destination: to.group[family] },
            tcp({ sourcePort, destinationPort: 80, flags: 'S' })
          )
          mac = node.send('a', packet).packet.sourceMac
        },
        2
      )
      const uplink = mac === devices.up0.mac ? 'up0' : 'up1'
      t.match(events, [
        { type: 2, nat: devices[uplink][`v${family}`], out: node.ifindexOf(uplink) },
        { type: 1, out: node.ifindexOf(uplink), reason: 'to-uplink' }
      ])
      t.equal(events[0]?.natPort, events[1]?.natPort)
    }
    node.close()
  })

  t.test(`[F17] a dropped IPv${family} packet is told also when nobody monitors`, async (t) => {
    const node = testNode()
    const spoofed = ip({ source: to.external[family], destination: devices.b[`v${family}`] }, content)
    const events = await eventsOf(node, () => {
      node.send('a', spoofed)
      node.send('a', ip({ source, destination: devices.b[`v${family}`] }, content))
    })
    t.equal(events.length, 1)
    t.match(events, [{ type: 1, reason: 'drop-spoof', family, source: to.external[family] }])
    node.close()
  })
}

t.test('while the hot path is open new flows and drops are told, what it forwards is not', async (t) => {
  const node = testNode(monitored)
  node.setControl({ straight: 1 })
  const source = devices.a.v4
  const segment = (flags: string) =>
    ip({ source, destination: to.external[4] }, tcp({ sourcePort: 1000, destinationPort: 443, flags }))
  const spoofed = ip({ source: to.external[4], destination: devices.b.v4 }, udp({ sourcePort: 1, destinationPort: 2 }))
  const events = await eventsOf(
    node,
    () => {
      for (const flags of ['S', 'A', 'A']) node.send('a', segment(flags))
      node.send('a', spoofed)
    },
    2
  )
  t.match(events, [
    { type: 2, source, sourcePort: 1000, destination: to.external[4], out: node.ifindexOf('up0') },
    { type: 1, reason: 'drop-spoof' }
  ])
  t.equal(events.length, 2)
  node.setControl({ straight: 0 })
  t.match(await eventsOf(node, () => node.send('a', segment('A')), 1), [{ type: 1, reason: 'to-uplink' }])
  node.close()
})

t.test('events beyond the rate are counted, not sent, and packets go on', async (t) => {
  const node = testNode(monitored)
  node.setControl({ eventRate: 5 })
  const packet = ip({ source: devices.a.v4, destination: devices.b.v4 }, udp({ sourcePort: 1, destinationPort: 2 }))
  const send = (count: number) => () => {
    for (let sent = 0; sent < count; sent++) node.send('a', packet)
  }
  // The rate and what is lost are a CPU's own: all runs on one.
  execFileSync('taskset', ['-acp', '0', `${process.pid}`])
  const events = await eventsOf(node, send(200))
  t.ok(events.length >= 5 && events.length <= 10, `${events.length} of 200: the run may cross the end of a second`)
  await sleep(1000)
  const later = await eventsOf(node, send(20))
  const lost = [...events, ...later].reduce((sum, event) => sum + event.lost, 0)
  t.ok(lost >= 190 && lost <= 195 + 15, `${lost} said to be lost`)
  node.close()
})
