// Churn, short: ten steps of changes under traffic. `scripts/oracle --only
// churn` goes on for as long as you like.

import t from 'tap'
import { runChurn } from './churn-oracle.js'

t.setTimeout(180_000)

t.test(
  '[F7][F8][F9][F11][F15][N3][Y5][Y6] while routes, rules, links and addresses change, no packet goes where neither table sends it',
  async (t) => {
    const totals = await runChurn({ seed: 1, steps: 10, deadline: performance.now() + 60_000 })
    t.comment(`${totals.steps} steps, ${totals.commands} commands, ${totals.packets} packets judged`)
    t.same(totals.faults, [], 'no fault')
    t.ok(totals.steps > 0 && totals.packets > 0, 'packets were judged')
  }
)
