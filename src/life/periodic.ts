// What happens by the clock: the lease, the end of old flows, the comparison of
// maps and plan, the port list, the watchdog. Timers hold nothing up: an error in
// one turn is told and the next turn comes. However often the configuration is
// read again, a timer goes on unless its period has changed.

import type { Datapath } from '../datapath/datapath.js'
import { expireFlows } from '../datapath/expiry.js'
import type { MapDifference } from '../maps/verify.js'
import { native } from '../native.js'
import type { Family } from '../state/types.js'
import type { ObservedNode } from './observed-node.js'
import { Retry } from './retry.js'
import { lookForProblems } from './standing.js'

const tick = 5000
/** A lease that ends before the flows are handed over would cut them. */
const timeToHandBack = 15_000
/** A connection that is translated before the programs can ask may break: a short while, and cheap. */
const conntrackTick = 500
const conntrackTimes = { first: 1_000, most: 60_000 }
const portsEvery = 60_000
const movedEvery = 10_000
/** An entry of conntrack that saw no packet for so long is stale, if the connection lives. */
const forgetEvery = 300_000
const emptyFor = 60_000
/** Above this share of the flow table, flows that are over or were never answered end sooner. */
const pressureAt = 0.25
/** Above this share it is a problem that is told. */
const fullAt = 0.75
/** A round of expiry may take a tenth of the time. */
const pausesPerRound = 9
const families = [4, 6] as const

/** What is done to the node besides; none throws or rejects but as an error of that turn. */
export interface PeriodicActions {
  claimForNewPods(): Promise<void>
  /** idle: seconds without a packet that conntrack saw. */
  forgetStale(idle: number): Promise<void>
  keepNeighbours(): void
  /** What masquerades while hostroute is disabled. */
  keepEgress(): void
  /** Devices on which a program could not be attached. */
  keepDevices(): void
  lookAtSettings(): Promise<void> | void
  lookAtGuard(): Promise<void>
  lookAtForeign(): void
}

export class Periodic {
  leaseRenewed: number | null = null
  /** null: the programs go on for ever. */
  leaseEnds: number | null = null
  /** What has failed there may load the programs again: not twice a second. */
  private readonly conntrackRetry = new Retry(conntrackTimes, () => this.followConntrack())
  private readonly timers = new Map<string, { period: number; due: number; timer: NodeJS.Timeout }>()
  private fullTold = 0
  /** What was told of; null: nothing yet. */
  private moved: number | null = null
  private expiring = false
  /** performance.now() of the last round, by family. */
  private readonly walked: Record<Family, number> = { 4: -emptyFor, 6: -emptyFor }
  /** Of the last round, performance.now(). */
  private expiryEnded = 0
  private expiryPause = 0

  constructor(
    private readonly node: ObservedNode,
    private readonly actions: PeriodicActions
  ) {}

  /** Starts, or goes on with the configuration in force. */
  start(): void {
    const { config } = this.node
    this.every('lease', leasePeriod(config.lease), () => this.renewLease())
    this.every('lease-over', tick, () => {
      if (this.node.datapath?.isServing && this.node.datapath.control.leaseIsOver) this.renewLease()
    })
    this.every('expire', config.expireInterval, () => this.expire())
    this.every('moved', movedEvery, () => this.tellMoved())
    this.every('verify', config.verifyInterval, () => this.verify())
    this.every('ports', portsEvery, () => this.node.datapath?.writePorts())
    this.every('forget', forgetEvery, () => this.actions.forgetStale(forgetEvery / 1000))
    this.every('claim', tick, () => this.actions.claimForNewPods())
    this.every('conntrack', conntrackTick, () => {
      if (this.conntrackRetry.next === null && !this.followConntrack()) this.conntrackRetry.again()
    })
    this.every('neighbours', tick, () => this.actions.keepNeighbours())
    this.every('egress', tick, () => this.actions.keepEgress())
    this.every('devices', tick, () => this.actions.keepDevices())
    this.every('pins', tick, () => this.keepPins())
    this.every('detour', tick, () => this.keepDetour())
    this.every('settings', tick, () => this.actions.lookAtSettings())
    this.every('problems', tick, () => lookForProblems(this.node))
    this.every('guard', tick, () => this.actions.lookAtGuard())
    this.every('foreign', tick, () => this.actions.lookAtForeign())
    const watchdog = Number(process.env['WATCHDOG_USEC'] ?? 0) / 1000
    if (watchdog > 0) this.every('watchdog', watchdog / 3, () => void native().notify('WATCHDOG=1'))
    this.renewLease()
  }

