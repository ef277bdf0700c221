// The route oracle: for random tables and random packets, what the programs do
// is what the kernel would do, or "stack".
//
// One case: a table is made, packets are judged, the table is changed a few
// times, and after each change packets are judged again. The daemon's chain
// lives through all cases, so every change reaches the maps as events do.

import { randomSource } from '../plan/churn.js'
import { askKernel, askLegs, askMtus, type KernelAnswer, type Leg, type Question, words } from './kernel.js'
import type { Verdict } from './programs.js'
import { RouteNode } from './route-node.js'
import { shrink } from './shrink.js'
import { drawMood, firstTable, nextChange, pick, type Random } from './tables.js'
import { baseCommands, destinations, deviceCommands, pods, uplinks, vrf, vrfCommand } from './topology.js'

/** However long the programs take to load. */
const leastCases = 2

export interface RouteOptions {
  /** Where it is odd the kernel looks at neighbours for IPv4 multipath routes, too. */
  seed: number
  /** performance.now() after which no further case is begun, but for the first two. */
  deadline: number
  /** At most so many cases. */
  cases?: number
  /** Stop after so many faults; 5 when absent. */
  faults?: number
  progress?(totals: RouteTotals): void
}

export interface RouteTotals {
  seed: number
  /** The kernel has VRFs, and one was among the devices. */
  hasVrf: boolean
  cases: number
  lookups: number
  /** Look-ups whose packet the kernel would forward. */
  forwardable: number
  forwarded: number
  /** Of the forwardable ones. */
  stackByReason: Map<string, number>
  groups: number
  /** Differences that are known and allowed, by the name of their exception. */
  exceptions: Map<string, number>
  faults: string[]
}

interface Lookup {
  question: Question
  length: number
}

interface Fault {
  lookup: Lookup
  text: string
}

/** Known differences and why they stay. A fault that one of them covers is counted, not reported. */
export const EXCEPTIONS: Record<string, string> = {
  linkdown:
    'a leg whose carrier is gone gets no flow, though the kernel goes on using it (ignore_routes_with_linkdown 0)',
  'shared-object':
    'IPv6 routes of one next hop object get, on each CPU, the answer and the MTU of that which was asked first there (rt6_get_pcpu_route, seen on 6.18)',
  'leg-mtu': 'IPv6 legs that joined a route one by one have an MTU each, and netlink tells of one only'
}

const LOOKUPS = 120
const LEG_SAMPLES = 512
/** SNAT takes one of the node's addresses; everything else keeps the pod's. */
const nodeAddresses = new Set([...uplinks, vrf.uplink].flatMap(({ v4, v6 }) => [`${v4}10`, `${v4}11`, `${v6}10`]))
for (const last of [77, 78, 79]) nodeAddresses.add(`192.168.${last}.1`)

export async function runRouteOracle(options: RouteOptions): Promise<RouteTotals> {
  const totals: RouteTotals = {
    seed: options.seed,
    hasVrf: false,
    cases: 0,
    lookups: 0,
    forwardable: 0,
    forwarded: 0,
    stackByReason: new Map(),
    groups: 0,
    exceptions: new Map(),
    faults: []
  }
  const node = await RouteNode.open(options.seed % 2 === 1)
  totals.hasVrf = node.hasVrf
  try {
    const enough = options.faults ?? 5
    for (let number = 0; number < (options.cases ?? Number.POSITIVE_INFINITY); number++) {
      const late = number >= leastCases && performance.now() > options.deadline
      if (late || totals.faults.length >= enough) break
      await runCase(node, options.seed + number, totals)
      totals.cases++
      options.progress?.(totals)
    }
  } finally {
    await node.close()
  }
  return totals
}

