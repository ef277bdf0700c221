// What `hostroute guard` said, on disk.

import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { guardFile, readGuardWords, writeGuardWords } from '../../src/life/guard-words.js'

const nothing = { changed: false, mode: null, allowed: [] }

t.test('the mode holds until the configuration has another one; what is over is forgotten', async (t) => {
  const state = join(t.testdir({}), 'state')
  t.strictSame(readGuardWords(state, 'enforce'), nothing)
  const [past, future] = [Date.now() - 1, Date.now() + 60_000]
  const unit = { kind: 'unit', name: 'a.service' } as const
  const program = { kind: 'executable', name: '/usr/sbin/nft' } as const
  writeGuardWords(state, 'enforce', {
    mode: 'audit',
    allowed: [
      { ...unit, until: past },
      { ...program, until: future }
    ]
  })
  t.strictSame(readGuardWords(state, 'enforce'), {
    changed: false,
    mode: 'audit',
    allowed: [{ ...program, until: future }]
  })
  t.match(readGuardWords(state, 'off'), { changed: true, mode: null }, 'the configuration is the later word')
  writeGuardWords(state, 'enforce', nothing)
  t.strictSame(readGuardWords(state, 'enforce'), nothing)
})

t.test('a file that says nothing is told of with its path', async (t) => {
  const state = t.testdir({})
  for (const text of ['', '{', 'null', '{"mode":"audit","allowed":[]}', '{"mode":null,"allowed":[{"kind":"unit"}]}']) {
    writeFileSync(guardFile(state), text)
    t.throws(() => readGuardWords(state, 'enforce'), {
      message: /guard\.json, which .* cannot be read.*configuration decides/s
    })
  }
})

t.test('what cannot be written leaves what was said before', async (t) => {
  const state = t.testdir({})
  writeGuardWords(state, 'enforce', { mode: 'audit', allowed: [] })
  mkdirSync(`${guardFile(state)}.next`)
  t.throws(() => writeGuardWords(state, 'enforce', nothing))
  t.equal(readGuardWords(state, 'enforce').mode, 'audit')
})
