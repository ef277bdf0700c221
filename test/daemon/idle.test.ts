// What the daemon costs when nothing happens.
//
// Runs alone: it measures this process's memory and CPU.

import t from 'tap'
import { servedLab } from '../forwarding/served.js'
import { exec, sleep } from '../lab/process.js'

t.test('idle: below 34 MB of its own and no measurable CPU', async (t) => {
  const lab = await servedLab(t)
  const pid = lab.node(0).daemon.pid
  await sleep(6_000)
  const { stdout: status } = await exec(['cat', `/proc/${pid}/status`])
  const mebibytes = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1]) / 1024
  // the rest is Node's own file, in the page cache: how much of it is resident depends on the machine
  const own = mebibytes('RssAnon')
  t.ok(own > 10 && own < 34, `${own.toFixed(1)} MiB of its own, ${mebibytes('VmRSS').toFixed(1)} MiB resident`)
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
