// The end of flows: idle ones are marked, then deleted by a later run; what a
// packet touches in between lives on. The clock is jiffies.
import './namespace.js'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { echo, ip, tcp, udp } from '../packets/packet.js'
import { devices, type TestNode, testNode, to } from './node.js'
import { numbers } from './snat_flow.js'

type Family = 4 | 6
const LONG = 1_000_000
/** Timeouts, all long but those given by row (enum timeout). */
const short = (...rows: number[]) => Array.from({ length: 6 }, (_, row) => (rows.includes(row) ? 2 : LONG))
/** Longer than 2 jiffies at any HZ. */
const idle = () => sleep(60)

function sendTcp(node: TestNode, family: Family, sourcePort: number, flags: string) {
  const addresses = { source: devices.a[`v${family}`], destination: to.external[family] }
  return node.send('a', ip(addresses, tcp({ sourcePort, destinationPort: 80, flags, ...numbers(flags) })))
}

function answerTcp(node: TestNode, family: Family, destinationPort: number, flags: string) {
  const addresses = { source: to.external[family], destination: devices.up0[`v${family}`] }
  return node.send('up0', ip(addresses, tcp({ sourcePort: 80, destinationPort, flags, ...numbers(flags) })))
}

function sendUdp(node: TestNode, family: Family, sourcePort: number) {
  const addresses = { source: devices.a[`v${family}`], destination: to.external[family] }
  return node.send('a', ip(addresses, udp({ sourcePort, destinationPort: 53 })))
}

const portOf = (result: ReturnType<TestNode['send']>) => result.packet.l4?.sourcePort ?? -1

/** Shakes hands; the port after SNAT. */
function establish(node: TestNode, family: Family, port: number): number {
  const nat = portOf(sendTcp(node, family, port, 'S'))
  answerTcp(node, family, nat, 'SA')
  sendTcp(node, family, port, 'A')
  return nat
}

t.test('[S18] the clock of the expiry program is monotonic and runs', async (t) => {
  const node = testNode()
  const first = node.expire(0)
  await sleep(50)
  const second = node.expire(0)
  t.ok(second.jiffies > first.jiffies)
  const elapsed = Number(second.time - first.time) / 1e6
  t.ok(elapsed >= 49 && elapsed < 5000, `${elapsed} ms`)
  node.close()
})

