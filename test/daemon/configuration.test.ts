// A configuration is in force as a whole or not at all.

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { Config } from '../../src/config/config.js'
import { Configuration } from '../../src/life/configuration.js'
import { Problems } from '../../src/life/problems.js'

function opened(directory: string, text: string) {
  const path = join(directory, 'config.yaml')
  const stateDirectory = join(directory, 'state')
  writeFileSync(path, text)
  const problems = new Problems({ error: () => {}, info: () => {} })
  return { path, stateDirectory, problems, configuration: new Configuration({ path, stateDirectory, problems }) }
}

t.test('what cannot be brought into force is taken back', async (t) => {
  const { path, stateDirectory, problems, configuration } = opened(t.testdir({}), 'lease: 5m\n')
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
  t.equal(readFileSync(join(stateDirectory, 'config.yaml'), 'utf8'), 'lease: 5m\n', 'nor is it kept')
  writeFileSync(path, 'lease: 8m\n')
  t.match(await configuration.reload(use), { ok: true, problems: [] })
  t.equal(configuration.status().error, null)
  t.equal(problems.text('configuration-not-valid'), null)
  t.equal(readFileSync(join(stateDirectory, 'config.yaml'), 'utf8'), 'lease: 8m\n')
})

t.test('where not even the one before can be brought back, both are told', async (t) => {
  const { path, configuration } = opened(t.testdir({}), 'lease: 5m\n')
  writeFileSync(path, 'lease: 7m\n')
  const { ok, problems } = await configuration.reload(() => Promise.reject(new Error('EIO')))
  t.notOk(ok)
  t.strictSame(problems, ['it could not be brought into force: EIO', 'nor the one before: EIO'])
})
