// Random rules, and an oracle that reads them as `nft -j` prints them: none of
// the destinations that may be translated is missed, and none is invented.

import t from 'tap'
import { splitPrefix } from '../../src/address.js'
import { contains } from '../../src/plan/cover.js'
import type { Prefix } from '../../src/state/types.js'
import { enterNamespace } from '../netlink/namespace.js'
import { randomSource } from '../plan/churn.js'
import { hex } from '../plan/node.js'
import { nft, tool, watch } from './node.js'
import { Oracle } from './oracle.js'
import { randomTable } from './random-rules.js'

t.setTimeout(300_000)
enterNamespace(import.meta.url)

const rounds = Number(process.env['HOSTROUTE_ROUNDS'] ?? 30)
const first = Number(process.env['HOSTROUTE_SEED'] ?? 1)

/** All that the rules can tell apart, and some that they never name. */
const candidates: string[] = []
for (let net = 0; net < 4; net++) {
  for (let last = 0; last < 40; last++) {
    candidates.push(`fd00::${net}:${last.toString(16)}`)
    for (let middle = 0; middle < 4; middle++) candidates.push(`10.${net}.${middle}.${last}`)
  }
}
candidates.push('10.9.9.9', '11.0.0.1', '9.255.255.255', 'fd00:7::1', 'fd01::1', '2001:db8::1')

t.test('[K9] random rules of nf_tables: exactly what the oracle says, read at once and followed', async (t) => {
  const followed = await watch(t)
  let bounded = 0
  for (let seed = first; seed < first + rounds; seed++) {
    const random = randomSource(seed)
    const rules = Array.from({ length: 1 + random(3) }, (_, number) => randomTable(random, number)).join('')
    nft(`flush ruleset\n${rules}`)
    const oracle = new Oracle(tool('nft -j list ruleset'))
    const { translated } = await watch(t)
    const wrong = compare(oracle, translated)
    if (wrong.length > 0) {
      t.strictSame(wrong, [], `seed ${seed}`)
      t.comment(rules)
      return
    }
    bounded += translated.size
    const wanted = [...translated.destinations()].sort().join()
    const isThere = () =>
      [...followed.translated.destinations()].sort().join() === wanted &&
      followed.translated.unbounded().length === translated.unbounded().length
    for (let tries = 0; tries < 500 && !isThere(); tries++) await new Promise((resolve) => setTimeout(resolve, 10))
    if (!isThere()) {
      t.strictSame(
        [...followed.translated.destinations()].sort(),
        [...translated.destinations()].sort(),
        `seed ${seed}: followed`
      )
      t.strictSame(followed.translated.unbounded(), translated.unbounded(), `seed ${seed}: followed`)
      return
    }
    await translated.close()
  }
  t.comment(`${bounded} destinations in ${rounds} rulesets`)
  t.ok(bounded > rounds, 'the rules name destinations')
  t.strictSame(followed.problems, [])
})

interface Found {
  destinations(): Iterable<Prefix>
  unbounded(): unknown[]
}

function compare(oracle: Oracle, found: Found): string[] {
  const prefixes = [...found.destinations()].map(splitPrefix)
  const unbounded = found.unbounded().length > 0
  const wrong: string[] = []
  for (const text of candidates) {
    const address = hex(text)
    const covered = prefixes.some((prefix) => contains(prefix.address, prefix.length, address))
    const translated = oracle.translates(address)
    if (translated && !covered && !unbounded) wrong.push(`missed ${text}`)
    if (covered && !translated) wrong.push(`invented ${text}`)
  }
  return wrong
}
