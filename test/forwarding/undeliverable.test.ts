// Packets of SNATed flows that end at the node or are too big there: what the
// world outside sees of it. The node with hostroute off and a MASQUERADE rule
// is the oracle.

import t from 'tap'
import { OUTSIDE } from '../lab/addresses.js'
import type { Lab } from '../lab/lab.js'
import { until } from '../lab/process.js'
import { captureAt, from } from './compare.js'
import { asTheKernelDoes, counted, servedLab } from './served.js'

const families = ['v4', 'v6'] as const
type Family = (typeof families)[number]

/** Fields of the ICMP errors that reach the outside while `action` runs; the port that SNAT chose left out. */
async function errorsOutside(lab: Lab, family: Family, action: () => Promise<unknown>): Promise<unknown[]> {
  const filter = family === 'v4' ? 'icmp' : 'icmp6'
  const [packets = []] = await captureAt([[lab.outside, 'eth0']], filter, action)
  const errors = packets.flatMap(({ packet }) => {
    const { ip, l4, embedded } = packet
    if (!ip || !l4 || !embedded) return []
    const { source, destination, ttl, tos } = ip
    const { type, code, rest, checksumOk } = l4
    const inner = embedded.ip
    const about = { source: inner.source, destination: inner.destination, ttl: inner.ttl }
    return [{ source, destination, ttl, tos, type, code, rest, checksumOk, about, port: embedded.l4?.sourcePort }]
  })
  return errors.filter((error, index) => JSON.stringify(error) !== JSON.stringify(errors[index - 1]))
}

/** Answers 'short' with a TTL that ends at the node, all else with 64. */
const SERVER = `let ready = 0
for (const type of ['udp4', 'udp6']) {
  const socket = require('dgram').createSocket({ type, ipv6Only: type === 'udp6' })
  socket.on('message', (text, peer) => {
    socket.setTTL(String(text) === 'short' ? 2 : 64)
    socket.send('answer', peer.port, peer.address)
  })
  socket.bind(97, () => { if (++ready === 2) console.log('ready') })
}`

t.test('[P1] [P2] answers to SNATed flows that end at the node, or are too big for the pod', async (t) => {
  const lab = await servedLab(t, { pods: 1, podMtu: 1400, legacy: 1, offloads: false })
  const node = lab.node(0)
  const pod = node.pod(0)
  for (const host of [node, lab.router]) {
    await host.sysctl({ 'net.ipv4.icmp_ratelimit': 0, 'net.ipv6.icmp.ratelimit': 0 })
  }
  const server = lab.outside.start([process.execPath, '-e', SERVER])
  t.teardown(() => server.stop())
  await server.waitFor('ready')
  const send = (family: Family, text: string, localPort: number) =>
    pod.exec([
      process.execPath,
      '-e',
      `const socket = require('dgram').createSocket('${family === 'v4' ? 'udp4' : 'udp6'}')
      socket.on('message', () => { console.log('answered'); process.exit() })
      socket.bind(${localPort}, () => socket.send('${text}', 97, '${OUTSIDE[family]}'))
      setTimeout(() => process.exit(), ${text === 'short' ? 300 : 3000})`
    ])
  // with the echo server's greeting before them they are larger than they were
  const ask = (family: Family, timeout = 300) =>
    pod.ask({ protocol: 'udp', address: OUTSIDE[family], port: 7, bytes: family === 'v4' ? 1365 : 1345, timeout })
  const measure = async (port: number) => {
    const found: Record<string, unknown> = {}
    for (const family of families) {
      found[`${family}, TTL 1`] = await errorsOutside(lab, family, () => send(family, 'short', port))
      found[`${family}, too big`] = await errorsOutside(lab, family, () => ask(family))
    }
    return found
  }
  const kernel = await asTheKernelDoes(node, () => measure(31_000))
  for (const [name, errors] of Object.entries(kernel))
    t.match(errors, [{ checksumOk: true }], `${name}: told by the kernel`)
  await lab.outside.run(['sh', '-c', 'ip -4 route flush cache; ip -6 route flush cache'])
  const ours = await measure(31_001)
  t.strictSame(ours, kernel, 'the remote is told the same by hostroute')
  t.ok((await counted(node, 'drop-ttl')) >= 2, 'counted as drop-ttl')
  t.ok((await counted(node, 'drop-mtu')) >= 2, 'counted as drop-mtu')
  for (const family of families) {
    t.match(await send(family, 'long', 31_001), { stdout: 'answered\n' }, `${family}: the flow goes on`)
    const smaller = { error: null, peer: node.address[family] }
    t.match(await ask(family, 3_000), smaller, `${family}: the remote, told the MTU, sends smaller packets`)
  }

  await lab.outside.run(['ip', '-4', 'route', 'flush', 'cache'])
  await lab.outside.sysctl({ 'net.ipv4.ip_no_pmtu_disc': 1 })
  const careless = await lab.outside.echo(8)
  t.teardown(() => careless.stop())
  const before = await counted(node, 'rewritten')
  const answer = await pod.ask({ protocol: 'udp', address: OUTSIDE.v4, port: 8, bytes: 1365 })
  t.match(answer, { error: null, peer: node.address.v4 }, 'v4: one that may be cut arrives at once')
  t.ok((await counted(node, 'rewritten')) > before, 'translated by hostroute, cut by the kernel')
})

