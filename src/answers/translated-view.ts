// Translated destinations for the control socket and for the log.

import { hostPrefix } from '../address.js'
import type { TranslatedStatus } from '../control/api.js'
import type { Logger } from '../log.js'
import type { Address } from '../state/types.js'
import type { TranslatedDiff, UnboundedRule } from '../translated/translated.js'
import type { NodeView } from './node-view.js'

/** Changes are logged together: a deployment changes many Services within seconds. */
const quietMilliseconds = 5_000

export function translatedStatus({ translated, plan }: NodeView): TranslatedStatus {
  const isOwn = (address: Address): boolean => {
    const route = plan.routes.get(hostPrefix(address))
    return route?.action === 'stack' && route.reason === 'local'
  }
  return { rows: translated.summary(isOwn), unbounded: translated.unbounded().map(unboundedText) }
}

/** "ip nat PREROUTING, handle 7: tcp dport 80 redirect" */
export function unboundedText({ kind, family, table, chain, handle, text }: UnboundedRule): string {
  if (kind === 'ipvs') return `IPVS: ${text}`
  const place = kind === 'iptables-legacy' ? `rule ${handle} (iptables-legacy)` : `handle ${handle}`
  return `${family} ${table} ${chain}, ${place}: ${text}`
}

export interface TranslatedLog {
  note(diff: TranslatedDiff, total: number): void
  close(): void
}

export function createTranslatedLog(log: Logger): TranslatedLog {
  let added = 0
  let removed = 0
  let timer: NodeJS.Timeout | undefined
  const tell = (total: number): void => {
    timer = undefined
    log.info(`translated destinations: ${added} added, ${removed} removed, ${total} now`)
    added = 0
    removed = 0
  }
  let last = 0
  return {
    note(diff, total) {
      added += diff.added.length
      removed += diff.removed.length
      last = total
      timer ??= setTimeout(() => tell(last), quietMilliseconds).unref()
    },
    close: () => clearTimeout(timer)
  }
}
