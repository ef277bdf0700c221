// The files on disk are replaced while the daemon runs.

import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import type { EnableResult } from '../../src/control/api.js'
import { startedVersion } from '../../src/version.js'
import { control, plain, status } from '../forwarding/served.js'
import { Lab } from '../lab/lab.js'
import { until } from '../lab/process.js'

t.setTimeout(240_000)
const root = fileURLToPath(new URL('../../../../', import.meta.url))

t.test('the old daemon keeps its version, and does not load the new one’s checks', async (t) => {
  const lab = await Lab.create({ nodes: 1, pods: 1 })
  t.teardown(() => lab.close())
  const node = lab.node(0)
  const { daemon } = node
  const copy = join(lab.directory, 'installed')
  mkdirSync(join(copy, 'build/js'), { recursive: true })
  cpSync(join(root, 'package.json'), join(copy, 'package.json'))
  cpSync(join(root, 'build/js/src'), join(copy, 'build/js/src'), { recursive: true })
  symlinkSync(join(root, 'build/native'), join(copy, 'build/native'))
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))
  const main = join(copy, 'build/js/src/daemon/main.js')
  await daemon.start({ config: { ...plain, checks: 'report', enabled: false }, waitReady: false, main })
  await until(
    'it answers',
    () =>
      status(node).then(
        () => true,
        () => false
      ),
    60_000
  )

  const description = JSON.parse(readFileSync(join(copy, 'package.json'), 'utf8')) as object
  writeFileSync(join(copy, 'package.json'), JSON.stringify({ ...description, version: '99.0.0' }))
  const loaded = join(copy, 'new-checks-were-loaded')
  const checks = join(copy, 'build/js/src/check/check.js')
  mkdirSync(dirname(checks), { recursive: true })
  writeFileSync(
    checks,
    `import { writeFileSync } from 'node:fs'; writeFileSync(${JSON.stringify(loaded)}, ''); export {}`
  )
  t.match(await status(node), {
    version: startedVersion,
    problems: [{ code: 'files-replaced', text: new RegExp(`99\\.0\\.0 is on disk, this daemon is ${startedVersion}`) }]
  })
  t.match((await control(node).post<EnableResult>('/v1/enable', {})).value, {
    done: false,
    mode: 'disabled',
    why: /99\.0\.0 is on disk.*systemctl restart hostrouted/
  })
  t.throws(() => readFileSync(loaded), { code: 'ENOENT' }, 'nothing of the new version was loaded')
})
