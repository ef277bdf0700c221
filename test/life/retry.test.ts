// Trying again: less and less often, one try at a time, and with a next try that
// can be told at every moment.

import t from 'tap'
import { Retry } from '../../src/life/retry.js'

const soon = () => new Promise((resolve) => setTimeout(resolve, 5))

/** Tries that end when they are told to. */
function slowAction() {
  const ends: ((worked: boolean) => void)[] = []
  return { ends, action: () => new Promise<boolean>((resolve) => ends.push(resolve)) }
}

t.test('while a try goes on, the next one is known and no second one begins', async (t) => {
  const { ends, action } = slowAction()
  const retry = new Retry({ first: 60_000, most: 60_000 }, action)
  t.equal(retry.next, null)
  retry.again()
  const due = retry.next
  t.ok(due !== null && due > Date.now())
  retry.now()
  retry.now()
  retry.again()
  t.equal(ends.length, 1)
  t.equal(retry.next, due, 'it is not said that nobody tries')
  ends[0]?.(false)
  await soon()
  t.ok((retry.next ?? 0) > Date.now(), 'it failed: another try comes')
  retry.now()
  ends[1]?.(true)
  await soon()
  t.equal(retry.next, null, 'it worked')
  retry.stop()
})

t.test('stopped while a try goes on: no other one comes, unless it is wanted again', async (t) => {
  for (const wanted of [false, true]) {
    const { ends, action } = slowAction()
    const retry = new Retry({ first: 60_000, most: 60_000 }, action)
    retry.again()
    retry.now()
    retry.stop()
    if (wanted) retry.again()
    ends[0]?.(false)
    await soon()
    t.equal(retry.next !== null, wanted)
    retry.stop()
  }
})

t.test('pauses double up to the longest', async (t) => {
  const pauses: number[] = []
  let last = performance.now()
  await new Promise<void>((resolve) => {
    const retry = new Retry({ first: 10, most: 40 }, () => {
      pauses.push(performance.now() - last)
      last = performance.now()
      if (pauses.length < 5) return false
      resolve()
      return true
    })
    const kept = setInterval(() => {}, 1000)
    retry.again()
    void soon().then(() => setTimeout(() => clearInterval(kept), 2000))
  })
  for (const [index, least] of [10, 20, 40, 40, 40].entries()) t.ok((pauses[index] ?? 0) >= least - 1, `pause ${index}`)
})
