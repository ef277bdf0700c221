// Connections that conntrack knows, at the moments when the fast path has to
// know of them: at enabling, when pods come, and from time to time those that
// conntrack only believes to know. Never rejects: a failure is a problem that is told.

import type { Logger } from '../log.js'
import type { Datapath } from './datapath.js'
import { type Claim, claimTranslated, forgetStale } from './take-over.js'

export interface ConntrackClaimsOptions {
  datapath(): Datapath | null
  log: Logger
  /** A sentence, for people. */
  onProblem(text: string): void
}

export class ConntrackClaims {
  constructor(private readonly options: ConntrackClaimsOptions) {}

  /** What conntrack translates stays with the stack. */
  async claim(claim: Claim): Promise<void> {
    const datapath = this.options.datapath()
    if (!datapath) return
    try {
      await claimTranslated(datapath, claim, this.options.log)
    } catch (error) {
      // it may have been switched off meanwhile
      if (this.options.datapath() === datapath)
        this.options.onProblem(`translated connections may break: ${(error as Error).message}`)
    }
  }

  /** A pod that is new here may have connections from before. */
  async claimForNewPods(): Promise<void> {
    const datapath = this.options.datapath()
    if (datapath && datapath.unread.size > 0) await this.claim({ forwarding: true, tell: true })
  }

  /** Entries of conntrack about connections that the fast path carries; `idle`: seconds without a packet that it saw. */
  async forgetStale(idle?: number): Promise<void> {
    const datapath = this.options.datapath()
    if (datapath) await forgetStale(datapath.object, this.options.log, idle)
  }
}
