// Whose is a flow: the programs ask the real conntrack of this test's own
// namespace. Entries are made by conntrack(8), as NAT would have made them.
import './namespace.js'
import { execFileSync } from 'node:child_process'
import t from 'tap'
import { stackPairRow } from '../../src/maps/stack-pairs.js'
import { echo, fragments, icmpError, ip, raw, type Transport, tcp, udp } from '../packets/packet.js'
import { hex } from '../plan/node.js'
import { Control } from './layout.js'
import { devices, type TestNode, testNode, to } from './node.js'
import { out, pod } from './snat_flow.js'
import { Stage } from './traced.js'

const service = { 4: '10.96.0.10', 6: 'fd00:96::10' } as const
const remotePod = { 4: '10.2.0.7', 6: 'fd00:2::7' } as const
const protocols = { tcp, udp } as const
type Kind = keyof typeof protocols

try {
  // a module on most kernels; the programs are loaded with it
  execFileSync('modprobe', ['-a', 'nf_conntrack', 'nf_conntrack_netlink'], { stdio: 'ignore' })
} catch {
  // built in
}
const node = testNode()
t.teardown(() => node.close({ byHand: true }))

/** The node as it was: nothing remembered, nothing translated. */
function fresh(): TestNode {
  for (const table of ['flows4', 'flows6', 'reverse4', 'reverse6', 'owners4', 'owners6', 'fragments']) {
    const { keys, count } = node.map(table).dump()
    if (count > 0) node.map(table).deleteBatch(keys, count)
  }
  node.clearStackPairs()
  for (const name of ['a', 'b', 'c'] as const) node.share(name, false)
  for (const family of [4, 6] as const) node.setRoute(`${remotePod[family]}/${family === 4 ? 32 : 128}`, null)
  node.setControl({ flags: Control.on | Control.snat, translating: false, portCount: 2000 })
  return node
}

/** As if nothing had come for so long. */
function age(node: TestNode, family: 4 | 6, seconds: number): void {
  const owners = node.map(`owners${family}`)
  const { keys, values, count } = owners.dump()
  const size = values.length / count
  for (let row = 0; row < count; row++) {
    values.writeUInt32LE((values.readUInt32LE(row * size) - 250 * seconds) >>> 0, row * size)
  }
  owners.updateBatch(keys, values, count)
}

interface Entry {
  kind: Kind
  source: string
  sourcePort: number
  destination: string
  destinationPort: number
  /** What the reply comes from, and goes to; the inverse when absent. */
  from?: string
  fromPort?: number
  back?: string
  backPort?: number
}

/** Makes an entry with exactly these two tuples. */
function track(entry: Entry): void {
  const { kind, source, sourcePort, destination, destinationPort } = entry
  const { from = destination, fromPort = destinationPort, back = source, backPort = sourcePort } = entry
  const state = kind === 'tcp' ? ['--state', 'ESTABLISHED'] : []
  execFileSync('conntrack', [
    ...['-I', '-p', kind, '-t', '300', '-u', 'ASSURED,SEEN_REPLY', ...state],
    ...['--orig-src', source, '--orig-dst', destination, '--sport', `${sourcePort}`, '--dport', `${destinationPort}`],
    ...['--reply-src', from, '--reply-dst', back],
    ...['--reply-port-src', `${fromPort}`, '--reply-port-dst', `${backPort}`]
  ])
}

function forget(): void {
  execFileSync('conntrack', ['-F'], { stdio: 'ignore' })
}

function send(node: TestNode, device: 'a' | 'b' | 'up0', source: string, destination: string, l4: Transport) {
  return node.send(device, ip({ source, destination }, l4))
}

function segment(kind: Kind, sourcePort: number, destinationPort: number, flags = 'A'): Transport {
  return kind === 'tcp'
    ? tcp({ sourcePort, destinationPort, flags }, 'data')
    : udp({ sourcePort, destinationPort }, 'data')
}

