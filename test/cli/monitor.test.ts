import { execFile, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { startControlServer } from '../../src/control/server.js'
import { fakeEvent, fakeNode } from '../control/fake.js'
import { command, type Outcome, run, start } from './run.js'

t.test('monitor prints a line per event, and Ctrl-C ends it cleanly', async (t) => {
  const { node, socket } = await start(t)
  const child = spawn(process.execPath, [command, 'monitor', '--drops', '--socket', socket], { env: { TZ: 'UTC' } })
  let out = ''
  child.stdout.on('data', (chunk) => {
    out += String(chunk)
  })
  const ended = new Promise<number | null>((resolve) => child.once('exit', resolve))
  while (node.listeners < 1) await sleep(20)
  node.emit({ ...fakeEvent, class: 'forwarded', reason: 'to-pod' } as typeof fakeEvent)
  node.emit({ ...fakeEvent, lost: 3 })
  while (!out.includes('74 B')) await sleep(20)
  child.kill('SIGINT')
  t.equal(await ended, 0)
  t.equal(
    out,
    '(3 events lost here)\n03:04:05.678 dropped   vetha → ?  10.9.9.9:1234 → 203.0.113.7:443 tcp  drop-spoof  74 B\n'
  )
  for (let i = 0; i < 100 && node.listeners > 0; i++) await sleep(20)
  t.equal(node.listeners, 0)
})

t.test('monitor ends with 1 when the daemon goes', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'hr-cli-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const socket = join(directory, 'control.sock')
  const node = fakeNode()
  const server = await startControlServer({ path: socket, control: node })
  const outcome = run(['monitor', '--json', '--socket', socket])
  while (node.listeners < 1) await sleep(20)
  node.emit(fakeEvent)
  await server.close()
  const { code, out, err } = await outcome
  t.match({ code, out }, { code: 1, out: `${JSON.stringify(fakeEvent)}\n` })
  t.same(JSON.parse(err), { error: 'hostrouted has ended', code: 'broken-off' })
})

t.test('colours on a terminal only, and not with NO_COLOR or --no-color', async (t) => {
  const { socket, ask } = await start(t)
  const onTerminal = (more: string, env: Record<string, string> = {}) =>
    new Promise<string>((resolve) => {
      const line = `${process.execPath} ${command} pods --socket ${socket} ${more}`
      execFile(
        'script',
        ['-qec', line, '/dev/null'],
        { env: { PATH: process.env['PATH'], TERM: 'xterm', ...env } },
        (_error, out) => resolve(out)
      )
    })
  t.match(await onTerminal(''), '\x1b[32mready\x1b[0m')
  t.notMatch(await onTerminal('', { NO_COLOR: '1' }), '\x1b')
  t.notMatch(await onTerminal('--no-color'), '\x1b')
  t.notMatch((await ask('pods')).out, '\x1b')
})

t.test('output into a pipe that closes early is no error', async (t) => {
  const rows = Array.from({ length: 20_000 }, (_, i) => ({ ...fakeRoute, prefix: `10.${i >> 8}.${i & 255}.0/24` }))
  const { socket } = await start(t, {
    async *routes() {
      yield rows
      return { classes: [], total: rows.length }
    }
  })
  const line = `set -o pipefail; ${process.execPath} ${command} routes --socket ${socket} | head -n 1`
  const { code, err } = await new Promise<Outcome>((resolve) => {
    execFile('bash', ['-c', line], (error, out, err) => resolve({ code: error ? Number(error.code) : 0, out, err }))
  })
  t.equal(code, 0)
  t.equal(err, '')
})

const fakeRoute = { prefix: '', family: 4 as const, class: null, action: 'stack' as const, why: 'blackhole', legs: [] }
