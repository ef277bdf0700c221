// A daemon that hangs, at any moment of an answer.

import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type ServerResponse } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { controlClient } from '../../src/control/client.js'
import { startControlServer } from '../../src/control/server.js'
import { fakeEvent, fakeNode } from './fake.js'

/** Answers with `text` and then no more. */
async function hanging(t: Test, text: string | null, headers: Record<string, string> = {}): Promise<string> {
  const directory = mkdtempSync(join(tmpdir(), 'hr-late-'))
  const path = join(directory, 's')
  const open: ServerResponse[] = []
  const server = createServer((_, response) => {
    open.push(response)
    if (text === null) return
    response.writeHead(200, { 'content-type': 'application/json', ...headers })
    response.flushHeaders()
    if (text !== '') response.write(text)
  })
  await new Promise<void>((resolve) => server.listen(path, resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
    rmSync(directory, { recursive: true })
  })
  return path
}

const late = { code: 'no-answer', message: /did not answer on .* within 0\.2 s/ }

t.test('before it answers', async (t) => {
  const client = controlClient(await hanging(t, null), 200)
  await t.rejects(client.get('/v1/status'), late)
  await t.rejects(client.post('/v1/disable'), late)
  await t.rejects(client.text('/v1/metrics'), late)
  await t.rejects(client.parts('/v1/flows').next(), late)
  await t.rejects(
    client.events(() => {}, new AbortController().signal),
    late,
    'events'
  )
})

t.test('in the middle of an answer', async (t) => {
  const client = controlClient(await hanging(t, '{"flows":[\n'), 200)
  await t.rejects(client.get('/v1/status'), late)
  const parts = client.parts('/v1/flows')
  t.equal((await parts.next()).value, '{"flows":[\n')
  await sleep(400)
  const began = performance.now()
  await t.rejects(parts.next(), late, 'the time of whoever reads is not counted')
  t.ok(performance.now() - began > 150)
})

t.test('events: the daemon gives signs of life, and is taken for dead without', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'hr-beat-'))
  const path = join(directory, 's')
  const node = fakeNode()
  const server = await startControlServer({ path, control: node, beatEvery: 500 })
  t.teardown(async () => {
    await server.close()
    rmSync(directory, { recursive: true })
  })
  const ending = new AbortController()
  const events: unknown[] = []
  const stream = controlClient(path, 200).events((event) => events.push(event), ending.signal)
  await sleep(2500)
  node.emit(fakeEvent)
  while (events.length === 0) await sleep(10)
  t.same(events, [fakeEvent], 'it was listened all the time')
  ending.abort()
  await stream.catch(() => {})

  const silent = await hanging(t, '', { 'hostroute-beat': '50' })
  await t.rejects(
    controlClient(silent).events(() => {}, new AbortController().signal),
    { code: 'no-answer', message: /within 0\.15 s/ }
  )
})
