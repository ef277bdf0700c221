// Nearly as many flows to one remote socket as there are ports, all open at a
// time; the kernel's MASQUERADE does the same beside it.

import { status } from '../forwarding/served.js'
import { OUTSIDE } from '../lab/addresses.js'
import type { Lab } from '../lab/lab.js'
import { sleep } from '../lab/process.js'
import { count, type Report } from './report.js'
import { ask, onlyByHostroute, openLab, SERVER_PORT, startProgram, startServer, sum, type Way, wayName } from './way.js'

export interface ManyOptions {
  flows: number
  /** Of hostroute's SNAT. The kernel takes 1024-65535. */
  ports: string
  /** With the kernel: hostroute may fail where the kernel fails more often. Without: never. */
  ways: readonly Way[]
}

/** Fewer than a process may have files open. */
const EACH_POD = 12_000
const PATIENCE = 300_000
/** A UDP flow in use for longer is no question any more, whose port may be used again. */
const CONVERSATION = 2_500

const protocols = ['udp', 'tcp'] as const
type Protocol = (typeof protocols)[number]

/** How many flows were answered, by round. */
type Rounds = [opened: number, again: number, onceMore: number]

export async function many(report: Report, { flows, ports, ways }: ManyOptions): Promise<void> {
  const found: Partial<Record<Way, Record<Protocol, Rounds>>> = {}
  const pods = Math.ceil(flows / EACH_POD)
  for (const way of ways) {
    const lab = await openLab(report, way, { pods }, { snat: { ports, nodePorts: 'none' } })
    await startServer(report, lab.outside)
    const rounds = async (protocol: Protocol) => {
      report.progress(`${wayName[way]}: ${protocol}`)
      const result = await speak(report, lab, protocol, flows / pods)
      report.figure(`${wayName[way]}: ${protocol} ${result.map(count).join(', ')}`)
      return result
    }
    found[way] = { udp: await rounds('udp'), tcp: await rounds('tcp') }
    if (way === 'hostroute') {
      const { used } = (await status(lab.node(0))).counts.flows4
      report.check(used >= flows, `${count(used)} entries for ${count(flows)} flows`)
      await onlyByHostroute(report, lab.node(0), ways.includes('kernel') ? ['drop-ports'] : [])
    }
    await lab.close()
  }
  for (const protocol of protocols) {
    const ours = found.hostroute?.[protocol]?.at(-1) ?? 0
    const wanted = found.kernel?.[protocol]?.at(-1) ?? flows
    report.check(ours >= wanted, `${protocol}: ${count(ours)} flows answered three times, ${count(wanted)} expected`)
  }
}

async function speak(report: Report, lab: Lab, protocol: Protocol, each: number): Promise<Rounds> {
  const clients = lab
    .node(0)
    .pods.map((pod) => startProgram(report, pod, 'many', protocol, OUTSIDE.v4, SERVER_PORT, each))
  const round = async () => sum(await Promise.all(clients.map((client) => ask(client, PATIENCE)))).done
  const opened = await round()
  await sleep(CONVERSATION)
  const again = await round()
  const rounds: Rounds = [opened, again, await round()]
  await Promise.all(clients.map((client) => client.stop('SIGKILL')))
  return rounds
}
