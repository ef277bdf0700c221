// Programs that an earlier daemon has attached are replaced in place before
// anything else is known of the node: by their pins, and where there are no links
// by the journal and the map of devices.

import { join } from 'node:path'
import type { Logger } from '../log.js'
import { decodeDevice } from '../maps/codec.js'
import { CODES, STRUCTS } from '../maps/layout.js'
import { entries } from '../maps/mirror.js'
import type { BpfObject, NativeError } from '../native.js'
import { ownLinks } from '../own-pins.js'
import { clsactPriority, readJournal } from './clsact-journal.js'
import { egressPrograms } from './hooks.js'

export interface Pinned {
  object: BpfObject
  pinDirectory: string
  journalPath: string
  xdp: 'off' | 'native' | 'generic'
  log: Logger
}

/** Returns an error for each that failed: there the earlier program goes on. */
export function replacePinned(pinned: Pinned): Error[] {
  const failed: Error[] = []
  for (const { program, ifindex, put } of [...linked(pinned), ...filters(pinned)]) {
    try {
      put()
    } catch (error) {
      const { code, message } = error as NativeError
      if (code !== 'ENODEV' && code !== 'ENOLINK')
        failed.push(new Error(`${program} on device ${ifindex} could not be replaced: ${message}`, { cause: error }))
    }
  }
  return failed
}

interface Step {
  program: string
  ifindex: number
  put(): void
}

function* linked({ object, pinDirectory, xdp }: Pinned): Iterable<Step> {
  const links = join(pinDirectory, 'links')
  for (const name of ownLinks(links)) {
    const program = name.slice(0, name.lastIndexOf('-'))
    const ifindex = Number(name.slice(name.lastIndexOf('-') + 1))
    const path = join(links, name)
    if (program !== 'uplink_filter')
      yield { program, ifindex, put: () => object.attachTcx(program, ifindex, path, egressPrograms.has(program)) }
    // not wanted any more: the start takes it away
    else if (xdp !== 'off') yield { program, ifindex, put: () => object.attachXdp(program, ifindex, xdp, path) }
  }
}

function* filters({ object, journalPath }: Pinned): Iterable<Step> {
  const served = readJournal(journalPath)
  if (served.size === 0) return
  const flags = object.readControl().readUInt32LE(STRUCTS.control.offset.flags)
  const devices = object.map('devices')
  const put = (program: string, ifindex: number) => () =>
    void object.attachClsact(program, ifindex, clsactPriority, egressPrograms.has(program))
  for (const [, value] of entries(devices)) {
    const { ifindex, kind } = decodeDevice(value)
    if (!served.has(ifindex)) continue
    const program = kind === CODES.DEVICE_POD ? 'from_pod' : 'from_uplink'
    yield { program, ifindex, put: put(program, ifindex) }
    if (kind === CODES.DEVICE_POD && (flags & CODES.CONTROL_NAT_CHAIN) !== 0)
      yield { program: 'to_pod', ifindex, put: put('to_pod', ifindex) }
  }
  devices.close()
}
