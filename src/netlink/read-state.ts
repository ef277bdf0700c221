// The tables of this namespace, read once: what a check or a comparison needs.

import type { NodeState } from '../state/types.js'
import { startSync } from './sync.js'

/**
 * Rejects with the reason when nothing could be read in `patience` milliseconds.
 * Where IPv6 routes change without a pause, it is then what several dumps show
 * together.
 */
export async function readState(patience: number): Promise<NodeState> {
  let complete = false
  let end: () => void = () => {}
  const ended = new Promise<void>((resolve) => {
    end = resolve
  })
  const endIfWhole = () => {
    if (complete && sync.status().state === 'synced') end()
  }
  const sync = startSync({
    onChanges: () => {
      complete = true
      endIfWhole()
    },
    onStatus: endIfWhole
  })
  const timer = setTimeout(end, patience)
  try {
    await ended
  } finally {
    clearTimeout(timer)
    await sync.close()
  }
  if (!complete) {
    const why = sync.status().lastError ?? 'no answer'
    throw new Error(`the kernel's tables could not be read within ${patience / 1000} s: ${why}`)
  }
  return sync.state
}
