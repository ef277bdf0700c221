// SNAT with real sockets: how connections open, end and come again, ports,
// ICMP errors, and who gets the answers.
// Mostly waits: for flows to end.

import t, { type Test } from 'tap'
import type { FlowList } from '../../src/control/flow-api.js'
import { OUTSIDE } from '../lab/addresses.js'
import type { LabHost } from '../lab/host.js'
import type { Lab } from '../lab/lab.js'
import type { LabNode } from '../lab/node.js'
import { sleep, until } from '../lab/process.js'
import { captureAt, from, to } from './compare.js'
import { control, counted, servedLab } from './served.js'

const families = ['v4', 'v6'] as const
type Pair = { v4: string; v6: string }

async function flows(node: LabNode, query: Record<string, string> = {}): Promise<FlowList['flows']> {
  return (await control(node).get<FlowList>('/v1/flows', { verdict: 'snat', ...query })).value.flows
}

/** A node script in `host`; its output as JSON. */
async function script<Result>(host: LabHost, text: string): Promise<Result> {
  return JSON.parse(
    await host.run([process.execPath, '--input-type=module', '-e', text], { timeout: 15_000 })
  ) as Result
}

t.test('SNAT', async (t) => {
  const lab = await servedLab(t, { offloads: false })
  const before = await lab.node(0).readCounters()
  await t.test('[S1] half close, RST, refused, and the same source port again', (t) => endings(t, lab))
  await t.test('[S2] one socket to many remotes, and a burst of datagrams', (t) => manyRemotes(t, lab))
  await t.test('[S3] [S7] two pods with the same id and the same source port to the same remote', (t) =>
    samePorts(t, lab)
  )
  await t.test('[S5] errors about SNATed flows reach the pod, rewritten outside and inside', (t) => errorsToPod(t, lab))
  await t.test('[S5] an error that a pod sends about a SNATed flow leaves with the node’s address', (t) =>
    errorsFromPod(t, lab)
  )
  await t.test('[S13] answers of connections from outside keep the pod’s address', (t) => inbound(t, lab))
  const after = await lab.node(0).readCounters()
  t.equal(after.forward, before.forward, 'none of it passed the forward hook')
})

async function endings(t: Test, lab: Lab): Promise<void> {
  const node = lab.node(0)
  const pod = node.pod(0)
  const server = lab.outside.start(['socat', '-t5', 'TCP6-LISTEN:9,ipv6only=0,fork,reuseaddr', 'SYSTEM:wc -c'])
  t.teardown(() => server.stop())
  await pod.sysctl({ 'net.ipv4.tcp_tw_reuse': 1 })
  for (const family of families) {
    const bracketed = family === 'v4' ? `TCP4:${OUTSIDE.v4}` : `TCP6:[${OUTSIDE.v6}]`
    let counts = ''
    await until('the server listens', async () => {
      const half = await pod.exec(['socat', '-t5', '-', `${bracketed}:9`], { input: 'x'.repeat(20_000) })
      counts = half.stdout.trim()
      return half.status === 0
    })
    t.equal(counts, '20000', `${family}: after a half close the answer still comes`)
    const refused = await pod.ask({ protocol: 'tcp', address: OUTSIDE[family], port: 99 })
    t.match(refused.error, /ECONNREFUSED/, `${family}: a RST of the remote arrives`)
    const ports = new Set<number>()
    for (let round = 0; round < 3; round++) {
      const again = { protocol: 'tcp', address: OUTSIDE[family], port: 7, localPort: 40_001, bytes: 100 } as const
      const answer = await pod.ask(again)
      t.match(
        answer,
        { echoed: 100, error: null, peer: node.address[family] },
        `${family}: source port 40001, time ${round + 1}`
      )
      ports.add(answer.port)
      await sleep(1_050) // the pod's own TIME_WAIT
    }
    const ended = (await flows(node, { pod: pod.address[family] })).filter(({ podPort }) => podPort === 40_001)
    t.equal(ended.length, 1, `${family}: one entry for the port, however often it was used (${[...ports].join(', ')})`)
  }
}

