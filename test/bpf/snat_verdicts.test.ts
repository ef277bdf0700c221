// When SNAT is due, which flows keep their verdict, and what happens when
// ports, tables or a source address are not there.
import './namespace.js'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { createServer } from 'node:net'
import t from 'tap'
import { echo, icmp, ip, Protocol, raw, udp } from '../packets/packet.js'
import { Control } from './layout.js'
import { onLink, testNode, to } from './node.js'
import { back, content, natPort, out, pod, snatAddress } from './snat_flow.js'

for (const family of [4, 6] as const) {
  t.test(
    `[S9] IPv${family}: all ports towards one remote can be used, then it is drop-ports; others are not affected`,
    async (t) => {
      const node = testNode({ ports: Array.from({ length: 8 }, (_, index) => 30000 + index) })
      const ports = Array.from({ length: 8 }, (_, index) => out(node, 'a', family, 'tcp', 1000 + index))
      t.same(
        ports.map((result) => result.reason),
        new Array(8).fill('to-uplink')
      )
      t.equal(new Set(ports.map(natPort)).size, 8)
      t.match(out(node, 'a', family, 'tcp', 2000), { verdict: 'drop', reason: 'drop-ports' })
      t.equal(out(node, 'a', family, 'tcp', 1003, 'A').reason, 'to-uplink', 'established ones go on')
      t.equal(out(node, 'a', family, 'udp', 2000).reason, 'to-uplink', 'another protocol')
      t.equal(out(node, 'a', family, 'tcp', 2000, 'S', onLink[family]).reason, 'to-uplink', 'another remote')
      node.close()
    }
  )

  t.test(
    `[S10] IPv${family}: with the flow table full SNATed flows go on, new ones are counted, plain ones are forwarded`,
    async (t) => {
      const node = testNode()
      node.setControl({ flowLimit: 8 })
      const before = Array.from({ length: 4 }, (_, index) => natPort(out(node, 'a', family, 'tcp', 1000 + index)))
      t.match(out(node, 'a', family, 'tcp', 2000), { verdict: 'drop', reason: 'drop-flows' })
      t.equal(node.reverses(family).length, 4, 'the port of the failed flow was given back')
      before.forEach((port, at) => {
        t.equal(natPort(out(node, 'a', family, 'tcp', 1000 + at, 'A')), port)
        t.equal(back(node, family, 'tcp', port).reason, 'to-pod')
      })
      t.equal(out(node, 'a', family, 'tcp', 2000, 'S', to.remoteNode[family]).reason, 'to-neighbour')
      node.close()
    }
  )

  t.test(`[S10] IPv${family}: with the reverse table full a new flow leaves nothing behind`, async (t) => {
    const node = testNode({ sizes: { [`reverse${family}`]: 2 } })
    out(node, 'a', family, 'udp', 1000)
    out(node, 'a', family, 'udp', 1001)
    t.equal(out(node, 'a', family, 'udp', 1002).reason, 'drop-flows')
    t.equal(node.flows(family).length, 2)
    node.close()
  })

  t.test(
    `[S12] IPv${family}: a live flow keeps its verdict when exclusions change, a new one gets the new`,
    async (t) => {
      const node = testNode()
      const all = family === 4 ? '0.0.0.0/0' : '::/0'
      const port = natPort(out(node, 'a', family, 'tcp', 1000, 'S'))
      const direct = out(node, 'a', family, 'tcp', 1001, 'S', to.remoteNode[family])
      t.equal(direct.packet.ip?.source, pod('a', family))
      const remoteNodes = family === 4 ? '10.0.0.0/8' : 'fd00::/8'
      node.setMasquerade(2, { [all]: false, [remoteNodes]: true })
      node.setControl({ epoch: 2 })
      t.equal(natPort(out(node, 'a', family, 'tcp', 1000, 'A')), port, 'SNATed goes on')
      t.equal(out(node, 'a', family, 'tcp', 1001, 'A', to.remoteNode[family]).packet.ip?.source, pod('a', family))
      t.equal(out(node, 'a', family, 'tcp', 1002, 'S').packet.ip?.source, pod('a', family), 'a new one is not SNATed')
      t.equal(out(node, 'a', family, 'tcp', 1003, 'S', to.remoteNode[family]).packet.ip?.source, snatAddress(family))
      t.equal(
        out(node, 'a', family, 'tcp', 1001, 'S', to.remoteNode[family]).packet.ip?.source,
        snatAddress(family),
        'opened anew'
      )
      node.close()
    }
  )

  t.test(`[S12] IPv${family}: a closed connection's ports used again get the new verdict`, async (t) => {
    const node = testNode()
    const port = natPort(out(node, 'a', family, 'tcp', 1000, 'S'))
    back(node, family, 'tcp', port, 'SA')
    out(node, 'a', family, 'tcp', 1000, 'FA')
    back(node, family, 'tcp', port, 'FA')
    node.setMasquerade(2, { [family === 4 ? '0.0.0.0/0' : '::/0']: false })
    node.setControl({ epoch: 2 })
    t.equal(
      out(node, 'a', family, 'tcp', 1000, 'A').packet.ip?.source,
      snatAddress(family),
      'the last ACK is still SNATed'
    )
    t.equal(out(node, 'a', family, 'tcp', 1000, 'S').packet.ip?.source, pod('a', family))
    node.close()
  })

  t.test(`[S13] IPv${family}: the answers of an inbound connection are not SNATed, a SYN over it is`, async (t) => {
    const node = testNode()
    for (const kind of ['tcp', 'udp', 'echo'] as const) {
      const request = kind === 'echo' ? echo({ id: 80 }) : content(kind, 80, true, 'S')
      const inbound = node.send('up0', ip({ source: to.external[family], destination: pod('a', family) }, request))
      t.equal(inbound.reason, 'to-pod')
      const reply = kind === 'echo' ? echo({ id: 80, reply: true }) : content(kind, 80, false, 'SA')
      const answer = node.send('a', ip({ source: pod('a', family), destination: to.external[family] }, reply))
      t.match(answer, { reason: 'to-uplink', packet: { ip: { source: pod('a', family) } } }, kind)
    }
    const again = out(node, 'a', family, 'tcp', 80, 'S')
    t.equal(again.packet.ip?.source, snatAddress(family))
    t.equal(back(node, family, 'tcp', natPort(again)).reason, 'to-pod')
    node.close()
  })

  t.test(`[S13] IPv${family}: a SYN from outside does not end a live SNATed flow`, async (t) => {
    const node = testNode()
    const port = natPort(out(node, 'a', family, 'tcp', 1000, 'S'))
    back(node, family, 'tcp', port, 'SA')
    const stray = ip({ source: to.external[family], destination: pod('a', family) }, content('tcp', 1000, true, 'S'))
    t.equal(node.send('up0', stray).reason, 'to-pod')
    t.equal(natPort(out(node, 'a', family, 'tcp', 1000, 'A')), port)
    node.close()
  })

  t.test(`[S15] IPv${family} protocols without ports that need SNAT: stack or drop, as configured`, async (t) => {
    const node = testNode()
    const drops = testNode({ flags: Control.on | Control.snat | Control.dropProtocols })
    const contents = [Protocol.sctp, Protocol.gre, Protocol.esp, Protocol.ipip, 253].map((protocol) => raw(protocol))
    for (const body of [...contents, icmp((of) => (of === 4 ? 13 : 139), 0, Buffer.alloc(16))]) {
      const packet = ip({ source: pod('a', family), destination: to.external[family] }, body)
      t.equal(node.send('a', packet).reason, 'protocol')
      t.equal(drops.send('a', packet).reason, 'drop-protocol')
    }
    t.equal(node.flows(family).length, 0)
    node.close()
    drops.close()
  })

  t.test(`[S16] IPv${family}: entries of a pod's earlier life do not apply`, async (t) => {
    const node = testNode()
    const old = natPort(out(node, 'a', family, 'tcp', 1000, 'S'))
    node.setDevice('a', { podId: 900 })
    node.setPod('a', pod('a', family), { id: 900 })
    t.equal(back(node, family, 'tcp', old).reason, 'node', 'an answer to the earlier pod')
    const fresh = out(node, 'a', family, 'tcp', 1000, 'S')
    t.equal(fresh.reason, 'to-uplink')
    t.match(node.flows(family), [{ podId: 900, natPort: natPort(fresh) }])
    t.equal(node.reverses(family).length, 1, 'the earlier port is free again')
    t.equal(back(node, family, 'tcp', natPort(fresh)).reason, 'to-pod')
    node.close()
  })

  t.test(`[S14] IPv${family} without a source address on the device is the kernel's`, async (t) => {
    const node = testNode()
    t.equal(out(node, 'a', family, 'udp', 1, '', to.noSource[family]).reason, 'no-source')
    node.setNexthop(5, 'up0', { gateway: '192.0.2.1', snat4: '192.0.2.44', snat6: '2001:db8::44' })
    t.equal(
      out(node, 'a', family, 'udp', 1, '', to.noSource[family]).packet.ip?.source,
      family === 4 ? '192.0.2.44' : '2001:db8::44'
    )
    node.close()
  })

  t.test(`[S8] IPv${family}: a port that a socket of the node uses is not taken`, async (t) => {
    const node = testNode({ ports: [20000, 20001] })
    const listener = createServer().listen(20000, family === 4 ? '0.0.0.0' : '::')
    const socket = createSocket(family === 4 ? 'udp4' : 'udp6').bind(20001, family === 4 ? '0.0.0.0' : '::')
    await Promise.all([once(listener, 'listening'), once(socket, 'listening')])
    t.equal(natPort(out(node, 'a', family, 'tcp', 1, 'S')), 20001)
    t.equal(out(node, 'a', family, 'tcp', 2, 'S').reason, 'drop-ports')
    t.equal(natPort(out(node, 'a', family, 'udp', 1)), 20000)
    t.equal(out(node, 'a', family, 'udp', 2).reason, 'drop-ports')
    listener.close()
    socket.close()
    node.close()
  })

  t.test(`IPv${family}: with SNAT switched off nothing is translated`, async (t) => {
    const node = testNode({ flags: Control.on })
    t.equal(out(node, 'a', family, 'udp', 1).packet.ip?.source, pod('a', family))
    t.equal(node.reverses(family).length, 0)
    node.close()
  })

  t.test(`[S9] IPv${family} with no ports configured at all drops under its own reason`, async (t) => {
    const node = testNode({ ports: [] })
    t.equal(out(node, 'a', family, 'udp', 1).reason, 'drop-ports')
    node.close()
  })

  t.test(`[P2] an IPv${family} packet too big for the next hop is left as it came, before SNAT`, async (t) => {
    const node = testNode()
    const big = udp({ sourcePort: 1, destinationPort: 2 }, Buffer.alloc(1400))
    t.equal(node.send('a', ip({ source: pod('a', family), destination: to.smallMtu[family] }, big)).reason, 'mtu')
    node.close()
  })
}
