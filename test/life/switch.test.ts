// The switch and the last good configuration on disk.

import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  truncateSync,
  writeFileSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { ConfigError } from '../../src/config/config.js'
import { KeptFiles } from '../../src/config/kept-files.js'
import { readJournal } from '../../src/datapath/clsact-journal.js'
import { directoriesFile, notedDirectories } from '../../src/directories.js'
import { Configuration } from '../../src/life/configuration.js'
import { guardFile, readGuardWords } from '../../src/life/guard-words.js'
import { keepConfig, keptConfigs, loadLastGood } from '../../src/life/last-good.js'
import { Problems } from '../../src/life/problems.js'
import { readSwitch, switchFile, writeSwitch } from '../../src/life/switch.js'
import { replaceFile } from '../../src/replace-file.js'

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

t.test('a pipe in the place of a file that is kept holds nobody up', async (t) => {
  const directory = t.testdir({})
  const pipe = (path: string) => execFileSync('mkfifo', [path])
  const path = join(directory, 'wrong.yaml')
  const masquerade = join(directory, 'masquerade.json')
  const journal = join(directory, 'clsact.json')
  for (const name of [
    switchFile(directory),
    guardFile(directory),
    join(directory, 'last-good.yaml'),
    masquerade,
    journal
  ])
    pipe(name)
  pipe(directoriesFile(directory))
  t.throws(() => readSwitch(directory, true), /switch\.json.*is not a regular file.*the configuration decides/)
  t.throws(() => readGuardWords(directory, 'audit'), /guard\.json.*is not a regular file/)
  writeFileSync(path, 'lease: 5 bananas\n')
  t.throws(() => loadLastGood(path, directory), ConfigError)
  t.strictSame(new KeptFiles(masquerade).read(), { files: [], agents: [] })
  t.strictSame([...readJournal(journal)], [])
  t.equal(notedDirectories(directory), null)
  pipe(`${switchFile(directory)}.next`)
  writeSwitch(directory, { enabled: false, configured: true, confirmUntil: null })
  t.match(readSwitch(directory, true), { enabled: false, by: 'command' }, 'nor one beside it')
  rmSync(switchFile(directory))
  writeFileSync(switchFile(directory), '')
  truncateSync(switchFile(directory), 2 ** 40)
  t.throws(() => readSwitch(directory, true), /is too long for a file that hostroute writes/)
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
  keepConfig(good.text, state, path)
  writeFileSync(path, 'lease: 5 bananas\n')
  const { config, problems } = loadLastGood(path, state)
  t.strictSame(config, good.config)
  t.match(problems, [{ file: path, line: 1, key: 'lease' }])
  chmodSync(path, 0o600)
  writeFileSync(join(state, 'last-good.yaml'), 'no: {valid')
  t.throws(
    () => loadLastGood(path, state),
    ConfigError,
    'what is kept is wrong, too: the file is what is complained of'
  )
  keepConfig('lease: 7m\nlog:\n  level: debug\n', state, path)
  t.equal(loadLastGood(path, state).config.lease, 420_000)
  const whole = readFileSync(join(state, 'last-good.yaml'))
  for (let length = 0; length < whole.length; length++) {
    writeFileSync(join(state, 'last-good.yaml'), whole.subarray(0, length))
    t.throws(() => loadLastGood(path, state), { message: /state\/last-good\.yaml.*damaged/s }, `${length} bytes of it`)
  }
  rmSync(path)
  keepConfig(null, state, path)
  t.notOk(existsSync(join(state, 'last-good.yaml')))
})