for (const family of [4, 6] as const) {
  const a = pod('a', family)
  const b = pod('b', family)
  for (const kind of ['tcp', 'udp'] as const) {
    t.test(`[K1] IPv${family} ${kind}: a Service's backend on this node answers through the stack`, async (t) => {
      const node = fresh()
      track({
        kind,
        source: a,
        sourcePort: 999,
        destination: service[family],
        destinationPort: 80,
        from: b,
        fromPort: 8080
      })
      t.same(node.translating('b'), { translating: false, shared: false })
      t.equal(
        send(node, 'b', b, a, segment(kind, 8080, 999, 'SA')).reason,
        'to-pod',
        'nothing has come through the stack'
      )
      node.deliver('b', ip({ source: a, destination: b }, segment(kind, 999, 8080, 'S')))
      t.same(node.translating('b'), { translating: true, shared: true })
      t.match(node.owners(family), [
        { local: b, remote: a, localPort: 8080, remotePort: 999, reason: 'translated-flow' }
      ])
      if (family === 4) {
        const row = stackPairRow(hex(a), hex(b))
        t.equal(row, stackPairRow(hex(b), hex(a)))
        t.ok(node.stackPairs().includes(row), 'the hot path asks about these two, the daemon knows the row, too')
      }
      t.equal(send(node, 'b', b, a, segment(kind, 8080, 999, 'SA')).reason, 'translated-flow')
      t.equal(send(node, 'b', b, a, segment(kind, 8080, 999)).reason, 'translated-flow')
      t.equal(send(node, 'b', b, a, segment(kind, 8080, 998)).reason, 'to-pod', 'another flow of the same two')
      t.equal(send(node, 'a', a, b, segment(kind, 997, 8080)).reason, 'to-pod', 'the client is not shared')
      forget()
      t.equal(
        send(node, 'b', b, a, segment(kind, 8080, 999)).reason,
        'translated-flow',
        'conntrack is not asked for each packet'
      )
    })

    t.test(`[K1] IPv${family} ${kind}: a backend on another node answers through the stack`, async (t) => {
      const node = fresh()
      track({
        kind,
        source: a,
        sourcePort: 999,
        destination: service[family],
        destinationPort: 80,
        from: remotePod[family],
        fromPort: 8080
      })
      const first = send(node, 'up0', remotePod[family], a, segment(kind, 8080, 999, 'SA'))
      t.equal(first.reason, 'translated-flow')
      t.ok(first.trace.stages & Stage.askedOwner)
      t.ok(first.trace.stages & Stage.conntrack, 'and explain can say into what')
      t.same(node.translating(), { translating: true, shared: false })
      t.equal(send(node, 'up0', remotePod[family], a, segment(kind, 8080, 999)).reason, 'translated-flow')
      t.equal(node.flows(family).length, 0)
      t.equal(send(node, 'up0', remotePod[family], a, segment(kind, 8080, 998)).reason, 'to-pod')
      forget()
    })

    t.test(`[K6] IPv${family} ${kind}: a translated connection is known by its middle, too`, async (t) => {
      const node = fresh()
      track({
        kind,
        source: a,
        sourcePort: 999,
        destination: service[family],
        destinationPort: 80,
        from: b,
        fromPort: 8080
      })
      node.deliver('b', ip({ source: a, destination: b }, segment(kind, 999, 8080)))
      t.same(node.translating('b'), { translating: true, shared: true })
      t.equal(send(node, 'b', b, a, segment(kind, 8080, 999)).reason, 'translated-flow')
      forget()
    })

    t.test(`[K4] IPv${family} ${kind}: a translated flow outranks a SNATed one with its ports`, async (t) => {
      const node = fresh()
      const client = to.external[family]
      const push = () => send(node, 'b', b, client, segment(kind, 8080, 999))
      t.equal(push().packet.ip?.source, family === 4 ? devices.up0.v4 : devices.up0.v6, 'the pod speaks first: SNAT')
      track({
        kind,
        source: client,
        sourcePort: 999,
        destination: family === 4 ? devices.up0.v4 : devices.up0.v6,
        destinationPort: 31080,
        from: b,
        fromPort: 8080
      })
      node.deliver('b', ip({ source: client, destination: b }, segment(kind, 999, 8080, 'S')))
      t.equal(push().reason, 'translated-flow', 'answers go through the stack')
      if (kind === 'udp') {
        const large = ip(
          { source: b, destination: client },
          udp({ sourcePort: 8080, destinationPort: 999 }, 'x'.repeat(3000))
        )
        t.same(
          fragments(large, 1000).map((piece) => node.send('b', piece).reason),
          ['translated-flow', 'translated-flow', 'translated-flow', 'translated-flow'],
          'in fragments, too'
        )
      }
      age(node, family, 11)
      t.equal(push().reason, 'translated-flow', 'also when conntrack has to be asked again')
      forget()
      age(node, family, 11)
      t.equal(
        push().reason,
        kind === 'tcp' ? 'translated-flow' : 'to-uplink',
        'of UDP until conntrack has forgotten it'
      )
    })

    t.test(
      `[K4] IPv${family} ${kind}: a hostPort's answer keeps its way, and another port of the pod has SNAT`,
      async (t) => {
        const node = fresh()
        const { up0 } = devices
        const own = family === 4 ? up0.v4 : up0.v6
        track({
          kind,
          source: to.external[family],
          sourcePort: 999,
          destination: own,
          destinationPort: 31080,
          from: b,
          fromPort: 443
        })
        node.deliver('b', ip({ source: to.external[family], destination: b }, segment(kind, 999, 443, 'S')))
        t.same(node.translating('b'), { translating: true, shared: false }, 'no local pod is concerned')
        t.equal(send(node, 'b', b, to.external[family], segment(kind, 443, 999, 'SA')).reason, 'translated-flow')
        t.equal(send(node, 'b', b, to.external[family], segment(kind, 443, 998, 'S')).reason, 'to-uplink')
        forget()
      }
    )

    t.test(`[K6] IPv${family} ${kind}: what MASQUERADE translated before goes on, what is new is ours`, async (t) => {
      const node = fresh()
      node.setControl({ translating: true })
      track({
        kind,
        source: a,
        sourcePort: 999,
        destination: to.external[family],
        destinationPort: 443,
        back: family === 4 ? '192.0.2.99' : '2001:db8::99',
        backPort: 999
      })
      t.equal(out(node, 'a', family, kind, 999, 'PA').reason, 'translated-flow')
      t.equal(out(node, 'a', family, kind, 998, 'PA').reason, 'to-uplink')
      t.equal(node.flows(family).length, 1)
      forget()
    })

    t.test(`[K6] IPv${family} ${kind}: what conntrack knows and leaves as it is, is the fast path's`, async (t) => {
      const node = fresh()
      node.setControl({ translating: true })
      track({ kind, source: remotePod[family], sourcePort: 999, destination: a, destinationPort: 80 })
      t.equal(send(node, 'up0', remotePod[family], a, segment(kind, 999, 80)).reason, 'to-pod')
      node.deliver('b', ip({ source: remotePod[family], destination: b }, segment(kind, 999, 80, 'S')))
      t.same(node.translating('b'), { translating: true, shared: false })
      forget()
    })
  }

  t.test(
    `[K8] IPv${family}: a connection that conntrack has forgotten stays with the stack, a new one is judged anew`,
    async (t) => {
      const node = fresh()
      node.setControl({ translating: true })
      node.setOwner(
        'b',
        { local: b, remote: to.external[family], localPort: 443, remotePort: 999, protocol: 6 },
        'translated-flow'
      )
      age(node, family, 60)
      t.equal(send(node, 'b', b, to.external[family], segment('tcp', 443, 999)).reason, 'translated-flow')
      t.equal(send(node, 'b', b, to.external[family], segment('tcp', 443, 999, 'S')).reason, 'to-uplink')
    }
  )

  t.test(`[K8] IPv${family}: another pod with the address does not inherit an owner`, async (t) => {
    const node = fresh()
    node.setControl({ translating: true })
    node.setOwner(
      'a',
      { local: b, remote: to.external[family], localPort: 443, remotePort: 999, protocol: 6 },
      'translated-flow'
    )
    t.equal(send(node, 'b', b, to.external[family], segment('tcp', 443, 999)).reason, 'to-uplink')
  })

  t.test(`[K10] IPv${family}: a destination that is the stack's is so as a source, too`, async (t) => {
    const node = fresh()
    node.setRoute(`${remotePod[family]}/${family === 4 ? 32 : 128}`, { stack: 'translated-destination' })
    for (const kind of ['tcp', 'udp'] as const) {
      t.equal(send(node, 'up0', remotePod[family], a, segment(kind, 999, 80, 'S')).reason, 'translated-destination')
      t.equal(
        send(node, 'up0', remotePod[family], a, segment(kind, 999, 80)).reason,
        'translated-destination',
        'and what follows'
      )
      t.equal(send(node, 'a', a, remotePod[family], segment(kind, 80, 999, 'SA')).reason, 'translated-destination')
    }
    t.same(node.translating(), { translating: true, shared: false })
  })

  t.test(`[K4] IPv${family}: an echo is the stack's if its request went there`, async (t) => {
    const node = fresh()
    const reply = echo({ id: 7, reply: true }, 'data')
    t.equal(send(node, 'up0', remotePod[family], a, reply).reason, 'unknown-owner', 'nobody has asked here')
    t.equal(send(node, 'b', b, remotePod[family], reply).reason, 'unknown-owner')
    t.equal(send(node, 'a', a, remotePod[family], echo({ id: 7 }, 'data')).reason, 'to-neighbour')
    t.equal(send(node, 'up0', remotePod[family], a, reply).reason, 'to-pod', 'the answer to a request that was ours')
    node.setControl({ translating: true })
    node.deliver('b', ip({ source: a, destination: b }, echo({ id: 8 }, 'data')))
    t.equal(node.translating('b').shared, true)
    t.equal(send(node, 'b', b, a, echo({ id: 8, reply: true }, 'data')).reason, 'unknown-owner')
    t.equal(send(node, 'b', b, a, echo({ id: 9, reply: true }, 'data')).reason, 'to-pod')
  })

  t.test(
    `[K1] IPv${family}: a protocol without ports has one owner between two pods, in both directions`,
    async (t) => {
      const node = fresh()
      node.setControl({ translating: true })
      t.equal(send(node, 'a', a, b, raw(132)).reason, 'to-pod')
      node.deliver('b', ip({ source: a, destination: b }, raw(132)))
      t.equal(send(node, 'b', b, a, raw(132)).reason, 'unknown-owner')
      t.equal(send(node, 'a', a, b, raw(132)).reason, 'unknown-owner', 'else conntrack would see one of them only')
    }
  )

  t.test(`[S15] IPv${family}: where the node translates, a protocol without ports is the stack's`, async (t) => {
    const node = fresh()
    const gre = raw(47, Buffer.alloc(20))
    t.equal(send(node, 'a', a, remotePod[family], gre).reason, 'to-neighbour')
    t.equal(send(node, 'up0', remotePod[family], a, gre).reason, 'to-pod')
    node.setControl({ translating: true })
    t.equal(send(node, 'a', a, remotePod[family], gre).reason, 'unknown-owner')
    t.equal(send(node, 'up0', remotePod[family], a, gre).reason, 'unknown-owner')
  })

  t.test(`[K7] IPv${family}: while handing over, what is known goes on and what is new is the stack's`, async (t) => {
    const node = fresh()
    t.equal(out(node, 'a', family, 'tcp', 1).reason, 'to-uplink')
    t.equal(send(node, 'up0', remotePod[family], a, segment('tcp', 999, 80, 'S')).reason, 'to-pod')
    node.setControl({ flags: Control.on | Control.snat | Control.handOver })
    t.equal(out(node, 'a', family, 'tcp', 1, 'A').reason, 'to-uplink')
    t.equal(out(node, 'a', family, 'tcp', 2).reason, 'off')
    t.equal(out(node, 'a', family, 'udp', 2).reason, 'off')
    t.equal(send(node, 'up0', remotePod[family], a, segment('tcp', 999, 80)).reason, 'to-pod')
    t.equal(send(node, 'up0', remotePod[family], a, segment('tcp', 998, 80, 'S')).reason, 'off')
  })

  t.test(`[S8] IPv${family}: a port that conntrack gave to a flow of the stack's is not taken`, async (t) => {
    const node = fresh()
    node.setControl({ portCount: 2 })
    node.setControl({ translating: true })
    const own = family === 4 ? devices.up0.v4 : devices.up0.v6
    track({
      kind: 'tcp',
      source: b,
      sourcePort: 5,
      destination: to.external[family],
      destinationPort: 443,
      back: own,
      backPort: 20000
    })
    t.equal(out(node, 'a', family, 'tcp', 1).packet.l4?.sourcePort, 20001)
    t.equal(out(node, 'a', family, 'tcp', 2).reason, 'drop-ports')
    forget()
  })
}

