import t from 'tap'
import { durations, Waiting } from '../../src/datapath/waiting.js'
import { sleep, until } from '../lab/process.js'

const patience = 10_000

t.test('each waits its own time at least, those of one duration in order', async (t) => {
  const released: { frame: number; after: number }[] = []
  const start = performance.now()
  const waiting = new Waiting((frame) =>
    released.push({ frame: frame.readUInt16BE(0), after: performance.now() - start })
  )
  const named = (exponent: number, number: number) => Buffer.from([exponent, number])
  for (let number = 0; number < 100; number++)
    for (let exponent = 0; exponent < durations; exponent++) t.ok(waiting.add(named(exponent, number), exponent))
  t.equal(waiting.size, 1000)
  await until('all have gone', () => waiting.size === 0, patience)
  for (let exponent = 0; exponent < durations; exponent++) {
    const own = released.filter(({ frame }) => frame >> 8 === exponent)
    t.strictSame(
      own.map(({ frame }) => frame & 0xff),
      Array.from({ length: 100 }, (_, number) => number)
    )
    for (const { after } of own) if (after < (1 << exponent) - 0.1) t.fail(`${exponent}: after ${after} ms`)
  }
  t.equal(released.length, 1000)
})

t.test('frames and bytes are bounded, and room comes back', async (t) => {
  let released = 0
  const waiting = new Waiting(() => released++)
  for (let count = 0; count < 1024; count++) t.ok(waiting.add(Buffer.alloc(60), 1))
  t.notOk(waiting.add(Buffer.alloc(60), 1), 'the 1025th')
  await until('all have gone', () => waiting.size === 0, patience)
  t.equal(released, 1024)
  for (let count = 0; count < 32; count++) t.ok(waiting.add(Buffer.alloc(64 * 1024), 9))
  t.notOk(waiting.add(Buffer.alloc(1), 1), 'one byte more than 2 MiB')
  waiting.flush()
  t.equal(waiting.size, 0)
  t.equal(released, 1024 + 32)
  t.ok(waiting.add(Buffer.alloc(64 * 1024), 0))
  waiting.flush()
})

t.test('an unknown duration is refused', async (t) => {
  const waiting = new Waiting(() => {})
  t.notOk(waiting.add(Buffer.alloc(1), durations))
  t.equal(waiting.size, 0)
})

t.test('a flushed list does not come again, and a frame added while another goes is not lost', async (t) => {
  const released: string[] = []
  const waiting: Waiting = new Waiting((frame) => {
    released.push(frame.toString())
    if (frame.toString() === 'a') waiting.add(Buffer.from('b'), 0)
  })
  waiting.add(Buffer.from('x'), 2)
  waiting.flush()
  await sleep(20)
  t.strictSame(released, ['x'])
  waiting.add(Buffer.from('a'), 0)
  await until('both', () => released.length === 3, patience, 1)
  t.strictSame(released, ['x', 'a', 'b'])
  t.equal(waiting.size, 0)
})
