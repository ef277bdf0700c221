// What must hold before anything is touched: rights, and no second daemon; the
// directory of the pins is made by src/datapath/pins.ts. Each failure is one sentence with its remedy (Refusal).

import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Refusal, refusalUnlessTransient } from '../datapath/refusal.js'
import { lockHolder, lockName } from '../lock-holder.js'
import { native } from '../native.js'

export interface Lock {
  close(): void
}

/** Throws Refusal. */
export function checkCapabilities(): void {
  const have = new Set(native().capabilities())
  const missing = ['CAP_NET_ADMIN']
  // CAP_BPF and CAP_PERFMON were split off CAP_SYS_ADMIN, which still implies them
  if (!have.has('CAP_SYS_ADMIN')) missing.push('CAP_BPF', 'CAP_PERFMON')
  const absent = missing.filter((name) => !have.has(name))
  if (absent.length === 0) return
  throw new Refusal(
    `hostrouted lacks ${absent.join(', ')}: start it as root or by its systemd unit, which grants what is needed`
  )
}

/** Makes the run directory and holds its lock until the process ends. Throws Refusal if another daemon has it. */
export function lockRunDirectory(directory: string): Lock {
  try {
    mkdirSync(directory, { recursive: true, mode: 0o755 })
  } catch (error) {
    throw refusalUnlessTransient(`cannot make the run directory ${directory}: ${(error as Error).message}`, error)
  }
  const path = join(directory, lockName)
  const lock = native().lockFile(path)
  if (lock) return lock
  const passing = passingHolder(directory)
  if (passing !== null)
    throw new Error(`process ${passing} is about to take away what an earlier daemon has left: try again in a moment`)
  throw new Refusal(
    `another hostrouted already runs with ${directory} (it holds ${path}): stop it, or give this one its own --run-directory and --pin-directory`
  )
}

/** `--disable` and `--remove` hold the lock for a few seconds: systemd is to start the daemon once more. */
function passingHolder(directory: string): number | null {
  const holder = lockHolder(directory)
  try {
    const words = readFileSync(`/proc/${holder}/cmdline`, 'utf8').split('\0')
    return words.includes('--disable') || words.includes('--remove') ? holder : null
  } catch {
    return null
  }
}
