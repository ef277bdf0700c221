// The system service, in a machine with systemd as its init: life.ts runs there.
// Takes up to 1500 s: 8 minutes on two cores that were busy with other work; an emulated machine boots systemd and installs three times.
// Runs alone: what an emulated machine does within time limits, it does slowly.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { offeredKernels } from '../vm/kernels.js'
import { runInVm, VmFailure } from '../vm/machine.js'

t.setTimeout(0)

const kernel = offeredKernels().at(-1)
if (!kernel) throw new Error('no kernel is known for this distribution: see test/vm/kernels.ts')

t.test(`kernel ${kernel}: hostrouted as a system service`, { timeout: 0 }, async (t) => {
  const run = { kernel, init: 'systemd', timeoutSeconds: 1400, env: { TAP_TIMEOUT: '1400' } } as const
  const command = [process.execPath, 'build/js/test/systemd/life.js']
  const result = await runInVm({ ...run, command }).catch((error: unknown) => {
    if (error instanceof VmFailure) t.comment(error.stdout)
    throw error
  })
  t.comment(`command started at ${result.bootSeconds} s; ${result.wallSeconds.toFixed(0)} s in all`)
  const folder = mkdtempSync(join(tmpdir(), 'hostroute-systemd-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  writeFileSync(join(folder, 'tap'), result.stdout)
  writeFileSync(join(folder, 'errors'), result.stderr)
  const replay = 'cat "$0/tap"; [ "$1" = 0 ] || sed "s/^/# stderr: /" "$0/errors"; exit "$1"'
  await t.spawn('sh', ['-c', replay, folder, `${result.status}`], {}, 'test/systemd/life.ts')
})
