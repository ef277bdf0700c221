import { spawn, spawnSync } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { createLogger, type LogOptions, rateLimit, setLevel, subsystem } from '../../src/log.js'
import { lineOutput } from '../../src/log-output.js'

function recorder(options: LogOptions) {
  const lines: string[] = []
  return { lines, logger: createLogger({ ...options, stream: { write: (line) => lines.push(line) } }) }
}

t.test('for the journal: priority, subsystem, sentence, fields', async (t) => {
  const { lines, logger } = recorder({ style: 'journal', level: 'debug' })
  const datapath = subsystem(logger, 'datapath')
  datapath.info({ pod: '10.1.0.2' }, 'attached from_pod to vethabc')
  datapath.warn({ why: 'two words' }, 'not served')
  logger.error({ error: new Error('no\nroom') }, 'cannot write')
  datapath.debug('detail')
  t.same(lines, [
    '<6>datapath: attached from_pod to vethabc pod=10.1.0.2\n',
    '<4>datapath: not served why="two words"\n',
    '<3>cannot write error="no\\nroom"\n',
    '<7>datapath: detail\n'
  ])
})

t.test('one event is one line, and no escape sequence gets through', async (t) => {
  const { lines, logger } = recorder({ style: 'journal' })
  logger.info({ device: 'a\x1b[2J' }, 'first\nsecond\x1b[31m')
  t.same(lines, ['<6>first; second?[31m device=a?[2J\n'])
})

t.test('a level set later holds for subsystems too', async (t) => {
  const { lines, logger } = recorder({ style: 'plain', level: 'warn' })
  const sync = subsystem(logger, 'sync')
  sync.info('unseen')
  setLevel(logger, 'info')
  sync.info('seen')
  t.equal(lines.length, 1)
  t.match(lines[0], /^\d\d:\d\d:\d\d\.\d{3} sync: seen\n$/)
})

t.test('JSON is one object a line', async (t) => {
  const { lines, logger } = recorder({ json: true })
  subsystem(logger, 'sync').info({ routes: 3 }, 'in step')
  t.match(JSON.parse(lines[0] ?? ''), { level: 30, subsystem: 'sync', routes: 3, message: 'in step' })
})

t.test('a flood of one kind is summed up, others pass', async (t) => {
  const { lines, logger } = recorder({ style: 'journal' })
  const limited = rateLimit(logger, 2, 50)
  for (let i = 0; i < 43; i++) limited.log('warn', 'overrun', `events were lost (${i})`)
  limited.log('info', 'other', 'something else')
  t.equal(lines.length, 3)
  for (let i = 0; i < 50 && lines.length < 4; i++) await sleep(20)
  limited.close()
  t.same(lines, [
    '<4>events were lost (0)\n',
    '<4>events were lost (1)\n',
    '<6>something else\n',
    '<4>events were lost (42) … and 41 more like this\n'
  ])
})

t.test('a flood that goes on is one line an interval, with its number', async (t) => {
  const { lines, logger } = recorder({ style: 'journal' })
  const limited = rateLimit(logger, 1, 100)
  let events = 0
  while (lines.length < 4) {
    limited.log('warn', 'flood', 'again', {}, 2)
    events += 2
    await sleep(1)
  }
  limited.close()
  t.equal(lines[0], '<4>again\n')
  const sums = lines.slice(1).map((line) => Number(/^<4>again … and (\d+) more like this\n$/.exec(line)?.[1]))
  const summed = sums.reduce((sum, one) => sum + one, 0)
  t.ok(summed === events - 2 || summed === events - 1, `${summed} of ${events} are in the sums`)
})

t.test('keys without end share the lines of one', async (t) => {
  const { lines, logger } = recorder({ style: 'journal' })
  const limited = rateLimit(logger, 1, 60_000, 3)
  for (let i = 0; i < 100; i++) limited.log('warn', `key ${i}`, `line ${i}`)
  limited.log('warn', 'key 1', 'once more')
  limited.close()
  t.same(lines, [
    '<4>line 0\n',
    '<4>line 1\n',
    '<4>line 2\n',
    '<4>line 3\n',
    '<4>once more … and 1 more like this\n',
    '<4>line 99 … and 96 more like this\n'
  ])
})

