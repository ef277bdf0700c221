// The route oracle, short: one seed that is always the same, one that never is.
// `scripts/oracle` runs it for as long as you like.

import t from 'tap'
import { enterNamespace } from '../netlink/namespace.js'
import { runRouteOracle } from './route-oracle.js'
import { tell } from './route-report.js'

enterNamespace(import.meta.url)
t.setTimeout(120_000)

const drawn = Number(process.env['HOSTROUTE_SEED'] ?? Date.now() % 1_000_000_000)

for (const [name, seed] of [
  ['a fixed', 1],
  ['a random', drawn]
] as const) {
  t.test(
    `[F7][F8][F9][F10][F11][F12] every packet goes where the kernel would send it, or to the stack: ${name} seed`,
    async (t) => {
      t.comment(`HOSTROUTE_SEED=${seed} repeats it`)
      // as many tables as fit into 8 s, the random ones at most
      const totals = await runRouteOracle({ seed, cases: 12, deadline: performance.now() + 8_000, faults: 1 })
      for (const line of tell(totals)) t.comment(line)
      t.same(totals.faults, [], 'no fault')
      t.ok(totals.lookups > 0, 'packets were judged')
      if (name === 'a fixed') t.ok(totals.forwarded > 0, 'some of them on the fast path')
    }
  )
}
