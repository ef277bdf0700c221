// A configuration is in force as a whole or not at all.

import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { Config } from '../../src/config/config.js'
import { Configuration, type ConfigurationOptions } from '../../src/life/configuration.js'
import { Problems } from '../../src/life/problems.js'
import { until } from '../lab/process.js'

function opened(directory: string, text: string, more: Partial<ConfigurationOptions> = {}) {
  const path = join(directory, 'config.yaml')
  const stateDirectory = join(directory, 'state')
  writeFileSync(path, text)
  const problems = new Problems({ error: () => {}, info: () => {} })
  const configuration = new Configuration({ path, stateDirectory, problems, ...more })
  return { path, stateDirectory, problems, configuration }
}

t.test('what cannot be brought into force is taken back', async (t) => {
  const { path, stateDirectory, problems, configuration } = opened(t.testdir({}), 'lease: 5m\n')
  /** Without the line that says what follows. */
  const kept = () => readFileSync(join(stateDirectory, 'last-good.yaml'), 'utf8').replace(/^# .*\n/, '')
  const used: (number | null)[] = []
  const use = async ({ lease }: Config) => {
    used.push(lease)
    if (lease === 420_000) throw new Error('no room')
  }
  writeFileSync(path, 'lease: 7m\n')
  t.match(await configuration.reload(use), { ok: false, problems: ['it could not be brought into force: no room'] })
  t.strictSame(used, [420_000, 300_000])
  t.equal(configuration.config.lease, 300_000)
  t.match(configuration.status(), { error: /no room/ })
  t.match(problems.text('configuration-not-valid'), /no room; the configuration in force stays/)
  t.equal(kept(), 'lease: 5m\n', 'nor is it kept')
  writeFileSync(path, 'lease: 8m\n')
  t.match(await configuration.reload(use), { ok: true, problems: [] })
  t.equal(configuration.status().error, null)
  t.equal(problems.text('configuration-not-valid'), null)
  t.equal(kept(), 'lease: 8m\n')
})

t.test('keys that only a start reads are named', async (t) => {
  const { path, configuration } = opened(t.testdir({}), 'lease: 5m\n')
  const use = async () => {}
  writeFileSync(
    path,
    'enabled: false\nuplink: { xdp: native }\nguard: { backend: cgroup, remove: true, allow: { units: [x.service] } }\n'
  )
  const restartNeeded = ['enabled', 'uplink.xdp', 'guard.backend', 'guard.remove', 'guard.allow']
  t.match(await configuration.reload(use), { ok: true, restartNeeded })
  t.match(await configuration.reload(use), { ok: true, restartNeeded: [] }, 'once')
})

t.test('what failed for want of something is tried again until it works, or until the file is another', async (t) => {
  const lack = Object.assign(new Error('no descriptors'), { code: 'EMFILE' })
  for (const ends of ['works', 'changes', 'is refused'] as const) {
    const directory = t.testdir({})
    let tries = 0
    const use = async ({ lease }: Config) => {
      if (lease !== 420_000) return
      tries++
      if (tries === 4 && ends === 'is refused') throw new Error('limits are too small')
      if (tries < 4) throw new Error('programs could not be replaced', { cause: lack })
    }
    const { path, problems, configuration } = opened(directory, 'lease: 5m\n', {
      again: () => configuration.reload(use),
      times: { first: 10, most: 20 }
    })
    const listed = () => problems.list().map(({ code }) => code)
    writeFileSync(path, 'lease: 7m\n')
    t.match(await configuration.reload(use), { ok: false, problems: [/could not be replaced/] })
    t.strictSame(listed(), ['configuration-not-in-force'])
    t.ok(problems.list()[0]?.nextTry)
    if (ends === 'changes') writeFileSync(path, 'lease: 11m\n')
    await until('it ends', () => !listed().includes('configuration-not-in-force'), 5_000, 2)
    t.equal(configuration.config.lease, ends === 'works' ? 420_000 : 300_000, ends)
    t.strictSame(listed(), ends === 'is refused' ? ['configuration-not-valid'] : [])
    t.match(configuration.status().error, ends === 'is refused' ? /too small/ : null)
    const before = tries
    await new Promise((resolve) => setTimeout(resolve, 50))
    t.equal(tries, before, 'nothing is tried any more')
  }
})

t.test('what cannot be kept is tried again until there is room', async (t) => {
  const directory = t.testdir({})
  const { path, stateDirectory, problems, configuration } = opened(directory, 'lease: 5m\n', {
    times: { first: 10, most: 20 }
  })
  t.teardown(() => configuration.stop())
  rmSync(stateDirectory, { recursive: true })
  writeFileSync(stateDirectory, 'in the way')
  writeFileSync(path, 'lease: 7m\n')
  t.match(await configuration.reload(async () => {}), { ok: true }, 'it is in force')
  const lacks = { code: 'configuration-not-kept', affects: 'observation', text: /could not be kept for the next start/ }
  t.match(problems.list(), [{ ...lacks, nextTry: String }])
  await new Promise((resolve) => setTimeout(resolve, 60))
  t.match(problems.list(), [{ ...lacks, nextTry: String }], 'and again')
  writeFileSync(path, 'lease: 9m\n')
  rmSync(stateDirectory)
  await until('it is kept', () => problems.list().length === 0, 5_000, 2)
  t.match(readFileSync(join(stateDirectory, 'last-good.yaml'), 'utf8'), /^# .*\nlease: 7m\n$/, 'what is in force')
})

t.test('where not even the one before can be brought back, both are told', async (t) => {
  const { path, configuration } = opened(t.testdir({}), 'lease: 5m\n')
  writeFileSync(path, 'lease: 7m\n')
  const { ok, problems } = await configuration.reload(() => Promise.reject(new Error('EIO')))
  t.notOk(ok)
  t.strictSame(problems, ['it could not be brought into force: EIO', 'nor the one before: EIO'])
})
