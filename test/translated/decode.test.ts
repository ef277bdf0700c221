// Pure decoders on bytes that the kernel has sent (6.18, x86-64): dumps of a
// table of nf_tables and of its sets, and the rows of a legacy table.

import { readFileSync } from 'node:fs'
import t from 'tap'
import { hexAddress, hexPrefix, prefixesBetween } from '../../src/address.js'
import { nft } from '../../src/netfilter/nfnetlink.js'
import { collect } from '../../src/translated/collect.js'
import { anything } from '../../src/translated/elements.js'
import { evaluate } from '../../src/translated/legacy.js'
import { legacyShapes } from '../../src/translated/legacy-table.js'
import { messagesIn } from '../../src/translated/messages.js'
import { decodeRule } from '../../src/translated/nft-rules.js'
import { applyElements, applyHead, readElementsHead, readSetHead } from '../../src/translated/nft-sets.js'
import { Ruleset } from '../../src/translated/ruleset.js'
import { randomSource } from '../plan/churn.js'
import { textsOf } from './node.js'

const recorded = (name: string) =>
  readFileSync(new URL(`../../../../test/translated/fixtures/${name}`, import.meta.url))

function rulesetOf(rules: Buffer, sets: Buffer[]): Ruleset {
  const ruleset = new Ruleset(anything)
  for (const { type, bytes, at, end } of messagesIn(rules)) {
    const rule = type === nft.newRule ? decodeRule(bytes, at, end, ruleset) : null
    if (rule?.effect) ruleset.chain(rule.chain).rules.put(rule.handle, rule.effect)
  }
  for (const set of sets) {
    for (const { type, bytes, at, end } of messagesIn(set)) {
      if (type === nft.newSet) {
        const head = readSetHead(bytes, at, end)
        applyHead(ruleset.set(head.name), head)
      } else if (type === nft.newSetElement) {
        const head = readElementsHead(bytes, at, end)
        applyElements(ruleset, ruleset.set(head.set), bytes, head.at, head.stop, true)
      }
    }
  }
  ruleset.chain('pre').base = true
  return ruleset
}

const rules = recorded('nft-rules.bin')
const sets = [recorded('nft-set-wide.bin'), recorded('nft-set-m.bin')]
const rows = recorded('legacy-nat.bin')
const hooks = [{ name: 'PREROUTING', first: 0, policy: 744 }]
const shape = legacyShapes[0]!

t.test('[K9] recorded rules and sets of nf_tables', async (t) => {
  const { destinations, unlimited } = await collect(rulesetOf(rules, sets))
  t.strictSame(textsOf(destinations.keys()), [
    '10.0.0.0/12',
    '10.96.0.10',
    '192.0.2.0/25',
    '192.0.2.130',
    '192.0.2.7',
    '2001:db8::/33'
  ])
  t.equal(unlimited.length, 1, 'the negated one')
})

t.test('[K9] recorded rows of a legacy table', async (t) => {
  const { destinations, unbounded } = await evaluate(shape, 'nat', { bytes: rows, hooks })
  t.strictSame(textsOf(destinations.keys()), ['10.96.0.10', '198.51.100.0/24'])
  t.equal(destinations.get(hexPrefix('0a60000a/32')), 'kube-proxy')
  t.match(unbounded, [{ chain: 'PREROUTING', handle: 3, text: '-i pod1 -p tcp --dport 80 -j REDIRECT' }])
  t.equal(unbounded.length, 1)
})

t.test('damaged bytes are read as far as they go, and nothing is thrown', async (t) => {
  const random = randomSource(1)
  for (let round = 0; round < 2_000; round++) {
    const damaged = [rules, ...sets, rows].map((bytes) => {
      const copy = Buffer.from(bytes.subarray(0, random(4) ? bytes.length : random(bytes.length)))
      for (let count = random(4); count > 0 && copy.length > 0; count--) copy[random(copy.length)] = random(256)
      return copy
    })
    try {
      await collect(rulesetOf(damaged[0] as Buffer, damaged.slice(1, 3)))
      await evaluate(shape, 'nat', { bytes: damaged[3] as Buffer, hooks })
    } catch (error) {
      t.error(error, `round ${round}`)
      return
    }
  }
  t.pass('2,000 rounds')
})

t.test('a range is the fewest prefixes that are exactly it', async (t) => {
  const texts = (first: string, last: string) => textsOf(prefixesBetween(hexAddress(first), hexAddress(last)))
  t.strictSame(texts('0a000001', '0a000006'), ['10.0.0.1', '10.0.0.2/31', '10.0.0.4/31', '10.0.0.6'])
  t.strictSame(texts('00000000', 'ffffffff'), ['0.0.0.0/0'])
  t.strictSame(texts('ffffffff', 'ffffffff'), ['255.255.255.255'])
  t.strictSame(texts('fffffffe', 'ffffffff'), ['255.255.255.254/31'])
})