for (const family of [4, 6] as const) {
  const [a, b] = [pod('a', family), pod('b', family)]
  const host = family === 4 ? 32 : 128

  t.test(
    `[K1] IPv${family}: one client port through a Service and directly: conntrack tells the two apart`,
    async (t) => {
      const node = fresh()
      for (const kind of ['tcp', 'udp'] as const) {
        const far = remotePod[family]
        track({
          kind,
          source: a,
          sourcePort: 999,
          destination: service[family],
          destinationPort: 80,
          from: b,
          fromPort: 8080
        })
        node.deliver('b', ip({ source: a, destination: b }, segment(kind, 999, 8080, 'S')))
        t.equal(
          send(node, 'a', a, b, segment(kind, 999, 8080, 'S')).reason,
          'translated-flow',
          `${kind}: local, direct second`
        )
        t.equal(node.translating('a').shared, true, 'what follows is looked up')
        t.equal(send(node, 'a', a, b, segment(kind, 998, 8080, 'S')).reason, 'to-pod', `${kind}: another port`)
        // a direct connection that is known, then an answer that conntrack translates
        t.equal(send(node, 'a', a, far, segment(kind, 997, 8080, 'S')).reason, 'to-neighbour')
        t.equal(send(node, 'a', a, far, segment(kind, 997, 8080)).reason, 'to-neighbour')
        const through = { destination: service[family], destinationPort: 80, from: far, fromPort: 8080 }
        track({ kind, source: a, sourcePort: 997, ...through })
        node.setRoute(`${service[family]}/${host}`, { stack: 'translated-destination' })
        t.equal(send(node, 'a', a, service[family], segment(kind, 997, 80, 'S')).reason, 'translated-destination')
        t.equal(
          send(node, 'up0', far, a, segment(kind, 8080, 997, 'SA')).reason,
          'translated-flow',
          `${kind}: remote, Service second`
        )
        node.setRoute(`${service[family]}/${host}`, null)
        t.equal(
          send(node, 'a', a, service[family], segment(kind, 997, 80)).reason,
          'translated-destination',
          'what follows goes the same way for a while'
        )
        track({ kind, source: a, sourcePort: 996, ...through })
        t.equal(send(node, 'up0', far, a, segment(kind, 8080, 996, 'SA')).reason, 'translated-flow')
        t.equal(
          send(node, 'a', a, far, segment(kind, 996, 8080, 'S')).reason,
          'translated-flow',
          `${kind}: remote, direct second`
        )
        const [outside, own] = [to.external[family], family === 4 ? devices.up0.v4 : devices.up0.v6]
        const nodePort = { destination: own, destinationPort: 30012, from: b, fromPort: 8080 }
        track({ kind, source: outside, sourcePort: 999, ...nodePort })
        node.deliver('b', ip({ source: outside, destination: b }, segment(kind, 999, 8080, 'S')))
        const direct = send(node, 'up0', outside, b, segment(kind, 999, 8080, 'S'))
        t.equal(direct.reason, 'translated-flow', `${kind}: by a NodePort, direct second`)
        t.equal(send(node, 'b', b, outside, segment(kind, 8080, 999)).reason, 'translated-flow', 'the first goes on')
        node.share('a', false)
        forget()
      }
    }
  )

  t.test(`[K9] IPv${family}: a live connection outlasts a rule for its destination, an attempt does not`, async (t) => {
    const node = fresh()
    const remote = to.external[family]
    for (const port of [1, 2]) t.equal(out(node, 'a', family, 'tcp', port).reason, 'to-uplink')
    t.equal(out(node, 'a', family, 'tcp', 1, 'A').reason, 'to-uplink')
    node.setRoute(`${remote}/${host}`, { stack: 'translated-destination' })
    node.setControl({ routeGeneration: 2 })
    t.equal(out(node, 'a', family, 'tcp', 1, 'PA').reason, 'to-uplink', 'answered before')
    t.equal(out(node, 'a', family, 'tcp', 2).reason, 'translated-destination', 'the next try reaches the Service')
    t.equal(out(node, 'a', family, 'tcp', 3).reason, 'translated-destination')
    node.setRoute(`${remote}/${host}`, null)
    node.setControl({ routeGeneration: 1 })
  })

  t.test(
    `[P4] [K4] IPv${family} fragments to a translated destination go to the stack whatever masquerading says`,
    async (t) => {
      const node = fresh()
      const remote = to.external[family]
      node.setRoute(`${remote}/${host}`, { stack: 'translated-destination' })
      node.setControl({ routeGeneration: 3 })
      const parts = fragments(
        ip({ source: a, destination: remote }, udp({ sourcePort: 1, destinationPort: 2 }, Buffer.alloc(64))),
        32
      )
      for (const part of [...parts].reverse()) t.not(node.send('a', part).verdict, 'drop', 'in any order')
      node.setRoute(`${remote}/${host}`, null)
      node.setControl({ routeGeneration: 4 })
    }
  )

  t.test(
    `[K7] IPv${family}: while handing over, the answer to what the stack has sent is the stack's, too`,
    async (t) => {
      const node = fresh()
      node.setControl({ flags: Control.on | Control.snat | Control.handOver, translating: 'presumed' })
      t.equal(send(node, 'up0', remotePod[family], a, segment('tcp', 80, 999, 'SA')).reason, 'off')
      t.equal(send(node, 'up0', remotePod[family], a, segment('tcp', 80, 998)).reason, 'off')
    }
  )

  t.test(`[S5] [K4] IPv${family}: an error about an echo that has not come through here is the stack's`, async (t) => {
    const node = fresh()
    node.setControl({ translating: true })
    const far = remotePod[family]
    const about = (id: number) =>
      icmpError({ type: family === 4 ? 11 : 3, code: 0 }, ip({ source: a, destination: far }, echo({ id })))
    t.equal(send(node, 'a', a, far, echo({ id: 5 })).reason, 'to-neighbour')
    t.equal(send(node, 'up0', to.external[family], a, about(5)).reason, 'to-pod')
    t.equal(send(node, 'up0', to.external[family], a, about(6)).reason, 'unknown-owner')
  })
}

