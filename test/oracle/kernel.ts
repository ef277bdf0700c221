// What the kernel says it would do with a packet: `ip route get`, thousands of
// questions in one process.

import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'

export interface Question {
  family: 4 | 6
  /** The device the packet came in by. */
  input: string
  source: string
  destination: string
  protocol: 'udp' | 'tcp' | 'icmp'
  sourcePort: number
  destinationPort: number
  tos: number
  mark: number
}

/** One leg: a device, and the neighbour the packet is handed to there. */
export interface Leg {
  device: string
  nexthop: string
  weight: number
  /** The carrier is gone; the kernel goes on using the leg unless ignore_routes_with_linkdown is set. */
  linkdown: boolean
}

export type KernelAnswer =
  | { kind: 'forward'; leg: Leg; mtu: number }
  /** Local, broadcast, or refused: nothing a router passes on. */
  | { kind: 'none'; text: string }

interface RouteJson {
  type?: string
  dst: string
  nhid?: number
  dev?: string
  gateway?: string
  via?: { host: string }
  metrics?: { mtu?: number }[]
  nexthops?: (RouteJson & { weight: number; flags: string[] })[]
  flags?: string[]
}

/** One answer for each question, in order. */
export async function askKernel(questions: readonly Question[]): Promise<KernelAnswer[]> {
  const answers = await routeGet(questions.map((question) => words(question)))
  return answers.map((answer, index) => toAnswer(answer, questions[index]!))
}

function toAnswer(answer: RouteJson | string, { destination }: Question): KernelAnswer {
  if (typeof answer === 'string') return { kind: 'none', text: answer }
  if (answer.type !== undefined && answer.type !== 'unicast') return { kind: 'none', text: answer.type }
  const leg = { ...hop(answer, destination), weight: 1, linkdown: false }
  return { kind: 'forward', leg, mtu: answer.metrics?.find(({ mtu }) => mtu !== undefined)?.mtu ?? 0 }
}

/**
 * Runs the commands one after the other and asks all questions before the
 * first, between them and after the last: every table there has been.
 * `enter`: goes before `ip`.
 */
export async function askBetween(
  commands: readonly string[],
  questions: readonly Question[],
  enter: readonly string[]
): Promise<Leg[][][]> {
  const ask = questions.map((question) => words(question, 'fibmatch'))
  const lines = [...ask, ...commands.flatMap((command) => [command, ...ask])]
  const answers = await routeGet(lines, enter)
  return Array.from({ length: commands.length + 1 }, (_, step) =>
    questions.map((question, index) => {
      const answer = answers[step * (ask.length + 1) + index]!
      if (typeof answer === 'string' || (answer.type !== undefined && answer.type !== 'unicast')) return []
      return legsOf(answer, question)
    })
  )
}

/** For each question all legs of the route that answers it and that the kernel uses, with their weights. */
export async function askLegs(questions: readonly Question[]): Promise<Leg[][]> {
  const useNeigh = readFileSync('/proc/sys/net/ipv4/fib_multipath_use_neigh', 'utf8').trim() === '1'
  if (questions.length === 0) return []
  const answers = await routeGet(questions.map((question) => words(question, 'fibmatch')))
  const missing = await missingNeighbours()
  return answers.map((answer, index) => {
    if (typeof answer === 'string') return []
    const legs = legsOf(answer, questions[index]!)
    const looks = answer.nhid !== undefined || (useNeigh && questions[index]!.family === 4)
    if (!looks || legs.length < 2) return legs
    // passed over is a gateway that is not there; where none is, the first is used
    const there = legs.filter(({ device, nexthop }) => !missing.has(`${device} ${nexthop}`))
    return there.length > 0 ? there : legs.slice(0, 1)
  })
}

/** "up0 192.0.2.1" of each neighbour that the kernel has asked for and has no answer from. */
async function missingNeighbours(): Promise<Set<string>> {
  const { stdout } = await ipBatch(['neigh show nud failed nud incomplete'], ['-json', '-force'])
  const entries = JSON.parse(stdout) as { dst: string; dev: string }[]
  return new Set(entries.map(({ dst, dev }) => `${dev} ${dst}`))
}

