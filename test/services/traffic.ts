// Servers and clients of all hosts of a lab, in one process (traffic.c).

import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { compile } from '../lab/compile.js'
import type { LabHost } from '../lab/host.js'
import { slowness } from '../lab/process.js'
import type { Protocol } from './cluster.js'

export interface Ask {
  /** Name of a host that was added. */
  from: string
  protocol: Protocol
  address: string
  port: number
  /** Chosen by the kernel when absent. */
  localPort?: number
  /** Milliseconds, 1000 when absent. */
  timeout?: number
  /** Bytes to be echoed, 32 when absent. */
  bytes?: number
}

export interface Answer {
  /** 'answered', 'refused', 'timeout', 'reset', or the words of an error. */
  outcome: string
  /** Host that answered, '' without an answer. */
  server: string
  /** The client's address and port as the server saw them. */
  peer: string
  peerPort: number
  localPort: number
  milliseconds: number
}

/** Many asks of one kind, at a rate. */
export interface Tally {
  answered: number
  refused: number
  timeout: number
  other: number
  error: string
  milliseconds: number
  /** "server peer" → how often; the first few. */
  servers: Record<string, number>
}

export interface FlowOptions extends Omit<Ask, 'timeout'> {
  /** Milliseconds between two messages, 10 when absent. */
  interval?: number
  /** Receive buffer: small ones make small windows. The kernel's default when absent. */
  buffer?: number
}

export interface FlowReport {
  server: string
  peer: string
  peerPort: number
  localPort: number
  sent: number
  /** Messages that came back. */
  received: number
  /** Longest time without an answer, ms. */
  longestGap: number
  /** How often an answer over UDP showed another server or another peer than the one before. */
  portChanges: number
  error: string
}

/** A connection that sends a message every few milliseconds and gets it back. */
export interface Flow {
  /** It goes on. */
  look(): Promise<FlowReport>
  /** Ends it after what is on its way has arrived, or after `patience` ms. */
  close(patience?: number): Promise<FlowReport>
}

/** Of a pod below those that the kernel draws; of a node among them, where hostroute draws none for SNAT. */
const LOCAL_PORTS = { pod: { first: 10_000, last: 30_000 }, node: { first: 40_000, last: 60_000 } }

export class Traffic {
  readonly #localPorts = new Map<string, number>()
  readonly #process: ChildProcessWithoutNullStreams
  readonly #waiting = new Map<string, { resolve: (line: unknown) => void; reject: (error: Error) => void }>()
  #last = 0
  #errors = ''

  constructor() {
    this.#process = spawn(compile('test/services/traffic.c'), { stdio: 'pipe' })
    this.#process.stdin.on('error', () => {})
    this.#process.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#errors += text
    })
    createInterface(this.#process.stdout).on('line', (line) => {
      const answer = JSON.parse(line) as { id: string }
      this.#waiting.get(answer.id)?.resolve(answer)
      this.#waiting.delete(answer.id)
    })
    this.#process.on('close', () => {
      const error = new Error(`test/services/traffic.c ended: ${this.#errors.trim()}`)
      for (const { reject } of this.#waiting.values()) reject(error)
      this.#waiting.clear()
    })
  }

  addHost(name: string, host: LabHost): void {
    this.#write(`host ${name} /run/netns/${host.namespace}`)
  }

  /** Echo servers, TCP and UDP; they listen when this resolves. */
  async listen(host: string, port: number): Promise<void> {
    await this.#request(`listen ${host} ${port}`, `listen ${host} ${port}`)
  }

  /**
   * Each question has a port of its own. The kernel would draw one port for two Services, which may
   * lead to the same pod (IPVS then takes the answers to one for the other's, so one of them fails),
   * or for two pods, which may have the same port outside, one by hostroute's SNAT, one by the kernel's.
   * What happens then is clash.test.ts's to say.
   */
  #localPort({ from, protocol, address }: Pick<Ask, 'from' | 'protocol' | 'address'>): number {
    const kind = from.startsWith('n') ? 'node' : 'pod'
    const { first, last } = LOCAL_PORTS[kind]
    const key = `${kind} ${protocol} ${address.includes(':') ? 6 : 4}`
    const before = this.#localPorts.get(key) ?? last
    const port = before < last ? before + 1 : first
    this.#localPorts.set(key, port)
    return port
  }

  ask(question: Ask): Promise<Answer> {
    const { from, protocol, address, port, timeout = 1_000, bytes = 32 } = question
    const localPort = question.localPort ?? this.#localPort(question)
    const id = this.#id()
    const words = [id, from, protocol, address, port, localPort, timeout * slowness, bytes].join(' ')
    return this.#request(id, `ask ${words}`)
  }

  /** All at the same time. */
  askAll(questions: readonly Ask[]): Promise<Answer[]> {
    return Promise.all(questions.map((question) => this.ask(question)))
  }

  /** `count` asks, `perSecond` of them begun each second. */
  rate(question: Ask, count: number, perSecond: number): Promise<Tally> {
    const { from, protocol, address, port, timeout = 1_000 } = question
    const id = this.#id()
    return this.#request(
      id,
      `rate ${id} ${from} ${protocol} ${address} ${port} ${timeout * slowness} ${count} ${perSecond}`
    )
  }

  open(options: FlowOptions): Flow {
    const { from, protocol, address, port, interval = 10, bytes = 32, buffer = 0 } = options
    const { localPort = this.#localPort(options) } = options
    const id = this.#id()
    const words = [id, from, protocol, address, port, localPort, interval * slowness, bytes, buffer].join(' ')
    this.#write(`open ${words}`)
    return {
      look: () => this.#request(id, `look ${id}`),
      close: (patience = 2_000) => this.#request(id, `close ${id} ${patience * slowness}`)
    }
  }

  async stop(): Promise<void> {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return
    const ended = once(this.#process, 'close')
    this.#process.kill('SIGKILL')
    await ended
  }

  #id(): string {
    this.#last += 1
    return `${this.#last}`
  }

  #write(line: string): void {
    this.#process.stdin.write(`${line}\n`)
  }

  #request<Reply>(id: string, line: string): Promise<Reply> {
    return new Promise((resolve, reject) => {
      if (this.#process.exitCode !== null) return reject(new Error(`test/services/traffic.c ended: ${this.#errors}`))
      this.#waiting.set(id, { resolve: resolve as (line: unknown) => void, reject })
      this.#write(line)
    })
  }
}
