// What one who may only read can hold: connections, streams, memory. Nobody else
// is kept out by it, least of all root.

import { type ChildProcess, spawn } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { NodeControl, PodRow, RouteRow } from '../../src/control/api.js'
import { controlClient } from '../../src/control/client.js'
import type { ServerLimits } from '../../src/control/connections.js'
import { startControlServer } from '../../src/control/server.js'
import { fakeEvent, fakeNode } from './fake.js'

async function start(t: Test, change: Partial<NodeControl>, limits: Partial<ServerLimits> = {}) {
  const directory = mkdtempSync(join(tmpdir(), 'hr-unread-'))
  chmodSync(directory, 0o755)
  const path = join(directory, 'control.sock')
  const node = fakeNode(change)
  const server = await startControlServer({ path, control: node, limits })
  chmodSync(path, 0o666)
  t.teardown(async () => {
    await server.close()
    rmSync(directory, { recursive: true, force: true })
  })
  return { path, node, client: controlClient(path) }
}

const readerCode = `
const net = require('node:net')
const [path, what, count] = process.argv.slice(1)
const state = { open: 0, closed: 0, heads: [] }
const say = () => console.log(JSON.stringify(state))
for (let at = 0; at < Number(count); at++) {
  const socket = net.connect(path, () => {
    state.open++
    socket.write('GET ' + what + ' HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n')
    say()
  })
  socket.once('data', (data) => { state.heads.push(String(data).split('\\r\\n')[0]); say(); socket.pause() })
  socket.on('error', () => {})
  socket.once('close', () => { state.closed++; say() })
}
`

interface ReaderState {
  open: number
  closed: number
  /** First lines of answers. */
  heads: string[]
}

/** Somebody who asks on many connections at once and takes only the first bytes of each answer. */
function reader(t: Test, path: string, what: string, count: number, uid = 65_534) {
  const state: ReaderState = { open: 0, closed: 0, heads: [] }
  const child: ChildProcess = spawn(
    'setpriv',
    [
      `--reuid=${uid}`,
      `--regid=${uid}`,
      '--clear-groups',
      process.execPath,
      '-e',
      readerCode,
      path,
      what,
      String(count)
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] }
  )
  let rest = ''
  child.stdout?.on('data', (chunk) => {
    const lines = (rest + String(chunk)).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) Object.assign(state, JSON.parse(line))
  })
  const gone = new Promise((resolve) => child.once('exit', resolve))
  const stop = async () => {
    child.kill('SIGKILL')
    await gone
  }
  t.teardown(stop)
  const answered = (status: number) => state.heads.filter((head) => head.includes(` ${status} `)).length
  return { state, answered, stop }
}

async function until(done: () => boolean): Promise<void> {
  while (!done()) await sleep(20)
}

const route: RouteRow = { prefix: '10.0.0.0/24', family: 4, class: null, action: 'stack', why: 'blackhole', legs: [] }

function manyRoutes() {
  const made = { rows: 0, running: 0 }
  const routes: NodeControl['routes'] = async function* () {
    made.running++
    try {
      for (let part = 0; part < 400; part++) {
        made.rows += 256
        yield Array.from({ length: 256 }, () => route)
      }
    } finally {
      made.running--
    }
    return { classes: [], total: 102_400 }
  }
  return { made, routes }
}

t.test('150 connections of a reader that takes nothing cost little, and keep nobody out', async (t) => {
  const { made, routes } = manyRoutes()
  const { client, path } = await start(t, { routes })
  const slow = reader(t, path, '/v1/routes?limit=100000', 150)
  await until(() => slow.answered(503) >= 60 && slow.answered(200) === 4)
  await until(() => slow.state.closed >= 80)
  t.equal(slow.answered(200), 4, 'one user gets four lists at once')
  t.ok(made.rows < 4 * 8000, `${made.rows} rows were made`)
  t.match((await client.get<{ pid: number }>('/v1/status')).value, { pid: 4711 })
  t.match((await client.post('/v1/disable')).value, { done: true })
  const other = reader(t, path, '/v1/routes?limit=100000', 1, 65_533)
  await until(() => other.state.heads.length === 1)
  t.equal(other.answered(200), 1, 'another reader is answered')
})

t.test('530 connections of several readers leave root its own', async (t) => {
  const { client, path, node } = await start(t, {})
  const users = [65_534, 65_533, 65_532, 65_531, 65_530]
  const readers = users.map((uid) => reader(t, path, '/v1/events', 106, uid))
  await until(() => readers.every(({ state }) => state.open === 106 && state.closed >= 42))
  t.equal(
    readers.reduce((sum, { answered }) => sum + answered(200), 0),
    12,
    'monitors of all readers together'
  )
  t.match((await client.get<{ pid: number }>('/v1/status')).value, { pid: 4711 })
  t.match((await client.post('/v1/disable')).value, { done: true })
  const controller = new AbortController()
  const monitoring = client.events(() => controller.abort(), controller.signal).catch(() => undefined)
  await until(() => node.listeners === 13)
  node.emit(fakeEvent)
  await monitoring
})

t.test('an answer of which nobody takes anything is ended, one that is taken slowly is not', async (t) => {
  const { made, routes } = manyRoutes()
  const { client, path, node } = await start(t, { routes }, { stalled: 400 })
  const slow = reader(t, path, '/v1/routes?limit=100000', 4)
  reader(t, path, '/v1/events', 2)
  await until(() => slow.state.heads.length === 4 && node.listeners === 2)
  const parts = client.parts('/v1/routes', { limit: 100_000 })
  let bytes = 0
  for (let at = 0; at < 12; at++) {
    bytes += String((await parts.next()).value).length
    await sleep(100)
  }
  for await (const part of parts) bytes += part.length
  t.ok(bytes > 102_400 * 80, 'read to its end')
  await until(() => made.running === 0)
  t.equal(node.listeners, 2, 'a monitor to which nothing is told goes on')
  for (let i = 0; i < 20_000; i++) node.emit(fakeEvent)
  await until(() => node.listeners === 0)
})

t.test('answers that nobody takes are bounded together', async (t) => {
  const pod = fakeNode().pods() as PodRow[]
  const many = Array.from({ length: 5000 }, (_, at) => ({ ...(pod[0] as PodRow), ifindex: at }))
  const { client, path } = await start(t, { pods: () => many }, { unsent: 2_000_000 })
  const slow = reader(t, path, '/v1/pods', 20)
  await until(() => slow.state.heads.length === 20)
  t.ok(slow.answered(200) <= 6, `${slow.answered(200)} of 20 answers of ${JSON.stringify(many).length} bytes were made`)
  t.ok(slow.answered(200) > 0)
  t.equal((await client.get<PodRow[]>('/v1/pods')).value.length, 5000, 'root is answered')
  await slow.stop()
  const next = reader(t, path, '/v1/status', 1)
  await until(() => next.state.heads.length === 1)
  t.equal(next.answered(200), 1)
})

t.test('one request at a time on a connection', async (t) => {
  const { path, client, node } = await start(t, {})
  const line = '/v1/events HTTP/1.1\r\nhost: x\r\n\r\nGET '
  const greedy = reader(t, path, `${line.repeat(20)}/v1/status`, 1)
  await until(() => greedy.state.heads.length === 1)
  t.equal(greedy.answered(200), 1)
  t.match((await client.get<{ pid: number }>('/v1/status')).value, { pid: 4711 })
  t.equal(node.listeners, 1)
})