  stop(): void {
    for (const { timer } of this.timers.values()) clearInterval(timer)
    this.timers.clear()
    this.conntrackRetry.stop()
  }

  /** When the kernel's masquerading is looked after next, milliseconds since 1970; null: never. */
  get nextEgress(): number | null {
    return this.next('egress')
  }

  /** When the detour is looked after next, milliseconds since 1970; null: never. */
  get nextDetour(): number | null {
    return this.next('detour')
  }

  private every(name: string, period: number, action: () => Promise<void> | void): void {
    const before = this.timers.get(name)
    if (before?.period === period) return
    clearInterval(before?.timer)
    const turn = async () => {
      row.due = Date.now() + period
      try {
        await action()
      } catch (error) {
        this.node.problem('routine', (error as Error).message)
      }
    }
    const row = { period, due: Date.now() + period, timer: setInterval(() => void turn(), period) }
    this.timers.set(name, row)
  }

  /** The programs go on for so long without the daemon; on probation hardly beyond its end, at which a daemon that lives hands back. */
  renewLease(): void {
    const { datapath, config, probationLeft, problems } = this.node
    if (!datapath) return problems.set('lease-over', null)
    if (datapath.isServing && datapath.control.leaseIsOver)
      problems.set(
        'lease-over',
        'the lease ran out though the daemon runs: meanwhile all packets were left to the kernel',
        () => this.next('lease-over')
      )
    const probation = probationLeft === null ? null : probationLeft + timeToHandBack
    const lengths = [config.lease, probation].filter((length) => length !== null)
    const length = lengths.length === 0 ? null : Math.min(...lengths)
    datapath.control.renewLease(length)
    this.leaseRenewed = Date.now()
    this.leaseEnds = length === null ? null : this.leaseRenewed + length
    problems.set('lease-over', null)
  }

  /** true: the programs know what they can of it. */
  private followConntrack(): boolean {
    const { datapath, problems } = this.node
    try {
      const came = datapath?.followConntrack()
      if (datapath?.followTranslation() || came) void this.actions.claimForNewPods()
    } catch (error) {
      problems.set(
        'conntrack-not-followed',
        `programs cannot follow conntrack: ${(error as Error).message}`,
        () => this.conntrackRetry.next
      )
      return false
    }
    problems.set('conntrack-not-followed', null)
    return true
  }

  private keepPins(): void {
    const { datapath, problems } = this.node
    if (!datapath?.isServing) return problems.set('pins-gone', null)
    try {
      datapath.keepPins((text) => this.node.problem('hooks', text))
      problems.set('pins-gone', null)
    } catch (error) {
      problems.set('pins-gone', `maps are not pinned: ${(error as Error).message}`, () => this.next('pins'))
    }
    this.actions.keepDevices()
  }

  private keepDetour(): void {
    const { datapath, state } = this.node
    if (!datapath) return
    datapath.detour.keep(datapath.programs, state.links.get(datapath.detour.ifindex)?.up !== false)
  }

  /** With a million flows a round takes a second: then it comes less often, unless room is getting short. */
  private async expire(): Promise<void> {
    const { datapath, problems } = this.node
    if (!datapath) return problems.set('flows-not-ended', null)
    const full = fills(datapath)
    const pause = Math.max(full[4], full[6]) > pressureAt ? 0 : this.expiryPause
    if (this.expiring || performance.now() < this.expiryEnded + pause) return
    this.expiring = true
    const began = performance.now()
    try {
      datapath.control.countDownOpenings()
      for (const family of families)
        if (this.mayHaveFlows(datapath, family)) await expireFlows(datapath.object, family, full[family] > pressureAt)
      problems.set('flows-not-ended', null)
    } catch (error) {
      this.notEnded(error as Error)
    }
    this.expiring = false
    this.expiryEnded = performance.now()
    this.expiryPause = (this.expiryEnded - began) * pausesPerRound
    if (this.node.datapath) this.tellFull(this.node.datapath)
  }

