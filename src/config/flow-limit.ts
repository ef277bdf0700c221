// How many flows of a family there may be.

import { totalmem } from 'node:os'
import type { Config } from './config.js'

/** Bytes of a flow through SNAT with both its entries, and its share of the tables: bpf/types.h, hashtab.c. */
const bytesPerFlow = 320
/** Part of the machine's memory that the flows of a family may take. */
const share = 1 / 100
const least = 65_536
const most = 1_048_576

/** What `limits.flows` says; auto: a power of two that takes about a hundredth of the memory. */
export function flowLimit({ limits }: Pick<Config, 'limits'>, memory = totalmem()): number {
  if (limits.flows !== 'auto') return limits.flows
  const fitting = 2 ** Math.round(Math.log2((memory * share) / bytesPerFlow))
  return Math.min(most, Math.max(least, fitting))
}
