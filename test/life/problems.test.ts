// The list of problems, and trying again.

import t from 'tap'
import { Problems } from '../../src/life/problems.js'
import { Retry } from '../../src/life/retry.js'
import { until } from '../lab/process.js'

function list() {
  const logged: string[] = []
  const problems = new Problems({
    error: (text) => logged.push(`error ${text}`),
    info: (text) => logged.push(`info ${text}`)
  })
  return { problems, logged }
}

t.test('a problem is told when it comes, when it changes and when it is over, and at no other time', async (t) => {
  const { problems, logged } = list()
  problems.set('maps-not-written', null)
  t.strictSame(logged, [], 'what was never there is not over')
  for (let time = 0; time < 3; time++) problems.set('maps-not-written', 'no room')
  t.equal(logged.length, 1)
  t.match(logged[0], /^error no room; /, 'with its remedy')
  const { since } = problems.list()[0] ?? {}
  problems.set('maps-not-written', 'no memory')
  t.equal(logged.length, 2, 'another text')
  t.equal(problems.list()[0]?.since, since, 'and still the same problem')
  problems.set('maps-not-written', null)
  problems.set('maps-not-written', null)
  t.strictSame(logged.slice(2), ['info over: no memory'])
  t.strictSame(problems.list(), [])
})

t.test('the gravest stands first; the next try is said', async (t) => {
  const { problems } = list()
  let next: number | null = 86_400_000
  problems.set('configuration-not-valid', 'line 3')
  problems.set('guard-not-running', 'EPERM', () => next)
  problems.set('device-not-served', 'lxc1')
  t.strictSame(
    problems.list().map(({ code, affects, nextTry }) => [code, affects, nextTry]),
    [
      ['device-not-served', 'traffic', null],
      ['guard-not-running', 'protection', '1970-01-02T00:00:00.000Z'],
      ['configuration-not-valid', 'observation', null]
    ]
  )
  next = null
  t.equal(problems.list()[1]?.nextTry, null)
})

t.test('a retry pauses longer each time, comes at once when asked, and ends with success', async (t) => {
  let tries = 0
  let works = false
  const retry = new Retry({ first: 20, most: 50 }, () => {
    tries++
    return works
  })
  t.equal(retry.next, null)
  retry.now()
  t.equal(tries, 0, 'nothing is planned')
  const pauses: number[] = []
  const planned = () => Math.round((retry.next ?? 0) - Date.now())
  retry.again()
  retry.again()
  for (let round = 0; round < 3; round++) {
    const before = tries
    pauses.push(planned())
    await until('the next try', () => tries > before && retry.next !== null, 5_000, 1)
  }
  t.equal(tries, 3)
  t.ok(pauses[0] !== undefined && pauses[0] <= 20, `${pauses}`)
  t.ok(
    pauses.every((pause) => pause <= 50),
    `${pauses}`
  )
  works = true
  retry.now()
  await until('it works', () => tries === 4, 5_000, 1)
  t.equal(retry.next, null)
  retry.again()
  t.ok(planned() <= 20, 'success starts the pauses anew')
  retry.stop()
  t.equal(retry.next, null)
})