t.test(
  'what an earlier version kept stands in until another is kept, and is told from a file of the operator',
  async (t) => {
    const directory = t.testdir({})
    const [path, state] = [join(directory, 'config.yaml'), join(directory, 'state')]
    const [kept, earlier] = [join(state, 'last-good.yaml'), join(state, 'config.yaml')]
    writeFileSync(path, 'lease: 5 bananas\n')
    keepConfig('lease: 6m\n', state, path)
    renameSync(kept, earlier)
    t.equal(loadLastGood(path, state).config.lease, 360_000)
    t.strictSame(keptConfigs(state, [path]), [earlier])
    t.strictSame(keptConfigs(state, [path, earlier]), [], 'it is the configuration itself')
    keepConfig('lease: 7m\n', state, path)
    t.strictSame(readdirSync(state), ['last-good.yaml'], 'it goes with the next')
    t.equal(loadLastGood(path, state).config.lease, 420_000)
    renameSync(kept, earlier)
    keepConfig(null, state, path)
    t.strictSame(readdirSync(state), [], 'it goes with the file that it was kept of')
    for (const text of ['lease: 6m\n', '', '# what follows was']) {
      writeFileSync(earlier, text)
      t.throws(() => loadLastGood(path, state), { message: /bananas/ }, 'without the line it does not stand in')
      t.strictSame(keptConfigs(state, [path]), [], 'nor is it removed')
      keepConfig('lease: 7m\n', state, path)
      keepConfig(null, state, path)
      t.equal(readFileSync(earlier, 'utf8'), text)
    }
    rmSync(earlier)
    execFileSync('mkfifo', [earlier])
    t.throws(() => loadLastGood(path, state), ConfigError, 'a pipe is not waited for')
  }
)

t.test('a state directory that is that of the configuration: the configuration is not touched', async (t) => {
  const state = t.testdir({})
  const path = join(state, 'config.yaml')
  const problems = new Problems({ error() {}, info() {} })
  const text = '# by the operator\nlease: 5m\n'
  writeFileSync(path, text)
  const configuration = new Configuration({ path, stateDirectory: state, problems })
  await configuration.reload(async () => {})
  t.equal(readFileSync(path, 'utf8'), text)
  t.strictSame(keptConfigs(state, [path]), [join(state, 'last-good.yaml')])
  // as an earlier version has left it, with its line
  writeFileSync(path, readFileSync(join(state, 'last-good.yaml')))
  await configuration.reload(async () => {})
  t.match(readFileSync(path, 'utf8'), text)
  t.strictSame(keptConfigs(state, [path]), [join(state, 'last-good.yaml')])
  configuration.stop()
  writeFileSync(path, 'lease: 5 bananas\n')
  t.equal(loadLastGood(path, state).config.lease, 300_000)
  // somebody names the kept file itself
  const kept = join(state, 'last-good.yaml')
  const before = readFileSync(kept, 'utf8')
  keepConfig('lease: 9m\n', state, kept)
  keepConfig(null, state, kept)
  t.equal(readFileSync(kept, 'utf8'), before)
})

t.test('what is kept is what was in force, whatever the file has become meanwhile', async (t) => {
  const directory = t.testdir({})
  const [path, state] = [join(directory, 'config.yaml'), join(directory, 'state')]
  const problems = new Problems({ error() {}, info() {} })
  writeFileSync(path, 'lease: 5m\n')
  const configuration = new Configuration({ path, stateDirectory: state, problems })
  writeFileSync(path, 'lease: 6m\n')
  await configuration.reload(async () => writeFileSync(path, 'lease: 7m\n'))
  writeFileSync(path, 'lease: 5 bananas\n')
  t.equal(loadLastGood(path, state).config.lease, 360_000)
  configuration.stop()
})

t.test('a disk that is full is told of, and what was kept stays', async (t) => {
  const disk = mkdtempSync(join(tmpdir(), 'hr-full-'))
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', disk])
  t.teardown(() => {
    execFileSync('umount', ['-l', disk])
    rmdirSync(disk)
  })
  const path = join(disk, 'file')
  replaceFile(path, 'before')
  writeFileSync(join(disk, 'ballast'), Buffer.alloc(40_000))
  t.throws(() => replaceFile(path, 'x'.repeat(30_000)), { code: 'ENOSPC' })
  t.equal(readFileSync(path, 'utf8'), 'before')
  t.strictSame(readdirSync(disk).sort(), ['ballast', 'file'])
})
