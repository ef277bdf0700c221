// The node's address is replaced, its default route moves to another uplink, an
// uplink goes down: under traffic of a pod.

import { OUTSIDE } from '../lab/addresses.js'
import type { Lab } from '../lab/lab.js'
import type { LabPod } from '../lab/node.js'
import { type Background, sleep, until } from '../lab/process.js'
import type { Report } from './report.js'
import { openLab, type Way, wayName } from './way.js'

const INTERVAL = 10

/** One UDP socket that sends a number every few milliseconds; by whom each was seen, and which came back, in the end. */
const talking = `
  import { createSocket } from 'node:dgram'
  const socket = createSocket('udp4')
  const answered = []
  let sent = 0
  socket.on('error', () => {})
  socket.on('message', (bytes) => {
    const [greeting, number] = bytes.toString().split('\\n')
    const { peer } = JSON.parse(greeting)
    if (!answered.some(Boolean)) console.log('ready')
    answered[Number(number)] = peer
  })
  socket.connect(7, '${OUTSIDE.v4}', () => {
    const timer = setInterval(() => socket.send(String(sent++), () => {}), ${INTERVAL})
    process.stdin.resume().on('end', () => {
      clearInterval(timer)
      setTimeout(() => {
        console.log(JSON.stringify(Array.from({ length: sent }, (_, at) => answered[at] ?? null)))
        process.exit()
      }, 1000)
    })
  })`

interface Change {
  name: string
  /** As which the pod is seen afterwards. */
  address: string
  commands: string[]
}

const CHANGES: Change[] = [
  {
    name: 'the address is replaced',
    address: '192.168.100.77',
    commands: [
      'addr add 192.168.100.77/24 dev up0',
      'addr del 192.168.100.11/24 dev up0',
      'route replace default via 192.168.100.1 dev up0'
    ]
  },
  {
    name: 'the default route moves to the other uplink',
    address: '192.168.101.11',
    commands: ['route replace default via 192.168.101.1 dev up1']
  },
  {
    name: 'that uplink goes down, a second route is there',
    address: '192.168.100.77',
    commands: ['link set up1 down']
  }
]

export async function failover(report: Report, ways: readonly Way[]): Promise<void> {
  const rows: string[][] = []
  for (const way of ways) {
    const lab = await openLab(report, way, { pods: 1, uplinks: 2 })
    const node = lab.node(0)
    await node.sysctl({ 'net.ipv4.conf.all.promote_secondaries': 1, 'net.ipv4.conf.up0.promote_secondaries': 1 })
    for (const change of CHANGES) {
      report.progress(`${wayName[way]}: ${change.name}`)
      rows.push([change.name, wayName[way], ...(await underTraffic(report, lab, change, way))])
      if (change === CHANGES[0]) await node.ip('route append default via 192.168.100.1 dev up0 metric 200')
    }
    await lab.close()
  }
  report.figure(`${rows.length} changes under traffic`)
  report.table([['change', '', 'UDP, one each 10 ms', 'a new TCP connection', 'the old one ends'], ...rows])
}

async function underTraffic(report: Report, lab: Lab, change: Change, way: Way): Promise<string[]> {
  const [node, pod] = [lab.node(0), lab.node(0).pod(0)]
  const udp = pod.start([process.execPath, '--input-type=module', '-e', talking])
  const tcp = await stream(pod)
  report.teardown(() => Promise.all([udp.stop('SIGKILL'), tcp.stop('SIGKILL')]))
  await udp.waitFor('ready')
  await sleep(500)
  await node.ip(...change.commands)
  const begin = performance.now()
  const ended = tcp.finished(30_000).then((outcome) => ({ outcome, took: performance.now() - begin }))
  const writing = setInterval(() => tcp.child.stdin?.write('x\n'), 50)
  const answer = await pod.ask({ protocol: 'tcp', address: OUTSIDE.v4, port: 7, timeout: 10_000 })
  const { outcome, took } = await ended.finally(() => clearInterval(writing))
  await sleep(500)
  udp.child.stdin?.end()
  await udp.finished()
  const peers = JSON.parse(udp.stdout.trim().split('\n').at(-1) ?? '[]') as (string | null)[]
  const lost = peers.filter((peer) => peer === null).length
  if (way === 'hostroute') {
    const facts: [boolean, string][] = [
      [peers.at(-1) === change.address, `UDP goes on from ${peers.at(-1)}, not ${change.address}`],
      [answer.error === null && answer.peer === change.address, `a new TCP connection: ${answer.error ?? answer.peer}`],
      [outcome.status !== null && outcome.status !== 0, 'the old TCP connection hangs']
    ]
    for (const [held, what] of facts) report.check(held, `${change.name}: ${what}`)
  }
  const opened = answer.error ?? `${answer.milliseconds.toFixed(0)} ms`
  const end = outcome.status === null ? 'not within 30 s' : `after ${took.toFixed(0)} ms`
  return [`${lost} of ${peers.length} lost`, opened, end]
}

async function stream(pod: LabPod): Promise<Background> {
  const tcp = pod.start(['socat', '-', `TCP4:${OUTSIDE.v4}:7`])
  tcp.child.stdin?.write('x\n')
  await until('the old TCP connection', () => tcp.stdout.includes('peer'))
  return tcp
}
