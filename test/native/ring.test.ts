import t from 'tap'
import { childJson, runChild, scratch, standin } from './support.js'

const objectFile = JSON.stringify(standin(scratch(t)))
const ready = `
const object = native.loadObject({ objectFile: ${objectFile} })
const emit = count => { const context = Buffer.alloc(8); context.writeUInt32LE(count); return object.testRun('emit', { context }).context.readUInt32LE(4) }
`

t.test('records arrive in order, each in a buffer of its own', async (t) => {
  const result = await childJson<object>(
    t,
    `${ready}
    const seen = []
    const reader = native.readRing(object.map('records'), records => { for (const record of records) seen.push(Number(record.readBigUInt64LE())) })
    const sent = emit(1000)
    for (let i = 0; i < 100 && seen.length < sent; i++) await sleep(10)
    reader.close()
    console.log(JSON.stringify({ sent, seen: seen.length, ordered: seen.every((n, i) => n === i) }))`
  )
  t.same(result, { sent: 1000, seen: 1000, ordered: true })
})

t.test('while JavaScript is busy the ring fills up, memory does not, and reading goes on afterwards', async (t) => {
  const result = await childJson<{ sent: number; seen: number; later: boolean }>(
    t,
    `${ready}
    let seen = 0
    const reader = native.readRing(object.map('records'), records => { seen += records.length })
    let sent = 0, last = 0
    for (let i = 0; i < 3000; i++) sent += last = emit(1000) // JavaScript does not go round its loop here
    for (let i = 0; i < 200 && seen < sent; i++) await sleep(10)
    const before = seen
    emit(10)
    for (let i = 0; i < 100 && seen < before + 10; i++) await sleep(10)
    reader.close()
    console.log(JSON.stringify({ sent, seen: before, full: last < 1000, later: seen === before + 10 }))`
  )
  t.match(result, { later: true, full: true })
  t.equal(result.seen, result.sent)
})

t.test('only an open ring buffer can be read', async (t) => {
  const result = await childJson<string[]>(
    t,
    `${ready}
    const closed = object.map('records'); closed.close()
    const forged = Object.create(Object.getPrototypeOf(closed))
    console.log(JSON.stringify([() => native.readRing(object.map('rows'), () => {}), () => native.readRing(closed, () => {}), () => native.readRing({}, () => {}), () => native.readRing(object, () => {}), () => native.readRing(forged, () => {}), () => native.readRing(object.map('records'))].map(attempt)))`
  )
  const expected = [
    /map rows is no ring buffer/,
    /ERR_CLOSED the BPF map records is closed/,
    /must be a BpfMap/,
    /must be a BpfMap/,
    /must be a BpfMap/,
    /onRecords must be a function/
  ]
  for (const [i, pattern] of expected.entries()) t.match(result[i], pattern)
})

const endings: [string, string][] = [
  ['an open ring reader does not hold the process', "native.readRing(object.map('records'), () => {}); emit(10)"],
  [
    'a ring reader outlives its map and its object',
    "const map = object.map('records'); let n = 0; const reader = native.readRing(map, r => n += r.length); emit(10); map.close(); object.close(); for (let i = 0; i < 50 && n < 10; i++) await sleep(10); reader.close(); reader.close(); if (n !== 10) throw new Error('lost ' + n)"
  ],
  [
    'a ring reader may be closed inside its callback',
    "const reader = native.readRing(object.map('records'), () => { reader.close(); object.close() }); emit(10); await sleep(50)"
  ],
  [
    'objects, maps and readers may be forgotten',
    'for (let i = 0; i < 30; i++) { const o = native.loadObject({ objectFile: ' +
      objectFile +
      " }); o.map('rows'); native.readRing(o.map('records'), () => {}).close(); gc() } await sleep(10); gc()"
  ],
  [
    'classes of the addon cannot be made by hand',
    "const Map = object.map('rows').constructor; for (const made of [() => new Map().lookup(Buffer.alloc(4)), () => new object.constructor().readControl(), () => Map(), () => new (class extends Map {})().dump()]) { const m = String(attempt(made)); if (!/is closed|cannot be invoked|constructor/i.test(m)) throw new Error(m) }"
  ],
  [
    'a worker that ends with objects and a ring reader open',
    `
    const code = "const native = require(" + JSON.stringify(addonPath) + "); const o = native.loadObject({ objectFile: " + JSON.stringify(${objectFile}) + " }); native.readRing(o.map('records'), () => {}); const c = Buffer.alloc(8); c.writeUInt32LE(1000); setInterval(() => o.testRun('emit', { context: c }), 0); require('worker_threads').parentPort.postMessage(1)"
    for (let i = 0; i < 10; i++) { const worker = new Worker(code, { eval: true, execArgv: [] }); worker.on('error', e => console.error(e)); await new Promise(done => worker.once('message', done)); await sleep(i * 3); await worker.terminate() }`
  ]
]
for (const [title, snippet] of endings) {
  t.test(title, async (t) => {
    t.match(await runChild(ready + snippet, { flags: ['--expose-gc'] }), { code: 0, signal: null, stderr: '' })
  })
}
