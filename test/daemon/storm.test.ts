// More events than the daemon's socket holds.
//
// Takes up to 240 s: 200,000 changes of routes, while other tests run.

import { writeFileSync } from 'node:fs'
import t from 'tap'
import type { RouteAnswer, VerifyReport } from '../../src/control/api.js'
import { control, counted, servedLab, status, undisturbed } from '../forwarding/served.js'
import { OUTSIDE } from '../lab/addresses.js'
import { until } from '../lab/process.js'

t.test(
  '[Y3] 200,000 route changes while the daemon is stopped: the overrun is noticed, the maps converge, no ping is lost',
  async (t) => {
    const count = 40_000
    const lab = await servedLab(t)
    const node = lab.node(0)
    const { pid } = node.daemon
    const { router } = node.uplinks[0] ?? { router: { v4: '' } }
    const lines = Array.from({ length: count }, (_, index) => `100.64.${index >> 8}.${index & 255}/32 via ${router.v4}`)
    const batch = `${lab.directory}/storm`
    await undisturbed(t, node, async () => {
      process.kill(pid, 'SIGSTOP')
      try {
        for (const verb of ['add', 'del', 'add', 'del', 'add']) {
          writeFileSync(batch, lines.map((line) => `route ${verb} ${line}\n`).join(''))
          await node.run(['ip', '-batch', batch], { timeout: 100_000 })
        }
        t.equal((await node.pod(0).ping(OUTSIDE.v6, { count: 5 })).received, 5, 'forwarding goes on without it')
      } finally {
        process.kill(pid, 'SIGCONT')
      }
      await until('all routes', async () => (await status(node)).counts.routes4.used >= count, 90_000, 200)
    })
    const after = await status(node)
    t.ok(after.sync.overruns > 0, `the kernel dropped events ${after.sync.overruns} times, and it was noticed`)
    t.match(after, { mode: 'enabled', sync: { state: 'synced' } })
    t.match((await control(node).get<VerifyReport>('/v1/verify')).value, { ok: true, total: 0 }, 'maps and plan agree')
    const answer = (await control(node).get<RouteAnswer>('/v1/routes/get', { address: '100.64.100.7' })).value
    t.match(answer, { verdict: 'uplink', route: { prefix: '100.64.100.7/32' } })
    const before = await counted(node, 'forwarded')
    t.equal((await node.pod(0).ping(OUTSIDE.v4, { count: 3 })).received, 3)
    t.ok((await counted(node, 'forwarded')) >= before + 6, 'on the fast path')
  }
)
