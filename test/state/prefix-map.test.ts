// Columns say what a Map and a Set of prefix keys say, whatever is done to them.

import t from 'tap'
import { hexPrefix } from '../../src/address.js'
import { PrefixMap, PrefixSet } from '../../src/prefix-map.js'
import type { Prefix } from '../../src/state/types.js'
import { randomSource } from '../plan/churn.js'

type Random = (below: number) => number

function randomPrefix(random: Random): Prefix {
  const digits = (count: number): string => Array.from({ length: count }, () => random(16).toString(16)).join('')
  if (random(3) > 0) return hexPrefix(`0a0${digits(2)}000/${random(2) ? 20 : 32}`)
  const address = `20010db8${'0'.repeat(random(2) ? 20 : 21)}${digits(2)}`.padEnd(32, '0')
  return hexPrefix(`${address}/${random(2) ? 64 : 128}`)
}

/** A Map's order, but IPv4 before IPv6. */
function inOrder<T>(entries: Iterable<T>, keyOf: (entry: T) => string): T[] {
  const all = [...entries]
  const isFour = (entry: T): boolean => keyOf(entry)[8] === '/'
  return [...all.filter(isFour), ...all.filter((entry) => !isFour(entry))]
}

t.test('random changes: the same as a Map and a Set', async (t) => {
  for (let seed = 1; seed <= 30; seed++) {
    const random = randomSource(seed)
    const [map, plain, set] = [new PrefixMap(), new Map<Prefix, number>(), new PrefixSet()]
    const deletions = 1 + (seed % 4)
    for (let step = 0; step < 1500; step++) {
      const prefix = randomPrefix(random)
      if (random(5) < deletions) {
        if (map.delete(prefix) !== plain.delete(prefix)) t.fail(`delete ${prefix}`)
        set.delete(prefix)
      } else {
        const value = random(2 ** 31) - (random(2) ? 2 ** 31 : 0)
        map.set(prefix, value)
        plain.set(prefix, value)
        set.add(prefix)
      }
      if (random(500) === 0) for (const each of [map, plain, set]) each.clear()
    }
    t.strictSame(
      [...map],
      inOrder(plain, ([key]) => key)
    )
    t.strictSame(
      [...set],
      inOrder(plain.keys(), (key) => key)
    )
    t.strictSame(
      [...map.values()],
      inOrder(plain, ([key]) => key).map(([, value]) => value)
    )
    t.equal(map.size, plain.size)
    t.equal(set.size, plain.size)
    for (const [key, value] of plain) if (map.get(key) !== value || !set.has(key)) t.fail(key)
    for (let i = 0; i < 200; i++) {
      const prefix = randomPrefix(random)
      if (map.get(prefix) !== plain.get(prefix) || set.has(prefix) !== plain.has(prefix)) t.fail(prefix)
    }
  }
})

t.test('a key that is no prefix is not there', async (t) => {
  const map = new PrefixMap().set(hexPrefix(`${'0'.repeat(32)}/0`), 1).set(hexPrefix('00000000/0'), 2)
  for (const key of ['', '/', '0a000000', '4-0123456789ab 0a000000/8', `6-0123456789ab ${'0'.repeat(32)}/0`])
    t.equal(map.get(key as Prefix), undefined, key)
})

t.test('an iteration meets each entry that is there throughout once, and those that come', async (t) => {
  for (let seed = 1; seed <= 20; seed++) {
    const random = randomSource(seed)
    const set = new PrefixSet()
    for (let i = 0; i < 300; i++) set.add(randomPrefix(random))
    const [before, touched, met] = [new Set(set), new Set<Prefix>(), new Map<Prefix, number>()]
    for (const prefix of set) {
      met.set(prefix, (met.get(prefix) ?? 0) + 1)
      if (met.size > 2000) break
      for (let i = 0; i < 3; i++) {
        const other = randomPrefix(random)
        touched.add(other)
        if (random(2)) set.add(other)
        else set.delete(other)
      }
    }
    const left = [...before].filter((prefix) => !touched.has(prefix))
    t.strictSame(
      left.filter((prefix) => met.get(prefix) !== 1),
      []
    )
  }
  const growing = new PrefixSet([hexPrefix('0a000000/8')])
  let count = 0
  for (const _ of growing) if (++count < 100) growing.add(hexPrefix(`0a0000${count.toString(16).padStart(2, '0')}/32`))
  t.equal(count, 100)
})
