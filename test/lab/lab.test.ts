// The lab itself, with plain kernel forwarding: what other tests build upon.

import { existsSync, readdirSync } from 'node:fs'
import t from 'tap'
import { OUTSIDE } from './addresses.js'
import { Lab } from './lab.js'
import { Background, until } from './process.js'

t.test('a lab without SNAT reaches pods on both nodes, but not the outside', async (t) => {
  const start = performance.now()
  const lab = await Lab.create()
  t.teardown(() => lab.close())
  t.ok(performance.now() - start < 5_000, `was made in ${Math.round(performance.now() - start)} ms`)
  const [one, two] = [lab.node(0).pod(0), lab.node(1).pod(1)]
  for (const family of ['v4', 'v6'] as const) {
    const near = await one.ping(lab.node(0).pod(1).address[family], { count: 3 })
    t.match(near, { sent: 3, received: 3, ttl: 63 }, `${family}: one hop on the same node`)
    const far = await one.ping(two.address[family], { count: 3 })
    t.match(far, { sent: 3, received: 3, ttl: 62 }, `${family}: two hops to the other node`)
    t.equal((await one.ping(OUTSIDE[family], { count: 2, wait: 200 })).received, 0, `${family}: no answer from outside`)
    t.equal((await lab.node(0).ping(OUTSIDE[family], { count: 2 })).received, 2, `${family}: the node itself gets one`)
  }
  const counts = await lab.node(0).readCounters()
  t.ok(counts.forward >= 24, `the forward hook saw it: ${counts.forward}`)
})

t.test('a legacy lab gets answers from outside through MASQUERADE, over TCP and UDP', async (t) => {
  const lab = await Lab.create({ legacy: true, nodes: 1, pods: 1 })
  t.teardown(() => lab.close())
  await lab.outside.echo(7)
  for (const family of ['v4', 'v6'] as const) {
    for (const protocol of ['tcp', 'udp'] as const) {
      const answer = await lab.node(0).pod(0).ask({ protocol, address: OUTSIDE[family], port: 7 })
      t.match(answer, { peer: lab.node(0).address[family], echoed: 32, error: null }, `${protocol} ${family}`)
    }
  }
  const flow = await lab.node(0).pod(0).flow({ protocol: 'tcp', address: OUTSIDE.v4, port: 7 })
  const report = await flow.finish()
  t.equal(report.received, report.sent, 'a long-lived flow loses nothing')
})

t.test('captures show final bytes when offloads are off', async (t) => {
  const lab = await Lab.create({ nodes: 2, pods: 1, offloads: false })
  t.teardown(() => lab.close())
  const [pod, other, node] = [lab.node(0).pod(0), lab.node(1).pod(0), lab.node(0)]
  await other.echo(7)
  const capture = await node.capture('up0', 'tcp port 7')
  await pod.ask({ protocol: 'tcp', address: other.address.v4, port: 7 })
  const packets = (await capture.stop()).map(({ packet }) => packet)
  t.ok(packets.length >= 6, `${packets.length} packets`)
  t.ok(
    packets.every(({ ip, l4 }) => ip?.headerChecksumOk && l4?.checksumOk),
    'all checksums are right'
  )
  const out = packets.find(({ ip }) => ip?.source === pod.address.v4)
  t.match(out, { sourceMac: node.uplinks[0]?.mac, ip: { ttl: 63 }, l4: { flags: 'S' } })
})

t.test('pods come and go while the node runs', async (t) => {
  const lab = await Lab.create({ nodes: 1, pods: 1, proxyArp: true })
  t.teardown(() => lab.close())
  const node = lab.node(0)
  const pod = await node.addPod()
  t.equal((await node.pod(0).ping(pod.address.v4, { count: 1 })).received, 1)
  t.equal((await node.pod(0).ping(pod.address.v6, { count: 1 })).received, 1)
  await node.removePod(pod)
  t.equal((await node.pod(0).ping(pod.address.v4, { count: 1, wait: 200 })).received, 0)
  t.equal((await node.addPod()).number, pod.number, 'the number is free again')
})

t.test('nothing is left behind', async (t) => {
  const script = (end: string) => `
    import { Lab } from ${JSON.stringify(new URL('./lab.js', import.meta.url).href)}
    const lab = await Lab.create({ nodes: 1, pods: 1 })
    lab.outside.start(['sleep', '1000'])
    console.log('lab ' + lab.name)
    ${end}`
  const ends = { 'an uncaught error': 'throw new Error("on purpose")', SIGINT: '', SIGKILL: '' }
  for (const [end, code] of Object.entries(ends)) {
    const owner = new Background([
      process.execPath,
      '--input-type=module',
      '-e',
      script(code || 'setInterval(() => {}, 1000)')
    ])
    await owner.waitFor('lab ', 20_000)
    const name = /lab (\S+)/.exec(owner.stdout)?.[1] ?? ''
    if (!code) owner.child.kill(end as NodeJS.Signals)
    await owner.finished()
    if (end === 'SIGKILL') {
      t.ok(existsSync(`/run/${name}`), 'a killed owner leaves its lab')
      await (await Lab.create({ nodes: 1, pods: 0 })).close()
      const sweeper = new Background([process.execPath, '--input-type=module', '-e', script('process.exit()')])
      await sweeper.finished()
    }
    await until(`clean after ${end}`, () => !leftovers(name), 5_000)
    t.notOk(leftovers(name), `after ${end}`)
  }
})

function leftovers(name: string): boolean {
  return existsSync(`/run/${name}`) || readdirSync('/run/netns').some((each) => each.startsWith(`${name}-`))
}
