import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { childJson, namespace, runChild, scratch } from './support.js'

t.setTimeout(180_000)

const directory = scratch(t)

// `ip -batch` files: one with `count` routes to lo, one that deletes them.
function routes(count: number, verb = 'add'): string {
  const path = join(directory, `${verb}-${count}`)
  const lines = Array.from(
    { length: count },
    (_, i) => `route ${verb} 10.${i >> 16}.${(i >> 8) & 255}.${i & 255}/32 dev lo`
  )
  writeFileSync(path, `${lines.join('\n')}\n`)
  return JSON.stringify(path)
}

// Messages of a type among joined ones.
const ready = `
const count = (buffer, type) => { let n = 0, at = 0; while (at < buffer.length) { const length = buffer.readUInt32LE(at); if (buffer.readUInt16LE(at + 4) === type) n++; at += (length + 3) & ~3 } if (at !== buffer.length) throw new Error('a message is cut'); return n }
const { spawn } = await import('node:child_process')
const batch = file => new Promise(done => spawn('ip', ['-batch', file], { stdio: 'inherit' }).on('close', done))
const NEWROUTE = 24, GETROUTE = 26, NEWLINK = 16, GETLINK = 18
const ipv4 = Buffer.from([2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
const options = { groups: [1, 7], receiveBuffer: 64 << 20 }
`

t.test('a storm of 20,000 routes arrives whole, or its loss is reported', async (t) => {
  const result = await childJson<{ seen: number; overrun: boolean; batches: number }>(
    t,
    `${ready}
    let seen = 0, overrun = false, batches = 0
    const reader = native.openNetlinkReader(options, (messages, lost) => { batches++; seen += count(messages, NEWROUTE); overrun ||= lost })
    await batch(${routes(20000)})
    for (let i = 0; i < 100 && seen < 20000 && !overrun; i++) await sleep(20)
    reader.close()
    console.log(JSON.stringify({ seen, overrun, batches }))`,
    { namespace: namespace(t, 'storm') }
  )
  t.ok(result.overrun || result.seen === 20000, JSON.stringify(result))
  t.notOk(result.overrun, 'and 64 MB are room enough')
  t.ok(result.batches < 20000, 'events come in batches')
})

t.test('nothing is lost while JavaScript is busy', async (t) => {
  const result = await childJson<object>(
    t,
    `${ready}
    let seen = 0, overrun = false, largest = 0
    const reader = native.openNetlinkReader({ ...options, batchBytes: 100000 }, (messages, lost) => { largest = Math.max(largest, messages.length); seen += count(messages, NEWROUTE); overrun ||= lost })
    execFileSync('ip', ['-batch', ${routes(20000)}])
    for (let i = 0; i < 100 && seen < 20000; i++) await sleep(20)
    reader.close()
    console.log(JSON.stringify({ seen, overrun, bounded: largest <= 100000 }))`,
    { namespace: namespace(t, 'busy') }
  )
  t.same(result, { seen: 20000, overrun: false, bounded: true })
})

t.test('a receive buffer that is too small is reported as an overrun, and events go on after it', async (t) => {
  const result = await childJson<{ overrun: boolean; seen: number; later: boolean }>(
    t,
    `${ready}
    let seen = 0, overrun = false, later = false
    const reader = native.openNetlinkReader({ groups: [1, 7], receiveBuffer: 1 }, (messages, lost) => { seen += count(messages, NEWROUTE); overrun ||= lost; later ||= count(messages, NEWLINK) > 0 })
    for (let i = 0; i < 5 && !overrun; i++) { await batch(${routes(20000)}); await batch(${routes(20000, 'del')}); await sleep(50) }
    for (let i = 0; i < 50 && !later; i++) { execFileSync('ip', ['link', 'set', 'lo', i % 2 ? 'up' : 'down']); await sleep(20) }
    reader.close()
    console.log(JSON.stringify({ overrun, seen, later }))`,
    { namespace: namespace(t, 'tiny') }
  )
  t.match(result, { overrun: true, later: true })
})

t.test('a dump of 50,000 routes is complete, in chunks, before the promise settles', async (t) => {
  const result = await childJson<{
    total: number
    chunks: number
    largest: number
    interrupted: boolean
    turns: number
  }>(
    t,
    `${ready}
    execFileSync('ip', ['-batch', ${routes(50000)}])
    let total = 0, chunks = 0, largest = 0, turns = 0
    const timer = setInterval(() => turns++, 0)
    const { interrupted } = await native.dumpNetlink(GETROUTE, ipv4, messages => { chunks++; largest = Math.max(largest, messages.length); total += count(messages, NEWROUTE) })
    const settled = chunks
    clearInterval(timer)
    await sleep(50)
    console.log(JSON.stringify({ total, chunks, largest, interrupted, turns, late: chunks - settled }))`,
    { namespace: namespace(t, 'dump') }
  )
  t.match(result, { interrupted: false, late: 0 })
  t.ok(result.total >= 50000, `${result.total} routes`)
  t.ok(result.chunks > 5 && result.largest <= 256 * 1024)
})

