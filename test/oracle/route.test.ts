// The route oracle, short and always with the same seed, unless HOSTROUTE_SEED
// says another. `scripts/oracle` draws one and runs for as long as you like.

import { execFileSync } from 'node:child_process'
import t from 'tap'
import { enterNamespace } from '../netlink/namespace.js'
import { runRouteOracle } from './route-oracle.js'
import { tell } from './route-report.js'

enterNamespace(import.meta.url)
t.setTimeout(120_000)

const fixed = 1
/** In a machine of test/vm, whose kernel has VRFs. */
const inGuest = process.env['HOSTROUTE_VM'] !== undefined
if (inGuest) execFileSync('modprobe', ['vrf'])
const seed = Number(process.env['HOSTROUTE_SEED'] ?? fixed)

t.test(
  '[F7][F8][F9][F10][F11][F12] every packet goes where the kernel would send it, or to the stack, on random tables',
  async (t) => {
    t.comment(`HOSTROUTE_SEED=${seed} repeats it`)
    // as many tables as fit into the time, so that a loaded machine takes no longer
    const seconds = inGuest ? 25 : 12
    const totals = await runRouteOracle({ seed, cases: 24, deadline: performance.now() + 1000 * seconds, faults: 1 })
    for (const line of tell(totals)) t.comment(line)
    t.same(totals.faults, [], 'no fault')
    t.ok(totals.lookups > 0, 'packets were judged')
    if (inGuest) t.ok(totals.hasVrf, 'with a VRF')
    t.ok(totals.forwarded > 0, 'some of them on the fast path')
  }
)
