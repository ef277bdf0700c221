// The guard's events: the last ones kept, each handed to the listeners once.
// Equal attempts within a second are summed up: the first is told at once, the
// others as one row with their number when the second is over. An exempt writer
// is told once; what it writes later is counted in that row while it is kept.

import type { GuardEventRow } from '../control/guard-api.js'

const kept = 1000
const window = 1000
const mostKeys = 1000

export class Journal {
  readonly #recent: GuardEventRow[] = []
  readonly #listeners = new Set<(event: GuardEventRow) => void>()
  readonly #open = new Map<string, { timer: NodeJS.Timeout; summed: GuardEventRow | null }>()
  /** Rows of exempt writers that are still among the recent ones. */
  readonly #writers = new Map<string, GuardEventRow>()

  add(event: GuardEventRow): void {
    if (event.verdict === 'exempt') return this.#addExempt(event)
    const key = keyOf(event)
    const open = this.#open.get(key)
    if (open) {
      open.summed = open.summed ? { ...open.summed, repeated: open.summed.repeated + event.repeated } : { ...event }
      return
    }
    if (this.#open.size < mostKeys) {
      const timer = setTimeout(() => this.#close(key), window)
      timer.unref()
      this.#open.set(key, { timer, summed: null })
    }
    this.#tell(event)
  }

  recent(limit: number): GuardEventRow[] {
    return this.#recent.slice(-limit)
  }

  listen(listener: (event: GuardEventRow) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Tells what is still being summed up. */
  flush(): void {
    for (const key of [...this.#open.keys()]) this.#close(key)
  }

  #addExempt(event: GuardEventRow): void {
    const key = writerOf(event)
    const known = this.#writers.get(key)
    if (known) {
      known.repeated += event.repeated
      return
    }
    const row = { ...event }
    this.#writers.set(key, row)
    this.#tell(row)
  }

  #close(key: string): void {
    const open = this.#open.get(key)
    if (!open) return
    clearTimeout(open.timer)
    this.#open.delete(key)
    if (open.summed) this.#tell(open.summed)
  }

  #tell(event: GuardEventRow): void {
    this.#recent.push(event)
    const oldest = this.#recent.length > kept ? this.#recent.shift() : undefined
    if (oldest?.verdict === 'exempt') this.#writers.delete(writerOf(oldest))
    for (const listener of this.#listeners) listener(event)
  }
}

function writerOf({ system, uid, executable, command, cgroup, exemption }: GuardEventRow): string {
  return JSON.stringify([system, uid, executable ?? command, cgroup, exemption])
}

function keyOf(event: GuardEventRow): string {
  const { verdict, reason, system, family, table, chain, message, uid, command, executable, cgroup } = event
  return JSON.stringify([
    verdict,
    reason,
    system,
    family,
    table,
    chain,
    message,
    uid,
    command,
    event.arguments,
    executable,
    cgroup
  ])
}

/** One sentence for the log: who wanted what, and what came of it. */
export function sentence(event: GuardEventRow): string {
  const who = event.arguments ?? event.command
  const where = [event.family, event.table, event.chain].filter((part) => part !== null && part !== '').join(' ')
  const times = event.repeated > 1 ? ` ${event.repeated} times more` : ''
  const done: Record<GuardEventRow['verdict'], string> = {
    refused: 'refused',
    audited: 'would have refused (audit)',
    exempt: `exempt: ${event.exemption ?? 'taken back meanwhile'}:`,
    appeared: 'not refused, present in the kernel:',
    removed: 'removed again:'
  }
  const unit = event.unit === null ? '' : ` of ${event.unit}`
  const odd = event.reason === 'uninspectable' ? ' which cannot be inspected' : ''
  const later = event.verdict === 'exempt' ? '; its further writes are only counted' : ''
  return `${done[event.verdict]}${times} ${event.system} ${event.message}${odd}${where === '' ? '' : ` in ${where}`} by "${who}"${unit} (pid ${event.pid})${later}`
}
