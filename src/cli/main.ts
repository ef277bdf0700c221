#!/usr/bin/env node
// The command `hostroute`: the grammar of the command line, and how a run ends.
// Exit status: 0 fine, 1 error, 2 refused or unhealthy, 64 usage.

import type { Argv } from 'yargs'
import yargs from 'yargs'
import { formatAddress, parseAddress } from '../address.js'
import { parseDuration } from '../config/duration.js'
import { ControlError, defaultSocket } from '../control/client.js'
import { packageVersion } from '../version.js'
import { checkCommand } from './check.js'
import * as commands from './commands.js'
import { explainCommand } from './explain.js'
import { guardCommand } from './guard.js'
import { exitStatus, type GlobalOptions, openSession, print, type Session, UsageError } from './session.js'
import { snatCommand } from './snat.js'

type Globals = Argv<GlobalOptions>

function grammar(args: string[]): Globals {
  const run = (action: (session: Session) => Promise<number>) => async (options: GlobalOptions) => {
    process.exitCode = await action(openSession(options))
  }
  if (args[0] === 'completion') {
    // yargs looks at the shell when it is made, and at no argument
    delete process.env['ZSH_NAME']
    process.env['SHELL'] = `/bin/${args[1] ?? 'bash'}`
  }
  const cli = yargs(args)
    .scriptName('hostroute')
    .usage('$0 <command>\n\neBPF host routing on this node. Asks and steers the daemon hostrouted.')
    .option('socket', {
      type: 'string',
      requiresArg: true,
      default: process.env['HOSTROUTE_SOCKET'] || defaultSocket,
      defaultDescription: `$HOSTROUTE_SOCKET or ${defaultSocket}`,
      describe: 'Control socket of the daemon'
    })
    .option('timeout', {
      type: 'string',
      requiresArg: true,
      defaultDescription: '30s, for changes and verify 2m',
      describe: 'How long the daemon may take to answer'
    })
    .option('json', { type: 'boolean', default: false, describe: "The daemon's answer as JSON" })
    .option('color', {
      type: 'boolean',
      default: true,
      describe: 'Colours on a terminal; --no-color or $NO_COLOR: none'
    }) as Globals
  readingCommands(cli, run)
  changingCommands(cli, run)
  guardCommand(cli, run)
  cli.command(explainCommand)
  cli.command(checkCommand)
  otherCommands(cli, run)
  return cli
    .demandCommand(1, 'Which command? See: hostroute --help')
    .strict()
    .check(onlyOnce, true)
    .recommendCommands()
    .version(packageVersion())
    .alias('help', 'h')
    .wrap(Math.min(100, process.stdout.columns ?? 100))
    .epilogue('Exit status: 0 fine, 1 error, 2 refused or unhealthy, 64 usage.')
    .exitProcess(false)
    .fail((message: string | null, error: Error | undefined) => {
      throw error ?? new UsageError(message ?? 'wrong usage')
    })
}

/** No option is a list: of one that is there twice yargs would make an array, of which the commands know nothing. */
function onlyOnce({ _: words, ...options }: Record<string, unknown>): true {
  const name = Object.keys(options).find((each) => Array.isArray(options[each]))
  if (name !== undefined) throw new UsageError(`--${name} may be given only once`)
  return true
}

type Run = (action: (session: Session) => Promise<number>) => (options: GlobalOptions) => Promise<void>

function readingCommands(cli: Globals, run: Run): void {
  const watchOption = { type: 'boolean', default: false, describe: 'Print it again every 2 seconds' } as const
  const again = (watch: boolean, action: (session: Session) => Promise<number>) =>
    run((session) => (watch ? commands.watched(() => action(session)) : action(session)))
  const limit = { type: 'number', requiresArg: true, describe: 'Most rows to print', default: 1000 } as const
  const family = { type: 'number', choices: [4, 6], requiresArg: true, describe: 'Only this IP version' } as const
  const device = { type: 'string', requiresArg: true, describe: 'Only this device' } as const
  cli.command(
    'status',
    'How hostroute is: mode, devices, maps, sync, last errors',
    (y) => y.option('watch', watchOption),
    (o) => again(o.watch, commands.status)(o)
  )
  cli.command('pods', "This node's pod addresses", {}, (o) => run(commands.pods)(o as unknown as GlobalOptions))
  cli.command(
    'routes',
    'Routes in the maps, or what becomes of one address',
    (y) =>
      y
        .command(
          'get <address>',
          'What becomes of a packet to this address, like ip route get',
          (z) =>
            z
              .positional('address', { type: 'string', demandOption: true, describe: 'IPv4 or IPv6 address' })
              .option('from', {
                type: 'string',
                requiresArg: true,
                describe: 'The pod that asks: its address or device; absent: any'
              }),
          (o) => run((session) => commands.routeGet(session, addressOf(o.address), o.from))(o)
        )
        .option('family', family)
        .option('within', { type: 'string', requiresArg: true, describe: 'Only prefixes inside this one' })
        .option('device', device)
        .option('limit', limit),
    (o) =>
      run((session) =>
        commands.routes(session, { family: o.family, within: o.within, device: o.device, limit: limitOf(o.limit) })
      )(o)
  )
  cli.command('nexthops', 'Next hops in use: device, gateway, MAC, SNAT source', {}, (o) =>
    run(commands.nexthops)(o as unknown as GlobalOptions)
  )
  cli.command(['neighbors', 'neighbours'], 'Neighbours in the maps', {}, (o) =>
    run(commands.neighbours)(o as unknown as GlobalOptions)
  )
  snatCommand(cli, run)
  cli.command(
    'drops',
    'What was dropped or left to the kernel, why, and what to do',
    (y) => y.option('device', device).option('watch', watchOption),
    (o) => again(o.watch, (session) => commands.drops(session, o.device))(o)
  )
  cli.command(
    'monitor',
    'Drops, what the kernel gets and new flows as they come, until Ctrl-C',
    (y) =>
      y
        .option('all', {
          type: 'boolean',
          default: false,
          describe: 'Every packet (root): the hot path is off meanwhile'
        })
        .option('drops', { type: 'boolean', default: false, describe: 'Dropped packets only' })
        .option('address', { type: 'string', requiresArg: true, describe: 'Only from or to this address' })
        .option('device', device),
    (o) =>
      run((session) =>
        commands.monitor(session, {
          all: o.all,
          drops: o.drops,
          address: o.address && addressOf(o.address),
          device: o.device
        })
      )(o)
  )
  cli.command('metrics', 'Metrics as Prometheus text', {}, (o) => run(commands.metrics)(o as unknown as GlobalOptions))
}

