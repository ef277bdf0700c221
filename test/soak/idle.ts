// Idle connections, as of SSH, that say something now and then, beside floods
// from a pod and from outside.

import { counted, status } from '../forwarding/served.js'
import { OUTSIDE } from '../lab/addresses.js'
import type { Lab } from '../lab/lab.js'
import { type Background, sleep } from '../lab/process.js'
import { count, type Report } from './report.js'
import { ask, lines, openLab, SERVER_PORT, startProgram, startServer } from './way.js'

export interface IdleOptions {
  connections: number
  /** Of each flood. */
  seconds: number
}

const KINDS = ['syn', 'udp', 'ack'] as const

/** Retransmissions included: the floods fill the machine's own queues, too. */
const PATIENCE = 60_000

export async function idle(report: Report, { connections, seconds }: IdleOptions): Promise<void> {
  const lab = await openLab(report, 'hostroute', { pods: 2 })
  const node = lab.node(0)
  const [flooding, pod] = [node.pod(0), node.pod(1)]
  await lab.router.ip(`route add 10.244.1.0/24 via ${node.address.v4}`)
  await lab.outside.ip('route add 10.244.1.0/24 via 203.0.113.1')
  await startServer(report, lab.outside)
  await startServer(report, pod, pod.address.v4)
  const groups = [
    startProgram(report, pod, 'many', 'tcp', OUTSIDE.v4, SERVER_PORT, connections),
    startProgram(report, lab.outside, 'many', 'tcp', pod.address.v4, SERVER_PORT, connections)
  ]
  for (const group of groups) await speak(report, group, connections, 'before')
  const sent: string[] = []
  for (const [from, floods] of floodsOf(lab)) {
    for (const kind of KINDS) {
      const programs = floods.map(([source, target]) =>
        startProgram(report, from === 'pod' ? flooding : lab.outside, 'flood', kind, source, target)
      )
      await Promise.all(programs.map((each) => each.waitFor('ready')))
      const end = performance.now() + seconds * 1_000
      do {
        report.progress(`${kind} flood from ${from}, ${count((await status(node)).counts.flows4.used)} entries`)
        await sleep(Math.min(4_000, seconds * 250))
        for (const group of groups) await speak(report, group, connections, `${kind} flood from ${from}`)
      } while (performance.now() < end)
      sent.push(`${kind} from ${from} ${count(await stopped(programs))}`)
    }
  }
  for (const group of groups) await speak(report, group, connections, 'afterwards')
  const none = await counted(node, 'drop-flows', pod.hostDevice)
  report.check(none === 0, `${none} packets of the idle pod dropped for want of room`)
  report.figure(
    `${2 * connections} idle connections, half of them from outside: none broke; packets of floods: ${sent.join(', ')}`
  )
}

function floodsOf(lab: Lab): [string, [string, string][]][] {
  const node = lab.node(0)
  const [flooding, pod] = [node.pod(0).address.v4, node.pod(1).address.v4]
  return [
    ['pod', [[flooding, OUTSIDE.v4]]],
    [
      'outside',
      [
        [OUTSIDE.v4, node.address.v4],
        [OUTSIDE.v4, pod]
      ]
    ]
  ]
}

async function speak(report: Report, group: Background, connections: number, when: string): Promise<void> {
  const { done, errors } = await ask(group, PATIENCE)
  report.check(done === connections, `${when}: ${done} of ${connections} connections answered ${errors}`)
}

async function stopped(floods: readonly Background[]): Promise<number> {
  let packets = 0
  for (const flood of floods) {
    flood.child.stdin?.end()
    await flood.finished()
    packets += (JSON.parse(lines(flood).at(-1) ?? '') as { sent: number }).sent
  }
  return packets
}
