// Programs on devices. Keeps what is attached equal to what is wanted.
//
// Invariants
// - A device is wanted only after its row is in the maps (the caller writes
//   maps first); a program on a device without a row leaves all to the kernel.
// - Links are pinned as links/<program>-<ifindex>: they outlive the daemon, and
//   the next one replaces their program in place, without a gap.
// - to_pod hangs on a pod's device before from_pod does: what the stack has
//   delivered is known before the first answer to it. It is attached only where
//   something may be translated: any egress program costs every packet of the
//   machine some 40 instructions (sch_handle_egress, seen on 6.12).
// - clsact has no links. What was attached that way is written to `journalPath`
//   before it happens, so that the next daemon can detach it.

import { existsSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { AttachedHow } from '../control/api.js'
import type { Logger } from '../log.js'
import { type BpfObject, type NativeError, native } from '../native.js'
import type { WantedDevice } from '../plan/types.js'
import { readOwnFile } from '../read-file.js'
import { SeenPins } from './pins.js'

export const clsactPriority = 50

interface TcProgram {
  name: string
  egress: boolean
}

/** In the order in which they are attached. */
const programsOf: Record<Hooked['role'], readonly TcProgram[]> = {
  pod: [
    { name: 'to_pod', egress: true },
    { name: 'from_pod', egress: false }
  ],
  uplink: [{ name: 'from_uplink', egress: false }]
}
export const egressPrograms: ReadonlySet<string> = new Set(['to_pod'])

export interface AttachedProgram {
  name: string
  how: AttachedHow
}

export interface Hooked {
  ifindex: number
  device: string
  role: 'pod' | 'uplink'
  programs: AttachedProgram[]
  /** Why a program could not be attached; the device's traffic stays with the kernel. */
  error: string | null
  /** Why uplink_filter could not be attached, which is asked for; null: it is, or is not asked for. */
  noXdp: string | null
}

export interface HookOptions {
  object: BpfObject
  pinDirectory: string
  journalPath: string
  xdp: 'off' | 'native' | 'generic'
  log: Logger
  /** Before the first program is attached to a device that no earlier daemon has served. */
  onNew(device: WantedDevice): void
}

export class Hooks {
  readonly attached = new Map<number, Hooked>()
  private how: 'tcx' | 'clsact' = 'tcx'
  private object: BpfObject
  private clsact: Set<number>
  private delivered: boolean
  private readonly seen = new SeenPins()
  /** Filters that could not be detached. */
  private stays: string[] = []

  constructor(private readonly options: HookOptions) {
    this.object = options.object
    this.clsact = readJournal(options.journalPath)
    this.delivered = this.pins().some((name) => name.startsWith('to_pod-'))
  }

  /** to_pod is attached, or will be with the next device. */
  get watchesDelivered(): boolean {
    return this.delivered
  }

  /** From now on to_pod is attached, too. A device where that fails is in `attached` with its error, and tried again. */
  watchDelivered(): void {
    if (this.delivered) return
    this.delivered = true
    for (const hooked of this.attached.values()) {
      if (hooked.role !== 'pod' || hooked.error) continue
      try {
        this.attachTc('to_pod', true, hooked.ifindex)
        hooked.programs.unshift({ name: 'to_pod', how: this.how })
      } catch (error) {
        const { code, message } = error as NativeError
        hooked.error = message
        if (code !== 'ENODEV') this.options.log.error(`cannot attach to_pod to ${hooked.device}: ${message}`)
      }
    }
  }

  /** Something could not be attached: apply() tries again. */
  get failing(): boolean {
    for (const hooked of this.attached.values()) if (hooked.error) return true
    return false
  }

  /** Attaches and detaches the difference, in steps. Never throws: what fails is in `attached`. */
  *apply(devices: ReadonlyMap<number, WantedDevice>): Generator<void> {
    for (const hooked of [...this.attached.values()]) {
      const device = devices.get(hooked.ifindex)
      if (device?.role === hooked.role) hooked.device = device.name
      else {
        this.detach(hooked.ifindex)
        yield
      }
    }
    for (const device of devices.values()) {
      const hooked = this.attached.get(device.ifindex)
      if (hooked && !hooked.error) continue
      this.attach(device, hooked?.error ?? null)
      yield
    }
  }

  /**
   * The kernel tells nobody that a program was detached, so each is attached
   * once more: where it still hangs it replaces itself in place. Returns a
   * sentence for each that somebody had detached; a device where one cannot be
   * attached again has its error from then on, and apply() tries again.
   */
  restore(): string[] {
    return this.again(() => true)
  }

  private again(isDue: (program: { pin: string | null }) => boolean): string[] {
    const restored: string[] = []
    for (const hooked of this.attached.values()) {
      if (hooked.error) continue
      for (const { name, how } of hooked.programs) {
        const pin = how === 'clsact' ? null : this.pin(name, hooked.ifindex)
        if (!isDue({ pin })) continue
        try {
          const was = this.attachAgain(name, how, hooked.ifindex)
          if (pin !== null) this.seen.saw(pin)
          if (!was) restored.push(`somebody detached ${name} (${how}) from ${hooked.device}; attached again`)
        } catch (error) {
          const { code, message } = error as NativeError
          if (code === 'ENODEV') continue
          hooked.error = message
          restored.push(`${name} cannot be attached to ${hooked.device} again: ${message}`)
        }
      }
    }
    return restored
  }

  /**
   * Links whose pin is another than when it was looked at last, or gone, are attached and pinned
   * once more. Otherwise as restore(), but takes only a moment.
   */
  restorePins(): string[] {
    return this.again(({ pin }) => pin !== null && !this.seen.isSame(pin))
  }

  /**
   * Puts the programs of another object, loaded with the same maps, in the place
   * of the attached ones, without a gap. Returns an error for each that failed:
   * there the earlier program goes on.
   */
  replacePrograms(object: BpfObject): Error[] {
    this.object = object
    const failed: Error[] = []
    for (const hooked of this.attached.values()) {
      // also where another one could not be attached: what hangs there must not go on with the earlier maps
      for (const { name, how } of hooked.programs) {
        try {
          this.attachAgain(name, how, hooked.ifindex)
        } catch (error) {
          const { code, message } = error as NativeError
          if (code === 'ENODEV') continue
          failed.push(new Error(`${name} on ${hooked.device} could not be replaced: ${message}`, { cause: error }))
        }
      }
    }
    return failed
  }

  /** true: it was still there. */
  private attachAgain(name: string, how: AttachedHow, ifindex: number): boolean {
    const { object } = this
    const egress = egressPrograms.has(name)
    if (how === 'clsact') return object.attachClsact(name, ifindex, clsactPriority, egress).replaced
    if (how === 'tcx') return object.attachTcx(name, ifindex, this.pin(name, ifindex), egress).replaced
    return object.attachXdp(name, ifindex, how === 'xdp-native' ? 'native' : 'generic', this.pin(name, ifindex))
      .replaced
  }

  /** Detaches what an earlier daemon left on devices that are not wanted now. */
  sweep(devices: ReadonlyMap<number, WantedDevice>): void {
    for (const name of this.pins()) {
      const ifindex = Number(name.slice(name.lastIndexOf('-') + 1))
      const program = name.slice(0, name.lastIndexOf('-'))
      const device = devices.get(ifindex)
      const wanted =
        device &&
        (programsOf[device.role].some(({ name: wanted }) => wanted === program) ||
          (program === 'uplink_filter' && this.wantsXdp(device)))
      if (!wanted) this.unpin(name)
    }
    for (const ifindex of [...this.clsact]) if (!devices.has(ifindex)) this.dropClsact(ifindex)
  }

  /** Detaches everything, also what this daemon did not attach itself. Returns a sentence for what could not be; what is pinned goes with its pin all the same. */
  detachAll(): string[] {
    this.stays = []
    for (const ifindex of [...this.attached.keys()]) this.detach(ifindex)
    for (const name of this.pins()) this.unpin(name)
    for (const ifindex of [...this.clsact]) this.dropClsact(ifindex)
    // what could not be detached is found by it
    if (this.stays.length === 0) this.quietly(() => rmSync(this.options.journalPath, { force: true }))
    return this.stays
  }

  private attach(device: WantedDevice, earlierError: string | null): void {
    const hooked: Hooked = {
      ifindex: device.ifindex,
      device: device.name,
      role: device.role,
      programs: [],
      error: null,
      noXdp: null
    }
    let program = ''
    let replaced = true
    if (!this.isOld(device.ifindex)) this.options.onNew(device)
    try {
      for (const { name, egress } of programsOf[device.role]) {
        if (name === 'to_pod' && !this.delivered) continue
        program = name
        if (!this.attachTc(name, egress, device.ifindex)) replaced = false
        hooked.programs.push({ name, how: this.how })
      }
      if (this.wantsXdp(device)) this.attachXdp(device, hooked)
      const verb = replaced ? 'took over' : 'attached'
      this.options.log.info(
        `${verb} ${hooked.programs.map(({ name, how }) => `${name} (${how})`).join(', ')} on ${device.role} ${device.name}`
      )
    } catch (error) {
      const { code, message } = error as NativeError
      hooked.error = message
      // a device that went away meanwhile is about to leave the plan, too
      if (code !== 'ENODEV' && message !== earlierError) {
        this.options.log.error(
          `cannot attach ${program} to ${device.name}, its traffic stays with the kernel: ${message}`
        )
      }
    }
    this.attached.set(device.ifindex, hooked)
  }

  private attachTc(program: string, egress: boolean, ifindex: number): boolean {
    const { object } = this
    if (this.how === 'tcx') {
      try {
        return object.attachTcx(program, ifindex, this.pin(program, ifindex), egress).replaced
      } catch (error) {
        const { code } = error as NativeError
        if (code !== 'EINVAL' && code !== 'EOPNOTSUPP') throw error
        this.how = 'clsact'
        this.options.log.info('this kernel has no TCX (Linux 6.6); programs are attached through clsact')
      }
    }
    this.clsact.add(ifindex)
    writeJournal(this.options.journalPath, this.clsact)
    return object.attachClsact(program, ifindex, clsactPriority, egress).replaced
  }

  private attachXdp(device: WantedDevice, hooked: Hooked): void {
    const mode = this.options.xdp
    if (mode === 'off') return
    try {
      this.object.attachXdp('uplink_filter', device.ifindex, mode, this.pin('uplink_filter', device.ifindex))
      hooked.programs.push({ name: 'uplink_filter', how: `xdp-${mode}` })
    } catch (error) {
      const remedy = mode === 'native' ? '; uplink.xdp: generic works with every driver' : ''
      hooked.noXdp = (error as Error).message
      this.options.log.warn(`no XDP on ${device.name}: ${(error as Error).message}${remedy}`)
    }
  }

  /** An earlier daemon's programs hang on it. */
  private isOld(ifindex: number): boolean {
    return (
      this.clsact.has(ifindex) ||
      existsSync(this.pin('from_pod', ifindex)) ||
      existsSync(this.pin('from_uplink', ifindex))
    )
  }

  private detach(ifindex: number): void {
    const hooked = this.attached.get(ifindex)
    if (!hooked) return
    this.attached.delete(ifindex)
    for (const { name, how } of hooked.programs) {
      if (how === 'clsact') this.dropClsact(ifindex)
      else this.unpin(`${name}-${ifindex}`)
    }
    this.options.log.info(`detached from ${hooked.role} ${hooked.device}`)
  }

  private dropClsact(ifindex: number): void {
    try {
      native().detachClsact(ifindex, clsactPriority)
    } catch (error) {
      const { code, message } = error as NativeError
      if (code !== 'ENODEV') {
        this.stays.push(`filters stay on device ${ifindex}: ${message}`)
        this.options.log.warn(`while detaching: ${message}`)
        return
      }
    }
    this.clsact.delete(ifindex)
    // what it names too much is looked for in vain
    this.quietly(() => writeJournal(this.options.journalPath, this.clsact))
  }

  private unpin(name: string): void {
    const path = join(this.options.pinDirectory, 'links', name)
    this.seen.forget(path)
    this.quietly(() => native().detachPinned(path))
  }

  /** A device that is gone took its programs along. */
  private quietly(action: () => void): void {
    try {
      action()
    } catch (error) {
      if ((error as NativeError).code !== 'ENODEV')
        this.options.log.warn(`while detaching: ${(error as Error).message}`)
    }
  }

  private wantsXdp(device: WantedDevice): boolean {
    return device.role === 'uplink' && this.options.xdp !== 'off'
  }

  private pin(program: string, ifindex: number): string {
    return join(this.options.pinDirectory, 'links', `${program}-${ifindex}`)
  }

  private pins(): string[] {
    try {
      return readdirSync(join(this.options.pinDirectory, 'links'))
    } catch {
      return []
    }
  }
}

/** Devices that have clsact filters of ours. */
export function readJournal(path: string): Set<number> {
  try {
    const list: unknown = JSON.parse(readOwnFile(path))
    return new Set(Array.isArray(list) ? list.filter((item) => Number.isInteger(item)) : [])
  } catch {
    return new Set()
  }
}

function writeJournal(path: string, ifindexes: Set<number>): void {
  const next = `${path}.tmp`
  rmSync(next, { force: true })
  writeFileSync(next, JSON.stringify([...ifindexes]), { flag: 'wx' })
  renameSync(next, path)
}
