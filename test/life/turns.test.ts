// Long work in slices, one piece after the other.

import t from 'tap'
import { Ending, unlessAborted } from '../../src/steps.js'
import { Turns } from '../../src/turns.js'

/** Rests after each step. */
const restless = -1

function* steps(name: string, count: number, told: string[]): Generator<void, string> {
  for (let step = 1; step <= count; step++) {
    told.push(`${name}${step}`)
    yield
  }
  return name
}

t.test('short work is done at once where nothing is in work', async (t) => {
  const turns = new Turns(60_000)
  const told: string[] = []
  const done = turns.run(() => steps('a', 3, told))
  t.strictSame(told, ['a1', 'a2', 'a3'])
  t.notOk(turns.busy)
  t.equal(await done, 'a')
})

t.test('one at a time, in order, and busy from the first to the last', async (t) => {
  const turns = new Turns(restless)
  const told: string[] = []
  const first = turns.run(() => steps('a', 3, told))
  const second = turns.run(() => steps('b', 2, told))
  t.strictSame(told, ['a1'], 'the event loop turns after each step')
  let idle = false
  void turns.idle().then(() => {
    idle = true
  })
  void first.then(() => {
    t.ok(turns.busy, 'nobody gets in between')
    t.notOk(idle)
    void turns.run(() => steps('c', 1, told))
  })
  await second
  while (turns.busy) await turns.idle()
  t.ok(idle)
  t.strictSame(told, ['a1', 'a2', 'a3', 'b1', 'b2', 'c1'])
})

t.test('what one throws is told to who began it, and the next has its turn', async (t) => {
  const turns = new Turns(restless)
  const told: string[] = []
  const failing = turns.run(function* () {
    yield
    throw new Error('not this time')
  })
  const next = turns.run(() => steps('b', 1, told))
  await t.rejects(failing, { message: 'not this time' })
  t.equal(await next, 'b')
  await t.rejects(
    turns.run(() => {
      throw new Error('not even begun')
    }),
    { message: 'not even begun' }
  )
  t.notOk(turns.busy)
})

t.test('after the signal no step is taken', async (t) => {
  const turns = new Turns(restless)
  const told: string[] = []
  const ending = new AbortController()
  const ended = turns.run(() => unlessAborted(ending.signal, steps('a', 100, told)))
  ending.abort(new Ending())
  await t.rejects(ended, new Ending())
  t.strictSame(told, ['a1'])
  t.notOk(turns.busy)
})