async function runCase(node: RouteNode, seed: number, totals: RouteTotals): Promise<void> {
  const random = randomSource(Math.imul(seed, 0x9e3779b1))
  const mood = drawMood(random)
  const steps: string[][] = []
  await node.reset()
  for (let count = 1 + random(5); count > 0; count--) {
    const commands = steps.length === 0 ? firstTable(random, mood) : nextChange(random, mood)
    steps.push(commands)
    await node.run(commands)
    const fault = await judgeTable(node, random, totals)
    const differences = node.programs.writer.verify()
    if (differences.length > 0)
      totals.faults.push(`case ${seed}: the maps differ from the plan: ${JSON.stringify(differences)}`)
    if (node.programs.complaints.length > 0)
      totals.faults.push(`case ${seed}: ${node.programs.complaints.splice(0).join('; ')}`)
    if (!fault || (await isOfSharedObject(node, steps, fault, totals))) continue
    totals.faults.push(await explain(node, seed, steps, fault, totals))
    return
  }
}

/** Judges random packets against the table as it stands; the first fault that stays. */
async function judgeTable(node: RouteNode, random: Random, totals: RouteTotals): Promise<Fault | null> {
  const lookups = Array.from({ length: LOOKUPS }, () => drawLookup(random, node.hasVrf))
  const answers = await askKernel(lookups.map(({ question }) => question))
  node.programs.forgetFlows()
  let before = node.programs.reasons()
  let fault: Fault | null = null
  const grouped: Lookup[] = []
  const pending: [Lookup, Verdict, KernelAnswer][] = []
  totals.lookups += lookups.length
  for (const forwardable of [true, false]) {
    lookups.forEach((lookup, index) => {
      const answer = answers[index]!
      if ((answer.kind === 'forward') !== forwardable) return
      pending.push([lookup, node.programs.run(lookup.question, lookup.length), answer])
    })
    if (!forwardable) break
    totals.forwardable += pending.length
    const after = node.programs.reasons()
    noteReasons(before, after, pending.length, totals)
    before = after
  }
  const asked = pending.filter(([lookup, verdict, answer]) => needsLegs(lookup, verdict, answer))
  const legs = await askLegs(asked.map(([{ question }]) => question))
  for (const [lookup, verdict, answer] of pending) {
    if (verdict.kind === 'forward') totals.forwarded++
    const at = asked.findIndex((each) => each[0] === lookup)
    const text = await compare(lookup, verdict, answer, legs[at] ?? [], node)
    const exception = text === null ? undefined : exceptionFor(text)
    if (exception) except(totals, exception)
    // the hash of an echo has no ports: all of them take one leg
    if (text === 'another leg') {
      if (lookup.question.protocol !== 'icmp') grouped.push(lookup)
    } else if (text !== null && !exception && !fault) fault = { lookup, text }
  }
  if (!fault && grouped.length > 0) {
    totals.groups++
    fault = await judgeWeights(node, pick(random, grouped), totals)
  }
  // Events that the kernel sends late (a carrier gone) are no fault if they are obeyed once they are there.
  if (!fault) return null
  await new Promise((resolve) => setTimeout(resolve, 300))
  await node.run([])
  const text = await faultOf(node, fault.lookup, totals)
  return text === null ? null : { ...fault, text }
}

/** The fault is gone when the kernel has forgotten what it knows of IPv6 next hop objects. */
async function isOfSharedObject(
  node: RouteNode,
  steps: readonly string[][],
  { lookup }: Fault,
  totals: RouteTotals
): Promise<boolean> {
  if (lookup.question.family === 4 || !steps.flat().some((command) => command.includes(' nhid '))) return false
  await node.run(['add', 'del'].map((verb) => `addr ${verb} fd00:ffff::1/128 dev lo`))
  if ((await faultOf(node, lookup, totals)) !== null) return false
  except(totals, 'shared-object')
  return true
}

function noteReasons(
  before: Map<string, number>,
  after: Map<string, number>,
  packets: number,
  totals: RouteTotals
): void {
  let counted = 0
  for (const [reason, count] of after) {
    const more = count - (before.get(reason) ?? 0)
    if (more === 0) continue
    counted += more
    if (!reason.startsWith('to-')) totals.stackByReason.set(reason, (totals.stackByReason.get(reason) ?? 0) + more)
  }
  if (counted < packets)
    totals.stackByReason.set('(not served)', (totals.stackByReason.get('(not served)') ?? 0) + packets - counted)
}

