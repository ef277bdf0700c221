// scripts/vm: runs any command of the work tree on another kernel.

import { parseArgs } from 'node:util'
import { fetchKernel, type KernelName, offeredKernels } from './kernels.js'
import { runInVm, VmFailure, type VmRun } from './machine.js'

const usage = `usage: scripts/vm [options] -- command [argument …]
Runs the command on another kernel, in an emulated machine which sees this
machine's files read-only (what is written there is lost with it).

  --kernel VERSION   one of ${offeredKernels().join(', ')} (default: the newest)
  --lsm LIST         security modules, as in lsm= on the kernel's command line
  --module NAME      load a kernel module first; may be repeated
  --env NAME=VALUE   set a variable; may be repeated
  --exact            one instruction is one nanosecond of guest time
  --systemd          boot systemd; the command runs after multi-user.target
  --memory MB        default 3072
  --timeout SECONDS  default 120, with --systemd 300
  --console          show the machine's console on standard error
  --fetch            fetch the kernel anew; a command may be left out

Exit status: the command's own; 125 when the machine failed; 64 for wrong usage.
`

const options = {
  kernel: { type: 'string' },
  lsm: { type: 'string' },
  module: { type: 'string', multiple: true },
  env: { type: 'string', multiple: true },
  exact: { type: 'boolean' },
  systemd: { type: 'boolean' },
  memory: { type: 'string' },
  timeout: { type: 'string' },
  console: { type: 'boolean' },
  fetch: { type: 'boolean' },
  help: { type: 'boolean' }
} as const

class UsageError extends Error {}

function parse(args: string[]) {
  try {
    return parseArgs({ args, options, allowPositionals: true })
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error))
  }
}

function chosenKernel(wanted: string | undefined): KernelName {
  const offered = offeredKernels()
  const name = wanted === undefined ? offered.at(-1) : offered.find((candidate) => candidate === wanted)
  if (name) return name
  throw new UsageError(`--kernel ${wanted ?? ''}: this distribution offers ${offered.join(', ') || 'none'}`)
}

function positive(option: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const number = Number(text)
  if (!(number > 0)) throw new UsageError(`--${option} ${text}: not a positive number`)
  return number
}

function environment(pairs: string[]): Record<string, string> {
  return Object.fromEntries(
    pairs.map((pair) => {
      const equals = pair.indexOf('=')
      if (equals < 1) throw new UsageError(`--env ${pair}: write NAME=VALUE`)
      return [pair.slice(0, equals), pair.slice(equals + 1)]
    })
  )
}

function showOutput(console: boolean): VmRun['onOutput'] {
  return (stream, chunk) => {
    if (stream === 'stdout') process.stdout.write(chunk)
    else if (stream === 'stderr' || console) process.stderr.write(chunk)
  }
}

async function main(args: string[]): Promise<number> {
  const { values, positionals } = parse(args)
  if (values.help) {
    process.stdout.write(usage)
    return 0
  }
  const kernel = chosenKernel(values.kernel)
  if (values.fetch) {
    const { release } = fetchKernel(kernel, true)
    process.stderr.write(`kernel ${kernel} is ${release}\n`)
    if (positionals.length === 0) return 0
  }
  if (positionals.length === 0) throw new UsageError('no command given')
  const memoryMegabytes = positive('memory', values.memory)
  const timeoutSeconds = positive('timeout', values.timeout)
  const result = await runInVm({
    kernel,
    command: positionals,
    directory: process.cwd(),
    env: environment(values.env ?? []),
    modules: values.module ?? [],
    icount: values.exact ?? false,
    init: values.systemd ? 'systemd' : 'plain',
    onOutput: showOutput(values.console ?? false),
    ...(values.lsm === undefined ? {} : { lsm: values.lsm }),
    ...(memoryMegabytes === undefined ? {} : { memoryMegabytes }),
    ...(timeoutSeconds === undefined ? {} : { timeoutSeconds })
  })
  const times = `${result.wallSeconds.toFixed(1)} s in all, command started at ${result.bootSeconds.toFixed(1)} s`
  if (process.stderr.isTTY) process.stderr.write(`vm: kernel ${kernel}, exit status ${result.status}, ${times}\n`)
  return result.status
}

try {
  process.exitCode = await main(process.argv.slice(2))
} catch (error) {
  if (error instanceof UsageError) {
    process.stderr.write(`${error.message}\n\n${usage}`)
    process.exitCode = 64
  } else if (error instanceof VmFailure) {
    process.stderr.write(`vm: ${error.message}\n`)
    process.exitCode = 125
  } else {
    throw error
  }
}
