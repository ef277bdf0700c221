// What the daemon costs when nothing happens.
//
// Runs alone: it measures this process's memory and CPU.

import t from 'tap'
import { servedLab } from '../forwarding/served.js'
import { exec, sleep, until } from '../lab/process.js'

t.test('idle: below 34 MB of its own and no measurable CPU', async (t) => {
  const lab = await servedLab(t)
  const pid = lab.node(0).daemon.pid
  const mebibytes = async (name: string) => {
    const { stdout } = await exec(['cat', `/proc/${pid}/status`])
    return Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(stdout)?.[1]) / 1024
  }
  // the rest is Node's own file, in the page cache: how much of it is resident depends on the machine
  await until('it has given back what its start took', async () => (await mebibytes('RssAnon')) < 34, 20_000, 500)
  const own = await mebibytes('RssAnon')
  t.ok(own > 10, `${own.toFixed(1)} MiB of its own, ${(await mebibytes('VmRSS')).toFixed(1)} MiB resident`)
  const ticks = async () => {
    const { stdout } = await exec(['cat', `/proc/${pid}/stat`])
    const fields = stdout.slice(stdout.lastIndexOf(')') + 2).split(' ')
    return Number(fields[11]) + Number(fields[12])
  }
  // V8 collects what the start has left by and by, on threads of its own
  const used: number[] = []
  for (let window = 0; window < 4 && !used.some((one) => one <= 10); window++) {
    const before = await ticks()
    await sleep(10_000)
    used.push((await ticks()) - before)
  }
  t.ok(Math.min(...used) <= 10, `${used.join(', then ')} ticks of 10 ms in 10 s`)
})
