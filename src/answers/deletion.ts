// Flows that an operator has chosen are deleted (bpf/delete_flows.h).

import { readFileSync } from 'node:fs'
import { familyOf, parseAddress, parsePrefix } from '../address.js'
import { Failure } from '../control/failure.js'
import type { Caller, FlowDeletion, FlowSelection } from '../control/flow-api.js'
import type { Datapath } from '../datapath/datapath.js'
import { walkFlows } from '../datapath/flow-walk.js'
import { type Maps, podsIn } from '../datapath/live-flows.js'
import { type Deletion, type DeletionResult, decodeDeletion, encodeDeletion } from '../maps/deletion.js'
import { CODES, STRUCTS } from '../maps/layout.js'
import type { BpfObject } from '../native.js'
import type { Family } from '../state/types.js'
import type { NodeView } from './node-view.js'

const verdicts = { snat: CODES.FLOW_SNAT, direct: CODES.FLOW_DIRECT, inbound: CODES.FLOW_INBOUND }
const { count: countOffset } = STRUCTS.delete_args.offset

/** The program on keys of flow_keys*, whose result is added to those before. */
export class DeletionRun {
  private context: Buffer

  constructor(
    private readonly object: Pick<BpfObject, 'testRun'>,
    family: Family,
    deletion: Deletion
  ) {
    this.context = encodeDeletion(deletion, family)
  }

  /** Returns how many flows it has deleted. */
  run(count: number): number {
    const before = this.result.deleted
    this.context.writeUInt32LE(count, countOffset)
    this.context = this.object.testRun('delete_flows', { context: this.context }).context
    return this.result.deleted - before
  }

  get result(): DeletionResult {
    return decodeDeletion(this.context)
  }
}

export async function deleteFlows(
  object: Pick<BpfObject, 'map' | 'testRun'>,
  family: Family,
  deletion: Deletion
): Promise<DeletionResult> {
  const deleting = new DeletionRun(object, family, deletion)
  await walkFlows(object, family, (count) => deleting.run(count))
  return deleting.result
}

/** Logged, with the caller. */
export async function deleteSelected(
  node: NodeView,
  selection: FlowSelection,
  dryRun: boolean,
  caller: Caller | null
): Promise<FlowDeletion> {
  const { datapath } = node
  if (!datapath) throw new Failure('disabled', 'hostroute is disabled: it has no flows; see: hostroute enable')
  const began = performance.now()
  const result = { deleted: 0, matching: 0 }
  for (const { family, deletion } of deletionsOf(node, datapath, selection, dryRun)) {
    const { chosen, deleted } = await deleteFlows(datapath.object, family, deletion)
    result.deleted += deleted
    result.matching += chosen
  }
  if (!dryRun) node.log.info(`${nameOf(caller)} has deleted ${result.deleted} flows: ${wordsOf(selection)}`)
  return { ...result, duration: Math.round(performance.now() - began) / 1000 }
}

function* deletionsOf(
  node: NodeView,
  { object, control }: Datapath,
  { pod, remote: remoteText, remotePort, verdict, olderThan, idle }: FlowSelection,
  dryRun: boolean
): Generator<{ family: Family; deletion: Deletion }> {
  const jiffies = (seconds: number) => Math.min(Math.ceil(seconds * control.jiffiesPerSecond), 0xffff_ffff)
  const remote = remoteText === undefined ? null : parsePrefix(remoteText)
  const common = {
    ...(remote ? { remote } : {}),
    ...(remotePort === undefined ? {} : { remotePort }),
    ...(verdict === undefined ? {} : { verdict: verdicts[verdict] }),
    ...(olderThan === undefined ? {} : { age: jiffies(olderThan) }),
    ...(idle === undefined ? {} : { idle: jiffies(idle) }),
    started: Number(control.now() & 0xffff_ffffn),
    dryRun
  }
  const address = pod === undefined ? null : parseAddress(pod)
  const ids = pod === undefined || address !== null ? [] : podIds(node, object, pod)
  for (const family of [4, 6] as const) {
    if (remote && familyOf(remote.address) !== family) continue
    if (address !== null) {
      if (familyOf(address) === family) yield { family, deletion: { ...common, podAddress: address } }
    } else if (pod !== undefined) {
      for (const podId of ids) yield { family, deletion: { ...common, podId } }
    } else {
      yield { family, deletion: common }
    }
  }
}

/** All addresses of a device have one id, until another pod has it. */
function podIds(node: NodeView, object: Maps, name: string): Set<number> {
  const device = [...node.plan.devices.values()].find((each) => each.role === 'pod' && each.name === name)
  if (!device) throw new Failure('bad-request', `${name} is neither an address nor the device of a pod of this node`)
  return new Set([...podsIn(object).values()].filter(({ ifindex }) => ifindex === device.ifindex).map(({ id }) => id))
}

function nameOf(caller: Caller | null): string {
  if (!caller) return 'somebody'
  let name = ''
  try {
    name = ` (${readFileSync(`/proc/${caller.pid}/comm`, 'utf8').trim()})`
  } catch {
    // it has ended
  }
  return `uid ${caller.uid}, pid ${caller.pid}${name},`
}

function wordsOf({ pod, remote, remotePort, verdict, olderThan, idle }: FlowSelection): string {
  const words = [
    pod === undefined ? '' : `pod ${pod}`,
    remote === undefined ? '' : `remote ${remote}`,
    remotePort === undefined ? '' : `remote port ${remotePort}`,
    olderThan === undefined ? '' : `older than ${olderThan} s`,
    idle === undefined ? '' : `idle for ${idle} s`
  ].filter((word) => word !== '')
  if (words.length === 0) words.push('all')
  return `${words.join(', ')}${verdict === undefined ? '' : ` (${verdict})`}`
}
