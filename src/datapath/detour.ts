// The detour: what the programs cannot finish in one go they send to a TAP device
// of the daemon's; it cuts a packet into fragments, or holds it for a while, and
// writes it back; the program from_detour on that device goes on with it.
//
// A frame's MAC addresses are written when it leaves the node at last; until then
// these 12 bytes say what is to be done (bpf/detour.h):
//
//   0..3   magic: 02 'h' 'r' 'd'; anything else is not for the daemon
//   4      tries: how often it has come back
//   5      0
//   6..7   mtu, big endian: cut into fragments of at most so many bytes of IPv4; 0: hold
//   8..11  ifindex of the device where the packet came in first, big endian
//
// Invariants
// - control.detour names the device only while from_detour hangs on it.
// - Nothing of it outlives the process: neither device nor program is pinned.
// - Without it hostroute goes on; keep() tries again.

import type { DetourPackets, DetourStatus } from '../control/api.js'
import type { Logger } from '../log.js'
import type { BpfObject, HeldLink, Native, NativeError, TapDevice } from '../native.js'
import { detourDevices } from '../plan/detour-device.js'
import { clsactPriority } from './clsact-journal.js'
import { cut } from './cut.js'
import { durations, Waiting } from './waiting.js'

const program = 'from_detour'
const magic = 0x02687264
const at = { tries: 4, mtu: 6, etherType: 12, packet: 14 } as const
const IPV4 = 0x0800
const IPV6 = 0x86dd

export interface DetourOptions {
  native: Pick<Native, 'openTap'>
  control: { setDetour(ifindex: number): void }
  log: Logger
}

export class Detour {
  readonly packets: DetourPackets = {
    cut: 0,
    held: 0,
    ignored: 0,
    'dropped-malformed': 0,
    'dropped-full': 0,
    'dropped-tries': 0,
    'dropped-unwritten': 0
  }
  private tap: TapDevice | null = null
  private link: HeldLink | null = null
  private why: string | null = null
  private readonly waiting = new Waiting((frame) => this.writeBack(frame))

  constructor(private readonly options: DetourOptions) {
    // an earlier daemon's device went with it
    options.control.setDetour(0)
  }

  status(): DetourStatus {
    return { device: this.tap?.name ?? null, why: this.why, waiting: this.waiting.size, packets: { ...this.packets } }
  }

  /** 0: there is none. */
  get ifindex(): number {
    return this.tap?.ifindex ?? 0
  }

  /** Opens it if it is not open. Never throws: what fails is told once and stands in status(). */
  open(object: BpfObject): void {
    if (this.tap) return
    const { control, log } = this.options
    try {
      this.tap = this.makeDevice()
      this.attach(object)
      control.setDetour(this.tap.ifindex)
      const again = this.why === null ? '' : ' again'
      log.info(`the detour for packets that the programs cannot finish is open${again}: ${this.tap.name}`)
      this.why = null
    } catch (error) {
      this.close()
      const why = explain(error as NativeError)
      if (why !== this.why)
        log.warn(`no detour for the few packets that must be cut into fragments, or wait: ${why}; tried again`)
      this.why = why
    }
  }

  /** From time to time: opens it again when it could not be opened, or when somebody has set the device down (`up`: what rtnetlink says). */
  keep(object: BpfObject, up: boolean): void {
    if (this.tap && !up) this.lose(`somebody has set ${this.tap.name} down`)
    this.open(object)
  }

  /** Puts the program of another object in the place of the one that hangs there. Returns what went wrong. */
  replaceProgram(object: BpfObject): Error[] {
    if (!this.tap) return []
    const { name } = this.tap
    try {
      this.attach(object)
      return []
    } catch (error) {
      return [new Error(`${program} on ${name} could not be replaced: ${(error as Error).message}`, { cause: error })]
    }
  }

  /** Hangs the program there again if somebody has detached it. Returns a sentence for what went wrong. */
  attachAgain(object: BpfObject): string[] {
    if (!this.tap) return []
    const { name } = this.tap
    try {
      return this.attach(object) ? [] : [`somebody detached ${program} from ${name}; attached again`]
    } catch (error) {
      return [`${program} on ${name} could not be attached again: ${(error as Error).message}`]
    }
  }

  /** No program sends there from now on; what waits is written back at once, then the device goes. */
  close(): void {
    this.options.control.setDetour(0)
    this.waiting.flush()
    this.link?.close()
    this.tap?.close()
    this.link = null
    this.tap = null
  }

  private lose(why: string): void {
    this.close()
    this.why = why
    this.options.log.warn(`the detour is closed: ${why}; it is opened again`)
  }

  private makeDevice(): TapDevice {
    for (const name of detourDevices) {
      try {
        return this.options.native.openTap(name, (frames) => this.receive(frames))
      } catch (error) {
        if ((error as NativeError).code !== 'EBUSY') throw error
      }
    }
    throw new Error(
      `the node has devices ${detourDevices[0]} to ${detourDevices.at(-1)} of another program's: one of them must go`
    )
  }

  /** true: one hung there already. */
  private attach(object: BpfObject): boolean {
    const { ifindex } = this
    if (this.link) {
      try {
        object.updateLink(program, this.link.fd)
        return true
      } catch (error) {
        if ((error as NativeError).code !== 'ENOLINK') throw error
        this.link.close()
        this.link = null
      }
    }
    try {
      this.link = object.linkTcx(program, ifindex)
      return false
    } catch (error) {
      const { code } = error as NativeError
      if (code !== 'EINVAL' && code !== 'EOPNOTSUPP') throw error
      // no TCX before Linux 6.6; the filter goes with the device
      return object.attachClsact(program, ifindex, clsactPriority).replaced
    }
  }

  private receive(frames: Buffer[] | null): void {
    if (frames === null) this.lose(`somebody has deleted ${this.tap?.name ?? 'its device'}`)
    else for (const frame of frames) this.packets[this.take(frame)]++
  }

  private take(frame: Buffer): keyof DetourPackets {
    if (frame.length < at.packet || frame.readUInt32BE(0) !== magic) return 'ignored'
    const etherType = frame.readUInt16BE(at.etherType)
    const tries = frame.readUInt8(at.tries)
    const mtu = frame.readUInt16BE(at.mtu)
    if (etherType !== IPV4 && (etherType !== IPV6 || mtu !== 0)) return 'dropped-malformed'
    if (tries >= durations) return 'dropped-tries'
    if (mtu === 0) return this.waiting.add(frame, tries) ? 'held' : 'dropped-full'
    const prefix = Buffer.from(frame.subarray(0, at.packet))
    prefix.writeUInt16BE(0, at.mtu)
    const fragments = cut(frame.subarray(at.packet), mtu, prefix)
    if (!fragments) return 'dropped-malformed'
    for (const fragment of fragments) this.writeBack(fragment)
    return 'cut'
  }

  private writeBack(frame: Buffer): void {
    frame.writeUInt8(frame.readUInt8(at.tries) + 1, at.tries)
    if (!this.tap?.write(frame)) this.packets['dropped-unwritten']++
  }
}

/** What failed, with what to do about it. */
function explain({ code, syscall, message }: NativeError): string {
  if (syscall === 'open' && (code === 'ENOENT' || code === 'ENODEV' || code === 'ENXIO'))
    return `${message}: load the module with "modprobe tun"; under systemd the unit needs DeviceAllow=/dev/net/tun rw, and no PrivateDevices=yes`
  if (syscall === 'open' && (code === 'EPERM' || code === 'EACCES'))
    return `${message}: the unit, or the container, must allow it (DeviceAllow=/dev/net/tun rw)`
  return message
}