t.test('a dump that changes under way says that it was interrupted, or is none the wiser but whole', async (t) => {
  const result = await childJson<{ dumps: number; interrupted: number }>(
    t,
    `${ready}
    let interrupted = 0, dumps = 0
    const storm = (async () => { for (let i = 0; i < 300; i++) execFileSync('ip', ['link', 'add', 'v' + i, 'type', 'veth', 'peer', 'name', 'w' + i]) })()
    await storm
    const churn = spawn('sh', ['-c', 'while :; do ip link del v0; ip link add v0 type veth peer name w0; done'], { stdio: 'ignore' })
    for (const end = Date.now() + 8000; Date.now() < end && !interrupted;) { dumps++; if ((await native.dumpNetlink(GETLINK, Buffer.alloc(16), () => {})).interrupted) interrupted++ }
    churn.kill()
    console.log(JSON.stringify({ dumps, interrupted }))`,
    { namespace: namespace(t, 'interrupted') }
  )
  t.ok(result.interrupted > 0, `in ${result.dumps} dumps`)
})

t.test("a refused dump rejects with the kernel's errno and its own words", async (t) => {
  const result = await childJson<object>(
    t,
    `${ready}
    const wrong = Buffer.from(ipv4); wrong[1] = 24
    const error = await native.dumpNetlink(GETROUTE, wrong, () => {}).then(() => null, e => ({ code: e.code, errno: e.errno, syscall: e.syscall, detail: e.detail, message: e.message }))
    console.log(JSON.stringify(error))`,
    { namespace: namespace(t, 'refused') }
  )
  t.match(result, {
    code: 'EINVAL',
    errno: 22,
    syscall: 'recv',
    detail: /Invalid values in header/,
    message: /refused a netlink dump/
  })
})

t.test('an onChunk that throws rejects the promise with its error and ends the dump', async (t) => {
  const result = await childJson<object>(
    t,
    `${ready}
    execFileSync('ip', ['-batch', ${routes(20000)}])
    let calls = 0
    const error = await native.dumpNetlink(GETROUTE, ipv4, () => { calls++; throw new RangeError('enough') }).catch(e => e.name + ' ' + e.message)
    await sleep(50)
    console.log(JSON.stringify({ error, calls }))`,
    { namespace: namespace(t, 'throws') }
  )
  t.same(result, { error: 'RangeError enough', calls: 1 })
})

t.test('a dump of routes rejects as others do', async (t) => {
  const result = await childJson<object>(
    t,
    `${ready}
    const wrong = Buffer.from(ipv4); wrong[1] = 24
    const refused = await native.dumpRoutes(wrong, () => {}).catch(e => e.code)
    const thrown = await native.dumpRoutes(ipv4, () => { throw new RangeError('enough') }).catch(e => e.name + ' ' + e.message)
    const unknown = Buffer.from(ipv4); unknown[0] = 77
    const other = await native.dumpRoutes(unknown, () => {}).then(() => 'taken', e => e.code)
    console.log(JSON.stringify({ refused, thrown, other: typeof other }))`,
    { namespace: namespace(t, 'routes') }
  )
  t.same(result, { refused: 'EINVAL', thrown: 'RangeError enough', other: 'string' })
})

t.test('wrong arguments are TypeErrors', async (t) => {
  const result = await childJson<string[]>(
    t,
    `${ready}
    console.log(JSON.stringify([
      () => native.openNetlinkReader(), () => native.openNetlinkReader({ groups: 1, receiveBuffer: 1 }, () => {}), () => native.openNetlinkReader({ groups: ['x'], receiveBuffer: 1 }, () => {}),
      () => native.openNetlinkReader({ groups: [], receiveBuffer: -1 }, () => {}), () => native.openNetlinkReader(options), () => native.dumpNetlink(1, ipv4, () => {}), () => native.dumpNetlink(26, 5, () => {}), () => native.dumpNetlink(26, ipv4),
      () => native.openNetlinkReader({ groups: [1000], receiveBuffer: 1 }, () => {}),
      () => native.dumpRoutes(5, () => {}), () => native.dumpRoutes(ipv4.subarray(1), () => {}), () => native.dumpRoutes(ipv4), () => native.dumpRoutes(ipv4, () => {}, 0),
    ].map(attempt)))`
  )
  const expected = [
    /options must be an object/,
    /groups must be an array/,
    /groups\[0\] must be/,
    /receiveBuffer must be/,
    /onMessages must be a function/,
    /type must be an integer from 16/,
    /request must be a Buffer/,
    /onChunk must be a function/,
    /EINVAL cannot join netlink group 1000/,
    /dumpRoutes: request must be a Buffer/,
    /dumpRoutes: request must be/,
    /onRoutes must be a function/,
    /events must be an integer from 1/
  ]
  for (const [i, pattern] of expected.entries()) t.match(result[i], pattern)
})

