// `hostroute check`: looks at this node by itself, without the daemon.

import type { CommandModule } from 'yargs'
import { realDirectory } from '../directories.js'
import { exitStatus, type GlobalOptions, openSession, print } from './session.js'

export interface CheckArguments extends GlobalOptions {
  config: string
  policy: string | undefined
  pinDirectory: string
  printPolicy: boolean
  all: boolean
}

export const checkCommand: CommandModule<GlobalOptions, CheckArguments> = {
  command: 'check',
  describe: 'Anything that blocks enabling hostroute here, without a daemon',
  builder: (cli) =>
    cli
      .option('config', {
        type: 'string',
        requiresArg: true,
        default: '/etc/hostroute/config.yaml',
        describe: 'Configuration file to check with'
      })
      .option('policy', {
        type: 'string',
        requiresArg: true,
        describe: 'Which systems and rules are fine; absent: the built-in policy'
      })
      .option('pin-directory', {
        type: 'string',
        requiresArg: true,
        default: '/sys/fs/bpf/hostroute',
        describe: 'Where the daemon will pin'
      })
      .option('print-policy', {
        type: 'boolean',
        default: false,
        describe: 'Print the built-in policy as a file to start from'
      })
      .option('all', {
        type: 'boolean',
        default: false,
        describe: 'Also rules that change nothing, and lists in full'
      }) as never,
  handler: async (options) => {
    process.exitCode = await check(options)
  }
}

/** The modules that reach into the kernel are loaded here only: other commands start without them. */
async function check(options: CheckArguments): Promise<number> {
  if (options.printPolicy) {
    print((await import('../check/default-policy.js')).defaultPolicyText)
    return exitStatus.fine
  }
  const [{ runChecks }, { loadPolicy }, { loadConfig }, { renderCheck }] = await Promise.all([
    import('../check/check.js'),
    import('../check/policy.js'),
    import('../config/config.js'),
    import('./render-check.js')
  ])
  const policy = options.policy === undefined ? {} : { policy: loadPolicy(options.policy) }
  const report = await runChecks({
    config: loadConfig(options.config).config,
    pinDirectory: realDirectory(options.pinDirectory),
    everyRule: options.all,
    ...policy
  })
  if (options.json) print(JSON.stringify(report, null, 2))
  else
    print(
      renderCheck(report, openSession(options).paint, {
        all: options.all,
        width: Math.min(process.stdout.columns ?? 120, 120)
      })
    )
  return report.pass ? exitStatus.fine : exitStatus.refused
}
