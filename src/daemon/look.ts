// A process of its own that looks at what others do to the packets of the fast
// path: started by the daemon, which hands it what it knows of the node and
// reads the findings, JSON both.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setPriority } from 'node:os'
import { text } from 'node:stream/consumers'
import type { ForeignFacts } from '../check/foreign-facts.js'
import type { Finding } from '../check/report.js'
import { filesReplaced } from '../version.js'

const patience = 60_000
const nice = 10

/** Rejects when the process fails, or takes longer than a minute. */
export async function lookApart(facts: ForeignFacts): Promise<Finding[]> {
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
  return JSON.parse(output) as Finding[]
}

/** Others come first. A process that has ended by now says so by its status. */
function yieldTo(pid: number): void {
  try {
    setPriority(pid, nice)
  } catch {}
}

/** The process itself: facts from standard input, findings to standard output. */
export async function look(): Promise<void> {
  const { lookAtForeign } = await import('../check/foreign.js')
  const facts = JSON.parse(await text(process.stdin)) as ForeignFacts
  process.stdout.write(JSON.stringify(await lookAtForeign(facts)))
}
