// scripts/soak: long runs of real traffic through hostroute, each by its name.

import { parseArgs } from 'node:util'
import { ConsoleReport } from './report.js'
import { RUNS, type Run, type RunOptions } from './runs.js'

const usage = `scripts/soak [--list] [--count NUMBER] [NAME...]
Long runs of real traffic through a node with hostroute, in network namespaces of their
own; all of them when none is named. One line for each, with its figures.
--list     what there is
--count    of kills
Exit status 0 only if all passed.`

async function pass({ name, go }: Run, options: RunOptions): Promise<boolean> {
  const report = new ConsoleReport(name)
  report.progress('begins')
  try {
    await go(report, options)
  } catch (error) {
    report.check(false, (error as Error).message)
  }
  await report.close()
  return report.end()
}

const { values: flags, positionals: names } = parseArgs({
  allowPositionals: true,
  options: { count: { type: 'string' }, list: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } }
})
const unknown = names.filter((name) => !RUNS.some((run) => run.name === name))
if (flags.help) console.log(usage)
else if (flags.list) for (const { name, does } of RUNS) console.log(`${name.padEnd(12)} ${does}`)
else if (unknown.length > 0) {
  console.error(`No run is called ${unknown.join(' or ')}; see: scripts/soak --list`)
  process.exitCode = 64
} else {
  let passed = 0
  const runs = RUNS.filter(({ name }) => names.length === 0 || names.includes(name))
  for (const run of runs) passed += Number(await pass(run, flags.count ? { count: Number(flags.count) } : {}))
  console.log(`\n${passed} of ${runs.length} runs passed`)
  process.exitCode = passed === runs.length ? 0 : 1
}
