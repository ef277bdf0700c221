import { readFileSync } from 'node:fs'
import t from 'tap'
import { explainReason, REASONS } from '../../src/reasons.js'

t.test('every reason of the programs has words, and no others do', async (t) => {
  const header = readFileSync(new URL('../../../../bpf/types.h', import.meta.url), 'utf8')
  const codes = [...(/enum reason \{([^}]*)\}/.exec(header)?.[1] ?? '').matchAll(/^\s*REASON_(\w+)/gm)].map((match) =>
    (match[1] ?? '').toLowerCase().replaceAll('_', '-')
  )
  t.ok(codes.length > 20)
  t.same(
    REASONS.map(({ name }) => name),
    codes.filter((code) => code !== 'max')
  )
  for (const { name, text, remedy } of REASONS) {
    t.not(text, '', name)
    if (name.startsWith('drop-')) t.not(remedy, '', `${name} has a remedy`)
  }
  t.same(explainReason('constructor'), { text: 'constructor', remedy: '' })
})
