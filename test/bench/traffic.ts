// traffic.c, compiled when it is out of date, and what its clients say.

import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, renameSync, statSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { type Background, sleep } from '../lab/process.js'
import type { Way } from './line.js'

const root = fileURLToPath(new URL('../../../../', import.meta.url))
const SOURCE = `${root}test/bench/traffic.c`
const PROGRAM = `${root}build/bench/traffic`
const PORT = 11_111

export const KINDS = ['tcp', 'udp', 'packets', 'connect', 'stream'] as const
/** tcp, udp: half a round trip; packets: one datagram; connect: opened and closed; stream: one megabyte. */
export type Kind = (typeof KINDS)[number]

/** Compiles the program unless it is newer than its source. Throws with the compiler's words. */
export function buildTraffic(): void {
  if (existsSync(PROGRAM) && statSync(PROGRAM).mtimeMs >= statSync(SOURCE).mtimeMs) return
  mkdirSync(`${root}build/bench`, { recursive: true })
  execFileSync(process.env['CC'] ?? 'cc', ['-O2', '-Wall', '-Wextra', '-Werror', '-o', `${PROGRAM}.tmp`, SOURCE], {
    stdio: ['ignore', 'ignore', 'inherit']
  })
  renameSync(`${PROGRAM}.tmp`, PROGRAM)
}

/** A server at a way's end, and its clients. */
export class Traffic {
  readonly #server: Background

  private constructor(readonly way: Way) {
    this.#server = way.to.start(words('serve', way.address))
  }

  /** Resolves when an answer has come through. */
  static async open(way: Way, patience = 10_000): Promise<Traffic> {
    const traffic = new Traffic(way)
    for (const end = performance.now() + patience; ; await sleep(20)) {
      const outcome = await way.from.exec(words('connect', way.address, 1))
      if (outcome.status === 0) return traffic
      if (performance.now() > end) throw new Error(`no answer on the way "${way.name}": ${outcome.stderr.trim()}`)
    }
  }

  /** Nanoseconds of one unit of this kind. Rejects when an answer is missing. */
  async measure(kind: Kind, count: number): Promise<number> {
    return Number(await this.way.from.run(words(kind, this.way.address, count)))
  }

  close(): Promise<void> {
    return this.#server.stop('SIGKILL')
  }
}

function words(word: string, address: string, count = 1): string[] {
  return [PROGRAM, word, address, `${PORT}`, `${count}`]
}
