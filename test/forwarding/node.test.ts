// The node's own traffic beside the fast path: it stays with the stack, and
// conntrack, which sees both directions of it, never calls a packet invalid.

import t from 'tap'
import { OUTSIDE } from '../lab/addresses.js'
import type { LabHost } from '../lab/host.js'
import { control, plain, servedLab } from './served.js'

const tracked = `table inet tracked {
  counter invalid {}
  counter established {}
  ${['prerouting', 'input', 'output', 'forward']
    .map(
      (hook) => `chain ${hook} {
    type filter hook ${hook} priority 0; policy accept;
    ct state invalid counter name invalid
    ct state established counter name established
  }`
    )
    .join('\n')}
}`

async function counter(host: LabHost, name: string): Promise<number> {
  const text = await host.run(['nft', '-j', 'list', 'counter', 'inet', 'tracked', name])
  return Number(/"packets": ?(\d+)/.exec(text)?.[1])
}

t.test(
  '[F4] pod to its node, node to pod, node to outside: through the stack and symmetric for conntrack',
  async (t) => {
    const lab = await servedLab(t)
    const node = lab.node(0)
    const [one, two] = [node.pod(0), node.pod(1)]
    await Promise.all([node.echo(7), one.echo(7)])
    await node.run(['nft', '-f', '-'], { input: tracked })
    for (const family of ['v4', 'v6'] as const) {
      const ask = (host: LabHost, address: string) =>
        host.askAll((['tcp', 'udp'] as const).map((protocol) => ({ protocol, address, port: 7, bytes: 5000 })))
      const peers: [string, LabHost, string, string][] = [
        ['pod to node', one, node.address[family], one.address[family]],
        ['outside to node', lab.outside, node.address[family], OUTSIDE[family]],
        ['node to outside', node, OUTSIDE[family], node.address[family]]
      ]
      for (const [name, host, address, peer] of peers) {
        const answer = { echoed: 5000, error: null, peer }
        t.match(await ask(host, address), [answer, answer], `${name}, ${family}`)
        t.equal((await host.ping(address, { count: 3 })).received, 3, `${name}, ${family}: echo`)
      }
      const answers = await ask(node, one.address[family])
      t.match(
        answers,
        [
          { echoed: 5000, error: null },
          { echoed: 5000, error: null }
        ],
        `node to pod, ${family}`
      )
      t.equal((await node.ping(two.address[family], { count: 3 })).received, 3, `node to pod, ${family}: echo`)
    }
    const gateway = await one.ping('169.254.1.1', { count: 1, wait: 200 })
    t.equal(gateway.sent, 1, 'the link-local gateway is nobody’s address, and asking it harms nothing')
    t.ok((await counter(node, 'established')) > 50, 'conntrack looked at all of it')
    t.equal(await counter(node, 'invalid'), 0, 'and found nothing invalid')
  }
)

t.test(
  '[S8] [S17] the node’s own sockets keep their ports; a MASQUERADE rule beside hostroute does nothing',
  async (t) => {
    const ports = '20000-20007'
    const lab = await servedLab(t, { legacy: 1, counters: true })
    const node = lab.node(0)
    const pod = node.pod(0)
    node.daemon.writeConfig({ ...plain, snat: { masqueradeFiles: [node.daemon.masqueradeFile], ports } })
    t.match((await control(node).post('/v1/reload')).value, { ok: true })
    const listener = node.start(['socat', 'TCP-LISTEN:20000,fork,reuseaddr', 'SYSTEM:cat'])
    const own = await node.flow({ protocol: 'tcp', address: OUTSIDE.v4, port: 7, localPort: 20001 })
    const ownUdp = await node.flow({ protocol: 'udp', address: OUTSIDE.v4, port: 7, localPort: 20002 })
    t.teardown(() => listener.stop())
    const before = await node.readCounters()
    const taken = new Set<number>()
    for (let round = 0; round < 3; round++) {
      for (const protocol of ['tcp', 'udp'] as const) {
        const answers = await pod.askAll([1, 2].map(() => ({ protocol, address: OUTSIDE.v4, port: 7 })))
        for (const answer of answers) {
          t.match(answer, { echoed: 32, error: null, peer: node.address.v4 })
          t.ok(answer.port >= 20000 && answer.port <= 20007, `${protocol}: port ${answer.port} of ${ports}`)
          t.not(
            answer.port,
            protocol === 'tcp' ? 20001 : 20002,
            'not one that a socket of the node uses to the same remote'
          )
          if (protocol === 'tcp') t.not(answer.port, 20000, 'nor one that a server of the node listens on')
          taken.add(answer.port)
        }
      }
    }
    t.ok(taken.size > 2, `ports ${[...taken].sort().join(', ')}`)
    for (const flow of [own, ownUdp]) {
      const report = await flow.finish()
      t.equal(report.received, report.sent, 'the node’s own flow is whole')
    }
    const after = await node.readCounters()
    t.equal(after.postrouting, before.postrouting, 'the MASQUERADE rule never saw a packet of the pod')
    const { stdout } = await node.exec(['conntrack', '-L', '-s', pod.address.v4])
    t.notMatch(stdout, /dport=7/, 'nor does conntrack know the pod’s flows')
  }
)

t.test('[S8] snat.ports auto leaves out reserved, ephemeral and NodePorts', async (t) => {
  const lab = await servedLab(t, { pods: 1 })
  const node = lab.node(0)
  await node.sysctl({ 'net.ipv4.ip_local_port_range': '2048 29999', 'net.ipv4.ip_local_reserved_ports': '32768-65000' })
  await control(node).post('/v1/reload')
  const answers = await node
    .pod(0)
    .askAll(Array.from({ length: 60 }, () => ({ protocol: 'udp' as const, address: OUTSIDE.v4, port: 7, bytes: 0 })))
  const ports = answers.map(({ port }) => port)
  const allowed = (port: number) => (port >= 1024 && port < 2048) || port > 65000
  t.strictSame(
    ports.filter((port) => !allowed(port)),
    [],
    `60 ports, all of the ${1024 + 535} that are left`
  )
  t.equal(new Set(ports).size, 60, 'no port twice towards one remote')
})
