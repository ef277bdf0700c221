// What the command asks where the daemon does not answer: read from the pins, in
// the rows of the control socket. What pins do not say is null, not guessed.

import { familyOf, formatAddress, formatMac } from '../address.js'
import type { FlowFilter, FlowRow } from '../control/flow-api.js'
import type { FromPins, PinnedControls, PinnedFlowTop, PinnedPodRow } from '../control/pinned-api.js'
import { Accounts } from '../datapath/accounts.js'
import { readJournal } from '../datapath/clsact-journal.js'
import type { PinnedControl } from '../datapath/pinned-control.js'
import type { PinnedMaps } from '../datapath/pinned-maps.js'
import { isOurs, linkedPrograms } from '../linked-programs.js'
import { decodeAddress, decodePod, type PodRow } from '../maps/codec.js'
import { CODES } from '../maps/layout.js'
import type { Address, Mac } from '../state/types.js'
import { topFlows } from './flow-top.js'
import { listFlows, type Now } from './flow-view.js'

/** Of this network namespace, by ifindex. */
export type Devices = ReadonlyMap<number, { name: string; mac: Mac | null }>

export interface PinnedSource {
  maps: PinnedMaps
  control: PinnedControl
  /** null: the pods' devices are in another one. */
  devices: Devices | null
  /** The daemon's list of clsact filters. */
  journalPath: string
}

const noMac = '000000000000'

export class PinnedAnswers implements PinnedControls {
  constructor(private readonly source: PinnedSource) {}

  async pods(): Promise<PinnedPodRow[]> {
    const { maps } = this.source
    const fromPins = this.fromPins()
    const accounts = this.accounts()
    const programs = this.programsByDevice()
    return maps
      .rows('pods')
      .map(({ key, value }) => ({ address: decodeAddress(key), pod: decodePod(value) }))
      .sort(
        (a, b) =>
          a.pod.ifindex - b.pod.ifindex || a.address.length - b.address.length || (a.address < b.address ? -1 : 1)
      )
      .map(({ address, pod }): PinnedPodRow => {
        const device = this.deviceOf(pod)
        const attached = this.source.devices === null ? null : device === null ? [] : programs(pod.ifindex)
        const l3 = (pod.flags & CODES.POD_L3) !== 0
        const known = (pod.flags & CODES.POD_READY) !== 0
        const mayBe = fromPins.forwarding && known
        return {
          address: formatAddress(address),
          device,
          ifindex: pod.ifindex,
          mac: known && !l3 ? formatMac(pod.mac) : null,
          hostMac: formatMac(pod.hostMac),
          mtu: pod.mtu,
          ready: mayBe && attached === null ? null : mayBe && isServed(attached ?? []),
          l3,
          programs: attached,
          flows: accounts?.of(pod.id)[familyOf(address)] ?? null,
          ...fromPins
        }
      })
  }

  async *flows(filter: FlowFilter, limit: number | null): AsyncGenerator<FlowRow[], { total: number } & FromPins> {
    const { total } = yield* listFlows(this.source.maps, this.now, filter, limit)
    return { total, ...this.fromPins() }
  }

  async flowTop(count: number): Promise<PinnedFlowTop> {
    const { maps, control } = this.source
    const pods = new Map(maps.rows('pods').map(({ key, value }) => [decodeAddress(key), decodePod(value)]))
    const deviceOf = (address: Address) => {
      const pod = pods.get(address)
      return pod ? this.deviceOf(pod) : null
    }
    const top = await topFlows({ maps, now: this.now, ports: control.portCount, deviceOf }, count)
    return { ...top, ...this.fromPins() }
  }

  private readonly now = (): Now => {
    const { jiffies, jiffiesPerSecond: perSecond } = this.source.control
    return { jiffies, perSecond }
  }

  private fromPins(): FromPins {
    const { isForwarding: forwarding, secondsLeft } = this.source.control
    const until =
      forwarding && secondsLeft !== null
        ? `${new Date(Date.now() + secondsLeft * 1000).toISOString().slice(0, 19)}Z`
        : null
    return { source: 'pins', forwarding, until }
  }

  /** An ifindex is given again: the MAC address of the pod's host side tells whether it is still the same device. */
  private deviceOf({ ifindex, hostMac }: PodRow): string | null {
    const device = this.source.devices?.get(ifindex)
    return device && (device.mac ?? noMac) === hostMac ? device.name : null
  }

  private programsByDevice(): (ifindex: number) => NonNullable<PinnedPodRow['programs']> {
    const known = new Map<number, NonNullable<PinnedPodRow['programs']>>()
    const filters = readJournal(this.source.journalPath)
    return (ifindex) => {
      const found = known.get(ifindex) ?? programsOn(ifindex)
      if (found.length === 0 && filters.has(ifindex)) found.push({ name: 'from_pod', how: 'clsact' })
      known.set(ifindex, found)
      return found
    }
  }

  /** null: not pinned. */
  private accounts(): Accounts | null {
    try {
      return new Accounts(this.source.maps)
    } catch {
      return null
    }
  }
}

function isServed(programs: readonly { name: string }[]): boolean {
  return programs.some(({ name }) => name === 'from_pod')
}

function programsOn(ifindex: number): NonNullable<PinnedPodRow['programs']> {
  return linkedPrograms(ifindex)
    .filter(({ name }) => isOurs(name))
    .map(({ name }) => ({ name, how: 'tcx' as const }))
}
