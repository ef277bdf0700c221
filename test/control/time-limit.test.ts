// A daemon that hangs, at any moment of an answer.

import { createServer, type ServerResponse } from 'node:http'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { controlClient } from '../../src/control/client.js'

/** Answers with `text` and then no more. */
async function hanging(t: Test, text: string | null): Promise<string> {
  const path = join(t.testdir({}), 's')
  const open: ServerResponse[] = []
  const server = createServer((_, response) => {
    open.push(response)
    if (text === null) return
    response.writeHead(200, { 'content-type': 'application/json' })
    response.write(text)
  })
  await new Promise<void>((resolve) => server.listen(path, resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
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