function drawLookup(random: Random, hasVrf: boolean): Lookup {
  const family = pick(random, [4, 4, 6] as const)
  const key = family === 4 ? 'v4' : 'v6'
  const protocol = pick(random, ['udp', 'tcp', 'icmp'] as const)
  const inbound = random(8) === 0
  const inVrf = hasVrf && random(8) === 0
  const pod = inVrf ? vrf.pod : pick(random, pods)
  const uplink = inVrf ? vrf.uplink : pick(random, uplinks)
  const remote = family === 4 ? '8.8.8.8' : '2600::8'
  const question: Question = {
    family,
    input: inbound ? uplink.device : pod.device,
    source: inbound ? remote : pick(random, pod[key]),
    destination: inbound ? pick(random, pod[key]) : pick(random, destinations[family]),
    protocol,
    sourcePort: 1024 + random(60000),
    destinationPort: pick(random, [53, 80, 443, 40_000 + random(100)]),
    tos: random(10) === 0 ? pick(random, [0x08, 0x10, 0x1c, 0xb8]) : 0,
    mark: random(40) === 0 ? pick(random, [0x1, 0x10]) : 0
  }
  return { question, length: pick(random, [100, 100, 100, 100, 1281, 1350, 1450, 1500]) }
}

function isLeg({ device, nexthop }: Extract<Verdict, { kind: 'forward' }>, leg: Leg): boolean {
  return leg.device === device && (nexthop === leg.nexthop || nexthop === null)
}

/** The kernel's own choice differs, or is too small: is it one leg of several? */
function needsLegs({ length }: Lookup, verdict: Verdict, answer: KernelAnswer): boolean {
  if (verdict.kind !== 'forward' || answer.kind !== 'forward') return false
  return !isLeg(verdict, answer.leg) || (answer.mtu > 0 && length > answer.mtu)
}

/** What is wrong about a verdict; 'another leg': nothing, it is one of several. */
async function compare(
  lookup: Lookup,
  verdict: Verdict,
  answer: KernelAnswer,
  legs: readonly Leg[],
  node: RouteNode
): Promise<string | null> {
  if (verdict.kind === 'stack') return null
  if (verdict.kind === 'drop') return `dropped; the kernel: ${say(answer)}`
  const { device, nexthop, source } = verdict
  const mine = `sent by ${device} to ${nexthop ?? 'an unknown next hop'}`
  if (answer.kind === 'none') return `${mine}; the kernel: ${answer.text}`
  if (source !== lookup.question.source && !nodeAddresses.has(source))
    return `${mine} from ${source}, which is no address of the node`
  const direct = isLeg(verdict, answer.leg)
  if (!direct && !legs.some((leg) => isLeg(verdict, leg))) return `${mine}; the kernel: ${say(answer)}`
  const several = legs.length > 1
  const passes = (leg: Leg) => isLeg(verdict, leg)
  const mtus = several && lookup.length > 1280 ? await askMtus(lookup.question, passes, 1024) : new Set<number>()
  // a leg that no question met has, as far as one can see, what the others have
  const mtu = Math.max(...[...(mtus.size > 0 ? mtus : [answer.mtu])].map((each) => each || mtuOf(node, device)))
  if (lookup.length <= mtu) return direct ? null : 'another leg'
  const all = several ? await askMtus(lookup.question, () => true, 4096) : []
  const differ = lookup.question.family === 6 && [...all].length > 1
  return `${mine} with ${lookup.length} bytes; the kernel: at most ${mtu}${differ ? LEG_MTU : ''}`
}

function say(answer: KernelAnswer): string {
  return answer.kind === 'none' ? answer.text : `by ${answer.leg.device} to ${answer.leg.nexthop}`
}

function mtuOf(node: RouteNode, device: string): number {
  for (const link of node.programs.state.links.values()) if (link.name === device) return link.mtu
  return 0
}

const LEG_MTU = ', and its legs have not the same'

function except(totals: RouteTotals, name: string): void {
  totals.exceptions.set(name, (totals.exceptions.get(name) ?? 0) + 1)
}

function exceptionFor(text: string): string | undefined {
  return text.endsWith(LEG_MTU) ? 'leg-mtu' : undefined
}

