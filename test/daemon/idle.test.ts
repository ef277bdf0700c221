// What the daemon costs when nothing happens.
//
// Runs alone: it measures this process's memory and CPU.

import t from 'tap'
import { servedLab } from '../forwarding/served.js'
import { exec, sleep } from '../lab/process.js'

t.test('idle: below 80 MB resident and no measurable CPU', async (t) => {
  const lab = await servedLab(t)
  const pid = lab.node(0).daemon.pid
  await sleep(6_000)
  const status = await exec(['grep', 'VmRSS', `/proc/${pid}/status`])
  const resident = Number(/\d+/.exec(status.stdout)?.[0] ?? 0) / 1024
  t.ok(resident > 10 && resident < 80, `${resident.toFixed(1)} MiB resident`)
  const ticks = async () => {
    const { stdout } = await exec(['cat', `/proc/${pid}/stat`])
    const fields = stdout.slice(stdout.lastIndexOf(')') + 2).split(' ')
    return Number(fields[11]) + Number(fields[12])
  }
  const before = await ticks()
  await sleep(10_000)
  const used = (await ticks()) - before
  t.ok(used <= 10, `${used} ticks of 10 ms in 10 s`)
})
