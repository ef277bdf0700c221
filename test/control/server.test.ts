import { execFile, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import { chmodSync, existsSync, lstatSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { NodeControl, Status } from '../../src/control/api.js'
import { controlClient } from '../../src/control/client.js'
import type { FailureCode } from '../../src/control/failure.js'
import type { EventRow } from '../../src/control/packet-api.js'
import { type ControlServer, startControlServer } from '../../src/control/server.js'
import { lockRunDirectory } from '../../src/life/preflight.js'
import { fakeDrops, fakeEvent, fakeNode, fakeRow, fakeStatus } from './fake.js'

async function start(t: Test, change: Partial<NodeControl> = {}) {
  const directory = mkdtempSync(join(tmpdir(), 'hr-control-'))
  chmodSync(directory, 0o755)
  const path = join(directory, 'run', 'control.sock')
  const node = fakeNode(change)
  const errors: string[] = []
  const server: ControlServer = await startControlServer({ path, control: node, onError: (text) => errors.push(text) })
  t.teardown(async () => {
    await server.close()
    rmSync(directory, { recursive: true, force: true })
  })
  return { path, node, server, errors, client: controlClient(path) }
}

/** Sends bytes as they are; resolves with all that comes back until the connection ends. */
function raw(path: string, data: string | Buffer, patience = 3000): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(path)
    let text = ''
    const done = () => resolve(text)
    socket.setTimeout(patience, () => socket.destroy())
    socket.on('data', (chunk) => {
      text += chunk.toString('latin1')
    })
    socket.on('error', done)
    socket.on('close', done)
    socket.write(data)
  })
}

/** Runs curl as somebody else. */
function curlAs(uid: number, args: string[]): Promise<string> {
  return new Promise((resolve) => {
    execFile(
      'setpriv',
      [`--reuid=${uid}`, `--regid=${uid}`, '--clear-groups', 'curl', '-sS', '-m', '5', ...args],
      (_error, stdout, stderr) => resolve(stdout + stderr)
    )
  })
}

