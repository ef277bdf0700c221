// The end of a TCP connection: FIN and RST count only in sequence.
import './namespace.js'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { ip, tcp } from '../packets/packet.js'
import { type TestNode, testNode, to } from './node.js'
import { natPort, out, pod, snatAddress } from './snat_flow.js'

type Family = 4 | 6

/** A second has ten jiffies. */
function quickNode(): TestNode {
  const node = testNode()
  node.setControl({ jiffiesPerSecond: 10 })
  return node
}

const LONG = 1_000_000
const AHEAD = 2 ** 20

/** A connection of pod a: through SNAT, direct, or opened from outside (where its masquerading would be due). */
type Kind = 'snat' | 'direct' | 'inbound'

/** The remote's first byte has sequence 1,001, the pod's 5,001. */
function connection(node: TestNode, family: Family, kind: Kind, podPort = 4000) {
  const remote = kind === 'direct' ? to.remoteNode[family] : to.external[family]
  let port = podPort
  const send = (flags: string, sequence = 5001, acknowledgement = 1001) =>
    node.send(
      'a',
      ip(
        { source: pod('a', family), destination: remote },
        tcp({ sourcePort: podPort, destinationPort: 443, flags, sequence, acknowledgement })
      )
    )
  const receive = (flags: string, sequence = 1001, acknowledgement = 5001) =>
    node.send(
      'up0',
      ip(
        { source: remote, destination: kind === 'snat' ? snatAddress(family) : pod('a', family) },
        tcp({ sourcePort: 443, destinationPort: port, flags, sequence, acknowledgement })
      )
    )
  if (kind === 'inbound') {
    receive('S', 1000, 0)
    send('SA', 5000)
    receive('A')
    send('A')
  } else {
    port = natPort(send('S', 5000, 0))
    receive('SA', 1000)
    send('A')
  }
  return { send, receive }
}

type Connection = ReturnType<typeof connection>

const cases: readonly [what: string, run: (of: Connection) => void, over: boolean][] = [
  ["the remote's RST", ({ receive }) => receive('R', 1001, 0), true],
  ['a RST with what has been sent before it', ({ receive }) => receive('RA', 1001 + 5000), true],
  ['a RST before what the pod has', ({ receive }) => receive('R', 1000, 0), false],
  ['a RST far beyond', ({ receive }) => receive('R', 1001 + AHEAD, 0), false],
  ['a RST half the numbers away', ({ receive }) => receive('RA', 0x8000_0000), false],
  ["the pod's RST", ({ send }) => send('R', 5001, 0), true],
  ["the remote's FIN alone", ({ receive }) => receive('FA'), false],
  ["the pod's FIN alone", ({ send }) => send('FA'), false],
  [
    'a FIN of both',
    ({ send, receive }) => {
      receive('FA')
      send('FA', 5001, 1002)
      receive('A', 1002, 5002)
    },
    true
  ],
  [
    "a forged FIN, and the pod's",
    ({ send, receive }) => {
      receive('FA', 1001 + AHEAD)
      send('FA')
    },
    false
  ]
]

/** As the program for expiry sees it: gone, if only `closing` is short. */
async function isClosed(node: TestNode, family: Family): Promise<boolean> {
  node.setControl({ timeouts: [LONG, LONG, 2, LONG, LONG, LONG] })
  await sleep(60)
  node.expire(family)
  return node.expire(family).deleted === 1
}

for (const family of [4, 6] as const) {
  for (const kind of ['snat', 'direct', 'inbound'] as const) {
    t.test(
      `[S1] IPv${family} ${kind}: RST and FIN count in sequence, and a connection is over with a FIN of both`,
      async (t) => {
        const node = quickNode()
        const open = cases.map((_, at) => connection(node, family, kind, 4000 + at))
        // idle for longer than a second: nothing can be on its way
        const began = node.expire(0).jiffies
        while (node.expire(0).jiffies - began <= 12n) await sleep(10)
        cases.forEach(([, run], at) => {
          run(open[at] as Connection)
        })
        await isClosed(node, family)
        const left = new Set(node.flows(family).map(({ localPort }) => localPort))
        cases.forEach(([what, , over], at) => {
          t.equal(!left.has(4000 + at), over, what)
        })
        node.close()
      }
    )

    t.test(`[S1] IPv${family} ${kind}: who goes on a second after a RST has not taken it for one`, async (t) => {
      const node = quickNode()
      const { send, receive } = connection(node, family, kind)
      receive('R', 1001, 0)
      send('A', 5001, 1001)
      const began = node.expire(0).jiffies
      while (node.expire(0).jiffies - began <= 12n) await sleep(10)
      send('PA', 5001, 1001)
      t.equal(await isClosed(node, family), false)
      receive('R', 1001, 0)
      t.equal(await isClosed(node, family), true)
      node.close()
    })
  }

  t.test(`[S1] IPv${family}: a RST that refuses a SYN acknowledges it`, async (t) => {
    for (const [acknowledgement, closed] of [
      [5001, true],
      [5002, false],
      [0, false]
    ] as const) {
      const node = quickNode()
      const addresses = { source: pod('a', family), destination: to.external[family] }
      const syn = tcp({ sourcePort: 4000, destinationPort: 443, flags: 'S', sequence: 5000 })
      const port = natPort(node.send('a', ip(addresses, syn)))
      const refusal = tcp({ sourcePort: 443, destinationPort: port, flags: 'RA', sequence: 0, acknowledgement })
      node.send('up0', ip({ source: to.external[family], destination: snatAddress(family) }, refusal))
      t.equal(await isClosed(node, family), closed)
      node.close()
    }
  })

  t.test(
    `[S1] IPv${family}: an inbound connection anew over one that was half closed begins with nothing seen`,
    async (t) => {
      const node = quickNode()
      connection(node, family, 'inbound').send('FA')
      const { receive } = connection(node, family, 'inbound')
      receive('FA')
      t.equal(await isClosed(node, family), false, 'the FIN of the one before does not count')
      node.close()
    }
  )

  t.test(`[S1] IPv${family}: a SYN-ACK as the first packet is no established connection`, async (t) => {
    const node = quickNode()
    out(node, 'a', family, 'tcp', 80, 'SA', to.remoteNode[family])
    node.setControl({ timeouts: [2, LONG, LONG, LONG, LONG, LONG] })
    await sleep(60)
    node.expire(family)
    t.equal(node.expire(family).deleted, 1)
    node.close()
  })
}
