// What others do to the packets of the fast path while hostroute runs: rules,
// programs, queues and IPsec policies that came after enabling, or that were there when a
// running datapath was taken over. They are judged as `hostroute check` does, in
// a process of its own, so that the daemon neither waits nor grows.
//
// Invariants
// - One look at a time. While nothing changes a look is made every quarter of an
//   hour, after a change within a second or two (rules, and programs at TCX
//   hooks, change without an event: their fingerprints are compared by poll()).
//   Looks take no more than a twentieth of a CPU, or while something is found a
//   fifth: whoever mends it wants to see that.
// - What is found is a problem only when a second look finds it, too: rule sets
//   are written in steps.
// - A look that cannot be made is a problem of its own, and made again.

import { isDeepStrictEqual } from 'node:util'
import type { Finding } from '../check/report.js'
import { linkedFingerprint } from '../linked-programs.js'
import type { NetfilterSocket, NetlinkReader } from '../native.js'
import { native } from '../native.js'
import { rulesFingerprint } from '../netfilter/fingerprint.js'
import { hasIpsec, NETLINK_XFRM, policyGroup } from '../netlink/xfrm.js'
import type { ProblemCode } from './problem-kinds.js'
import type { Problems } from './problems.js'

export interface Look {
  findings: Finding[]
  /** Milliseconds of CPU that it took, its tools' included. */
  cost: number
}

export interface ForeignWatchOptions {
  problems: Problems
  /** ifindexes of the devices that are served. */
  served(): Iterable<number>
  /** What would be refused now. Rejects when it cannot be seen. */
  look(): Promise<Look>
}

/** RTNLGRP_TC: queues and filters. */
const trafficControlGroup = 4
const receiveBuffer = 1 << 20
const calm = 1_000
const secondLook = 1_500
const pausesPerLook = { calm: 20, found: 5 }
const longestRest = 60_000
const longestPause = 15 * 60_000
const afterFailure = 60_000

const bypassed: Partial<Record<Finding['area'], ProblemCode>> = {
  rules: 'rules-bypassed',
  programs: 'programs-bypassed',
  ipsec: 'ipsec-bypassed'
}
/** Findings about what could not be read. */
const unread = new Set(['rules-unread', 'programs-unread', 'ipsec-unread'])

export class ForeignWatch {
  private socket: NetfilterSocket | null = null
  private events: NetlinkReader | null = null
  private ipsecEvents: NetlinkReader | null = null
  private fingerprint = ''
  /** Why changes cannot be followed; null: they are. */
  private blind: string | null = null
  private timer: NodeJS.Timeout | undefined
  private due = Number.POSITIVE_INFINITY
  /** performance.now() before which no look begins. */
  private notBefore = 0
  private looking = false
  private running = false

  constructor(private readonly options: ForeignWatchOptions) {}

  /** looked: the checks have just been made. One that runs looks again: the configuration may be another. */
  start(looked: boolean): void {
    if (this.running) return looked ? undefined : this.changed()
    this.running = true
    this.plan(this.follow() && looked ? longestPause : calm)
  }

  /** false: changes are not followed; it is tried again with the next poll(). */
  private follow(): boolean {
    try {
      this.socket ??= native().openNetfilter(false)
      this.events ??= native().openNetlinkReader({ groups: [trafficControlGroup], receiveBuffer }, () => this.changed())
      this.followIpsec()
      this.fingerprint = this.takeFingerprint(this.socket)
      this.blind = null
    } catch (error) {
      this.cannotFollow(error as Error)
    }
    return this.blind === null
  }

  /** Once the kernel's module is there. true: from now on. */
  private followIpsec(): boolean {
    if (this.ipsecEvents !== null || !hasIpsec()) return false
    const options = { protocol: NETLINK_XFRM, groups: [policyGroup], receiveBuffer }
    this.ipsecEvents = native().openNetlinkReader(options, () => this.changed())
    return true
  }

  private cannotFollow({ message }: Error): void {
    this.blind = `changes cannot be followed: ${message}`
    this.notLooked(null)
  }

  /** Also what was found is forgotten. */
  stop(): void {
    this.running = false
    clearTimeout(this.timer)
    this.due = Number.POSITIVE_INFINITY
    this.events?.close()
    this.socket?.close()
    this.ipsecEvents?.close()
    this.ipsecEvents = null
    this.events = null
    this.socket = null
    this.blind = null
    for (const code of [...Object.values(bypassed), 'not-looked'] as const) this.options.problems.set(code, null)
  }

  /** Called every few seconds. */
  poll(): void {
    if (!this.running) return
    if (this.blind !== null || !this.socket) {
      if (this.follow()) this.changed()
      return
    }
    try {
      if (this.followIpsec()) this.changed()
      const now = this.takeFingerprint(this.socket)
      if (now === this.fingerprint) return
      this.fingerprint = now
    } catch (error) {
      this.cannotFollow(error as Error)
    }
    this.changed()
  }

  /** Throws NativeError. */
  private takeFingerprint(socket: NetfilterSocket): string {
    return `${rulesFingerprint(socket)}\n${linkedFingerprint(this.options.served())}`
  }

  private changed(): void {
    if (this.running) this.plan(calm)
  }

  private plan(pause: number): void {
    const due = Math.max(performance.now() + pause, this.notBefore)
    // one that comes sooner stays; during a look the next one is planned anew
    if (due >= this.due) return
    clearTimeout(this.timer)
    this.due = due
    this.timer = setTimeout(() => void this.turn(), due - performance.now()).unref()
  }

  private async turn(): Promise<void> {
    this.due = Number.POSITIVE_INFINITY
    if (this.looking) return this.plan(calm)
    this.looking = true
    let pause = longestPause
    let rest = 0
    const look = async () => {
      const { findings, cost } = await this.options.look()
      const times = pausesPerLook[findings.length > 0 ? 'found' : 'calm']
      rest = Math.min(longestRest, cost * times)
      return findings
    }
    try {
      const first = await look()
      if (first.length === 0) this.tell([])
      else if (this.running) {
        await new Promise((resolve) => setTimeout(resolve, secondLook))
        const second = this.running ? await look() : []
        this.tell(second.filter((one) => first.some((other) => isDeepStrictEqual(one, other))))
      }
    } catch (error) {
      pause = afterFailure
      this.notLooked((error as Error).message)
    }
    this.looking = false
    this.notBefore = performance.now() + rest
    if (this.running) this.plan(pause)
  }

  private get next(): number | null {
    return Number.isFinite(this.due) ? Date.now() + this.due - performance.now() : null
  }

  private tell(findings: readonly Finding[]): void {
    if (!this.running) return
    const [unseen] = findings.filter(({ code }) => unread.has(code))
    for (const [area, code] of Object.entries(bypassed)) {
      const found = findings.filter((each) => each.area === area && !unread.has(each.code))
      this.options.problems.set(code, sentence(found))
    }
    this.notLooked(unseen ? `${unseen.what} ${unseen.why ?? ''}` : null)
  }

  private notLooked(why: string | null): void {
    if (!this.running) return
    const said = why ?? this.blind
    const text =
      said === null ? null : `whether rules, programs or IPsec policies of others are bypassed cannot be seen: ${said}`
    this.options.problems.set('not-looked', text, () => this.next)
  }
}

/** null: there is none. */
function sentence(findings: readonly Finding[]): string | null {
  const [first] = findings
  if (!first) return null
  const more = findings.length > 1 ? ` (and ${findings.length - 1} more)` : ''
  return `${first.what.replace(/\.$/, '')}${first.rule ? `: ${first.rule.text}` : ''}${more}`
}
