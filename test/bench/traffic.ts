// traffic.c, compiled when it is out of date, and what its clients say.

import { compile } from '../lab/compile.js'
import { type Background, sleep } from '../lab/process.js'
import type { Way } from './line.js'

export const KINDS = ['tcp', 'udp', 'packets', 'connect', 'stream'] as const
/** tcp, udp: half a round trip; packets: one datagram; connect: opened and closed; stream: one megabyte. */
export type Kind = (typeof KINDS)[number]

/** The program's path, compiled when out of date. */
export const buildTraffic = (): string => compile('test/bench/traffic.c')

/** A server at a way's end, and its clients. */
export class Traffic {
  readonly #server: Background

  private constructor(readonly way: Way) {
    this.#server = way.to.start(words('serve', way.address, way.port))
  }

  /** Resolves when an answer has come through. */
  static async open(way: Way, patience = 10_000): Promise<Traffic> {
    const traffic = new Traffic(way)
    for (const end = performance.now() + patience; ; await sleep(20)) {
      const outcome = await way.from.exec(clientWords(way, 'connect', 1))
      if (outcome.status === 0) return traffic
      if (performance.now() > end) throw new Error(`no answer on the way "${way.name}": ${outcome.stderr.trim()}`)
    }
  }

  /** Nanoseconds of one unit of this kind. Rejects when an answer is missing. */
  async measure(kind: Kind, count: number): Promise<number> {
    return Number(await this.way.from.run(clientWords(this.way, kind, count)))
  }

  close(): Promise<void> {
    return this.#server.stop('SIGKILL')
  }
}

function words(word: string, address: string, port: number, count = 1): string[] {
  return [buildTraffic(), word, address, `${port}`, `${count}`]
}

function clientWords({ address, port, service }: Way, kind: Kind, count: number): string[] {
  return words(kind, service?.address ?? address, service?.port ?? port, count)
}