async function manyRemotes(t: Test, lab: Lab): Promise<void> {
  const node = lab.node(0)
  const remotes = Array.from({ length: 20 }, (_, index) => `203.0.113.${20 + index}`)
  await lab.outside.ip(...remotes.map((each) => `addr add ${each}/32 dev lo`))
  await lab.router.ip(...remotes.map((each) => `route add ${each}/32 via ${OUTSIDE.v4}`))
  const responder = lab.outside.start([
    process.execPath,
    '-e',
    `for (const address of ${JSON.stringify(remotes)}) {
      const socket = require('dgram').createSocket('udp4')
      socket.on('message', (text, peer) => socket.send(peer.port + ' ' + text, peer.port, peer.address))
      socket.bind(5353, address, () => process.stdout.write('ready '))
    }`
  ])
  t.teardown(() => responder.stop())
  await until('the responders', () => responder.stdout.split('ready').length > 20)
  const answers = await script<string[]>(
    node.pod(0),
    `import { createSocket } from 'node:dgram'
    const socket = createSocket('udp4'), answers = []
    const finish = () => { console.log(JSON.stringify(answers)); process.exit() }
    socket.on('message', (text, peer) => { if (answers.push(peer.address + ' ' + text) === 200) finish() })
    setTimeout(finish, 3000)
    socket.bind(0, () => { for (let n = 0; n < 10; n++) for (const to of ${JSON.stringify(remotes)}) socket.send(to + '#' + n, 5353, to) })`
  )
  t.equal(new Set(answers).size, 200, '10 questions to each of 20 remotes from one socket, all answered once')
  t.ok(
    answers.every((words) => words.split(' ')[0] === words.split(' ')[2]?.split('#')[0]),
    'by the remote that was asked'
  )
  const ports = remotes.map(
    (remote) => new Set(answers.filter((words) => words.startsWith(`${remote} `)).map((words) => words.split(' ')[1]))
  )
  t.ok(
    ports.every((each) => each.size === 1),
    'and each remote saw one port only'
  )
}

async function samePorts(t: Test, lab: Lab): Promise<void> {
  const node = lab.node(0)
  const pods = [node.pod(0), node.pod(1)]
  for (const family of families) {
    for (const protocol of ['tcp', 'udp'] as const) {
      const question = { protocol, address: OUTSIDE[family], port: 7, localPort: 33_333, bytes: 500 }
      const [one, two] = await Promise.all(pods.map((pod) => pod.ask(question)))
      t.match(
        [one, two],
        [
          { echoed: 500, error: null },
          { echoed: 500, error: null }
        ],
        `${protocol} ${family}`
      )
      t.not(one?.port, two?.port, `${protocol} ${family}: seen as ports ${one?.port} and ${two?.port}`)
    }
    const pings = await Promise.all(
      pods.map((pod) => pod.ping(OUTSIDE[family], { count: 10, arguments: ['-e', '777'] }))
    )
    t.strictSame(
      pings.map(({ received }) => received),
      [10, 10],
      `${family}: ten echoes each, with the same id`
    )
    t.notMatch(pings.map(({ output }) => output).join(), /DUP|differs/, 'none of the other’s')
  }
}

async function errorsToPod(t: Test, lab: Lab): Promise<void> {
  const node = lab.node(0)
  const pod = node.pod(0)
  for (const family of families) {
    const places: [LabHost, string][] = [
      [pod, 'eth0'],
      [lab.router, 'n1u0']
    ]
    const [atPod = [], onWire = []] = await captureAt(places, family === 'v4' ? 'icmp' : 'icmp6', async () => {
      const answer = await pod.ask({
        protocol: 'udp',
        address: OUTSIDE[family],
        port: 98,
        localPort: 34_000,
        timeout: 1_000
      })
      t.match(answer.error, /ECONNREFUSED/, `${family}: the pod’s socket is told that nobody listens`)
    })
    const [outer] = to(onWire, node.address[family])
    const [inner] = to(atPod, pod.address[family])
    t.match(
      outer?.packet.embedded,
      { ip: { source: node.address[family] } },
      'on the wire it is about the node’s address'
    )
    t.match(inner?.packet, {
      ip: { source: OUTSIDE[family], headerChecksumOk: true, ttl: (outer?.packet.ip?.ttl ?? 0) - 1 },
      l4: { checksumOk: true },
      embedded: {
        ip: { source: pod.address[family], destination: OUTSIDE[family], headerChecksumOk: true },
        l4: { protocol: 'udp', sourcePort: 34_000, destinationPort: 98, checksumOk: true }
      },
      problems: []
    })
    t.equal(
      inner?.packet.embedded?.payload.compare(outer?.packet.embedded?.payload ?? Buffer.alloc(0)),
      0,
      'the rest inside is unchanged'
    )
  }
}

