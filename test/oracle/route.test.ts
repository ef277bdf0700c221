// The route oracle, short and always with the same seed, unless HOSTROUTE_SEED
// says another. `scripts/oracle` draws one and runs for as long as you like.

import t from 'tap'
import { enterNamespace } from '../netlink/namespace.js'
import { runRouteOracle } from './route-oracle.js'
import { tell } from './route-report.js'

enterNamespace(import.meta.url)
t.setTimeout(120_000)

const fixed = 1
const seed = Number(process.env['HOSTROUTE_SEED'] ?? fixed)

t.test(
  '[F7][F8][F9][F10][F11][F12] every packet goes where the kernel would send it, or to the stack, on random tables',
  async (t) => {
    t.comment(`HOSTROUTE_SEED=${seed} repeats it`)
    // as many tables as fit into the time, so that a loaded machine takes no longer
    const totals = await runRouteOracle({ seed, cases: 24, deadline: performance.now() + 12_000, faults: 1 })
    for (const line of tell(totals)) t.comment(line)
    t.same(totals.faults, [], 'no fault')
    t.ok(totals.lookups > 0, 'packets were judged')
    t.ok(totals.forwarded > 0, 'some of them on the fast path')
  }
)
