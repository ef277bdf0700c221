// The best few, and the most frequent, in bounded memory.

import t from 'tap'
import { Best } from '../../src/answers/best.js'
import { Frequent } from '../../src/answers/frequent.js'

/** The same numbers in every run (mulberry32). */
function random(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

t.test('the best few are those that sorting finds', async (t) => {
  for (let seed = 1; seed <= 50; seed++) {
    const next = random(seed)
    const numbers = Array.from({ length: Math.floor(next() * 200) }, () => Math.floor(next() * 50))
    const limit = 1 + Math.floor(next() * 40)
    const best = new Best<number>(limit, (a, b) => a - b)
    for (const number of numbers) best.add(number)
    t.equal(best.size, Math.min(limit, numbers.length))
    const sorted = numbers.sort((a, b) => a - b).slice(0, limit)
    t.same(best.takeAll(), sorted)
    t.equal(best.takeWorst(), undefined)
  }
})

t.test('counts are exact while all keys have room', async (t) => {
  const counts = new Frequent<{ count: number; name: string }>(10)
  for (let at = 0; at < 1000; at++) counts.add(`${at % 20}`, () => ({ count: 0, name: `${at % 20}` }))
  t.equal(counts.uncertainty, 0)
  t.same([...new Set([...counts.rows()].map(({ count }) => count))], [50])
})

t.test('what is frequent is found among many that are not, within the uncertainty', async (t) => {
  const next = random(7)
  const most = 100
  const counts = new Frequent<{ count: number; name: string }>(most)
  const exact = new Map<string, number>()
  const total = 50_000
  for (let at = 0; at < total; at++) {
    const name = next() < 0.3 ? `often ${Math.floor(next() * 5)}` : `seldom ${Math.floor(next() * 40_000)}`
    exact.set(name, (exact.get(name) ?? 0) + 1)
    counts.add(name, () => ({ count: 0, name }))
  }
  const rows = [...counts.rows()]
  t.ok(rows.length <= 2 * most)
  t.ok(counts.uncertainty > 0 && counts.uncertainty <= total / most, `${counts.uncertainty}`)
  for (let at = 0; at < 5; at++) {
    const row = rows.find(({ name }) => name === `often ${at}`)
    const real = exact.get(`often ${at}`) ?? 0
    t.ok(row && row.count <= real && row.count + counts.uncertainty >= real, `${row?.count} of ${real}`)
  }
})