async function errorsFromPod(t: Test, lab: Lab): Promise<void> {
  const node = lab.node(0)
  const pod = node.pod(0)
  const late = lab.outside.start([
    process.execPath,
    '-e',
    `const socket = require('dgram').createSocket('udp6')
    socket.on('message', (text, peer) => setTimeout(() => socket.send('late', peer.port, peer.address), 400))
    socket.bind(97, '::', () => console.log('ready'))`
  ])
  t.teardown(() => late.stop())
  await late.waitFor('ready')
  for (const family of families) {
    const filter = family === 'v4' ? 'icmp' : 'icmp6'
    const [outside = []] = await captureAt([[lab.outside, 'eth0']], filter, async () => {
      await pod.ask({ protocol: 'udp', address: OUTSIDE[family], port: 97, localPort: 35_000, timeout: 100 })
      await sleep(700)
    })
    t.strictSame(from(outside, pod.address[family]), [], `${family}: nothing with the pod’s address`)
    const [row] = (await flows(node, { pod: pod.address[family] })).filter(({ podPort }) => podPort === 35_000)
    const error = from(outside, node.address[family]).find(({ packet }) => packet.embedded)
    t.match(error?.packet, {
      ip: { headerChecksumOk: true },
      l4: { checksumOk: true, type: family === 'v4' ? 3 : 1, code: family === 'v4' ? 3 : 4 },
      embedded: {
        ip: { source: OUTSIDE[family], destination: node.address[family] },
        l4: { destinationPort: row?.natPort ?? 0 }
      }
    })
  }
}

async function inbound(t: Test, lab: Lab): Promise<void> {
  const node = lab.node(0)
  const pod = node.pod(1)
  const server = await pod.echo(7)
  t.teardown(() => server.stop())
  const range: Pair = { v4: '10.244.1.0/24', v6: 'fd00:244:1::/64' }
  for (const family of families) {
    await lab.router.ip(`route add ${range[family]} via ${node.address[family]}`)
    await lab.outside.ip(`route add ${range[family]} via ${family === 'v4' ? '203.0.113.1' : '2001:db8:99::1'}`)
    const [packets = []] = await captureAt([[lab.outside, 'eth0']], `port 7`, async () => {
      const answers = await lab.outside.askAll(
        (['tcp', 'udp'] as const).map((protocol) => ({
          protocol,
          address: pod.address[family],
          port: 7,
          localPort: 36_000,
          bytes: 1000
        }))
      )
      t.match(
        answers,
        [
          { echoed: 1000, peer: OUTSIDE[family] },
          { echoed: 1000, peer: OUTSIDE[family] }
        ],
        family
      )
    })
    t.ok(from(packets, pod.address[family]).length >= 4, 'answers with the pod’s own address')
    t.strictSame(from(packets, node.address[family]), [], 'none with the node’s')
    // the pod opens a connection with the same ports the other way round: that one is SNATed
    await sleep(50)
    const answer = await lab.node(0).pod(0).ask({ protocol: 'tcp', address: OUTSIDE[family], port: 7, localPort: 7 })
    t.match(answer, { peer: node.address[family], error: null }, 'a connection from a pod is SNATed all the same')
    await lab.router.ip(`route del ${range[family]} via ${node.address[family]}`)
  }
}

t.test('[S9] exhaustion towards one remote is dropped by name, others go on, and it passes', async (t) => {
  const timeouts = { udpOneWay: '1s', udpReplied: '1s' }
  const lab = await servedLab(t, { pods: 1 })
  const node = lab.node(0)
  const pod = node.pod(0)
  const snat = { masqueradeFiles: [node.daemon.masqueradeFile], ports: '20000-20002', timeouts }
  node.daemon.writeConfig({ checks: 'off', guard: { mode: 'off' }, snat, expireInterval: '500ms' })
  await control(node).post('/v1/reload')
  const ask = (count: number, port = 7) =>
    pod.askAll(
      Array.from({ length: count }, () => ({ protocol: 'udp' as const, address: OUTSIDE.v4, port, timeout: 400 }))
    )
  const answers = await ask(5)
  t.equal(answers.filter(({ error }) => error === null).length, 3, 'three ports, three flows')
  t.ok((await counted(node, 'drop-ports')) >= 2, 'the others were dropped as drop-ports')
  t.match(
    await pod.ask({ protocol: 'udp', address: OUTSIDE.v6, port: 7 }),
    { error: null },
    'another remote is not concerned'
  )
  await until('the ports are free again', async () => (await ask(3)).every(({ error }) => error === null), 8_000)
  t.pass('recovered')
})
