// Runs inside a test machine: the daemon on a node of the lab, on this kernel.
// By clsact where there is no TCX; with netkit pods where there is netkit.

import { readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import type { Status } from '../../src/control/api.js'
import { attached, counted, servedLab, status } from '../forwarding/served.js'
import { OUTSIDE, POD_GATEWAY } from '../lab/addresses.js'
import { type LabHost, readPing } from '../lab/host.js'
import { type LabNode, LabPod, prepare } from '../lab/node.js'
import { run, sleep, until } from '../lab/process.js'
import { makeNetkit } from './netkit.js'

if (!process.env['HOSTROUTE_VM']) throw new Error('this test runs inside a test machine only: scripts/vm -- node FILE')

const symbols = readFileSync('/proc/kallsyms', 'utf8')
const how = / tcx_link_attach$/m.test(symbols) ? 'tcx' : 'clsact'
const families = ['v4', 'v6'] as const
const patient = { timeout: 60_000 }

/** Pings both ways and TCP through SNAT; nothing of it passes netfilter. */
async function assertServed(t: Test, node: LabNode, one: LabPod, two: LabPod): Promise<void> {
  const netfilter = await node.readCounters()
  for (const family of families) {
    const near = { count: 5, interval: 50, wait: 5_000 }
    t.match(await one.ping(two.address[family], near), { received: 5, ttl: 63 }, `to ${two.name}, ${family}`)
    t.match(await two.ping(one.address[family], near), { received: 5, ttl: 63 }, `from ${two.name}, ${family}`)
  }
  const outside = families.flatMap((family) =>
    (['tcp', 'udp'] as const).map((protocol) => ({
      protocol,
      address: OUTSIDE[family],
      port: 7,
      bytes: 700,
      timeout: 20_000
    }))
  )
  for (const pod of [one, two]) {
    const answers = await pod.askAll(outside)
    const peers = [node.address.v4, node.address.v4, node.address.v6, node.address.v6]
    const wanted = peers.map((peer) => ({ echoed: 700, error: null, peer }))
    t.match(answers, wanted, `${pod.name} to outside with SNAT`)
  }
  t.strictSame(await node.readCounters(), netfilter, 'nothing of it was seen by netfilter')
  t.equal(await counted(node, 'drop'), 0, 'nothing dropped')
}

t.test(`forwarding by ${how}; a killed daemon's successor takes over without a hole`, async (t) => {
  const lab = await servedLab(t, {}, patient)
  const node = lab.node(0)
  const [one, two] = [node.pod(0), node.pod(1)]
  const programs = { programs: [{ how }], served: true }
  t.match((await status(node)).hooks, [programs, programs, programs], `all three devices by ${how}`)
  const { stdout } = await node.hostroute(['status'])
  t.match(stdout, how, 'the command says so')
  t.equal((await attached(node)).length, 3, 'the kernel lists the programs')
  await assertServed(t, node, one, two)

  const ping = one.startPing(two.address.v4, { interval: 50, wait: 5_000 })
  const flow = await one.flow({ protocol: 'tcp', address: OUTSIDE.v4, port: 7, interval: 50, timeout: 20_000 })
  const netfilter = await node.readCounters()
  await node.daemon.kill('SIGKILL')
  await sleep(500)
  t.equal((await attached(node)).length, 3, 'the programs stay')
  await node.startDaemon(patient)
  t.match(node.daemon.log, /took over/)
  t.equal((await attached(node)).length, 3, 'once each')
  await sleep(500)
  await ping.stop('SIGINT')
  t.strictSame(readPing(ping.stdout, 2).lost, [], 'no ping lost')
  const { sent, received } = await flow.finish()
  t.equal(received, sent, 'the SNATed flow goes on')
  t.strictSame(await node.readCounters(), netfilter, 'and all by the programs')

  await node.daemon.json<Status>('disable', '--force')
  t.equal((await attached(node)).length, 0, 'disable detaches')
  t.equal((await one.ping(two.address.v4, { count: 3, wait: 5_000 })).received, 3, 'the kernel forwards')
})

/** The machine's limit, which its first namespace has for all: entries from which on no new one is made. */
async function neighbourLimits(limits: Record<string, number>): Promise<void> {
  for (const [key, value] of Object.entries(limits))
    await run(['nsenter', '--net=/proc/1/ns/net', 'sysctl', '-qw', `net.ipv4.neigh.default.${key}=${value}`])
}

/** Sends a datagram to each of the addresses once it is told to. */
const SCAN = `
const socket = require('dgram').createSocket('udp4').on('error', () => {})
socket.bind(() => {
  process.stdin.once('data', () => process.argv[1].split(',').forEach((address) => socket.send('x', 7, address)))
  console.log('ready')
})`

/** Takes the host's IPv4 neighbours through these states, with the MACs that they have. */
async function setNeighbours(host: LabHost, states: readonly string[]): Promise<void> {
  const rows = JSON.parse(await host.run(['ip', '-4', '-j', 'neigh'])) as {
    dst: string
    dev: string
    lladdr?: string
  }[]
  const lines = rows.flatMap(({ dst, dev, lladdr }) =>
    lladdr ? states.map((state) => `neigh change ${dst} dev ${dev} lladdr ${lladdr} nud ${state}`) : []
  )
  await host.run(['ip', '-batch', '-'], { input: lines.join('\n') })
}

/** A pod on a netkit pair; the node's end is the primary, open to programs. */
async function addNetkitPod(node: LabNode, number: number, mode: 'l2' | 'l3'): Promise<LabPod> {
  const pod = new LabPod(node, number)
  const { hostDevice, hostMac } = pod
  await run(['ip', 'netns', 'add', pod.namespace])
  await prepare(pod)
  await run(['modprobe', 'netkit'])
  await makeNetkit(
    mode,
    { namespace: node.namespace, name: hostDevice, ...(mode === 'l2' ? { mac: hostMac } : {}) },
    { namespace: pod.namespace, name: 'eth0', ...(mode === 'l2' ? { mac: pod.mac } : {}) }
  )
  await node.ip(
    `link set ${hostDevice} addrgenmode none`,
    `link set ${hostDevice} up`,
    `addr add ${POD_GATEWAY.v6}/64 dev ${hostDevice} nodad`
  )
  await pod.ip(
    'link set eth0 up',
    `addr add ${pod.address.v4}/32 dev eth0`,
    `addr add ${pod.address.v6}/128 dev eth0 nodad`,
    `route add ${POD_GATEWAY.v4} dev eth0 scope link`,
    `route add default via ${POD_GATEWAY.v4} dev eth0`,
    `route add ::/0 via ${POD_GATEWAY.v6} dev eth0`,
    ...(mode === 'l2' ? [`neigh replace ${POD_GATEWAY.v4} lladdr ${hostMac} dev eth0 nud permanent`] : [])
  )
  await node.ip(...node.routeCommands(pod))
  node.pods.push(pod)
  return pod
}

// Every kernel of the harness that has TCX has netkit (kernel-probe.ts). The neighbour table is the same on all: once is enough.
if (how === 'tcx') {
  t.test('[N4] a full neighbour table: who is known stays reached, who is not is once there is room', async (t) => {
    const lab = await servedLab(t, { pods: 2, counters: true }, patient)
    const node = lab.node(0)
    const [one, two] = [node.pod(0), node.pod(1)]
    const absent = Array.from({ length: 60 }, (_, index) => `192.168.100.${100 + index}`)
    const near = { count: 3, interval: 50, wait: 5_000 }
    t.match(
      [await one.ping(two.address.v4, near), await one.ping(OUTSIDE.v4, near)],
      [{ received: 3 }, { received: 3 }]
    )
    t.teardown(() => neighbourLimits({ gc_thresh3: 1024, gc_thresh2: 512, gc_thresh1: 128 }))
    await lab.router.ip(`route add 10.244.1.0/24 via ${node.address.v4}`)
    // the limit is one for all namespaces: the others' entries are not what this is about
    for (const host of [one, two, lab.router, lab.outside]) await setNeighbours(host, ['permanent'])
    const scan = one.start([process.execPath, '-e', SCAN, absent.join()])
    t.teardown(() => scan.stop())
    await scan.waitFor('ready', 20_000)
    await neighbourLimits({ gc_thresh1: 1, gc_thresh2: 2, gc_thresh3: 4 })
    const before = (await node.readCounters()).forward
    // a full table loses what has not changed for 5 s (neigh_forced_gc), on a slow machine that is soon
    await setNeighbours(node, ['stale', 'reachable'])
    scan.child.stdin?.write('go\n')
    // the first packet to a host that is not there is the kernel's
    const scanned = async () => (await node.readCounters()).forward >= before + absent.length
    await until('all of the scan were sent', scanned, 30_000)
    const { forward } = await node.readCounters()
    t.match(
      [await one.ping(two.address.v4, near), await one.ping(OUTSIDE.v4, near)],
      [{ received: 3, ttl: 63 }, { received: 3 }],
      'under a scan of absent hosts'
    )
    t.equal((await node.readCounters()).forward, forward, 'by the programs')
    await scan.stop()
    t.equal((await node.hostroute(['verify'], 60_000)).status, 0, 'the maps are in step')
    await neighbourLimits({ gc_thresh3: 1024, gc_thresh2: 512, gc_thresh1: 128 })
    await lab.router.ip('addr add 192.168.100.177/24 dev br0')
    const reached = async () => (await one.ping('192.168.100.177', { count: 1, wait: 2_000 })).received === 1
    await until('a host that was absent is reached', reached, 20_000, 100)
    t.pass('and new ones again')
  })

  for (const mode of ['l2', 'l3'] as const) {
    t.test(`[F16] pods on netkit devices in ${mode.toUpperCase()} mode, beside veth pods`, async (t) => {
      const lab = await servedLab(t, { pods: 1 }, patient)
      const node = lab.node(0)
      const pod = await addNetkitPod(node, 8, mode)
      const served = async () => (await status(node)).hooks.filter((hook) => hook.served).length === 3
      await until('the netkit pod is served', served, 10_000)
      // the first packets find its MAC out
      for (const family of families) await node.pod(0).ping(pod.address[family], { count: 3, wait: 5_000 })
      await assertServed(t, node, node.pod(0), pod)
    })
  }
}
