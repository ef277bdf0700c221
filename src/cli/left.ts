// What the programs do while the daemon does not answer: hostrouted reads it from
// the pins.

import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const daemon = fileURLToPath(new URL('../daemon/main.js', import.meta.url))
const patience = 10_000

/** A sentence; '' where nothing is pinned, or it cannot be seen. */
export function leftAtWork(): Promise<string> {
  const pins = process.env['HOSTROUTE_PINS']
  const words = [daemon, '--left', ...(pins ? ['--pin-directory', pins] : [])]
  return new Promise((resolve) => {
    execFile(process.execPath, words, { timeout: patience }, (error, stdout) => resolve(error ? '' : stdout.trim()))
  })
}
