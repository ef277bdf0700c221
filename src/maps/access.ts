// What this folder needs of the loaded BPF object; BpfObject has it.

import type { BpfMap, NativeError } from '../native.js'
import type { Family } from '../state/types.js'

export interface MapAccess {
  map(name: string): BpfMap
  readControl(): Buffer
  writeControl(offset: number, bytes: Buffer): void
}

/** Something does not fit into its map. The families named cannot be served. */
export class CapacityError extends Error {
  constructor(
    readonly families: readonly Family[],
    what: string,
    options?: ErrorOptions
  ) {
    super(what, options)
    this.name = 'CapacityError'
  }
}

/** The kernel's way of saying that a map is full. */
export function isFull(error: unknown): boolean {
  const { code } = error as Partial<NativeError>
  return code === 'ENOSPC' || code === 'E2BIG' || code === 'ENOMEM'
}
