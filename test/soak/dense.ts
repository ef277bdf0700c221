// Reproducer, not a test: node build/js/test/soak/dense.js
//
// SNAT looks for a port in steps from two places. Where pods keep their own
// ports (snat.ports has those that kernels hand out) the taken ones lie side by
// side, both searches may stay among them, and a flow gets none (drop-ports)
// although half of all ports are free. Prints how many of 2,000 datagrams of
// new flows were not answered, for half of the ports taken in one piece, and
// for as many taken all over the range.

import { status } from '../forwarding/served.js'
import { OUTSIDE } from '../lab/addresses.js'
import { sleep } from '../lab/process.js'
import { ConsoleReport } from './report.js'
import { ask, openLab, SERVER_PORT, startProgram, startServer, type Way, wayName } from './way.js'

const TAKEN = 10_000
const NEW = 2_000

async function lost(report: ConsoleReport, way: Way, name: string, own: string): Promise<void> {
  const lab = await openLab(report, way, { pods: 2 }, { snat: { ports: '20000-39999', nodePorts: 'none' } })
  const node = lab.node(0)
  for (const pod of node.pods) await pod.sysctl({ 'net.ipv4.ip_local_port_range': own })
  if (way === 'kernel') {
    const rule = ['-p', 'udp', '-d', OUTSIDE.v4, '-j', 'MASQUERADE', '--to-ports', '20000-39999']
    await node.run(['iptables', '-t', 'nat', '-I', 'POSTROUTING', ...rule])
  }
  await startServer(report, lab.outside)
  const [first, second] = node.pods
  if (!first || !second) return
  const holding = startProgram(report, first, 'many', 'udp', OUTSIDE.v4, SERVER_PORT, TAKEN)
  const opened = await ask(holding, 60_000)
  await sleep(2_500)
  const again = await ask(holding, 60_000)
  const asking = startProgram(report, second, 'many', 'udp', OUTSIDE.v4, SERVER_PORT, NEW)
  const { done } = await ask(asking, 60_000)
  const dropped = way === 'hostroute' ? (await status(node)).packets.dropped.packets : '?'
  report.table([
    [wayName[way], name, `${opened.done}, ${again.done} of ${TAKEN}`, `${done} of ${NEW}`, `${dropped} dropped`]
  ])
  await lab.close()
}

const report = new ConsoleReport('dense')
for (const way of ['hostroute', 'kernel'] as const) {
  await lost(report, way, 'in one piece', '28000 38999')
  await lost(report, way, 'all over', '45000 56000')
}
await report.close()
report.end()
