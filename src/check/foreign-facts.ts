// What a process of its own needs to know of the node, to see what others do to
// the packets of the fast path (foreign.ts). Loaded by the running daemon: it
// imports little.

import type { Config } from '../config/config.js'
import type { MasqueradePolicy } from '../config/masquerade.js'
import type { Plan } from '../plan/types.js'
import type { NodeState, Prefix } from '../state/types.js'
import { type NodeRules, nodeRules } from './node-rules.js'
import type { ServedDevice } from './programs.js'

/** JSON as it stands. */
export interface ForeignFacts {
  rules: NodeRules
  devices: ServedDevice[]
  agents: MasqueradePolicy['agents']
  config: Pick<Config, 'uplink'>
}

/** translated: left to the stack. */
export async function foreignFacts(
  { state, plan }: { state: NodeState; plan: Plan },
  config: Config,
  masquerade: MasqueradePolicy,
  translated: Iterable<Prefix>
): Promise<ForeignFacts> {
  return {
    rules: { ...(await nodeRules(state, plan, config, masquerade)), translated: [...translated] },
    devices: [...plan.devices.values()].map(({ ifindex, name, role }) => ({ ifindex, name, role })),
    agents: masquerade.agents,
    config: { uplink: config.uplink }
  }
}
