// What becomes of the flags that the agent runs with: a key of snat that is auto
// follows its flag, one that is set wins, and where the two differ it is told.

import type { AgentFlags } from './agent-flags.js'
import { formatPortRanges, type PortRange } from './ports.js'

/** An agent of this node and the flags that it was started with. */
export interface RunningAgent {
  /** "kube-system/ip-masq-agent-x7k2p" */
  pod: string
  /** As AgentPod.owner. */
  owner: string
  flags: AgentFlags
  /** Its process is gone; what it ran with counts until the next one is there. */
  kept: boolean
}

/** The keys of snat that have a flag. */
export interface FlagKeys {
  allReservedRanges: 'auto' | boolean
  masqueradeIPv6: 'auto' | boolean
  ports: 'auto' | PortRange[]
}

/** One flag of an agent. */
export interface FlagUse {
  /** "--to-ports=1024-29999" */
  flag: string
  /** overridden: hostroute does something else than the agent. none: there is nothing that it could change. */
  effect: 'followed' | 'overridden' | 'none'
  /** By what it is overridden, or why it has no effect; null: it is followed. */
  why: string | null
}

export interface AgentUse {
  pod: string
  kept: boolean
  flags: FlagUse[]
}

/** What decides besides keys and flags. */
export interface FlagFacts {
  /** A file says what keeps the pod's address. */
  listed: boolean
  ipv6: { masqueraded: boolean; why: string }
  /** Set: no flag counts, because of this. */
  unused: string | null
}

/** The first agent whose flag says so; a key that is set is asked before. */
export function firstWith(
  agents: readonly RunningAgent[],
  says: (flags: AgentFlags) => boolean
): RunningAgent | undefined {
  return agents.find(({ flags }) => says(flags))
}

/** Ports for SNAT: as configured, else as an agent has them. */
export function followedPorts(keys: Pick<FlagKeys, 'ports'>, agents: readonly RunningAgent[]): 'auto' | PortRange[] {
  if (keys.ports !== 'auto') return keys.ports
  return firstWith(agents, ({ ports }) => ports?.ranges != null)?.flags.ports?.ranges ?? 'auto'
}

export function useOfFlags(agents: readonly RunningAgent[], keys: FlagKeys, facts: FlagFacts): AgentUse[] {
  return agents.map(({ pod, kept, flags }) => ({ pod, kept, flags: usesOf(flags, agents, keys, facts) }))
}

/** Sentences: where hostroute does something else than an agent. */
export function flagWarnings(uses: readonly AgentUse[]): string[] {
  return uses.flatMap(({ pod, flags }) =>
    flags.flatMap(({ flag, effect, why }) => (effect === 'overridden' ? [`${pod} runs with ${flag}, but ${why}`] : []))
  )
}

function usesOf(
  flags: AgentFlags,
  agents: readonly RunningAgent[],
  keys: FlagKeys,
  { listed, ipv6, unused }: FlagFacts
): FlagUse[] {
  const { allReservedRanges, ipv6: six, ports, randomFully, chain } = flags
  const uses: FlagUse[] = []
  const none = (flag: string, why: string) => uses.push({ flag, effect: 'none', why: unused ?? why })
  /** differs: by what hostroute does something else. */
  const add = (flag: string, differs: string | null) => {
    if (unused !== null) none(flag, unused)
    else uses.push({ flag, effect: differs === null ? 'followed' : 'overridden', why: differs })
  }
  if (allReservedRanges !== null) {
    const flag = flagText('--nomasq-all-reserved-ranges', allReservedRanges)
    const key = keys.allReservedRanges
    if (listed) none(flag, "a file says what keeps the pod's address")
    else if (key !== 'auto') add(flag, key === allReservedRanges ? null : `snat.allReservedRanges is ${key}`)
    else
      add(
        flag,
        otherAgent(agents, allReservedRanges, (each) => each.allReservedRanges)
      )
  }
  if (six !== null) add(flagText('--enable-ipv6', six), six === ipv6.masqueraded ? null : ipv6.why)
  if (ports !== null) {
    const flag = `--to-ports=${ports.text}`
    const inForce = followedPorts(keys, agents)
    const now = inForce === 'auto' ? 'auto' : formatPortRanges(inForce)
    const by = keys.ports === 'auto' ? 'another agent says' : 'snat.ports is'
    if (ports.ranges === null) add(flag, 'that is no list of port ranges')
    else add(flag, now === formatPortRanges(ports.ranges) ? null : `${by} ${now}`)
  }
  if (randomFully !== null)
    none(
      flagText('--random-fully', randomFully),
      "no two connections can get one port here, and a pod's own port is kept where it is free"
    )
  if (chain !== null) none(`--masq-chain=${chain}`, 'hostroute makes no chain')
  return uses
}

function flagText(name: string, value: boolean): string {
  return value ? name : `${name}=false`
}

/** Of agents that differ the one that says true wins. */
function otherAgent(
  agents: readonly RunningAgent[],
  own: boolean,
  of: (flags: AgentFlags) => boolean | null
): string | null {
  const other = own ? undefined : firstWith(agents, (flags) => of(flags) === true)
  return other ? `${other.pod} runs with it` : null
}