  /** An empty table of a million rows takes 3 ms; the accounts are trusted for a minute. */
  private mayHaveFlows({ accounts }: Datapath, family: Family): boolean {
    const now = performance.now()
    if (accounts.usage.flows[family] === 0 && now < this.walked[family] + emptyFor) return false
    this.walked[family] = now
    return true
  }

  private notEnded(error: Error & { code?: string }): void {
    // the datapath may have ended meanwhile
    if (error.code === 'ERR_CLOSED') return
    this.node.problems.set('flows-not-ended', `flows cannot be ended: ${error.message}`, () => this.next('expire'))
  }

  private next(name: string): number | null {
    return this.timers.get(name)?.due ?? null
  }

  private tellFull(datapath: Datapath): void {
    const full = fills(datapath)
    for (const family of families) {
      if (full[family] <= fullAt || Date.now() - this.fullTold < 60_000) continue
      this.fullTold = Date.now()
      const used = datapath.accounts.usage.flows[family]
      this.node.problem(
        'flows',
        `${used} of ${datapath.flowLimit} IPv${family} flows are in use, most by ${this.largest(datapath)} (hostroute snat top); no pod can take the rest from the others; raise limits.flows if they are needed (in force at once)`
      )
    }
  }

  private largest({ accounts }: Datapath): string {
    return accounts
      .largest(3)
      .map(({ ifindex, flows }) => `${this.node.deviceName(ifindex)} (${flows})`)
      .join(', ')
  }

  /** In sum: a change of address can concern any number of flows. */
  private tellMoved(): void {
    const { datapath } = this.node
    if (!datapath) return
    const { moved } = datapath.accounts.usage
    // those of an earlier daemon were told by it; new maps count from 0
    const before = this.moved ?? (datapath.takenOver ? moved : 0)
    const since = moved < before ? moved : moved - before
    this.moved = moved
    if (since > 0)
      this.node.log.info(
        `${since} flows through SNAT were decided again: the node no longer has their source address, or their route takes another uplink`
      )
  }

  private verify(): void {
    const { datapath, problems } = this.node
    if (!datapath) return problems.set('maps-not-compared', null)
    try {
      for (const text of datapath.restore()) this.node.problem('hooks', text)
    } catch (error) {
      return this.notCompared(`what is attached cannot be looked at: ${(error as Error).message}`)
    }
    datapath.writer.repairSlowly().then(
      (wrong) => {
        if (wrong === null) return
        problems.set('maps-not-compared', null)
        this.tellRepaired(wrong)
      },
      (error: Error & { code?: string }) => {
        // the datapath may have ended meanwhile
        if (error.code === 'ERR_CLOSED') return
        this.notCompared(`the maps cannot be compared: ${error.message}`)
      }
    )
  }

  private notCompared(text: string): void {
    this.node.problems.set('maps-not-compared', text, () => this.next('verify'))
  }

  private tellRepaired(wrong: readonly MapDifference[]): void {
    if (wrong.length === 0) return
    const [first] = wrong
    const more = wrong.length > 1 ? ` and ${wrong.length - 1} more` : ''
    this.node.problem('maps', `somebody else changed the maps: ${first?.map} ${first?.key}${more}; written right again`)
  }
}

/** Three renewals may fail before a lease ends. */
function leasePeriod(lease: number | null): number {
  return lease === null ? 60_000 : Math.min(60_000, lease / 4)
}

/** Shares of the flow tables in use. */
function fills({ accounts, flowLimit }: Datapath): Record<Family, number> {
  const { flows } = accounts.usage
  return { 4: flows[4] / flowLimit, 6: flows[6] / flowLimit }
}
