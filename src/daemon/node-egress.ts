// `onDisable: masquerade` as the node's life goes: the kernel masquerades while no
// program does, and no longer.

import type { Datapath } from '../datapath/datapath.js'
import type { GuardKeeper } from '../life/guard-keeper.js'
import type { KernelEgress } from '../life/kernel-egress.js'
import type { Problems } from '../life/problems.js'
import type { Switching } from '../life/switching.js'
import type { Logger } from '../log.js'

export interface NodeEgressOptions {
  kernel: KernelEgress
  guard: Pick<GuardKeeper, 'start' | 'stop'>
  switching(): Pick<Switching, 'keepEgress'>
  problems: Problems
  log: Logger
  /** null: disabled. */
  datapath(): Datapath | null
  synced(): boolean
}

export class NodeEgress {
  private keeping = false

  constructor(private readonly options: NodeEgressOptions) {}

  /** The guard would refuse the rule; it ends with what it guards. */
  async leave(): Promise<void> {
    const { kernel, guard, log, datapath } = this.options
    if (!kernel.isAsked) return
    await guard.stop(true)
    try {
      if (await kernel.leave()) log.info('the nft table inet hostroute_egress masquerades what leaves by the uplinks')
    } catch (error) {
      if (datapath()) await guard.start()
      throw error
    }
  }

  async release(): Promise<void> {
    const { kernel, log } = this.options
    if (await kernel.release()) log.info('the nft table inet hostroute_egress has gone: hostroute masquerades')
  }

  /** Now and then: what could not be done is done, and what somebody has changed is written again. */
  keep(): void {
    const { kernel, problems, synced, switching } = this.options
    const datapath = this.options.datapath()
    const due = datapath
      ? datapath.isServing && problems.text('egress-not-taken-back') !== null
      : synced() && kernel.isAsked && (problems.text('egress-not-left') !== null || kernel.mayDiffer)
    if (!due || this.keeping) return
    this.keeping = true
    void switching()
      .keepEgress()
      .finally(() => {
        this.keeping = false
      })
  }
}
