// A process of its own that looks at what others do to the packets of the fast
// path: started by the daemon, which hands it what it knows of the node and
// reads the findings, JSON both.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { setPriority } from 'node:os'
import { text } from 'node:stream/consumers'
import type { ForeignFacts } from '../check/foreign-facts.js'
import type { Look } from '../life/foreign-watch.js'
import { filesReplaced } from '../version.js'

const patience = 60_000
const nice = 10

/** Rejects when the process fails, or takes longer than a minute. */
export async function lookApart(facts: ForeignFacts): Promise<Look> {
  const replaced = filesReplaced()
  if (replaced !== null) throw new Error(replaced)
  const main = process.argv[1] ?? ''
  const child = spawn(process.execPath, [main, '--look'], { stdio: ['pipe', 'pipe', 'pipe'], timeout: patience })
  const closed = once(child, 'close') as Promise<[number | null, string | null]>
  if (child.pid === undefined) {
    // without a process there may be no pipes either; the error says why
    await closed
    throw new Error(`${process.execPath} could not be started`)
  }
  yieldTo(child.pid)
  child.stdin.on('error', () => {})
  child.stdin.end(JSON.stringify(facts))
  const [output, errors, [status, signal]] = await Promise.all([text(child.stdout), text(child.stderr), closed])
  if (status !== 0)
    throw new Error(errors.trim().split('\n').at(-1) || `the look ended by ${signal ?? `status ${status}`}`)
  return JSON.parse(output) as Look
}

/** Others come first. A process that has ended by now says so by its status. */
function yieldTo(pid: number): void {
  try {
    setPriority(pid, nice)
  } catch {}
}

/** Milliseconds of CPU of this process and of those it has waited for (proc(5): utime to cstime, in 1/100 s). */
function cost(): number {
  const stat = readFileSync('/proc/self/stat', 'utf8')
  const times = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .slice(11, 15)
  return times.reduce((sum, ticks) => sum + Number(ticks) * 10, 0)
}

/** The process itself: facts from standard input, a Look to standard output. */
export async function look(): Promise<void> {
  const { lookAtForeign } = await import('../check/foreign.js')
  const facts = JSON.parse(await text(process.stdin)) as ForeignFacts
  const findings = await lookAtForeign(facts)
  const made: Look = { findings, cost: cost() }
  process.stdout.write(JSON.stringify(made))
}
