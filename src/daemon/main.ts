#!/usr/bin/env -S node --max-semi-space-size=1
// hostrouted: reads its options, starts the node, ends it by signal.
//
// Exit status: 0 stopped as asked, 1 an error that a restart may cure, 2 refused
// (wrong configuration, missing rights, second daemon, kernel without the
// features), 64 wrong options. Never a stack trace for what a user can cause.

import { parseArgs } from 'node:util'
import { ConfigError, configReference, formatProblem } from '../config/config.js'
import { createLogger, type Logger } from '../log.js'
import { packageVersion } from '../version.js'
import { Node } from './node.js'
import { Refusal } from './refusal.js'
import { removeFromNode } from './remove.js'

const usage = `hostrouted [options]

Routes the pods of this node (the network namespace it is started in) by eBPF.

  --config FILE              configuration (/etc/hostroute/config.yaml)
  --run-directory DIRECTORY  control socket and lock (/run/hostroute)
  --pin-directory DIRECTORY  pinned maps and links, on a bpffs (/sys/fs/bpf/hostroute)
  --log-json                 log as JSON lines
  --print-config-reference   every key with its default, then end
  --remove                   take what a daemon that is gone left on the node off it, then end
  --version, --help
`

/** Not yargs: in a process that runs for years it costs 10 MB for seven options. */
function readOptions() {
  try {
    return parseArgs({
      options: {
        config: { type: 'string', default: '/etc/hostroute/config.yaml' },
        'run-directory': { type: 'string', default: '/run/hostroute' },
        'pin-directory': { type: 'string', default: '/sys/fs/bpf/hostroute' },
        'log-json': { type: 'boolean', default: false },
        'print-config-reference': { type: 'boolean', default: false },
        remove: { type: 'boolean', default: false },
        version: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false }
      }
    }).values
  } catch (error) {
    process.stderr.write(`hostrouted: ${(error as Error).message}; see hostrouted --help\n`)
    process.exit(64)
  }
}

async function main(): Promise<void> {
  const options = readOptions()
  if (options.help) return void process.stdout.write(usage)
  if (options.version) return void process.stdout.write(`${packageVersion()}\n`)
  if (options['print-config-reference']) return void process.stdout.write(configReference())
  const log = createLogger({ json: options['log-json'] })
  process.on('uncaughtException', (error) => die(log, error))
  process.on('unhandledRejection', (reason) => die(log, reason))
  const directories = { runDirectory: options['run-directory'], pinDirectory: options['pin-directory'] }
  try {
    if (options.remove) return await removeFromNode({ ...directories, log })
    const node = await Node.start({ config: options.config, ...directories, log })
    handleSignals(node, log)
  } catch (error) {
    die(log, error)
  }
}

function handleSignals(node: Node, log: Logger): void {
  let stopping = false
  const stop = (signal: string) => {
    if (stopping) return
    stopping = true
    log.info(`stopping on ${signal}`)
    node.stop().then(
      () => process.exit(0),
      (error: unknown) => die(log, error)
    )
  }
  process.on('SIGTERM', () => stop('SIGTERM'))
  process.on('SIGINT', () => stop('SIGINT'))
  process.on('SIGHUP', () => {
    void node.reload()
  })
}

/** One sentence each, then the status that tells systemd whether trying again makes sense. */
function die(log: Logger, error: unknown): never {
  if (error instanceof ConfigError) {
    for (const problem of error.problems) log.fatal(formatProblem(problem))
    process.exit(2)
  }
  if (error instanceof Refusal) {
    log.fatal(error.message)
    process.exit(2)
  }
  const { message, detail, stack } = error as { message?: string; detail?: string; stack?: string }
  log.fatal({ ...(detail ? { detail } : {}) }, message ?? String(error))
  if (stack) log.debug(stack)
  process.exit(1)
}

await main()
