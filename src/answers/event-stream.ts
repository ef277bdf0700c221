// Events of the programs: to whoever monitors, and drops to the log at a limited
// rate, so that a pod that spoofs is noticed without filling the journal.

import type { EventRow } from '../control/packet-api.js'
import type { Monitored } from '../datapath/control-block.js'
import { type Logger, rateLimit } from '../log.js'
import { explainReason } from '../reasons.js'
import { eventRow } from './events.js'

export class EventStream {
  /** Called when `wanted` is another than before. */
  onInterest: (wanted: Monitored) => void = () => {}
  /** And whether each wants all packets. */
  private readonly listeners = new Map<(event: EventRow) => void, boolean>()
  private readonly drops: ReturnType<typeof rateLimit>

  constructor(
    log: Logger,
    private readonly deviceName: (ifindex: number) => string
  ) {
    this.drops = rateLimit(log, 1, 60_000)
  }

  get wanted(): Monitored {
    if (this.listeners.size === 0) return 'nothing'
    return [...this.listeners.values()].includes(true) ? 'all' : 'told'
  }

  /** all: packets of the hot path, too. Until the returned function is called; a listener listens once. */
  listen(listener: (event: EventRow) => void, all: boolean): () => void {
    this.change(() => this.listeners.set(listener, all))
    return () => this.change(() => this.listeners.delete(listener))
  }

  private change(make: () => void): void {
    const before = this.wanted
    make()
    const { wanted } = this
    if (wanted !== before) this.onInterest(wanted)
  }

  push(records: Buffer[]): void {
    for (const record of records) {
      const row = eventRow(record, this.deviceName)
      if (row.type === 'packet' && row.class === 'drop') this.logDrop(row)
      for (const listener of this.listeners.keys()) listener(row)
    }
  }

  close(): void {
    this.drops.close()
  }

  private logDrop(row: EventRow & { type: 'packet' }): void {
    const text = `dropped from ${row.in}: ${explainReason(row.reason).text} (${row.source ?? '?'} to ${row.destination ?? '?'}${row.protocol ? `, ${row.protocol}` : ''}); hostroute drops counts them`
    this.drops.log('warn', `${row.in}/${row.reason}`, text)
  }
}
