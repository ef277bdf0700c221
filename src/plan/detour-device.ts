// The daemon's own TAP device: no pod's, no uplink, nobody's concern.

import type { Link } from '../state/types.js'

/** Its names: the first that is free. */
export const detourDevices: readonly string[] = Array.from({ length: 10 }, (_, number) => `hostroute${number}`)

export function isDetourDevice({ kind, name }: Pick<Link, 'kind' | 'name'>): boolean {
  return kind === 'tun' && detourDevices.includes(name)
}