async function faultOf(node: RouteNode, lookup: Lookup, totals: RouteTotals): Promise<string | null> {
  node.programs.forgetFlows()
  const [answer] = await askKernel([lookup.question])
  const [legs] = await askLegs([lookup.question])
  const text = await compare(lookup, node.programs.run(lookup.question, lookup.length), answer!, legs!, node)
  if (text === null || exceptionFor(text)) return null
  if (text !== 'another leg') return text
  return lookup.question.protocol === 'icmp' ? null : ((await judgeWeights(node, lookup, totals))?.text ?? null)
}

/** Many flows of one look-up over the legs of its route: each gets its share. */
async function judgeWeights(node: RouteNode, lookup: Lookup, totals: RouteTotals): Promise<Fault | null> {
  const [legs = []] = await askLegs([lookup.question])
  const living = legs.filter(({ linkdown }) => !linkdown)
  if (living.length < legs.length) except(totals, 'linkdown')
  const total = living.reduce((sum, { weight }) => sum + weight, 0)
  const share = new Map<string, { wanted: number; found: number }>()
  const name = (device: string, nexthop: string | null) => `${device} to ${nexthop}`
  for (const { device, nexthop, weight, linkdown } of legs) {
    const entry = share.get(name(device, nexthop)) ?? { wanted: 0, found: 0 }
    share.set(name(device, nexthop), { ...entry, wanted: entry.wanted + (linkdown ? 0 : weight / total) })
  }
  let stacked = 0
  for (let index = 0; index < LEG_SAMPLES; index++) {
    const question = { ...lookup.question, sourcePort: 1024 + index * 97 }
    const verdict = node.programs.run(question, lookup.length)
    if (verdict.kind === 'stack') stacked++
    if (verdict.kind !== 'forward') continue
    const entry = share.get(name(verdict.device, verdict.nexthop))
    if (!entry) return { lookup, text: `sent by ${name(verdict.device, verdict.nexthop)}, which is no leg` }
    entry.found++
  }
  for (const [leg, { wanted, found }] of share) {
    // A group has 64 places, of which each leg has one at least; beyond that what chance makes of so many
    // packets, six times over. What went to the stack may have been this leg's.
    const slack = legs.length / 64 + 6 * Math.sqrt((wanted * (1 - wanted)) / LEG_SAMPLES)
    const [least, most] = [found / LEG_SAMPLES, (found + stacked) / LEG_SAMPLES]
    if (least <= wanted + slack && most >= wanted - slack) continue
    const percent = (part: number) => `${(100 * part).toFixed(0)} %`
    return { lookup, text: `${leg} got ${percent(least)} of the flows instead of ${percent(wanted)}` }
  }
  return null
}

/** The fault with the least table that shows it, as commands. */
async function explain(
  node: RouteNode,
  seed: number,
  steps: string[][],
  fault: Fault,
  totals: RouteTotals
): Promise<string> {
  const all = steps.flat()
  const fails = async (commands: readonly string[]) => {
    await node.reset()
    await node.run(commands)
    return (await faultOf(node, fault.lookup, totals)) !== null
  }
  const deadline = performance.now() + 60_000
  const lines = [
    `case ${seed}: ${fault.text}`,
    `  packet: ${words(fault.lookup.question)}, ${fault.lookup.length} bytes`
  ]
  if (await fails(all)) {
    const least = await shrink(all, fails, deadline)
    await fails(least)
    lines.push(`  shrunk from ${all.length} commands to ${least.length}: ${await faultOf(node, fault.lookup, totals)}`)
    lines.push(...least.map((command) => `    ${asShell(command)}`))
  } else {
    lines.push('  not from a clean start: it depends on the way there. All steps, the maps in step between them:')
    for (const step of steps) lines.push('    --', ...step.map((command) => `    ${asShell(command)}`))
  }
  lines.push(`    ip ${words(fault.lookup.question)}`)
  return lines.join('\n')
}

function asShell(command: string): string {
  return command.startsWith('far ') ? `ip netns exec far ip ${command.slice(4)}` : `ip ${command}`
}

/** What every reproduction starts from, as a script. */
export function preamble({ hasVrf }: RouteTotals): string[] {
  return [...deviceCommands(1), ...(hasVrf ? [vrfCommand] : []), ...baseCommands(hasVrf)].map((command) =>
    `ip ${command}`.replace('netns 1', 'netns far')
  )
}
