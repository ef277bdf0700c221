// Flows that an operator has chosen are deleted (bpf/delete_flows.h).

import { type Deletion, type DeletionResult, decodeDeletion, encodeDeletion } from '../maps/deletion.js'
import { STRUCTS } from '../maps/layout.js'
import type { BpfObject } from '../native.js'
import type { Family } from '../state/types.js'
import { walkFlows } from './flow-walk.js'

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

  run(count: number): void {
    this.context.writeUInt32LE(count, countOffset)
    this.context = this.object.testRun('delete_flows', { context: this.context }).context
  }

  get result(): DeletionResult {
    return decodeDeletion(this.context)
  }
}

export async function deleteFlows(object: BpfObject, family: Family, deletion: Deletion): Promise<DeletionResult> {
  const deleting = new DeletionRun(object, family, deletion)
  await walkFlows(object, family, (count) => deleting.run(count))
  return deleting.result
}
