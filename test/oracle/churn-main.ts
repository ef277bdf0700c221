// Churn for as long as it is told: churn-main.js --minutes N --seed N. Exit
// status 1: a fault was found.

import { parseArgs } from 'node:util'
import { runChurn } from './churn-oracle.js'

const { values } = parseArgs({ options: { minutes: { type: 'string' }, seed: { type: 'string' } } })
const seed = Number(values.seed ?? Date.now() % 1_000_000_000)
const deadline = performance.now() + Number(values.minutes ?? 1) * 60_000
/** Captures are kept whole in memory: the lab is made anew after so many steps. */
const STEPS = 100
const sum = { labs: 0, steps: 0, commands: 0, packets: 0, faults: 0 }
let next = performance.now() + 10_000

console.log(`churn: seed ${seed}`)
while (performance.now() < deadline && sum.faults === 0) {
  const totals = await runChurn({
    seed: seed + sum.labs,
    steps: STEPS,
    deadline,
    progress({ steps, packets }) {
      if (performance.now() < next) return
      next = performance.now() + 10_000
      const left = Math.max(0, Math.round((deadline - performance.now()) / 1000))
      console.log(`  seed ${seed + sum.labs}: ${steps} steps, ${packets} packets; ${left} s left`)
    }
  })
  sum.labs++
  for (const key of ['steps', 'commands', 'packets'] as const) sum[key] += totals[key]
  sum.faults += totals.faults.length
  for (const fault of totals.faults) console.log(`\nFAULT seed ${totals.seed}, step ${totals.steps}: ${fault}`)
}
const number = (count: number) => count.toLocaleString('en').padStart(9)
console.log(`churn, seeds ${seed} to ${seed + Math.max(0, sum.labs - 1)}`)
console.log(`  steps         ${number(sum.steps)}  each followed by a verify that found nothing`)
console.log(`  commands      ${number(sum.commands)}`)
console.log(`  packets       ${number(sum.packets)}  went where a table in force sent them`)
console.log(`  faults        ${number(sum.faults)}`)
process.exit(sum.faults > 0 ? 1 : 0)
