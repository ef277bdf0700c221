// What must hold before anything is touched: rights, and no second daemon; the
// directory of the pins is made by src/datapath/pins.ts. Each failure is one sentence with its remedy (Refusal).

import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { Refusal, refusalUnlessTransient } from '../datapath/refusal.js'
import { lockName } from '../lock-holder.js'
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
  throw new Refusal(
    `another hostrouted already runs with ${directory} (it holds ${path}): stop it, or give this one its own --run-directory and --pin-directory`
  )
}
