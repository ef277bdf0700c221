// scripts/oracle: compares hostroute with the kernel's own forwarding, on
// random tables and packets, for as long as it is told.

import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const usage = `scripts/oracle [--minutes N] [--seed N] [--only NAME]
Lets the kernel judge hostroute:
  route    random routing tables, rules and packets: device and next hop as the
           kernel's own, or the stack; faults are shrunk and printed as ip commands
  packet   made packets of every shape through two equal labs, with and without
           hostroute: what arrives is equal byte for byte
  churn    a daemon under traffic while routes, rules, addresses and links change:
           no packet goes where neither the old nor the new table sends it
--minutes  how long altogether, 5 unless given
--seed     to repeat a run; drawn and printed unless given
Exit status 1 if a fault was found.`

const PARTS = ['route', 'packet', 'churn'] as const

function options(): { minutes: number; seed: string; parts: readonly string[] } {
  const { values } = parseArgs({
    options: {
      minutes: { type: 'string', default: '5' },
      seed: { type: 'string', default: String(Date.now() % 1_000_000_000) },
      only: { type: 'string' },
      help: { type: 'boolean', short: 'h' }
    }
  })
  if (values.help) {
    console.log(usage)
    process.exit(0)
  }
  const parts = PARTS.filter((part) => values.only === undefined || part === values.only)
  const minutes = Number(values.minutes)
  if (parts.length === 0 || !(minutes > 0) || !/^\d+$/.test(values.seed)) throw new Error(usage)
  return { minutes, seed: values.seed, parts }
}

function runPart(part: string, minutes: number, seed: string): Promise<number> {
  const script = fileURLToPath(new URL(`./${part}-main.js`, import.meta.url))
  const words = [...process.execArgv, script, '--minutes', `${minutes}`, '--seed', seed]
  const child = spawn(process.execPath, words, { stdio: 'inherit' })
  return new Promise((resolve) => child.on('close', (status) => resolve(status ?? 1)))
}

try {
  const { minutes, seed, parts } = options()
  let worst = 0
  for (const part of parts) worst = Math.max(worst, await runPart(part, minutes / parts.length, seed))
  process.exitCode = worst
} catch (error) {
  console.error((error as Error).message)
  process.exitCode = 64
}