t.test('the journal is recognised by its socket, not by a variable inherited from a parent', async (t) => {
  const run = (journal: string) => {
    const code = `import { createLogger } from ${JSON.stringify(new URL('../../src/log.js', import.meta.url).href)}
      import { fstatSync } from 'node:fs'
      const { dev, ino } = fstatSync(1)
      process.env.JOURNAL_STREAM = ${JSON.stringify(journal)} || dev + ':' + ino
      createLogger().info('hello')`
    return spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' }).stdout
  }
  t.equal(run(''), '<6>hello\n')
  t.match(run('1:1'), /^\d\d:\d\d:\d\d\.\d{3} hello\n$/)
})

t.test('lines that cannot be written are counted, and nothing else happens', async (t) => {
  const state = { error: '', room: Number.POSITIVE_INFINITY, text: '' }
  const output = lineOutput(
    (lost, code) => `(${lost} lost: ${code})\n`,
    (bytes) => {
      if (state.error) throw Object.assign(new Error(state.error), { code: state.error })
      const taken = Math.min(bytes.length, state.room)
      if (taken === 0) throw Object.assign(new Error('full'), { code: 'EAGAIN' })
      state.room -= taken
      state.text += bytes.toString('utf8', 0, taken)
      return taken
    }
  )
  output.write('one\n')
  state.error = 'ENOSPC'
  output.write('two\n')
  output.write('three\n')
  state.error = ''
  output.write('four\n')
  t.equal(state.text, 'one\n(2 lost: ENOSPC)\nfour\n')

  state.text = ''
  state.room = 6
  for (const line of ['first\n', 'second\n', 'third\n']) output.write(line)
  t.equal(state.text, 'first\n', 'the reader is slow')
  state.room = 3
  while (!state.text.endsWith('sec')) await sleep(10)
  state.room = 1000
  while (!state.text.endsWith('third\n')) await sleep(10)
  t.equal(state.text, 'first\nsecond\nthird\n', 'nothing is lost or cut')

  state.room = 0
  state.text = ''
  for (let at = 0; at < 30_000; at++) output.write(`${'x'.repeat(99)}\n`)
  state.room = Number.POSITIVE_INFINITY
  output.write('last\n')
  const lost = Number(/\((\d+) lost: EAGAIN\)\nlast\n$/.exec(state.text)?.[1])
  t.equal(lost + state.text.split('x\n').length - 1, 30_000)
  t.ok(state.text.length < 1.1 * 1024 * 1024)
})

const writer = `import { createLogger } from ${JSON.stringify(new URL('../../src/log.js', import.meta.url).href)}
  import { writeSync } from 'node:fs'
  const log = createLogger()
  for (let at = 0; at < 5000; at++) log.info('x'.repeat(100))
  writeSync(2, 'alive')`

t.test('a full disk does not end a process that logs', async (t) => {
  const full = openSync('/dev/full', 'w')
  t.teardown(() => closeSync(full))
  const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', writer], {
    stdio: ['ignore', full, 'pipe'],
    encoding: 'utf8'
  })
  t.equal(status, 0)
  t.equal(stderr, 'alive')
})

for (const kind of ['socket', 'pipe'] as const) {
  t.test(`a ${kind} that nobody reads does not hold up a process that logs`, async (t) => {
    const child =
      kind === 'socket'
        ? spawn(process.execPath, ['--input-type=module', '-e', writer], { stdio: ['ignore', 'pipe', 'pipe'] })
        : spawn('sh', ['-c', `{ "$0" --input-type=module -e "$1"; } | sleep 60`, process.execPath, writer], {
            stdio: ['ignore', 'ignore', 'pipe'],
            detached: true
          })
    t.teardown(() => {
      if (child.pid && kind === 'pipe') process.kill(-child.pid, 'SIGKILL')
    })
    let said = ''
    child.stderr.on('data', (part) => {
      said += String(part)
    })
    while (said !== 'alive') await sleep(20)
    t.pass('it goes on')
  })
}
