// What a running datapath could not be given is tried again until it has it: maps
// that could not be written, or are not of the sizes that are configured, or have not
// taken the place of others to the end, programs that could not be attached to a device.

import type { Datapath } from '../datapath/datapath.js'
import type { Plan } from '../plan/types.js'
import type { Masquerade } from './masquerade-policy.js'
import type { Problems } from './problems.js'
import { Retry } from './retry.js'

const mapsTimes = { first: 1_000, most: 30_000 }
const devicesTimes = { first: 1_000, most: 60_000 }
const limitsTimes = { first: 5_000, most: 60_000 }

export interface DatapathKeeperOptions {
  /** null: disabled. */
  datapath(): Datapath | null
  plan(): Plan
  /** Takes steps that write the plan when nobody else works with it. */
  inTurn<Result>(steps: () => Generator<void, Result>): Promise<Result>
  masquerade(): Pick<Masquerade, 'writeAgain'>
  problems: Problems
  onProblem(text: string): void
  /** After the start, enabling, disabling or reloading that goes on just now. */
  afterSwitching(action: () => Promise<boolean>): Promise<boolean>
}

export class DatapathKeeper {
  private readonly maps = new Retry(mapsTimes, () => this.writeAgain())
  private readonly devices = new Retry(devicesTimes, () => this.attachAgain())
  private readonly finishing = new Retry(mapsTimes, () => this.options.datapath()?.finishing.attempt() ?? true)
  private readonly limits = new Retry(limitsTimes, () =>
    this.options.afterSwitching(() => this.fitLimits()).catch(() => false)
  )

  constructor(private readonly options: DatapathKeeperOptions) {}

  mapsFailed(error: Error): void {
    this.options.problems.set(
      'maps-not-written',
      `the maps could not be written: ${error.message}`,
      () => this.maps.next
    )
    this.maps.again()
  }

  /** After programs were attached or maps replaced, and now and then. */
  look(): void {
    const datapath = this.options.datapath()
    if (datapath?.hooks.failing) this.devices.again()
    else this.devices.stop()
    if (datapath && datapath.finishing.problem !== null) this.finishing.again()
    else this.finishing.stop()
    if (datapath && datapath.limitsProblem !== null) this.limits.again()
    else this.limits.stop()
  }

  /** Maps of an earlier daemon may have other sizes than configured. true: they have them no more. Never throws: see limitsProblem. */
  async fitLimits(): Promise<boolean> {
    const datapath = this.options.datapath()
    if (!datapath) return true
    if (await datapath.fitLimits()) await this.refit()
    return datapath.limitsProblem === null
  }

  /** Maps of other sizes have taken over. */
  async refit(): Promise<void> {
    const datapath = this.options.datapath()
    try {
      await this.inTurn(datapath, (own) => own.refit())
    } catch (error) {
      if (this.options.datapath() === datapath) this.mapsFailed(error as Error)
    }
    this.look()
  }

  /** When devices that are not served are tried again: milliseconds since 1970; null: there are none. */
  get nextDevices(): number | null {
    return this.devices.next
  }

  /** When a change of maps is finished, of which something is left to do: milliseconds since 1970; null: there is none. */
  get nextFinish(): number | null {
    return this.finishing.next
  }

  /** When limits that could not be brought into force are tried again: milliseconds since 1970; null: there are none. */
  get nextLimits(): number | null {
    return this.limits.next
  }

  /** The datapath is about to go, or the process. */
  stop(): void {
    this.limits.stop()
    this.maps.stop()
    this.finishing.stop()
    this.devices.stop()
  }

  /** Compares everything. true: the maps hold what they should, or there are none. */
  private async writeAgain(): Promise<boolean> {
    const { plan, masquerade, problems } = this.options
    const datapath = this.options.datapath()
    try {
      await this.inTurn(datapath, (own) => own.bring(plan()))
      this.options.datapath()?.writePorts()
      masquerade().writeAgain()
    } catch (error) {
      // it has gone meanwhile, and nothing of it is to be tried again
      if (this.options.datapath() !== datapath) return true
      this.mapsFailed(error as Error)
      return false
    }
    problems.set('maps-not-written', null)
    return true
  }

  /** Nothing where it has gone before its turn comes. */
  private async inTurn<Result>(
    datapath: Datapath | null,
    steps: (datapath: Datapath) => Generator<void, Result>
  ): Promise<Result | undefined> {
    const now = this.options.datapath
    return this.options.inTurn(function* () {
      return datapath && now() === datapath ? yield* steps(datapath) : undefined
    })
  }

  private async attachAgain(): Promise<boolean> {
    const { onProblem } = this.options
    try {
      return (await this.inTurn(this.options.datapath(), (datapath) => datapath.attachAgain())) ?? true
    } catch (error) {
      onProblem((error as Error).message)
      return false
    }
  }
}
