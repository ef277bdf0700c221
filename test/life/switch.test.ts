// The switch and the last good configuration on disk.

import { chmodSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { ConfigError } from '../../src/config/config.js'
import { keepConfig, loadLastGood } from '../../src/life/last-good.js'
import { readSwitch, switchFile, writeSwitch } from '../../src/life/switch.js'

t.test(
  'without a command the configuration decides, with one the command, until the configuration changes',
  async (t) => {
    const directory = join(t.testdir({}), 'state')
    for (const configured of [true, false])
      t.strictSame(readSwitch(directory, configured), { enabled: configured, by: 'configuration', confirmUntil: null })
    writeSwitch(directory, { enabled: false, configured: true, confirmUntil: null })
    t.strictSame(readSwitch(directory, true), { enabled: false, by: 'command', confirmUntil: null })
    t.match(
      readSwitch(directory, false),
      { enabled: false, by: 'configuration' },
      'the configuration is the later word'
    )
    const until = Date.parse('2030-01-02T03:04:05.678Z')
    writeSwitch(directory, { enabled: true, configured: false, confirmUntil: until })
    t.strictSame(readSwitch(directory, false), { enabled: true, by: 'command', confirmUntil: until })
    t.strictSame(readdirSync(directory), ['switch.json'], 'nothing else is left')
  }
)

t.test('a file that says nothing is told of with its path', async (t) => {
  const directory = t.testdir({})
  for (const text of [
    '',
    '{',
    'null',
    '[]',
    '{"enabled":1}',
    '\0\0',
    '{"enabled":true,"configured":true,"since":"x","confirmUntil":"soon"}'
  ]) {
    writeFileSync(switchFile(directory), text)
    t.throws(() => readSwitch(directory, true), new RegExp(`${switchFile(directory)}.*the configuration decides`), text)
  }
})

t.test('what cannot be written leaves the word before', async (t) => {
  const directory = t.testdir({})
  writeSwitch(directory, { enabled: true, configured: true, confirmUntil: null })
  mkdirSync(`${switchFile(directory)}.next`)
  t.throws(() => writeSwitch(directory, { enabled: false, configured: true, confirmUntil: null }))
  t.match(readSwitch(directory, true), { enabled: true, by: 'command' })
})

t.test('the last good configuration stands in for a wrong one', async (t) => {
  const directory = t.testdir({})
  const path = join(directory, 'config.yaml')
  const state = join(directory, 'state')
  writeFileSync(path, 'lease: 5 bananas\n')
  t.throws(() => loadLastGood(path, state), ConfigError, 'there is none yet')
  writeFileSync(path, 'lease: 5m\n')
  const good = loadLastGood(path, state)
  t.strictSame(good.problems, [])
  keepConfig(path, state)
  writeFileSync(path, 'lease: 5 bananas\n')
  const { config, problems } = loadLastGood(path, state)
  t.strictSame(config, good.config)
  t.match(problems, [{ file: path, line: 1, key: 'lease' }])
  chmodSync(path, 0o600)
  writeFileSync(join(state, 'config.yaml'), 'no: {valid')
  t.throws(
    () => loadLastGood(path, state),
    ConfigError,
    'what is kept is wrong, too: the file is what is complained of'
  )
})
