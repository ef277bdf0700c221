import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { defaultPolicyText } from '../../src/check/default-policy.js'
import { defaultPolicy, loadPolicy, parsePolicy } from '../../src/check/policy.js'
import { judgeSystem, parseSystem } from '../../src/check/system.js'
import { ConfigError } from '../../src/config/problem.js'
import { judged, savedTables, textsOf } from './rules.js'

const problems = (text: string): string[] => {
  try {
    parsePolicy(text, 'p.yaml')
  } catch (error) {
    if (error instanceof ConfigError) return error.message.split('\n')
    throw error
  }
  return []
}

t.test('[C11] the printed policy is the built-in one', async (t) => {
  t.same(parsePolicy(defaultPolicyText, 'x'), defaultPolicy)
  t.ok(defaultPolicy.rules.length > 10)
})

t.test('[C11] a wrong policy is refused with its place', async (t) => {
  t.match(problems('version: 1\nsystem: []\n'), [/^p\.yaml:2:1: system: unknown key; did you mean systems\?/])
  t.match(problems('version: 1\notherSystems: maybe\n'), [
    /^p\.yaml:2:15: otherSystems: found "maybe"; allowed: pass, warn or refuse/
  ])
  t.match(problems('version: 2\n'), [/^p\.yaml:1:10: version: found 2; allowed: 1/])
  t.match(problems('{}'), [/version: is missing/])
  t.match(problems('version: 1\nrules:\n  - name: a\n    table: nat\n'), [/^p\.yaml:3:5: rules\.0\.why: is missing/])
  t.match(problems('version: 1\nrules:\n  - {name: a, why: b, class: fine, chain: c}\n'), [
    /p\.yaml:3:\d+: rules\.0\.class: found "fine"/
  ])
  t.match(problems('version: 1\nrules:\n  - {name: a, why: b, class: harmless}\n'), [/must say which rules it means/])
  t.match(problems('version: 1\nrules:\n  - {name: a, why: b, chian: c}\n'), [/did you mean chain\?/])
  t.match(problems('version: [\n'), [/is not YAML/])
  t.match(problems('version: 1\nversion: 1\n'), [/is not YAML/])
})

t.test('[C11] an administrator declares a rule fine, and another one not', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'hr-check-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const path = join(directory, 'policy.yaml')
  writeFileSync(
    path,
    `version: 1
rules:
  - {name: mail, table: filter, chain: FORWARD, text: '* --dport 25 -j DROP', class: harmless, why: no pod sends mail}
  - {name: audit, chain: INPUT, text: '*-j LOG*', class: bypassed, why: we want none}
`
  )
  const lines = '*filter\n:FORWARD ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n'
  const rules =
    '-A FORWARD -p tcp -m tcp --dport 25 -j DROP\n-A FORWARD -p tcp -m tcp --dport 26 -j DROP\n-A INPUT -j LOG\n'
  const policy = loadPolicy(path)
  t.same(
    textsOf(judged(savedTables(`${lines}${rules}COMMIT`), {}, policy), 'bypassed'),
    ['FORWARD: -A FORWARD -p tcp -m tcp --dport 26 -j DROP', 'INPUT: -A INPUT -j LOG'].map((text) => text)
  )
  t.throws(() => loadPolicy(join(directory, 'absent')), /cannot be read/)
})

t.test('[C1] the operating system against the policy', async (t) => {
  const debian = parseSystem('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n')
  t.same(debian, { id: 'debian', version: '12', name: 'Debian GNU/Linux 12 (bookworm)' })
  t.equal(judgeSystem(debian, defaultPolicy).outcome, 'pass')
  const other = parseSystem("ID='arch'\n")
  t.equal(judgeSystem(other, defaultPolicy).outcome, 'warning')
  t.equal(judgeSystem(other, { ...defaultPolicy, otherSystems: 'refuse' }).outcome, 'refuse')
  t.equal(judgeSystem(other, { ...defaultPolicy, systems: [{ id: 'arch', versions: [] }] }).outcome, 'pass')
  t.equal(judgeSystem({ ...debian, version: '11' }, defaultPolicy).outcome, 'warning')
})