for (const family of [4, 6] as const) {
  t.test(`[P4] IPv${family} fragments of a flow of the stack's go there with the first`, async (t) => {
    const node = fresh()
    node.setControl({ translating: true })
    const [a, b] = [pod('a', family), pod('b', family)]
    const [far, near] = [remotePod[family], service[family]]
    track({
      kind: 'udp',
      source: a,
      sourcePort: 999,
      destination: near,
      destinationPort: 80,
      from: far,
      fromPort: 8080
    })
    track({ kind: 'udp', source: a, sourcePort: 999, destination: near, destinationPort: 81, from: b, fromPort: 8080 })
    node.share('b', true)
    const datagram = udp({ sourcePort: 8080, destinationPort: 999 }, Buffer.alloc(64, 1))
    for (const [device, source] of [
      ['up0', far],
      ['b', b]
    ] as const)
      for (const part of fragments(ip({ source, destination: a }, datagram), 32))
        t.equal(node.send(device, part).reason, 'translated-flow')
    const other = udp({ sourcePort: 8080, destinationPort: 998 }, Buffer.alloc(64, 1))
    for (const [device, source] of [
      ['up0', far],
      ['b', b]
    ] as const)
      for (const part of fragments(ip({ source, destination: a }, other), 32, 2))
        t.equal(node.send(device, part).reason, 'to-pod')
    forget()
  })
}