t.test('every answer comes as the node gave it', async (t) => {
  const status = fakeStatus()
  const { client, node } = await start(t, { status: () => status })
  t.same((await client.get<Status>('/v1/status')).value, status)
  t.same((await client.get('/v1/drops')).value, fakeDrops)
  t.same((await client.get('/v1/masquerade')).value, status.masquerade)
  await client.get('/v1/routes', { family: 4, within: '10.0.0.0/8', limit: 5 })
  t.equal(node.calls.at(-1), 'routes {"family":4,"within":"10.0.0.0/8","limit":5}')
  await client.get('/v1/flows', { verdict: 'snat', pod: '10.1.0.2' })
  t.equal(node.calls.at(-1), 'flows {"verdict":"snat","pod":"10.1.0.2"} 1000')
  t.match((await client.get('/v1/routes/get', { address: 'FD00:0::1' })).value, { address: 'fd00::1' })
  t.match(await client.text('/v1/metrics'), /^# HELP hostroute_info /)
  await client.post('/v1/enable', { confirmWithin: 60 })
  t.equal(node.calls.at(-1), 'enable {"confirmWithin":60}')
  await client.post('/v1/verify', { repair: true })
  t.equal(node.calls.at(-1), 'verify true')
})

t.test('wrong requests get a sentence', async (t) => {
  const { client, path } = await start(t)
  const refused = (work: Promise<unknown>, code: FailureCode, message: RegExp) =>
    t.rejects(work, { name: 'ControlError', code, message })
  await refused(client.get('/v1/nothing'), 'no-such-path', /there is no \/v1\/nothing/)
  await refused(client.get('/__proto__'), 'no-such-path', /there is no/)
  await refused(client.get('/v1/enable'), 'wrong-method', /takes POST, not GET/)
  await refused(client.post('/v1/status'), 'wrong-method', /takes GET, not POST/)
  await refused(client.get('/v1/routes', { famly: 4 }), 'bad-request', /famly is not known here/)
  await refused(client.get('/v1/routes', { limit: 0 }), 'bad-request', /limit/)
  await refused(
    client.get('/v1/routes/get', { address: 'x' }),
    'bad-request',
    /address: is not an IPv4 or IPv6 address/
  )
  await refused(client.get('/v1/routes/get'), 'bad-request', /address/)
  await refused(client.post('/v1/enable', { confirmWithin: 'soon' }), 'bad-request', /confirmWithin/)
  await refused(client.post('/v1/enable', { confirmwithin: 60 }), 'bad-request', /confirmwithin is not known/)
  t.match(
    await raw(path, 'POST /v1/enable HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 5\r\n\r\n{nope'),
    /400 Bad Request[\s\S]*not JSON/
  )
  const missing = JSON.parse((await raw(path, 'GET /x HTTP/1.0\r\n\r\n')).split('\r\n\r\n')[1] ?? '') as {
    paths: string[]
  }
  t.ok(missing.paths.includes('/v1/status') && missing.paths.includes('/v1/events'), 'a 404 lists what there is')
})

t.test('a failure inside the daemon is an answer, not the end', async (t) => {
  const { client, errors } = await start(t, {
    pods: () => {
      throw new Error('the map is gone')
    }
  })
  await t.rejects(client.get('/v1/pods'), { code: 'failed', message: 'the map is gone' })
  t.same(errors, ['GET /v1/pods failed'])
  t.equal((await client.get<Status>('/v1/status')).value.pid, 4711)
})

t.test('garbage, half requests, endless headers and huge bodies hurt nobody', async (t) => {
  const { client, path, node } = await start(t)
  t.match(await raw(path, 'hello\r\n\r\n'), /^HTTP\/1\.1 400/)
  t.match(await raw(path, randomBytes(100_000)), /^(HTTP\/1\.1 4|$)/)
  t.match(await raw(path, `GET /v1/status HTTP/1.1\r\nhost: x\r\n${'a: b\r\n'.repeat(5000)}\r\n`), /^HTTP\/1\.1 431/)
  t.match(await raw(path, `GET /${'x'.repeat(20_000)} HTTP/1.1\r\n\r\n`), /^HTTP\/1\.1 431/)
  t.match(await raw(path, 'POST /v1/disable HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999\r\n\r\n'), /^HTTP\/1\.1 413/)
  const chunk = `2000\r\n${'x'.repeat(0x2000)}\r\n`
  t.match(
    await raw(path, `POST /v1/disable HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n${chunk.repeat(9)}`),
    /^HTTP\/1\.1 413/
  )
  t.match(await raw(path, 'POST /v1/disable HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc', 300), /^$/)
  t.match(await raw(path, 'GET /v1/st', 200), /^$/)
  t.match(await raw(path, 'GET http://[ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n'), /^HTTP\/1\.1 400/)
  t.match(
    await raw(path, 'GET /v1/status HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n', 500),
    /^(HTTP\/1\.1 200|$)/
  )
  t.match(await raw(path, 'CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n', 500), /^(HTTP\/1\.1 4|$)/)
  t.notOk(node.calls.includes('disable'), 'nothing was done by halves')
  t.equal((await client.get<Status>('/v1/status')).value.mode, 'enabled')
})

t.test('a request that never ends is cut off', async (t) => {
  const { path } = await start(t)
  const begun = performance.now()
  t.match(await raw(path, 'GET /v1/status HTTP/1.1\r\nhost: x\r\n', 40_000), /^HTTP\/1\.1 408/)
  t.ok(performance.now() - begun < 15_000)
})

t.test('200 requests at once are all answered', async (t) => {
  const { client } = await start(t)
  const answers = await Promise.all(Array.from({ length: 200 }, () => client.get<Status>('/v1/status')))
  t.equal(answers.filter(({ value }) => value.pid === 4711).length, 200)
})

t.test('another user may read when the file lets him, and change nothing', async (t) => {
  const { path, node } = await start(t)
  t.equal(lstatSync(path).mode & 0o007, 0, 'others have no access')
  t.match(
    await curlAs(65534, ['--unix-socket', path, 'http://x/v1/status']),
    /Permission denied|Couldn.t connect|Failed to connect|Could not connect/i
  )
  chmodSync(path, 0o666)
  t.match(await curlAs(65534, ['--unix-socket', path, 'http://x/v1/status']), /"pid":4711/)
  for (const what of ['enable', 'disable', 'confirm', 'reload', 'verify']) {
    t.match(
      await curlAs(65534, ['--unix-socket', path, '-X', 'POST', `http://x/v1/${what}`]),
      /changing the node needs root/,
      what
    )
  }
  t.same(node.calls, [])
  t.match(await curlAs(0, ['--unix-socket', path, '-X', 'POST', 'http://x/v1/disable']), /"done":true/)
})

t.test('events stream to several readers until they go', async (t) => {
  const { client, node } = await start(t)
  const seen: EventRow[][] = [[], []]
  const stops = seen.map((list) => {
    const controller = new AbortController()
    return { controller, done: client.events((event) => list.push(event), controller.signal).catch(() => undefined) }
  })
  while (node.listeners < 2) await sleep(10)
  node.emit(fakeEvent)
  node.emit({ ...fakeEvent, length: 75 } as EventRow)
  while (seen.some((list) => list.length < 2)) await sleep(10)
  t.same(seen[0], [fakeEvent, { ...fakeEvent, length: 75 } as EventRow])
  for (const { controller, done } of stops) {
    controller.abort()
    await done
  }
  for (let i = 0; i < 100 && node.listeners > 0; i++) await sleep(10)
  t.equal(node.listeners, 0, 'nobody is listened for any more')
})

t.test('a reader that does not read loses events and is told how many', async (t) => {
  const { path, node } = await start(t)
  const socket = connect(path)
  t.teardown(() => socket.destroy())
  socket.pause()
  socket.write('GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n')
  while (node.listeners < 1) await sleep(10)
  const before = process.memoryUsage().rss
  const total = 200_000
  for (let i = 0; i < total; i++) node.emit(fakeEvent)
  t.ok(process.memoryUsage().rss - before < 200 * 1024 * 1024, 'memory is bounded')
  let text = ''
  socket.on('data', (chunk) => {
    text += chunk.toString()
  })
  socket.resume()
  while (!text.includes('"lost":1') && !/"lost":[2-9]/.test(text)) {
    await sleep(20)
    node.emit(fakeEvent)
  }
  const lost = Number(/"lost":([1-9]\d*)/.exec(text)?.[1])
  t.ok(lost > 1000 && lost <= total, `${lost} lost`)
})

t.test('events of all packets are for root', async (t) => {
  const { path, node, client } = await start(t)
  chmodSync(path, 0o666)
  const url = (query: string) => ['--unix-socket', path, `http://x/v1/events${query}`]
  t.match(await curlAs(65534, url('?all=true')), /"code":"not-permitted"/)
  t.match(await curlAs(65534, url('?al=true')), /al is not known here/)
  t.same(node.calls, [])
  const controller = new AbortController()
  const done = client.events(() => undefined, controller.signal, true).catch(() => undefined)
  while (node.listeners < 1) await sleep(10)
  t.same(node.calls, ['events of all packets'])
  controller.abort()
  await done
})

t.test('at most 16 monitors', async (t) => {
  const { client, node } = await start(t)
  const controller = new AbortController()
  setMaxListeners(100, controller.signal)
  for (let i = 0; i < 16; i++) void client.events(() => undefined, controller.signal).catch(() => undefined)
  while (node.listeners < 16) await sleep(10)
  await t.rejects(
    client.events(() => undefined, controller.signal),
    { code: 'busy', message: /16 monitors/ }
  )
  controller.abort()
})

t.test('[L7] the socket of a dead daemon is replaced, that of a live one is not', async (t) => {
  const { path, client } = await start(t)
  await t.rejects(startControlServer({ path, control: fakeNode() }), {
    message: `another hostrouted answers on ${path}: stop it first, or choose another path with --socket`
  })
  t.equal((await client.get<Status>('/v1/status')).value.pid, 4711, 'the live one still answers')

  const stale = join(mkdtempSync(join(tmpdir(), 'hr-stale-')), 'control.sock')
  const child = spawn(
    process.execPath,
    ['-e', `require('node:net').createServer().listen(${JSON.stringify(stale)}, () => console.log('up'))`],
    { stdio: ['ignore', 'pipe', 'inherit'] }
  )
  await new Promise((resolve) => child.stdout.once('data', resolve))
  child.kill('SIGKILL')
  await new Promise((resolve) => child.once('exit', resolve))
  t.ok(existsSync(stale))
  await t.rejects(controlClient(stale).get('/v1/status'), {
    message: /hostrouted is not running: nobody answers on .*systemctl start hostrouted/
  })
  const server = await startControlServer({ path: stale, control: fakeNode() })
  t.equal((await controlClient(stale).get<Status>('/v1/status')).value.pid, 4711)
  await server.close()
  t.notOk(existsSync(stale), 'nothing is left behind')

  writeFileSync(stale, 'precious')
  await t.rejects(startControlServer({ path: stale, control: fakeNode() }), { message: /is not a socket/ })
  t.ok(existsSync(stale))
})

t.test(
  '[L7] a socket that somebody removes or replaces is made anew, and the command says that the daemon runs',
  async (t) => {
    const directory = mkdtempSync(join(tmpdir(), 'hr-removed-'))
    const path = join(directory, 'control.sock')
    const errors: unknown[] = []
    const lock = lockRunDirectory(directory)
    const server = await startControlServer({
      path,
      control: fakeNode(),
      lookEvery: 300,
      onError: (_text, error) => errors.push((error as Error).message)
    })
    t.teardown(() => rmSync(directory, { recursive: true, force: true }))
    const client = controlClient(path)
    const answers = () => client.get<Status>('/v1/status').then(({ value }) => value.pid === 4711)
    const answersAgain = async () => {
      while (!(await answers().catch(() => false))) await sleep(50)
    }
    for (let time = 1; time <= 2; time++) {
      rmSync(path)
      await t.rejects(answers(), {
        code: 'no-answer',
        message: `hostrouted runs (process ${process.pid}), but there is no`
      })
      await answersAgain()
      t.same(errors, Array(time).fill(`${path} was removed or replaced: listening there again`))
    }
    const child = spawn(process.execPath, [
      '-e',
      `require('node:fs').unlinkSync(process.argv[1]); require('node:net').createServer().listen(process.argv[1])`,
      path
    ])
    const { ino } = lstatSync(path)
    while (lstatSync(path, { throwIfNoEntry: false })?.ino === ino) await sleep(5)
    child.kill('SIGKILL')
    await answersAgain()
    rmSync(path)
    writeFileSync(path, 'precious')
    while (!String(errors.at(-1)).includes('is not a socket')) await sleep(20)
    const told = errors.length
    await sleep(700)
    t.equal(errors.length, told, 'told once')
    t.ok(existsSync(path))
    rmSync(path)
    await answersAgain()
    await server.close()
    t.notOk(existsSync(path))
    lock.close()
    await t.rejects(answers(), { code: 'not-running', message: /is not running: there is no socket/ })
  }
)

t.test('closing ends streams and idle connections', async (t) => {
  const { server, client, node } = await start(t)
  const stream = client.events(() => undefined, new AbortController().signal)
  while (node.listeners < 1) await sleep(10)
  const begun = performance.now()
  await server.close()
  await stream
  t.ok(performance.now() - begun < 2000)
})

const row = (at: number) => ({ ...fakeRow, podPort: at % 65_536 })

t.test('a long list is sent as it comes, at the pace of the reader', async (t) => {
  let made = 0
  let over = false
  const { client } = await start(t, {
    async *flows() {
      try {
        for (; made < 400_000; made += 200) yield Array.from({ length: 200 }, (_, at) => row(made + at))
        return { total: made }
      } finally {
        over = true
      }
    }
  })
  const parts = client.parts('/v1/flows', { limit: 'all' })
  t.match((await parts.next()).value, /^\{"flows":\[\n/)
  await sleep(300)
  t.ok(made < 20_000, `${made} rows were made for a reader that has taken one part`)
  t.same((await client.get('/v1/pods')).value, fakeNode().pods(), 'others are answered meanwhile')
  let last = ''
  let bytes = 0
  for await (const part of parts) {
    bytes += part.length
    last = (last + part).slice(-200)
  }
  t.ok(bytes > 400_000 * 100)
  t.match(last, /\n\],"total":400000\}\n$/)
  t.ok(over)
})

t.test('whoever goes away in the middle of a list ends it, and only so many are sent at once', async (t) => {
  const running = new Set<object>()
  const { client } = await start(t, {
    async *flows() {
      const one = {}
      running.add(one)
      try {
        for (;;) yield Array.from({ length: 200 }, (_, at) => row(at))
      } finally {
        running.delete(one)
      }
    }
  })
  const readers = Array.from({ length: 16 }, () => client.parts('/v1/flows'))
  for (const reader of readers) await reader.next()
  t.equal(running.size, 16)
  await t.rejects(client.get('/v1/flows'), { code: 'busy', message: /16 lists are being sent already/ })
  for (const reader of readers) await reader.return(undefined)
  for (let i = 0; i < 100 && running.size > 0; i++) await sleep(20)
  t.equal(running.size, 0)
})

t.test('a list that fails is an error, or breaks off', async (t) => {
  let after = 0
  const { client, errors } = await start(t, {
    async *flows() {
      for (let part = 0; part < after; part++) yield Array.from({ length: 200 }, (_, at) => row(at))
      throw new Error('the map is gone')
    }
  })
  await t.rejects(client.get('/v1/flows'), { code: 'failed', message: /the map is gone/ })
  after = 3
  await t.rejects(client.get('/v1/flows'), { status: null, message: /in the middle of its answer/ })
  t.equal(errors.length, 2)
  t.same((await client.get('/v1/pods')).value, fakeNode().pods())
})

t.test('flows are deleted by filters, by root only, and never by mistake', async (t) => {
  const { client, path, node } = await start(t)
  const refused = (body: object, message: RegExp) =>
    t.rejects(client.post('/v1/flows/delete', body), { code: 'bad-request', message })
  await refused({}, /say which flows/)
  await refused({ verdict: 'snat' }, /say which flows/)
  await refused({ all: true, pod: '10.1.0.2' }, /say which flows/)
  await refused({ idle: 0 }, /say which flows/)
  await refused({ olderThan: 0, idle: 0, verdict: 'snat' }, /say which flows/)
  await refused({ all: true, idle: 0 }, /say which flows/)
  await refused({ pod: '10.1.0.2', protocol: 'udp' }, /protocol is not known here/)
  await refused({ remote: '10.0.0.1' }, /remote: is not a prefix/)
  await refused({ idle: -1 }, /idle/)
  await refused({ olderThan: '10m' }, /olderThan/)
  await client.post('/v1/flows/delete', { all: true, dryRun: true })
  t.equal(node.calls.at(-1), 'deleteFlows {} true 0')
  chmodSync(path, 0o666)
  const url = 'http://localhost/v1/flows/delete'
  t.match(await curlAs(65534, ['--unix-socket', path, '-d', '{"all":true}', url]), /needs root/)
  t.equal(node.calls.length, 1)
})
