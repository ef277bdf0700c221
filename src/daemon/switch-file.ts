// `hostroute disable` outlives a restart of the daemon, not a reboot: the run
// directory is on a tmpfs.

import { existsSync } from 'node:fs'
import { join } from 'node:path'

export function disabledFile(runDirectory: string): string {
  return join(runDirectory, 'disabled')
}

export function wasDisabled(runDirectory: string): boolean {
  return existsSync(disabledFile(runDirectory))
}
