import { readFileSync } from 'node:fs'
import t from 'tap'
import { explainReason, knownReasons } from '../../src/cli/reasons.js'

t.test('every reason of the programs has words, and no others do', async (t) => {
  const header = readFileSync(new URL('../../../../bpf/types.h', import.meta.url), 'utf8')
  const codes = [...(/enum reason \{([^}]*)\}/.exec(header)?.[1] ?? '').matchAll(/^\s*REASON_(\w+)/gm)].map((match) =>
    (match[1] ?? '').toLowerCase().replaceAll('_', '-')
  )
  t.ok(codes.length > 20)
  t.same(
    knownReasons(),
    codes.filter((code) => code !== 'max')
  )
  for (const code of codes.filter((code) => code.startsWith('drop-')))
    t.not(explainReason(code).remedy, '', `${code} has a remedy`)
  t.same(explainReason('constructor'), { words: 'constructor', remedy: '' })
})
