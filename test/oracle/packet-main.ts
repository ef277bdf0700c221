// The packet oracle for as long as it is told: packet-main.js --minutes N --seed N.
// A third each without translation, with SNAT, and through Services. Exit status 1: a fault was found.

import { parseArgs } from 'node:util'
import { type PacketTotals, runPacketOracle } from './packet-oracle.js'
import { TITLES, tellPackets } from './packet-report.js'

const { values } = parseArgs({ options: { minutes: { type: 'string' }, seed: { type: 'string' } } })
const seed = Number(values.seed ?? Date.now() % 1_000_000_000)
const part = (Number(values.minutes ?? 1) * 60_000) / 3
/** Captures are kept whole in memory: labs are made anew after so many rounds. */
const ROUNDS = 40

let failed = false
for (const translation of ['none', 'snat', 'services'] as const) {
  const deadline = performance.now() + part
  const totals: PacketTotals[] = []
  let next = performance.now() + 10_000
  console.log(`packet oracle${TITLES[translation]}: seed ${seed}`)
  for (let from = seed; performance.now() < deadline && !failed; from += ROUNDS) {
    const round = await runPacketOracle({
      seed: from,
      draws: 400,
      rounds: ROUNDS,
      deadline,
      translation,
      progress({ rounds, sent, faults }) {
        if (performance.now() < next) return
        next = performance.now() + 10_000
        const left = Math.max(0, Math.round((deadline - performance.now()) / 1000))
        console.log(`  seed ${from + rounds}, ${sent} packets in these labs, ${faults.length} faults; ${left} s left`)
      }
    })
    totals.push(round)
    failed = round.faults.length > 0
  }
  for (const line of tellPackets(joined(totals))) console.log(line)
  for (const fault of totals.flatMap(({ faults }) => faults)) console.log(`\nFAULT ${fault}`)
  if (failed) break
}
process.exit(failed ? 1 : 0)

function joined(parts: readonly PacketTotals[]): PacketTotals {
  const [first, ...rest] = parts
  if (!first) throw new Error('no time for a single round')
  for (const part of rest) {
    for (const key of ['rounds', 'sent', 'arrived', 'forwarded'] as const) first[key] += part[key]
    for (const key of ['stackByReason', 'exceptions'] as const)
      for (const [name, count] of part[key]) first[key].set(name, (first[key].get(name) ?? 0) + count)
    first.faults.push(...part.faults)
  }
  return first
}
