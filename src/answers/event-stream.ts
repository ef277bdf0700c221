// Events of the programs: to whoever monitors, and drops to the log at a limited
// rate, so that a pod that spoofs is noticed without filling the journal.

import type { EventRow } from '../control/packet-api.js'
import { type Logger, rateLimit } from '../log.js'
import { explainReason } from '../reasons.js'
import { eventRow } from './events.js'

export class EventStream {
  /** Called when the first listener comes and the last goes. */
  onInterest: (interested: boolean) => void = () => {}
  private readonly listeners = new Set<(event: EventRow) => void>()
  private readonly drops: ReturnType<typeof rateLimit>

  constructor(
    log: Logger,
    private readonly deviceName: (ifindex: number) => string
  ) {
    this.drops = rateLimit(log, 1, 60_000)
  }

  get isWanted(): boolean {
    return this.listeners.size > 0
  }

  listen(listener: (event: EventRow) => void): () => void {
    this.listeners.add(listener)
    if (this.listeners.size === 1) this.onInterest(true)
    return () => {
      if (this.listeners.delete(listener) && this.listeners.size === 0) this.onInterest(false)
    }
  }

  push(records: Buffer[]): void {
    for (const record of records) {
      const row = eventRow(record, this.deviceName)
      if (row.type === 'packet' && row.class === 'drop') this.logDrop(row)
      for (const listener of this.listeners) listener(row)
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
