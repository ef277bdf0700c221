// How long the event loop was held up. A timer in Node's own code looks 20 times
// a second whether it comes late; it runs no JavaScript and takes 0.1 % of a core
// (at 100 times a second 0.5 %). So what holds the loop up for less than the
// timer's period is seen only now and then, and everything longer always.

import { monitorEventLoopDelay } from 'node:perf_hooks'

const period = 50

export interface EventLoopDelay {
  /** Times that it was looked. */
  count: number
  /** Milliseconds, all looks together. */
  sum: number
  longest: number
  /** Milliseconds that so large a share of the looks was late at most. */
  quantiles: { share: number; delay: number }[]
}

const shares = [0.5, 0.9, 0.99, 0.999]
let monitor: ReturnType<typeof monitorEventLoopDelay> | null = null

/** Looks from now on, as long as the process lives. */
export function watchEventLoop(): void {
  monitor ??= monitorEventLoopDelay({ resolution: period })
  monitor.enable()
}

export function eventLoopDelay(): EventLoopDelay {
  const count = monitor?.count ?? 0
  if (!monitor || count === 0)
    return { count: 0, sum: 0, longest: 0, quantiles: shares.map((share) => ({ share, delay: 0 })) }
  const seen = monitor
  return {
    count,
    sum: late(seen.mean) * count,
    longest: late(seen.max),
    quantiles: shares.map((share) => ({ share, delay: late(seen.percentile(share * 100)) }))
  }
}

/** Nanoseconds between two looks -> milliseconds that the second came late. */
function late(nanoseconds: number): number {
  return Math.max(0, nanoseconds / 1e6 - period)
}
