// What the file says that test/lab/faults.ts reads, and who writes it.

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** In each error that it makes. */
export const HELPER = 'injected fault'

export interface Orders {
  /** A file to which each call is added. */
  record?: string
  fail?: { label: string; from: number; once: boolean; code: string } | undefined
  /** When this call comes for the first time the process gets the signal; the call goes on. */
  signal?: { label: string; name: NodeJS.Signals }
  /** The call that has failed once. */
  fired?: string
}

export interface Faults {
  /** From the daemon's next native call on. */
  order(orders: Orders): void
  /** Of a daemon that follows the orders. */
  environment: Record<string, string>
}

/** Nothing is ordered yet. The file is made in `directory`. */
export function faultsIn(directory: string): Faults {
  const file = join(directory, 'faults')
  const order = (orders: Orders) => writeFileSync(file, JSON.stringify(orders))
  order({})
  const preload = fileURLToPath(new URL('faults.js', import.meta.url))
  return { order, environment: { NODE_OPTIONS: `--import=${preload}`, HOSTROUTE_FAULTS: file } }
}