for (const family of [4, 6] as const) {
  t.test(`[S18] an idle IPv${family} flow is first dying, then deleted with its reverse entry`, async (t) => {
    const node = testNode()
    sendUdp(node, family, 1000)
    t.match(node.expire(family), { live: 1, liveSnat: 1, dying: 0, deleted: 0 })
    node.setControl({ timeouts: short(3) })
    await idle()
    t.match(node.expire(family), { live: 1, dying: 1, deleted: 0 })
    t.match(node.flows(family), [{ life: 'dying' }])
    t.match(node.expire(family), { live: 0, dying: 0, deleted: 1 })
    t.same([node.flows(family).length, node.reverses(family).length], [0, 0])
    node.close()
  })

  t.test(`[S18] a packet of the pod revives a dying IPv${family} flow, with its port`, async (t) => {
    const node = testNode({ timeouts: short(3) })
    const port = portOf(sendUdp(node, family, 1000))
    await idle()
    t.equal(node.expire(family).dying, 1)
    t.equal(portOf(sendUdp(node, family, 1000)), port)
    t.match(node.flows(family), [{ life: 'live' }])
    t.match(node.expire(family), { live: 1, deleted: 0 })
    await idle()
    // on a busy machine the run before has found it idle already
    t.equal(node.expire(family).deleted + node.expire(family).deleted, 1)
    node.close()
  })

  t.test(`[S18] a packet of the remote alone keeps an IPv${family} flow alive`, async (t) => {
    const node = testNode({ timeouts: short(0, 1) })
    const nat = establish(node, family, 1000)
    for (let round = 0; round < 3; round++) {
      await idle()
      t.equal(node.expire(family).deleted, 0)
      t.equal(answerTcp(node, family, nat, 'PA').reason, 'to-pod')
      t.equal(node.expire(family).deleted, 0, 'touched after it was marked')
    }
    t.equal(portOf(sendTcp(node, family, 1000, 'A')), nat)
    node.close()
  })

  t.test(`[S18] an IPv${family} flow that the remote revived ends when it is idle again`, async (t) => {
    const node = testNode({ timeouts: short(0, 1) })
    const nat = establish(node, family, 1000)
    await idle()
    t.equal(node.expire(family).dying, 1)
    answerTcp(node, family, nat, 'PA')
    await idle()
    let deleted = 0
    for (let run = 0; run < 4; run++) deleted += node.expire(family).deleted
    t.equal(deleted, 1)
    t.same([node.flows(family).length, node.reverses(family).length], [0, 0])
    node.close()
  })

  t.test(`[S1] IPv${family} timeouts go by what the connection has seen`, async (t) => {
    const deleted = async (rows: number[], run: (node: TestNode) => void) => {
      const node = testNode({ timeouts: short(...rows) })
      run(node)
      await idle()
      node.expire(family)
      const count = node.expire(family).deleted
      node.close()
      return count
    }
    const opening = (node: TestNode) => void sendTcp(node, family, 1000, 'S')
    const established = (node: TestNode) => void establish(node, family, 1000)
    const halfClosed = (node: TestNode) => {
      establish(node, family, 1000)
      sendTcp(node, family, 1000, 'FA')
    }
    const closed = (node: TestNode) => {
      const nat = establish(node, family, 1000)
      sendTcp(node, family, 1000, 'FA')
      answerTcp(node, family, nat, 'FA')
    }
    const reset = (node: TestNode) => void answerTcp(node, family, establish(node, family, 1000), 'R')
    const refused = (node: TestNode) => void answerTcp(node, family, portOf(sendTcp(node, family, 1000, 'S')), 'RA')
    const [open, live, closing] = [[0], [1], [2]] as const
    t.equal(await deleted([...open], opening), 1)
    t.equal(await deleted([1, 2], opening), 0)
    t.equal(await deleted([...live], established), 1)
    t.equal(await deleted([0, 2], established), 0, 'established outlives the others')
    t.equal(await deleted([0, 2], halfClosed), 0, 'half closed is not closed')
    t.equal(await deleted([...closing], closed), 1)
    t.equal(await deleted([...closing], reset), 1)
    t.equal(await deleted([...closing], refused), 1)
  })

  t.test(
    `[S1] an IPv${family} connection that was refused and is tried again from the same port lives on`,
    async (t) => {
      const node = testNode({ timeouts: short(0, 2) })
      const refused = portOf(sendTcp(node, family, 1000, 'S'))
      answerTcp(node, family, refused, 'RA')
      const nat = establish(node, family, 1000)
      await idle()
      node.expire(family)
      t.equal(node.expire(family).deleted, 0, 'an established connection is not closing')
      t.equal(answerTcp(node, family, nat, 'PA').reason, 'to-pod')
      node.close()
    }
  )

  t.test(`[S1] an IPv${family} port pair used again after both sides closed is a new connection`, async (t) => {
    const node = testNode({ timeouts: short(0, 2) })
    const old = establish(node, family, 1000)
    answerTcp(node, family, old, 'FA')
    sendTcp(node, family, 1000, 'FA')
    const nat = establish(node, family, 1000)
    await idle()
    node.expire(family)
    t.equal(node.expire(family).deleted, 0)
    t.equal(portOf(sendTcp(node, family, 1000, 'A')), nat)
    t.equal(node.flows(family).length, 1)
    t.equal(node.reverses(family).length, 1, 'no port is left over')
    node.close()
  })

  t.test(`[S2] an IPv${family} UDP flow that is answered and goes on lives longer`, async (t) => {
    const node = testNode({ timeouts: short(3) })
    const addresses = { source: to.external[family], destination: devices.up0[`v${family}`] }
    const answer = (nat: number) => node.send('up0', ip(addresses, udp({ sourcePort: 53, destinationPort: nat })))
    const ports = [1000, 1001, 1002, 1003].map((port) => portOf(sendUdp(node, family, port)))
    const [once = 0, podGoesOn = 0, remoteGoesOn = 0] = ports
    for (const nat of [once, podGoesOn, remoteGoesOn]) answer(nat)
    // 2 s as the test node counts them
    const began = node.expire(0).jiffies
    while (node.expire(0).jiffies - began <= 500n) await sleep(20)
    sendUdp(node, family, 1001)
    answer(remoteGoesOn)
    sendUdp(node, family, 1003)
    await idle()
    node.expire(family)
    t.match(node.expire(family), { live: 2, deleted: 2 })
    t.same(
      node
        .flows(family)
        .map(({ localPort }) => localPort)
        .sort(),
      [1001, 1002],
      'neither a question and its answer, nor what nobody answers'
    )
    node.close()
  })

  t.test(`[S3] IPv${family} echo has its own timeout`, async (t) => {
    const node = testNode({ timeouts: short(5) })
    node.send('a', ip({ source: devices.a[`v${family}`], destination: to.external[family] }, echo({ id: 9 })))
    sendUdp(node, family, 1)
    await idle()
    node.expire(family)
    t.match(node.expire(family), { live: 1, deleted: 1 })
    node.close()
  })

  t.test(`[S9] IPv${family} ports are there again after expiry`, async (t) => {
    const node = testNode({ ports: [30000, 30001], timeouts: short(3) })
    sendUdp(node, family, 1)
    sendUdp(node, family, 2)
    t.equal(sendUdp(node, family, 3).reason, 'drop-ports')
    await idle()
    node.expire(family)
    node.expire(family)
    t.equal(sendUdp(node, family, 3).reason, 'to-uplink')
    t.equal(sendUdp(node, family, 4).reason, 'to-uplink')
    node.close()
  })

  t.test(`[S10] pressure ends unanswered IPv${family} flows sooner and no others`, async (t) => {
    const now = 400
    const node = testNode({ timeouts: [now, LONG, LONG, now, LONG, LONG] })
    sendTcp(node, family, 1, 'S')
    establish(node, family, 2)
    const began = node.expire(0).jiffies
    while (node.expire(0).jiffies - began <= BigInt(now / 2 + 5)) await sleep(20)
    t.equal(node.expire(family).dying, 0, 'not idle for the whole time yet')
    t.equal(node.expire(family, true).dying, 1)
    t.equal(node.expire(family, true).deleted, 1)
    t.match(node.flows(family), [{ localPort: 2 }])
    node.close()
  })

  t.test(
    `[S10] half-open inbound IPv${family} connections end soon, those whose opener has answered do not`,
    async (t) => {
      const node = testNode({ timeouts: short(0) })
      const addresses = { source: to.external[family], destination: devices.a[`v${family}`] }
      const inbound = (port: number, flags: string, acknowledgement = numbers(flags).acknowledgement) =>
        node.send(
          'up0',
          ip(addresses, tcp({ sourcePort: port, destinationPort: 80, flags, sequence: 2, acknowledgement }))
        )
      const answer = (port: number, flags: string) => {
        const content = tcp({ sourcePort: 80, destinationPort: port, flags, ...numbers(flags) })
        return node.send('a', ip({ source: devices.a[`v${family}`], destination: to.external[family] }, content))
      }
      for (const port of [5000, 5001, 5002, 5003]) {
        inbound(port, 'S')
        if (port !== 5003) answer(port, 'SA')
      }
      inbound(5001, 'A')
      inbound(5002, 'A', 0x4000_0000)
      await idle()
      node.expire(family)
      t.equal(node.expire(family).deleted, 3, 'nobody, a forged ACK, and a SYN that nobody answered')
      t.match(node.flows(family), [{ remotePort: 5001, verdict: 'inbound' }])
      await idle()
      node.expire(family, true)
      t.equal(node.expire(family, true).deleted, 0, 'nor under pressure, and though nobody has spoken since')
      node.close()
    }
  )

  t.test(`[S16] IPv${family} flows of a pod that is gone leave like closed ones, though established`, async (t) => {
    const node = testNode({ timeouts: short(2) })
    establish(node, family, 1000)
    node.send(
      'b',
      ip(
        { source: devices.b[`v${family}`], destination: to.external[family] },
        tcp({ sourcePort: 1, destinationPort: 80, flags: 'S' })
      )
    )
    node.setPod('a', devices.a[`v${family}`], { id: 900 })
    await idle()
    node.expire(family)
    t.match(node.expire(family), { live: 1, deleted: 1 })
    t.match(node.flows(family), [{ local: devices.b[`v${family}`] }])
    node.close()
  })

  t.test(`the IPv${family} run leaves the other family alone`, async (t) => {
    const node = testNode({ timeouts: short(3) })
    const other = family === 4 ? 6 : 4
    sendUdp(node, family, 1)
    sendUdp(node, other, 1)
    await idle()
    node.expire(family)
    t.match(node.expire(family), { deleted: 1, live: 0 })
    t.equal(node.flows(other).length, 1)
    node.close()
  })
}

t.test('expiry of 3,000 flows ends all of them and no touched one', async (t) => {
  const node = testNode({ timeouts: short(3), ports: Array.from({ length: 4000 }, (_, at) => 20000 + at) })
  for (let port = 1; port <= 3000; port++) sendUdp(node, 4, port)
  await idle()
  node.expire(4)
  for (let port = 1; port <= 100; port++) sendUdp(node, 4, port)
  const { live } = node.expire(4)
  t.ok(live >= 100, `${live} live`)
  const left = new Set(node.flows(4).map((flow) => flow.localPort))
  for (let port = 1; port <= 100; port++) if (!left.has(port)) t.fail(`flow ${port} is gone`)
  t.equal(node.flows(4).length, node.reverses(4).length)
  node.close()
})
