// The guard's events: the last ones kept, each handed to the listeners once.
// Equal attempts within a second are summed up: the first is told at once, the
// others as one row with their number when the second is over.

import type { GuardEventRow } from '../control/guard-api.js'

const kept = 1000
const window = 1000
const mostKeys = 1000

export class Journal {
  readonly #recent: GuardEventRow[] = []
  readonly #listeners = new Set<(event: GuardEventRow) => void>()
  readonly #open = new Map<string, { timer: NodeJS.Timeout; summed: GuardEventRow | null }>()

  add(event: GuardEventRow): void {
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

  #close(key: string): void {
    const open = this.#open.get(key)
    if (!open) return
    clearTimeout(open.timer)
    this.#open.delete(key)
    if (open.summed) this.#tell(open.summed)
  }

  #tell(event: GuardEventRow): void {
    this.#recent.push(event)
    if (this.#recent.length > kept) this.#recent.shift()
    for (const listener of this.#listeners) listener(event)
  }
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
    exempt: 'let through by exemption',
    appeared: 'found, in spite of the guard,',
    removed: 'removed, having found,'
  }
  const unit = event.unit === null ? '' : ` of ${event.unit}`
  const odd = event.reason === 'uninspectable' ? ' which cannot be inspected' : ''
  return `${done[event.verdict]}${times} ${event.system} ${event.message}${odd}${where === '' ? '' : ` in ${where}`} by "${who}"${unit} (pid ${event.pid})`
}