const endings: [string, string, number][] = [
  ['an open reader does not hold the process', 'native.openNetlinkReader(options, () => {})', 0],
  ['a reader may be closed twice', 'const r = native.openNetlinkReader(options, () => {}); r.close(); r.close()', 0],
  [
    'a reader may be closed inside its callback',
    "const r = native.openNetlinkReader(options, () => { r.close(); r.close() }); for (let i = 0; i < 20; i++) { execFileSync('ip', ['link', 'set', 'lo', i % 2 ? 'up' : 'down']); await sleep(5) }",
    0
  ],
  [
    'process.exit() inside the callback ends the process',
    "native.openNetlinkReader(options, () => process.exit(3)); execFileSync('ip', ['link', 'set', 'lo', 'down']); await sleep(2000)",
    3
  ],
  [
    'process.exit() with a reader open and events pouring in',
    'native.openNetlinkReader(options, () => {}); void batch(ROUTES); await sleep(60); process.exit(4)',
    4
  ],
  [
    'a forgotten reader goes on after garbage collection',
    "let n = 0; native.openNetlinkReader(options, () => n++); for (let i = 0; i < 10; i++) { gc(); execFileSync('ip', ['link', 'set', 'lo', i % 2 ? 'up' : 'down']); await sleep(5) } process.exit(n > 5 ? 0 : 1)",
    0
  ],
  [
    'many readers opened and closed',
    'for (let i = 0; i < 50; i++) native.openNetlinkReader(options, () => {}).close()',
    0
  ],
  [
    'process.exit() during a dump',
    'void native.dumpNetlink(GETROUTE, ipv4, () => process.exit(5)); await sleep(2000)',
    5
  ],
  [
    'a worker that ends with a reader and a dump open',
    `
    const code = "const native = require(" + JSON.stringify(addonPath) + "); native.openNetlinkReader({ groups: [1, 7], receiveBuffer: 1 << 20 }, () => {}); native.dumpNetlink(26, Buffer.from([2,0,0,0,0,0,0,0,0,0,0,0]), () => {}); setInterval(() => {}, 1000); require('worker_threads').parentPort.postMessage(1)"
    for (let i = 0; i < 10; i++) { const worker = new Worker(code, { eval: true, execArgv: [] }); await new Promise(done => worker.once('message', done)); void batch(ROUTES); await sleep(i * 3); await worker.terminate() }`,
    0
  ],
  [
    'a worker that is terminated inside the callback',
    `
    const code = "const native = require(" + JSON.stringify(addonPath) + "); native.openNetlinkReader({ groups: [1, 7], receiveBuffer: 1 << 20 }, () => { for (;;) {} }); setInterval(() => {}, 1000); require('worker_threads').parentPort.postMessage(1)"
    for (let i = 0; i < 5; i++) { const worker = new Worker(code, { eval: true, execArgv: [] }); await new Promise(done => worker.once('message', done)); execFileSync('ip', ['link', 'set', 'lo', i % 2 ? 'up' : 'down']); await sleep(50); await worker.terminate() }`,
    0
  ]
]
for (const [i, [title, snippet, code]] of endings.entries()) {
  t.test(title, async (t) => {
    const file = routes(20000)
    const result = await runChild(ready + snippet.replaceAll('ROUTES', file), {
      namespace: namespace(t, `end${i}`),
      flags: ['--expose-gc']
    })
    t.match(
      { ...result, stderr: result.stderr.replace(/^(RTNETLINK|Command failed).*\n/gm, '') },
      { code, signal: null, stderr: '' }
    )
  })
}

t.test('a callback that throws is an uncaught exception, not a crash, and events go on', async (t) => {
  const result = await childJson<string[]>(
    t,
    `${ready}
    const caught = []
    process.on('uncaughtException', error => caught.push(error.message))
    native.openNetlinkReader(options, () => { throw new Error('thrown ' + caught.length) })
    for (let i = 0; caught.length < 2 && i < 100; i++) { execFileSync('ip', ['link', 'set', 'lo', i % 2 ? 'up' : 'down']); await sleep(10) }
    console.log(JSON.stringify(caught.slice(0, 2)))`,
    { namespace: namespace(t, 'uncaught') }
  )
  t.same(result, ['thrown 0', 'thrown 1'])
  const bare = await runChild(
    `${ready} native.openNetlinkReader(options, () => { throw new Error('loose') }); execFileSync('ip', ['link', 'set', 'lo', 'down']); await sleep(3000)`,
    { namespace: namespace(t, 'uncaught2') }
  )
  t.match(bare, { code: 1, signal: null, stderr: /Error: loose/ })
})