function legsOf(answer: RouteJson, { destination }: Question): Leg[] {
  const hops = answer.nexthops ?? [{ ...answer, weight: 1, flags: [] }]
  return hops
    .filter(({ flags }) => !flags.includes('dead'))
    .map((each) => ({ ...hop(each, destination), weight: each.weight, linkdown: each.flags.includes('linkdown') }))
}

/** Route MTUs (0: none) of the legs that pass, told by asking with `count` source ports. */
export async function askMtus(question: Question, passes: (leg: Leg) => boolean, count: number): Promise<Set<number>> {
  const protocol = question.protocol === 'icmp' ? 'udp' : question.protocol
  const questions = Array.from({ length: count }, (_, index) => ({
    ...question,
    protocol,
    sourcePort: 1024 + ((211 * index) % 64_000)
  }))
  const found = new Set<number>()
  for (const answer of await askKernel(questions)) {
    if (answer.kind === 'forward' && passes(answer.leg)) found.add(answer.mtu)
  }
  return found
}

/** The question as a command line. */
export function words(question: Question, kind = ''): string {
  const { family, input, source, destination, protocol, sourcePort, destinationPort, tos, mark } = question
  const parts = ['route get', kind, destination, 'from', source, 'iif', input]
  if (tos !== 0) parts.push('tos', `0x${tos.toString(16)}`)
  if (mark !== 0) parts.push('mark', `0x${mark.toString(16)}`)
  if (protocol === 'icmp') parts.push('ipproto', family === 4 ? 'icmp' : 'ipv6-icmp')
  else parts.push('ipproto', protocol, 'sport', `${sourcePort}`, 'dport', `${destinationPort}`)
  return parts.filter(Boolean).join(' ')
}

function hop(route: RouteJson, destination: string): { device: string; nexthop: string } {
  return { device: route.dev ?? '', nexthop: route.gateway ?? route.via?.host ?? destination }
}

/** The route of each line, or the error's words; commands that are no question have '' or their error. */
async function routeGet(lines: readonly string[], enter: readonly string[] = []): Promise<(RouteJson | string)[]> {
  const { stdout, stderr } = await ipBatch(lines, ['-json', '-force'], enter)
  const failed = new Map<number, string>()
  let said = ''
  for (const line of stderr.split('\n')) {
    const number = /^Command failed -:(\d+)/.exec(line)?.[1]
    if (number === undefined) said = line
    else failed.set(Number(number) - 1, said)
  }
  const found = stdout.split('\n').filter((line) => line.startsWith('[{'))
  const asks = lines.map((line) => line.startsWith('route get'))
  const unanswered = asks.filter((isQuestion, index) => isQuestion && !failed.has(index)).length
  if (found.length !== unanswered)
    throw new Error(
      `ip answered ${found.length} + ${failed.size} of ${lines.length} questions: ${stderr.slice(0, 500)}`
    )
  let next = 0
  return lines.map((_, index) => {
    if (failed.has(index)) return failed.get(index)!
    return asks[index] ? (JSON.parse(found[next++]!) as RouteJson[])[0]! : ''
  })
}

/** Runs the lines of `ip` commands in one process; never rejects for a command that fails. */
export function ipBatch(
  lines: readonly string[],
  options: readonly string[] = ['-force'],
  /** Goes before `ip`, e.g. nsenter. */
  enter: readonly string[] = []
): Promise<{ stdout: string; stderr: string }> {
  const [file = '', ...words] = [...enter, 'ip', ...options, '-batch', '-']
  const child = spawn(file, words, { stdio: ['pipe', 'pipe', 'pipe'] })
  const result = { stdout: '', stderr: '' }
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    result.stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    result.stderr += text
  })
  child.stdin.end(`${lines.join('\n')}\n`)
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', () => resolve(result))
  })
}
