// Pods that send with addresses that are not theirs, by configuration: a real
// server behind direct server return, and a pod that sends for others.

import t from 'tap'
import type { Explanation } from '../../src/control/explain-api.js'
import { OUTSIDE } from '../lab/addresses.js'
import type { LabNode, LabPod } from '../lab/node.js'
import { until } from '../lab/process.js'
import { control, counted, plain, servedLab } from './served.js'

const families = ['v4', 'v6'] as const
const service = { v4: '10.96.7.7', v6: 'fd00:96::7' }
const others = { v4: '10.112.0.5', v6: 'fd00:97::5' }
const tunnelMac = '02:06:00:00:00:01'
const sources = [
  { device: 'pod1', prefix: '10.96.0.0/12', masquerade: false },
  { device: 'pod1', prefix: 'fd00:96::/32', masquerade: false },
  { device: 'pod[1-2]', prefix: '10.112.0.0/16' },
  { device: 'pod[1-2]', prefix: 'fd00:97::/32' }
]

const sourceStage = async (node: LabNode, from: string, to: string, device: string): Promise<Explanation> =>
  (await control(node).get<Explanation>('/v1/explain', { from, to, device })).value

/** An echo server for UDP that answers with the address that it was asked at. */
const boundEcho = `
  const [address, port] = process.argv.slice(1)
  const socket = require('node:dgram').createSocket(address.includes(':') ? 'udp6' : 'udp4')
  socket.on('message', (message, peer) => {
    const greeting = JSON.stringify({ peer: peer.address, port: peer.port }) + '\\n'
    socket.send(Buffer.concat([Buffer.from(greeting), message]), peer.port, peer.address)
  })
  socket.bind(Number(port), address, () => console.log('ready'))`

/** The addresses are on the pod's own lo: nobody on the node has a route to them. */
async function give(pod: LabPod, addresses: { v4: string; v6: string }): Promise<void> {
  await pod.ip(`addr add ${addresses.v4}/32 dev lo`, `addr add ${addresses.v6}/128 dev lo nodad preferred_lft 0`)
}

t.test('[D6] [D7] a pod answers with the address of a Service, past strict rp_filter', async (t) => {
  const lab = await servedLab(t, { pods: 2 }, { config: { pods: { sources } } })
  const node = lab.node(0)
  const [pod, second] = [node.pod(0), node.pod(1)]
  await node.sysctl({ 'net.ipv4.conf.pod1.rp_filter': 1 })
  await Promise.all([pod, second].flatMap((each) => [give(each, service), give(each, others)]))

  // requests come in a tunnel, answers go straight
  await pod.ip(
    `link add dsr address ${tunnelMac} type vxlan id 3 remote ${OUTSIDE.v4} local ${pod.address.v4} dstport 4789 nolearning`,
    'link set dsr up'
  )
  await lab.router.ip(`route replace ${pod.address.v4}/32 via ${node.address.v4}`)
  await lab.outside.ip(
    `route replace ${pod.address.v4}/32 via 203.0.113.1`,
    `link add dsr type vxlan id 3 remote ${pod.address.v4} local ${OUTSIDE.v4} dstport 4789 nolearning`,
    'link set dsr up',
    `route add ${service.v4}/32 dev dsr`,
    `route add ${service.v6}/128 dev dsr`,
    // it does not answer for what is not on the device
    `neigh add ${service.v6} lladdr ${tunnelMac} dev dsr`
  )
  await pod.echo(7)
  for (const family of families) {
    const datagrams = pod.start([process.execPath, '-e', boundEcho, service[family], '9'])
    await datagrams.waitFor('ready')
    const before = await node.readCounters()
    for (const protocol of ['tcp', 'udp'] as const) {
      const capture = await lab.outside.capture('eth0', `host ${service[family]}`)
      const answer = await lab.outside.ask({ protocol, address: service[family], port: protocol === 'tcp' ? 7 : 9 })
      t.match(answer, { echoed: 32, error: null }, `${protocol} over ${family}`)
      t.ok((await capture.stop()).length > 0, 'the answers came with the address of the Service')
    }
    t.equal((await node.readCounters()).forward, before.forward, `${family}: by the fast path`)
  }
  t.equal(await counted(node, 'drop-spoof'), 0)

  for (const family of families) {
    const ping = (from: LabPod, source: string) =>
      from.ping(OUTSIDE[family], { count: 3, wait: 300, arguments: ['-I', source] })
    const capture = await lab.outside.capture('eth0', `host ${others[family]}`)
    for (const each of [pod, second])
      t.equal((await ping(each, others[family])).received, 3, `${family}: masqueraded, and answered`)
    t.equal((await capture.stop()).length, 0, 'none of them left as it was')

    const before = await counted(node, 'drop-spoof')
    t.equal((await ping(second, service[family])).received, 0)
    t.equal((await counted(node, 'drop-spoof')) - before, 3, `${family}: allowed on the other device only`)
    t.match(await sourceStage(node, service[family], OUTSIDE[family], 'pod2'), {
      reason: 'drop-spoof',
      stages: [
        {},
        { stage: 'source', found: /is not an address of the pod on pod2, and pods.sources does not allow it/ }
      ]
    })
    t.match(await sourceStage(node, service[family], OUTSIDE[family], 'pod1'), {
      verdict: 'forwarded',
      nat: null,
      stages: [{}, { stage: 'source', found: /(10\.96\.0\.0\/12|fd00:96::\/32) is allowed on pod1 by pods.sources/ }]
    })
  }
  const drops = await node.hostroute(['drops'])
  t.match(drops.stdout, /then allow these in pods\.sources/)

  const reload = async (config: object) => {
    node.daemon.writeConfig({ ...plain, ...config })
    t.equal((await node.hostroute(['reload'])).status, 0)
  }
  const answered = async () =>
    (await pod.ping(OUTSIDE.v4, { count: 1, wait: 300, arguments: ['-I', others.v4] })).received
  await reload({})
  await until('no longer allowed', async () => (await answered()) === 0)
  await reload({ pods: { sources } })
  await until('allowed again', async () => (await answered()) === 1)
  t.equal((await node.hostroute(['verify'])).status, 0)
})

t.test('[D7] [K10] where the way back leads to the pod, the stack has both directions', async (t) => {
  const lab = await servedLab(t, { pods: 1 }, { config: { pods: { sources } } })
  const node = lab.node(0)
  const pod = node.pod(0)
  await give(pod, service)
  await node.run(['nft', '-f', '-'], {
    input:
      'table inet strict {\n chain forward {\n type filter hook forward priority 0\n ct state invalid drop\n }\n }\n'
  })
  await node.ip(`route replace ${service.v4}/32 via ${pod.address.v4} dev pod1 onlink`)
  await lab.router.ip(`route replace ${service.v4}/32 via ${node.address.v4}`)
  await lab.outside.ip(`route replace ${service.v4}/32 via 203.0.113.1`)
  await pod.echo(7)
  const answer = await lab.outside.ask({ protocol: 'tcp', address: service.v4, port: 7, timeout: 5_000 })
  t.match(answer, { echoed: 32, error: null }, 'from outside, through a rule that drops what is INVALID')
  t.equal((await pod.ping(OUTSIDE.v4, { count: 3, wait: 300, arguments: ['-I', service.v4] })).received, 3)
})
