// The last errors, for `hostroute status`: what went wrong while nobody looked.

import type { ErrorRow } from '../control/api.js'

const kept = 20

export class RecentErrors {
  private readonly rows: ErrorRow[] = []

  add(subsystem: string, text: string): void {
    const row = { time: new Date().toISOString(), subsystem, text }
    const same = this.rows.findIndex((known) => known.subsystem === subsystem && known.text === text)
    if (same >= 0) this.rows.splice(same, 1)
    this.rows.unshift(row)
    this.rows.length = Math.min(this.rows.length, kept)
  }

  /** Newest first. */
  list(): ErrorRow[] {
    return [...this.rows]
  }
}
