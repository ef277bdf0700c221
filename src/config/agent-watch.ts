// The agents that run on the node, by the pods that masquerade-places.ts finds:
// of pods that follow one another the newest that has a process. While there is
// none, what the last one ran with counts.

import type { AgentPod } from './agent.js'
import { type AgentFlags, parseAgentFlags } from './agent-flags.js'
import { AgentProcesses } from './agent-process.js'
import type { RunningAgent } from './agent-use.js'
import type { KeptAgent } from './kept-files.js'

interface Known extends KeptAgent {
  flags: AgentFlags
  kept: boolean
}

export class Agents {
  private readonly processes = new AgentProcesses()
  private known: Known[] = []

  /** In force, sorted by owner. */
  get list(): readonly RunningAgent[] {
    return this.known
  }

  /** Of an earlier watch. */
  inherit(before: Agents): void {
    this.known = before.known
  }

  /** Of an earlier daemon. */
  recall(agents: readonly KeptAgent[]): void {
    this.known = agents.map((agent) => ({ ...agent, flags: parseAgentFlags(agent.words), kept: true }))
  }

  get toKeep(): KeptAgent[] {
    return this.known.map(({ pod, owner, words }) => ({ pod, owner, words }))
  }

  /** What runs now; null: as in `list`. pods: the agent's, oldest first. now: looks through all processes. */
  look(pods: readonly AgentPod[], now = false): Known[] | null {
    const processes = new Map(
      this.processes
        .find(
          pods.map(({ uid }) => uid),
          now
        )
        .map((process) => [process.uid, process])
    )
    const next = new Map(this.known.map((known) => [known.owner, { ...known, kept: true }]))
    for (const { uid, owner, label } of pods) {
      const process = processes.get(uid)
      if (process)
        next.set(owner, { pod: label, owner, words: process.words, flags: parseAgentFlags(process.words), kept: false })
    }
    const list = [...next.values()].sort((a, b) => (a.owner < b.owner ? -1 : 1))
    return signature(list) === signature(this.known) ? null : list
  }

  accept(list: Known[]): void {
    this.known = list
  }
}

/** Of what look() finds: two that are the same have the same. */
export function signature(agents: readonly Pick<Known, 'pod' | 'words' | 'kept'>[]): string {
  return JSON.stringify(agents.map(({ pod, words, kept }) => [pod, words, kept]))
}
