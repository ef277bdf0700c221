// One network namespace of the lab and what can be done inside it: run
// programs, ping, ask the echo server, capture, count.

import { fileURLToPath } from 'node:url'
import { type Capture, startCapture } from './capture.js'
import type { Answer, FlowReport, Question } from './echo.js'
import { Background, type ExecOptions, enter, exec, type Outcome, run } from './process.js'

const ECHO = fileURLToPath(new URL('./echo.js', import.meta.url))

export interface PingReport {
  sent: number
  received: number
  /** Sequence numbers without a reply. */
  lost: number[]
  /** TTL or hop limit of the first reply; 0 without one. */
  ttl: number
  /** Milliseconds of each reply. */
  times: number[]
  output: string
}

export interface PingOptions {
  count?: number
  /** Milliseconds between two, 10 when absent. */
  interval?: number
  /** Milliseconds to wait for the last reply, 1000 when absent. */
  wait?: number
  arguments?: string[]
}

/** A flow that is sending; finish() ends it and says what came back. */
export interface Flow {
  finish(): Promise<FlowReport>
}

export class LabHost {
  constructor(
    readonly name: string,
    readonly namespace: string
  ) {}

  /** Runs a program in here. Rejects only when it cannot be started. */
  exec(argv: readonly string[], options?: ExecOptions): Promise<Outcome> {
    return exec(enter(this.namespace, argv), options)
  }

  /** Runs a program that has to succeed; its standard output. */
  run(argv: readonly string[], options?: ExecOptions): Promise<string> {
    return run(enter(this.namespace, argv), options)
  }

  /** `ip` with these words, all commands in one process. Rejects when one fails. */
  async ip(...commands: string[]): Promise<void> {
    await this.run(['ip', '-batch', '-'], { input: `${commands.join('\n')}\n` })
  }

  /** `ip -json` with these words, parsed. */
  async ipJson<Row>(...words: string[]): Promise<Row[]> {
    return JSON.parse((await this.run(['ip', '-json', ...words])) || '[]') as Row[]
  }

  /** Sets sysctls: 'net.ipv4.ip_forward' → '1'. */
  async sysctl(values: Record<string, string | number>): Promise<void> {
    await this.run(['sysctl', '-qw', ...Object.entries(values).map(([key, value]) => `${key}=${value}`)])
  }

  start(argv: readonly string[], environment?: Record<string, string>): Background {
    return new Background(enter(this.namespace, argv), environment)
  }

  async ping(address: string, options: PingOptions = {}): Promise<PingReport> {
    const outcome = await this.startPing(address, options).finished()
    return readPing(outcome.stdout)
  }

  /** A ping that goes on until stopped with SIGINT (or `count` is reached); read it with readPing. */
  startPing(address: string, options: PingOptions = {}): Background {
    const { count, interval = 10, wait = 1_000 } = options
    const argv = ['ping', '-n', '-D', '-i', `${interval / 1_000}`, '-W', `${wait / 1_000}`]
    return this.start([...argv, ...(count ? ['-c', `${count}`] : []), ...(options.arguments ?? []), address])
  }

  /** An echo server for TCP and UDP, both families. Resolves once it listens. */
  async echo(port = 7): Promise<Background> {
    const server = this.start([process.execPath, ECHO, 'serve', `${port}`])
    await server.waitFor('ready')
    return server
  }

  async ask(question: Question): Promise<Answer> {
    const [answer] = await this.askAll([question])
    return answer as Answer
  }

  /** Asks all at the same time, from one process. */
  async askAll(questions: readonly Question[]): Promise<Answer[]> {
    const text = await this.run([process.execPath, ECHO, 'ask'], { input: JSON.stringify(questions) })
    return JSON.parse(text) as Answer[]
  }

  /** A long-lived flow; resolves after the first answer. */
  async flow(question: Question): Promise<Flow> {
    const client = this.start([process.execPath, ECHO, 'flow', JSON.stringify(question)])
    await client.waitFor('ready')
    return {
      finish: async () => {
        client.child.stdin?.end()
        const { stdout } = await client.finished(10_000)
        return JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as FlowReport
      }
    }
  }

  /** tcpdump on one device, running when this resolves. `filter` in pcap's language. */
  capture(device: string, filter = ''): Promise<Capture> {
    return startCapture(this, device, filter)
  }

  /** Packets and bytes of a device as its driver counts them. */
  async counters(device: string): Promise<{ rxPackets: number; txPackets: number; rxBytes: number; txBytes: number }> {
    interface Row {
      stats64: Record<'rx' | 'tx', { packets: number; bytes: number }>
    }
    const [row] = await this.ipJson<Row>('-s', 'link', 'show', 'dev', device)
    if (!row) throw new Error(`${this.name} has no device ${device}`)
    const { rx, tx } = row.stats64
    return { rxPackets: rx.packets, txPackets: tx.packets, rxBytes: rx.bytes, txBytes: tx.bytes }
  }
}

/**
 * What `ping -n -D` has printed, as numbers. Works on a ping that is still
 * running, too. Of one ended by a signal the last few may have been on their
 * way: so many do not count as sent when they have no reply.
 */
export function readPing(output: string, onTheWay = 0): PingReport {
  const times: number[] = []
  const answered = new Set<number>()
  let ttl = 0
  for (const match of output.matchAll(/(?:icmp_seq|seq)=(\d+) (?:ttl|hlim)=(\d+) time=([\d.]+) ms/g)) {
    if (answered.has(Number(match[1]))) continue
    answered.add(Number(match[1]))
    ttl ||= Number(match[2])
    times.push(Number(match[3]))
  }
  const summary = /(\d+) packets transmitted/.exec(output)
  const last = Math.max(0, ...answered)
  let sent = summary ? Number(summary[1]) : last
  if (sent - last <= onTheWay) sent = last
  const lost = Array.from({ length: sent }, (_, index) => index + 1).filter((each) => !answered.has(each))
  return { sent, received: answered.size, lost, ttl, times, output }
}
