// The guard's events in the log. Who may call iptables may call it as often as he
// likes, each time with other words: what he makes of the log is a line a minute.

import type { GuardEventRow } from '../control/guard-api.js'
import { type Logger, rateLimit } from '../log.js'
import { sentence } from './journal.js'

const minute = 60_000
/** Programs with lines of their own at a time; all others share one's. */
const mostWriters = 10

export class GuardLines {
  readonly #lines: ReturnType<typeof rateLimit>

  /** interval: milliseconds in which one program has one line. */
  constructor(log: Logger, interval = minute) {
    this.#lines = rateLimit(log, 1, interval, mostWriters)
  }

  write(event: GuardEventRow): void {
    const { time: _, reason: _reason, message: _message, position: _position, arguments: _arguments, ...fields } = event
    const { verdict, executable, command, cgroup, exemption } = event
    const key = JSON.stringify([verdict, executable ?? command, cgroup, exemption])
    this.#lines.log(verdict === 'exempt' ? 'info' : 'warn', key, sentence(event), fields, event.repeated)
  }

  /** Writes what is outstanding. */
  close(): void {
    this.#lines.close()
  }
}
