// The packet oracle, short: the same stream through two equal labs, one of them
// with hostroute. `scripts/oracle --only packet` runs it for as long as you like.

import t from 'tap'
import { runPacketOracle } from './packet-oracle.js'
import { tellPackets } from './packet-report.js'

t.setTimeout(120_000)

for (const [name, translation] of [
  ['[F1][F2][F3][P1][P2][P3][P4][P5][P6] what arrives is byte for byte what the kernel would have sent', 'none'],
  ['[F3][S4][S5][P1][P2][P4] with SNAT it is what MASQUERADE would have sent, but for the port; answers too', 'snat'],
  ['[K1][K10] through Services it is what the kernel alone would have sent', 'services']
] as const) {
  t.test(name, async (t) => {
    const totals = await runPacketOracle({
      seed: 1,
      draws: 400,
      rounds: 2,
      deadline: Number.POSITIVE_INFINITY,
      translation
    })
    for (const line of tellPackets(totals)) t.comment(line)
    t.same(totals.faults, [], 'no fault')
    t.equal(totals.rounds, 2)
    if (translation === 'services')
      t.ok(totals.arrived > totals.sent / 2, `${totals.arrived} of ${totals.sent} arrived`)
    else t.ok(totals.forwarded > totals.sent / 8, `${totals.forwarded} of ${totals.sent} on the fast path`)
  })
}
