// iperf3 between a pod and the outside, both ways, TCP and UDP.

import { OUTSIDE } from '../lab/addresses.js'
import type { LabHost } from '../lab/host.js'
import type { Report } from './report.js'
import { onlyByHostroute, openLab } from './way.js'

interface Result {
  error?: string
  end: {
    sum_sent: { bytes: number; bits_per_second: number; retransmits?: number }
    sum_received: { bytes: number; bits_per_second: number; packets?: number; lost_packets?: number }
    sum?: { packets: number; lost_packets: number; bits_per_second: number }
  }
}

const rate = (bits: number) => (bits >= 1e9 ? `${(bits / 1e9).toFixed(1)} Gbit/s` : `${(bits / 1e6).toFixed(0)} Mbit/s`)

export interface Iperf3Options {
  /** Of each measurement. */
  seconds: number
  /** Of UDP, a second. */
  megabits: number
  families: readonly ('v4' | 'v6')[]
}

/** Datagrams that came, and for which the receiving program's buffer had no room. */
async function noRoom(host: LabHost): Promise<number> {
  const [four, six] = [await host.run(['cat', '/proc/net/snmp']), await host.run(['cat', '/proc/net/snmp6'])]
  const [names = [], values = []] = four
    .split('\n')
    .flatMap((line) => (line.startsWith('Udp:') ? [line.split(' ')] : []))
  return Number(values[names.indexOf('RcvbufErrors')]) + Number(/^Udp6RcvbufErrors\s+(\d+)/m.exec(six)?.[1])
}

export async function iperf3(report: Report, { seconds, megabits, families }: Iperf3Options): Promise<void> {
  const lab = await openLab(report, 'hostroute', { pods: 1 })
  const node = lab.node(0)
  const server = lab.outside.start(['iperf3', '-s', '--forceflush'])
  report.teardown(() => server.stop('SIGKILL'))
  await server.waitFor('Server listening')
  for (const family of families) {
    const address = OUTSIDE[family]
    for (const protocol of ['tcp', 'udp']) {
      for (const way of ['out', 'in']) {
        const name = `${protocol} IP${family} ${way}`
        report.progress(name)
        const receiver = way === 'in' ? node.pod(0) : lab.outside
        const before = await noRoom(receiver)
        const { end } = await measure([
          ...['-c', address, '-t', `${seconds}`],
          ...(way === 'in' ? ['-R'] : []),
          ...(protocol === 'udp' ? ['-u', '-l', '1200', '-b', `${megabits}M`] : [])
        ])
        report.check(end.sum_received.bytes > 0, `${name}: ${end.sum_received.bytes} bytes arrived`)
        const { lost_packets: lost = 0, packets = 0 } = end.sum ?? {}
        const full = (await noRoom(receiver)) - before
        const told =
          protocol === 'tcp'
            ? `${end.sum_sent.retransmits ?? '?'} retransmits`
            : `${lost} of ${packets} lost, ${full} for want of room in the receiver's buffer`
        report.figure(`${name} ${rate(end.sum_received.bits_per_second)} (${told})`)
      }
    }
  }
  await onlyByHostroute(report, node)

  async function measure(words: string[]): Promise<Result> {
    const { stdout, stderr } = await node
      .pod(0)
      .exec(['iperf3', '-J', '--connect-timeout', '10000', ...words], { timeout: seconds * 2_000 + 60_000 })
    const result = JSON.parse(stdout || '{}') as Result
    if (!result.end?.sum_received) throw new Error(`iperf3 ${words.join(' ')}: ${result.error ?? stderr}`)
    return result
  }
}
