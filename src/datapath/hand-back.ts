// From the fast path back to the stack, so that connections go on: those
// through SNAT get an entry of conntrack with the same translation, those from
// outside one that says who opened them, and stale entries of the others go. Then the programs may be switched off. What fails
// here is told and never keeps hostroute from leaving.

import { forgetUntranslated } from '../conntrack/forget.js'
import { type CannotContinue, type HandBackResult, handBack, type LiveFlow } from '../conntrack/hand-back.js'
import { setting } from '../conntrack/table.js'
import type { HandedBack } from '../control/api.js'
import { stackConnections } from './carried.js'
import type { ControlBlock } from './control-block.js'
import { liveFlows, type Maps, podsIn } from './live-flows.js'

export interface Leaving {
  maps: Maps
  /** From now on flows that are not known go to the stack. */
  control: Pick<ControlBlock, 'handOver'>
}

/** Never throws: what went wrong is among the reasons. */
export async function giveBack({ maps, control }: Leaving): Promise<HandedBack> {
  const result: HandedBack = { continues: 0, cannot: 0, reasons: [] }
  const strict = setting('nf_conntrack_tcp_loose') === 0
  let translated: LiveFlow[] = []
  // before the hand-over, from which on the stack makes entries of its own; and before what is handed back looks the same
  try {
    const pods = podsIn(maps)
    const { failed } = await forgetUntranslated({
      isPod: (address) => pods.has(address),
      isStacks: stackConnections(maps)
    })
    for (const [code, times] of failed) result.reasons.push(`conntrack keeps ${times} entries that are stale: ${code}`)
  } catch (error) {
    result.reasons.push(`${(error as Error).message}; untranslated connections may be dropped as invalid`)
  }
  try {
    control.handOver(true)
  } catch (error) {
    result.reasons.push(`new connections may break: ${(error as Error).message}`)
  }
  try {
    const flows = await liveFlows(maps, strict)
    translated = flows.filter(({ nat }) => nat)
    addUp(result, await handBack(translated))
    const plain = await handBack(flows.filter(({ nat }) => !nat))
    if (strict) result.reasons.push(...strictWords(plain))
  } catch (error) {
    result.cannot = translated.filter(({ stage }) => stage !== 'closing').length - result.continues
    result.reasons.push(`connections could not be handed to conntrack: ${(error as Error).message}`)
  }
  return result
}

function addUp(result: HandedBack, { cannot, ...done }: HandBackResult): void {
  result.continues = done.continues
  result.cannot = cannot.length
  const counts = new Map<string, number>()
  for (const { flow, why } of cannot) {
    const words = wordsOf(flow, why)
    counts.set(words, (counts.get(words) ?? 0) + 1)
  }
  for (const [words, times] of counts) result.reasons.push(`${times} of them: ${words}`)
}

/** Then conntrack takes up no connection in the middle: what has no entry is invalid. */
function strictWords({ cannot }: HandBackResult): string[] {
  const words =
    'nf_conntrack_tcp_loose is 0: TCP connections between pods of this node that began on the fast path are invalid for conntrack and end where a rule drops such packets'
  if (cannot.length === 0) return [words]
  return [words, `so do ${cannot.length} others: the kernel refuses their entries (${cannot[0]?.why})`]
}

function wordsOf({ family }: LiveFlow, why: CannotContinue): string {
  switch (why) {
    case 'no nat chain':
      return `no nat chain for IPv${family} in this network namespace, so the stack translates nothing; add the rule that masquerades pods before you disable hostroute`
    case 'not tracked':
      return `no IPv${family} rule in this network namespace uses conntrack, so the stack translates nothing; add the rule that masquerades pods before you disable hostroute`
    case 'clash':
      return 'conntrack has another connection with the same addresses and ports'
    case 'ENOMEM':
    case 'ENOSPC':
      return `the conntrack table is full (${why}); raise net.netfilter.nf_conntrack_max`
    case 'EOPNOTSUPP':
      return 'the kernel has no NAT (module nf_nat)'
    case 'EINVAL':
      return 'the kernel refuses entries from user space (module nf_conntrack_netlink)'
    default:
      return `the kernel refuses the entry: ${why}`
  }
}
