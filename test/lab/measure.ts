// sockperf between two hosts of a lab, pinned to cores, and what repeated
// rounds add up to.

import type { LabHost } from './host.js'
import { type Background, sleep } from './process.js'

export type Protocol = 'tcp' | 'udp'

/** Where sockperf runs: `to` serves on `address`. IPv4 only: sockperf 3.7 knows no other. */
export interface Path {
  from: LabHost
  to: LabHost
  address: string
}

const PORT = 11_111
const SIZE = 64
/** sockperf sleeps for two seconds before each test. */
const SLEEP = 2_000
/** From one test's start to the next's, when they go by turns: a second of test and time to end. */
const TURN = 1_400

/** A path with a server running at its end. Each measurement takes one second, after sockperf's own sleep. */
export class Probe {
  readonly #server: Background

  private constructor(
    readonly path: Path,
    readonly protocol: Protocol
  ) {
    this.#server = path.to.start(['taskset', '-c', '0', 'sockperf', 'server', ...this.#common()])
  }

  /** Both ends on one core: what is measured is the work of a packet, not the wake-ups between cores. */
  static async open(path: Path, protocol: Protocol): Promise<Probe> {
    const probe = new Probe(path, protocol)
    await probe.#server.waitFor('to block on socket')
    return probe
  }

  close(): Promise<void> {
    return this.#server.stop('SIGINT', 200)
  }

  /** Half of the round trip in microseconds, median of one second of ping-pong. */
  async latency(): Promise<number> {
    const { stdout } = await this.#client('ping-pong').finished()
    const match = /percentile 50\.000 =\s*([\d.]+)/.exec(stdout)
    if (!match) throw new Error(`sockperf gave no median: ${stdout.trim()}`)
    return Number(match[1])
  }

  /** UDP datagrams of 64 bytes a second that arrive. */
  async rate(): Promise<number> {
    const client = this.#client('throughput')
    await client.waitFor('Starting test', SLEEP + 5_000)
    const [before, start] = [await datagramsReceived(this.path.to), performance.now()]
    await client.waitFor('Test end', 5_000)
    const rate = ((await datagramsReceived(this.path.to)) - before) / ((performance.now() - start) / 1_000)
    await client.finished()
    return rate
  }

  #client(mode: string): Background {
    const options = [...this.#common(), '-m', `${SIZE}`, '-t', '1']
    return this.path.from.start(['taskset', '-c', '0', 'sockperf', mode, ...options])
  }

  #common(): string[] {
    return ['-i', this.path.address, '-p', `${PORT}`, ...(this.protocol === 'tcp' ? ['--tcp'] : [])]
  }
}

/** UDP's own counter: what reached a socket. */
async function datagramsReceived(host: LabHost): Promise<number> {
  const rows = (await host.run(['cat', '/proc/net/snmp'])).split('\n').filter((line) => line.startsWith('Udp:'))
  return Number(rows[1]?.split(' ')[1])
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((left, right) => left - right)
  const middle = sorted.length / 2
  const [low = 0, high = low] = [sorted[Math.ceil(middle) - 1], sorted[Math.floor(middle)]]
  return (low + high) / 2
}

/**
 * Measures several things by turns, `rounds` times, so that a slow moment of
 * the machine meets all of them. While one is measured, the next ones sleep
 * already. Of each `summary` (a median when absent), in the order of `measures`. A run that gave no figure (a
 * stalled machine) is left out; rejects when more than half of one's runs did.
 */
export async function byTurns(
  rounds: number,
  measures: readonly (() => Promise<number>)[],
  summary: (values: readonly number[]) => number = median
): Promise<number[]> {
  const runs: Promise<PromiseSettledResult<number>>[][] = measures.map(() => [])
  for (let round = 0; round < rounds; round++) {
    for (const [index, measure] of measures.entries()) {
      runs[index]?.push(Promise.allSettled([measure()]).then(([outcome]) => outcome))
      await sleep(TURN)
    }
  }
  return Promise.all(runs.map(async (each) => sumUp(await Promise.all(each), summary)))
}

function sumUp(
  outcomes: readonly PromiseSettledResult<number>[],
  summary: (values: readonly number[]) => number
): number {
  const values = outcomes.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []))
  const failure = outcomes.find((each) => each.status === 'rejected')
  if (failure && values.length < outcomes.length / 2) throw failure.reason
  return summary(values)
}
