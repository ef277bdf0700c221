// The route oracle for as long as it is told: route-main.js --minutes N --seed N.
// Runs in a network namespace of its own. Exit status 1: a fault was found.

import { parseArgs } from 'node:util'
import { enterNamespace } from '../netlink/namespace.js'
import { preamble, runRouteOracle } from './route-oracle.js'
import { tell } from './route-report.js'

enterNamespace(import.meta.url)
const { values } = parseArgs({ options: { minutes: { type: 'string' }, seed: { type: 'string' } } })
const seed = Number(values.seed ?? Date.now() % 1_000_000_000)
const deadline = performance.now() + Number(values.minutes ?? 1) * 60_000
let next = performance.now() + 10_000
let told = 0

console.log(`route oracle: seed ${seed}`)
const totals = await runRouteOracle({
  seed,
  deadline,
  progress({ cases, lookups, forwarded, forwardable, faults }) {
    for (const fault of faults.slice(told)) console.log(`\nFAULT ${fault}\n`)
    told = faults.length
    if (performance.now() < next) return
    next = performance.now() + 10_000
    const share = ((100 * forwarded) / Math.max(1, forwardable)).toFixed(0)
    const left = Math.max(0, Math.round((deadline - performance.now()) / 1000))
    console.log(`  ${cases} cases, ${lookups} look-ups, ${share} % fast, ${faults.length} faults; ${left} s left`)
  }
})
for (const line of tell(totals)) console.log(line)
if (totals.faults.length > 0)
  console.log(
    `\nEvery reproduction starts from this node:\n${preamble(totals)
      .map((line) => `  ${line}`)
      .join('\n')}`
  )
process.exit(totals.faults.length > 0 ? 1 : 0)