t.test('[P2] what is too big to leave never leaves with the pod’s address', async (t) => {
  const lab = await servedLab(t, { pods: 1, offloads: false })
  const node = lab.node(0)
  const pod = node.pod(0)
  // the route's MTU, not the device's: that would keep large answers out
  const { router } = node.uplinks[0] ?? { router: { v4: '', v6: '' } }
  await node.ip(
    ...families.map(
      (family) => `route change ${family === 'v4' ? '0.0.0.0/0' : '::/0'} via ${router[family]} dev up0 mtu 1300`
    )
  )
  const teaches = async () => {
    const before = await counted(node, 'mtu')
    await pod.ping(OUTSIDE.v4, { count: 1, wait: 200, arguments: ['-M', 'do', '-s', '1400'] })
    return (await counted(node, 'mtu')) > before
  }
  await until('the programs know', teaches, 5_000)
  const [outside = []] = await captureAt([[lab.router, 'n1u0']], '', async () => {
    for (const family of families) {
      for (const [mode, size] of [
        ['do', 1200],
        ['dont', 1400],
        ['dont', 4000],
        ['want', 1400]
      ]) {
        await pod.run(['ip', family === 'v4' ? '-4' : '-6', 'route', 'flush', 'cache'])
        const options = ['-M', `${mode}`, '-s', `${size}`]
        // the first may only teach the pod the MTU
        const arrives = async () =>
          (await pod.ping(OUTSIDE[family], { count: 1, wait: 500, arguments: options })).received === 1
        await until(`${family}: ping ${options.join(' ')}`, arrives, 5_000)
        const report = await pod.ping(OUTSIDE[family], { count: 5, arguments: options })
        t.equal(report.received, 5, `${family}: ping ${options.join(' ')} arrives`)
      }
      const answers = await pod.askAll(
        (['udp', 'tcp'] as const).map((protocol) => ({ protocol, address: OUTSIDE[family], port: 7, bytes: 20_000 }))
      )
      const whole = { echoed: 20_000, error: null, peer: node.address[family] }
      t.match(answers, [whole, whole], `${family}: UDP and TCP, too`)
    }
  })
  t.ok(from(outside, node.address.v4).filter(({ packet }) => packet.ip?.fragment).length > 10, 'in fragments')
  for (const family of families) t.strictSame(from(outside, pod.address[family]), [], 'none with the pod’s address')
})