function changingCommands(cli: Globals, run: Run): void {
  cli.command(
    'enable',
    'Attach the programs',
    (y) =>
      y.option('confirm-within', {
        type: 'string',
        requiresArg: true,
        describe: 'Undo it unless confirmed within this time, e.g. 60s'
      }),
    (o) =>
      run((session) =>
        commands.enable(session, o.confirmWithin === undefined ? undefined : secondsOf(o.confirmWithin))
      )(o)
  )
  cli.command('confirm', 'Keep what enable --confirm-within has done', {}, (o) =>
    run(commands.confirm)(o as unknown as GlobalOptions)
  )
  cli.command(
    'disable',
    'Detach the programs: back to kernel routing',
    (y) =>
      y.option('force', {
        type: 'boolean',
        default: false,
        describe: 'Also where nobody else would masquerade the pods'
      }),
    (o) => run((session) => commands.disable(session, o.force))(o)
  )
  cli.command(
    'verify',
    'Compare the maps with what they should hold; 2 on a difference',
    (y) => y.option('repair', { type: 'boolean', default: false, describe: 'Repair the differences' }),
    (o) => run((session) => commands.verify(session, o.repair))(o)
  )
  cli.command('reload', 'Read the configuration again', {}, (o) => run(commands.reload)(o as unknown as GlobalOptions))
}

function otherCommands(cli: Globals, run: Run): void {
  cli.command(
    'config',
    'Every key of config.yaml with its default, or check a file',
    (y) => y.option('check', { type: 'string', requiresArg: true, describe: 'Check this file without a daemon' }),
    async (o) => {
      process.exitCode = await configuration(o.check)
    }
  )
  cli.command(
    'completion <shell>',
    'Completion script, e.g. hostroute completion bash > /etc/bash_completion.d/hostroute',
    (y) => y.positional('shell', { choices: ['bash', 'zsh'] as const, demandOption: true }),
    (o) => {
      // the types know it without its arguments
      const show = cli.showCompletionScript.bind(cli) as (name: string, command: string) => void
      show('hostroute', `completion ${o.shell}`)
    }
  )
  cli.command('version', 'Version of the command and of the daemon', {}, (o) =>
    run(commands.version)(o as unknown as GlobalOptions)
  )
}

/** Prints the reference, or checks a file. What reads YAML is loaded only here: every other command starts faster. */
async function configuration(path: string | undefined): Promise<number> {
  if (path === '') throw new UsageError('--check takes the path of a file, which must not be empty')
  const { ConfigError, configReference, loadConfig } = await import('../config/config.js')
  if (path === undefined) {
    print(configReference())
    return exitStatus.fine
  }
  try {
    const { present } = loadConfig(path)
    print(present ? `${path} is fine.` : `${path} is not there: the defaults would hold.`)
    return exitStatus.fine
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    process.stderr.write(`${error.message}\n`)
    return exitStatus.error
  }
}

function addressOf(text: string): string {
  const address = parseAddress(text)
  if (address === null) throw new UsageError(`${text} is not an IPv4 or IPv6 address`)
  return formatAddress(address)
}

function limitOf(limit: number): number {
  if (!Number.isInteger(limit) || limit < 1 || limit > 100_000)
    throw new UsageError('--limit takes a whole number from 1 to 100000')
  return limit
}

function secondsOf(text: string): number {
  const duration = parseDuration(text)
  const seconds = duration === null ? Number.NaN : Math.round(duration / 1000)
  if (!(seconds >= 5 && seconds <= 3600))
    throw new UsageError(`--confirm-within takes a duration from 5s to 1h, not ${text}`)
  return seconds
}

async function main(): Promise<void> {
  // somebody closed the pipe, as in `hostroute routes | head`: nothing is left to do
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(process.exitCode ?? exitStatus.fine)
    throw error
  })
  try {
    await grammar(process.argv.slice(2)).parseAsync()
  } catch (error) {
    const { name, message } = error as Error
    const usage = name === 'YError'
    const code = usage ? 'usage' : error instanceof ControlError ? error.code : 'failed'
    if (process.argv.includes('--json')) {
      process.stderr.write(`${JSON.stringify({ error: message, code })}\n`)
    } else {
      process.stderr.write(`hostroute: ${message}\n`)
      if (usage) process.stderr.write('See: hostroute --help\n')
    }
    process.exitCode = usage ? exitStatus.usage : code === 'disabled' ? exitStatus.refused : exitStatus.error
  }
}

await main()
