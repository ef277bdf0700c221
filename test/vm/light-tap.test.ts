// The stand-in for tap: every kind of failure reaches the report and the exit
// status, and what passes with tap passes with it.

import { spawnSync } from 'node:child_process'
import t from 'tap'
import { Parser } from 'tap-parser'

const module = new URL('./light-tap.js', import.meta.url).href

/** Runs a test file with this body; its exit status, its report and what the parser made of that. */
function report(body: string) {
  const text = `import t from ${JSON.stringify(module)}\n${body}`
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', text], {
    encoding: 'utf8',
    timeout: 30_000
  })
  const points = stdout.split('\n').filter((line) => /^ *(not )?ok /.test(line))
  const assertions = Parser.parse(stdout)
  return { status, points, stdout, stderr, parsed: JSON.stringify(assertions) }
}

t.test('what holds is reported as ok, in order, with the plans', async (t) => {
  const { status, stdout, parsed } = report(`
    const order = []
    t.test('one', async t => {
      await new Promise(done => setTimeout(done, 20))
      t.teardown(() => order.push('teardown'))
      t.equal(1, 1); t.same({ a: 1 }, { a: '1' }); t.strictSame([1], [1]); t.match({ a: 'xyz', b: 2 }, { a: /y/ })
      t.notMatch('a', /b/); t.not(1, 2); t.ok(1); t.notOk(0); t.type(new Map(), Map)
      t.throws(() => { throw new Error('word') }, /word/); t.doesNotThrow(() => {})
      await t.rejects(Promise.reject(new Error('word')), { message: 'word' })
      order.push('one')
    })
    t.test('two', t => { order.push('two'); t.test('inner', { timeout: 0 }, t => t.pass('#hash')) })
    t.test('three', t => t.same(order, ['one', 'teardown', 'two']))`)
  t.equal(status, 0, stdout)
  t.match(stdout, /^TAP version 14\n# Subtest: one\n(?: {4}ok \d+ - .*\n){12} {4}1\.\.12\nok 1 - one\n/)
  t.match(stdout, /\n1\.\.3\n$/)
  t.notMatch(parsed, /"tapError":"|"ok":false/)
})

const failures: Record<string, string> = {
  equal: 't.equal(1, 2)',
  same: 't.same({ a: 1 }, { a: 1, b: 2 })',
  strictSame: 't.strictSame({ a: 1 }, { a: "1" })',
  match: 't.match({ a: 1 }, { a: 2 })',
  'match on what is not there': 't.match(undefined, { a: 2 })',
  notMatch: 't.notMatch("ab", /b/)',
  not: 't.not(1, 1)',
  ok: 't.ok(0)',
  notOk: 't.notOk(1)',
  fail: 't.fail("on purpose")',
  type: 't.type([], Map)',
  throws: 't.throws(() => {})',
  'throws something else': 't.throws(() => { throw new Error("this") }, /that/)',
  doesNotThrow: 't.doesNotThrow(() => { throw new Error("this") })',
  rejects: 'await t.rejects(Promise.resolve())',
  'an error in the body': 'throw new Error("this")',
  'a rejection of the body': 'await Promise.reject(new Error("this"))',
  'an error in a teardown': 't.pass(); t.teardown(() => { throw new Error("this") })',
  'an inner test': 't.test("inner", t => t.fail())',
  'an error outside any test': 't.pass(); setTimeout(() => { throw new Error("this") })',
  'a rejection nobody waits for': 't.pass(); Promise.reject(new Error("this"))',
  'a method it lacks': 't.matchSnapshot("x")',
  'no assertion': ''
}

t.test('what fails is told, with an exit status', async (t) => {
  for (const [what, body] of Object.entries(failures)) {
    const { status, points, stdout } = report(`t.test('outer', async t => { ${body} })`)
    t.not(status, 0, what)
    t.ok(
      points.some((line) => /^ *not ok/.test(line)),
      `${what}: ${stdout}`
    )
  }
  const never = report(`t.test('outer', async t => { t.pass(); await new Promise(() => {}) })`)
  t.not(never.status, 0, 'a test that waits for nothing')
})
