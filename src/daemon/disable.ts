// `hostrouted --disable`: what `hostroute disable` does where no daemon is there to
// do it. By the same steps as a living one (src/life/switching.ts), with what it has
// pinned in the place of what it knows.
//
// Invariants
// - Nothing is touched while a daemon holds the lock of the run directory, or maps
//   that are pinned, whether it answers or not.
// - The switch on disk is written before anything is taken away.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { familyOfPrefix } from '../address.js'
import { type Config, defaultConfig } from '../config/config.js'
import type { EnableResult } from '../control/api.js'
import type { PinnedDisabled } from '../control/pinned-api.js'
import { PinnedControl } from '../datapath/pinned-control.js'
import { PinnedMaps } from '../datapath/pinned-maps.js'
import { refuseNoPinDirectory } from '../datapath/pins.js'
import { Refusal } from '../datapath/refusal.js'
import { Guard } from '../guard/guard.js'
import { egressTable, KernelEgress, removeEgress } from '../life/kernel-egress.js'
import { checkCapabilities, lockRunDirectory } from '../life/preflight.js'
import { switchFile, writeSwitch } from '../life/switch.js'
import { lockHolder } from '../lock-holder.js'
import { decodeMasquerade, decodeMasqueradeKey } from '../maps/codec.js'
import { refuseElsewhere, refuseOtherDirectories } from './noted.js'
import { configOf, lossOfPinned, type RemoveOptions, refuseBesideHolder, removePinned } from './remove.js'

/** Throws Refusal when a daemon lives, rights are missing, or the directory is on no bpffs; what was not done for the pods' sake is in the answer. */
export async function disablePinned(options: RemoveOptions): Promise<PinnedDisabled> {
  const { runDirectory } = options
  checkCapabilities()
  refuseNoPinDirectory(options.pinDirectory)
  refuseElsewhere(runDirectory)
  refuseOtherDirectories(options.force ? ['--disable', '--force'] : ['--disable'], options)
  refuseBesideHanging(runDirectory)
  refuseBesideHolder(options)
  const lock = lockRunDirectory(runDirectory)
  try {
    return await disable(options)
  } finally {
    lock.close()
  }
}

async function disable({ config: path, ...options }: RemoveOptions): Promise<PinnedDisabled> {
  const { pinDirectory, runDirectory, stateDirectory, force, log } = options
  const config = configOf(path, stateDirectory)
  const forwarding = isForwarding(pinDirectory)
  const egress = new PinnedEgress(pinDirectory, runDirectory, config)
  const failed = existsSync(join(pinDirectory, 'control')) ? await egress.leave() : null
  const refusal = failed === null ? await lossOfPinned(pinDirectory) : `${failed}; --force goes on all the same`
  const loses = force ? null : refusal
  if (loses !== null) {
    await egress.release()
    const why = egress.guardIsGone ? `${loses}; the guard, which would have refused the rule, is off meanwhile` : loses
    return result({ done: false, mode: forwarding ? 'enabled' : 'disabled', why })
  }
  const notWritten = writeOff(stateDirectory, config)
  const problems = [notWritten, failed]
  const { handedBack, stays } = await removePinned({ pinDirectory, runDirectory, log })
  if (stays.length > 0)
    problems.push(
      `not all could be removed: ${stays.join('; ')}; run it again, or start the daemon, which tries it again by itself`
    )
  const told = problems.filter((text) => text !== null)
  const why = told.length === 0 ? null : told.join('; ')
  return result({ done: true, mode: 'disabled', why, handedBack, staysDisabled: notWritten === null })
}

/** null: the next start finds it switched off. */
function writeOff(stateDirectory: string, config: Config | null): string | null {
  try {
    writeSwitch(stateDirectory, {
      enabled: false,
      configured: (config ?? defaultConfig).enabled,
      confirmUntil: null
    })
    return null
  } catch (error) {
    return `that hostroute is switched off does not outlive the next start of the daemon: ${switchFile(stateDirectory)} could not be written (${(error as Error).message}); make it writable, with room, and run hostroute disable again`
  }
}

function isForwarding(pinDirectory: string): boolean {
  const control = PinnedControl.open(pinDirectory)
  try {
    return control?.isForwarding === true
  } finally {
    control?.close()
  }
}

/** One that hangs may go on at any moment, with maps and programs that it takes for its own. */
function refuseBesideHanging(runDirectory: string): void {
  const holder = lockHolder(runDirectory)
  if (holder !== null)
    throw new Refusal(
      `hostrouted is alive (process ${holder}), so nothing was taken from under it, and when it goes on it may still do what it was asked. To disable without it end it first: systemctl stop hostrouted (or kill -9 ${holder}, then at once hostroute disable, before systemd starts it again)`
    )
}

/** `onDisable: masquerade`, by the policy that is pinned. */
class PinnedEgress {
  /** It would refuse the rule, and ends with what it guards. */
  guardIsGone = false
  private written = false

  constructor(
    private readonly pinDirectory: string,
    private readonly runDirectory: string,
    private readonly config: Config | null
  ) {}

  /** null: done, or not asked for; else why it could not be. */
  async leave(): Promise<string | null> {
    const { config, pinDirectory, runDirectory } = this
    if (config?.onDisable !== 'masquerade' || !config.snat.enabled) return null
    try {
      const policy = pinnedPolicy(pinDirectory)
      if (policy === null) return null
      const { readNode } = await import('../check/node.js')
      const { plan } = await readNode(config)
      this.guardIsGone = existsSync(join(pinDirectory, 'guard'))
      Guard.remove({ pinDirectory, runDirectory })
      const egress = new KernelEgress({ config: () => config, policy: () => policy, plan: () => plan })
      this.written = await egress.leave()
      return null
    } catch (error) {
      return `the kernel could not be told to masquerade (onDisable: masquerade, nft table inet ${egressTable}): ${(error as Error).message}`
    }
  }

  /** Hostroute stays. */
  async release(): Promise<void> {
    if (!this.written) return
    await removeEgress().catch(() => false)
  }
}

/** null: there is none. */
function pinnedPolicy(pinDirectory: string) {
  const control = PinnedControl.open(pinDirectory)
  const maps = new PinnedMaps(pinDirectory)
  try {
    const epoch = control?.masqueradeEpoch
    const wanted = maps
      .rows('masquerade')
      .map(({ key, value }) => ({ ...decodeMasqueradeKey(key), masquerade: decodeMasquerade(value) }))
      .filter((row) => row.epoch === epoch)
      .map(({ prefix, masquerade }) => ({ prefix, masquerade }))
    const masqueraded = wanted.some(({ prefix, masquerade }) => masquerade && familyOfPrefix(prefix) === 6)
    return wanted.length === 0 ? null : { wanted, ipv6: { masqueraded, why: 'as it was pinned' } }
  } finally {
    control?.close()
    maps.close()
  }
}

function result(some: Pick<EnableResult, 'done' | 'mode' | 'why'> & Partial<PinnedDisabled>): PinnedDisabled {
  return { confirmBefore: null, report: null, handedBack: null, source: 'pins', staysDisabled: false, ...some }
}
